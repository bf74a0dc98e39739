"""A step takes again the memory that the one before has freed."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from ablate.train.speed.allocator import keep_pages

def faults():
    torch.ones(2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        torch.ones(2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fresh = faults()
keep_pages()
print(fresh, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_pages_are_taken_again():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    fresh, kept = map(int, done.stdout.split())
    assert kept < fresh / 2


def test_another_allocator_is_left_alone(monkeypatch):
    from ablate.train.speed import allocator

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("nothing is to be called"))
    allocator.keep_pages()
