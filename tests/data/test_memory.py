"""Text far larger than what a process may take is prepared in bounded memory."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys
from pathlib import Path
from ablate.data.prepare import prepare
from ablate.spec import DataSpec
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def told(file):
    source = {"name": "text", "files": [file], "split": sys.argv[3]}
    return prepare(DataSpec.model_validate({"source": source, "tokenizer": "bytes"}), Path(sys.argv[2]))
told(sys.argv[4])
before = peak()
told(sys.argv[1])
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("lines", "most"), [(40, 0.6), (1_000_000, 6.0)])
def test_text_is_prepared_in_bounded_memory(tmp_path: Path, lines: int, most: float) -> None:
    """Documents of 40 lines, and 90 MB in one: bytes at the peak for each byte of text."""
    document = (
        "it goes on and on, and so it goes, but not for ever: that is a line of some text here, the end\n"
    )
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    small.write_text("".join(f"line {n}\n\n" for n in range(1000)))
    split = "document" if lines == 40 else "tail"
    with large.open("w") as file:
        for n in range(1_000_000 // lines):
            file.write(f"{n}\n" + document * lines + "\n")
    program = [sys.executable, "-c", PROGRAM, str(large), str(tmp_path / "cache"), split, str(small)]
    taken = int(subprocess.run(program, capture_output=True, text=True, check=True, timeout=600).stdout)
    assert taken < most * large.stat().st_size


WHOLE = """
import resource, sys
from pathlib import Path
from ablate.data.prepare import prepare
from ablate.spec import DataSpec
source = {"name": "text", "files": [sys.argv[1]]}
try:
    told = prepare(DataSpec.model_validate({"source": source, "tokenizer": "bytes"}), Path(sys.argv[2]))
    print(sum(len(split.tokens) for split in told.splits.values()))
except ValueError as refusal:
    print(refusal)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def prepared(file: Path, cache: Path) -> tuple[str, int]:
    """What is said of a text, and the resident bytes of the whole process at the peak."""
    program = [sys.executable, "-c", WHOLE, str(file), str(cache)]
    said, peak = subprocess.run(program, capture_output=True, text=True, check=True).stdout.splitlines()
    return said, int(peak)


@pytest.mark.slow
def test_a_gigabyte_of_text_is_prepared_in_600_megabytes(tmp_path: Path) -> None:
    """Of the whole process, torch and what else is imported included."""
    document = "it goes on and on, and so it goes, but not for ever: a line of text, and here the end of it\n"
    written = 0
    with (tmp_path / "large.txt").open("w") as file:
        for n in range(100_000):
            written += file.write(f"document {n}\n{document * 110}\n")
    assert written > 10**9
    said, peak = prepared(tmp_path / "large.txt", tmp_path / "cache")
    assert int(said) > 10**9 and peak < 600 * 10**6


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_a_document_of_300_megabytes_is_refused_with_its_place(tmp_path: Path, suffix: str) -> None:
    line = "it goes on and on, and so it goes, but not for ever: a line of some text here\n"
    huge, times = tmp_path / f"huge.{suffix}", 300 * 10**6 // len(line) + 1
    with huge.open("w") as file:
        if suffix == "txt":
            file.write("a first document\n\n")
            for _ in range(times):
                file.write(line)
        else:
            file.write('{"text": "a first document"}\n{"text": "')
            for _ in range(times):
                file.write(line[:-1] + " ")
            file.write('"}\n')
    said, peak = prepared(huge, tmp_path / "cache")
    place = "2" if suffix == "jsonl" else "[1-3]"  # of a text, where its chunk begins
    assert re.search(rf"huge\.{suffix}, line {place}: .*; divide it", said)
    assert peak < 10**9
