"""Memory that a step has freed stays with the process, for the next step to take.

glibc hands large blocks back to the system at once, and every step pays for fresh pages (the case "pages
kept" of benchmarks/step.py).
"""

import ctypes
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of malloc.h
NEVER = 2**30  # bytes


def keep_pages() -> None:
    """From now on. What earlier runs of this process left behind is given back first. Does nothing where the
    allocator is not glibc's."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)
    libc.mallopt(TRIM_THRESHOLD, NEVER)
    libc.mallopt(MMAP_THRESHOLD, NEVER)
