"""Text far larger than what a process may take is prepared in bounded memory."""

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
