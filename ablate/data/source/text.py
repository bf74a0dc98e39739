"""Text from the user's own files: plain, JSON lines or Parquet, packed or not."""

import glob
import gzip
import hashlib
import io
import json
import lzma
import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Annotated, Any, Literal, cast

from annotated_types import Ge, Gt, Lt, MinLen

from ablate.data.source import LONGEST, SPLITS, DataError, Source, SplitName, utf8_blocks
from ablate.registry import source

PACKED: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".xz": lzma.open}
SMALL, SHRINKS = 2**30, 200  # bytes that any packed file may hold; and, of a larger one, times its own size
CHUNK = 2**20  # bytes of lines that are decoded at once
BLANK = re.compile(r"\n(?:[^\S\n]*\n)+")  # the end of a line, and blank lines after it
LEADING = re.compile(r"(?:[^\S\n]*\n)+")
SHORTER = "divide it, by blank lines in .txt and by rows elsewhere"
HALF = re.compile("[\ud800-\udfff]")
DAMAGE = (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError)


@source("text", paper="Files of yours: .txt, .jsonl or .parquet, each also as .gz or .xz")
class Text(Source):
    """Local files, by path or glob; globs are sorted.

    `split: document` deals whole documents to the splits by a hash of their text, so equal documents share
    a split. In .txt files, blank lines separate documents; in .jsonl and .parquet, each row is one.
    `split: tail` takes the files as one stream, a .txt file being one document: its first part is for
    training, then comes validation, then heldout; shares are counted in characters, and a document that
    lies across a border is cut there.
    """

    def __init__(
        self,
        *,
        files: Annotated[list[str], MinLen(1)],
        split: Literal["document", "tail"] = "document",
        validation: Annotated[float, Gt(0), Lt(0.5)] = 0.05,
        heldout: Annotated[float, Ge(0), Lt(0.5)] = 0.05,
        field: str = "text",
    ):
        self.files, self.split, self.field = files, split, field
        self.validation, self.heldout = validation, heldout
        self.absent = () if heldout else ("heldout",)

    def documents(self, split: SplitName) -> Iterator[str]:
        if self.split == "tail":
            return self._stretch(split)
        return (text for text in self._every_document() if self._split_of(text) == split)

    def change_stamp(self) -> Any:
        seen = [(path, path.stat()) for path in find(self.files)]
        return [[str(path), s.st_size, s.st_mtime_ns, s.st_ctime_ns] for path, s in seen]

    def _split_of(self, text: str) -> SplitName:
        content = hashlib.sha256()
        for piece in utf8_blocks(text):
            content.update(piece)
        fraction = int.from_bytes(content.digest()[:8], "big") / 2**64
        if fraction < self.heldout:
            return "heldout"
        return "validation" if fraction < self.heldout + self.validation else "train"

    @cached_property
    def _lengths(self) -> list[tuple[Path, int]]:
        """The files and the characters of their documents."""
        return [(path, sum(len(text) for text in self._documents_of(path))) for path in find(self.files)]

    @cached_property
    def _borders(self) -> dict[SplitName, tuple[int, int]]:
        """Where the splits begin and end in the stream of all documents."""
        total = sum(length for _, length in self._lengths)
        later = [int(total * (1 - self.validation - self.heldout)), int(total * (1 - self.heldout)), total]
        return dict(zip(SPLITS, pairwise([0, *later]), strict=True))

    def _stretch(self, split: SplitName) -> Iterator[str]:
        """The part of the stream of all documents that belongs to a split. Files outside it are not read."""
        first, last = self._borders[split]
        at = 0
        for path, length in self._lengths:
            if first < at + length and at < last:
                place = at
                for text in self._documents_of(path):
                    if piece := text[max(0, first - place) : max(0, last - place)]:
                        yield piece
                    place += len(text)
                    if place >= last:
                        return
            at += length

    def every(self) -> Iterator[tuple[SplitName, str]]:
        """In one reading. Documents of the later splits wait in files of their own for their turn."""
        if self.split == "document":
            yield from in_turn((self._split_of(text), text) for text in self._every_document())
            return
        at = 0
        for text in self._every_document():
            for split, (first, last) in self._borders.items():
                if piece := text[max(0, first - at) : max(0, last - at)]:
                    yield split, piece
            at += len(text)

    def _every_document(self) -> Iterator[str]:
        for path in find(self.files):
            yield from self._documents_of(path)

    def _documents_of(self, path: Path) -> Iterator[str]:
        empty = True
        for text in read_documents(path, self.field, whole=self.split == "tail"):
            empty = False
            yield text
        if empty:
            raise DataError(f"text: {path} has no text in it; leave it out")


def in_turn(dealt: Iterator[tuple[SplitName, str]]) -> Iterator[tuple[SplitName, str]]:
    """Documents in any order, sorted by split: the first split's at once, the others' after them."""
    with ExitStack() as files:
        later = {name: files.enter_context(TemporaryFile()) for name in SPLITS[1:]}
        for split, text in dealt:
            if split == SPLITS[0]:
                yield split, text
                continue
            content = text.encode()
            later[split].write(len(content).to_bytes(8, "big") + content)
        for split, file in later.items():
            file.seek(0)
            while head := file.read(8):
                yield split, file.read(int.from_bytes(head, "big")).decode()


def find(patterns: list[str]) -> list[Path]:
    """The files that paths and globs name, each once. Raises DataError for a pattern that names none."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        there = [Path(p) for p in sorted(glob.glob(pattern, recursive=True))] or [Path(pattern)]
        files = [p for p in there if p.is_file()]
        if not files:
            why = f"is a folder; say {pattern}/*.txt" if Path(pattern).is_dir() else "matches no file"
            raise DataError(f"text: {pattern!r} {why} (seen from {Path.cwd()})")
        found |= dict.fromkeys(p.resolve() for p in files)
    return list(found)


def read_documents(path: Path, field: str, whole: bool) -> Iterator[str]:
    """The documents of one file. `whole`: a .txt file is one document. Raises DataError."""
    packed = PACKED.get(path.suffix)
    kind = path.with_suffix("").suffix if packed else path.suffix
    if kind not in (".txt", ".jsonl", ".parquet"):
        raise DataError(f"text: {path} is none of .txt, .jsonl, .parquet (or one of these as .gz, .xz)")
    try:
        with io.BufferedReader(packed(path)) if packed else path.open("rb") as file:
            if kind == ".txt":
                yield from read_txt(path, cast(IO[bytes], file), whole)
            elif kind == ".jsonl":
                yield from read_jsonl(path, cast(IO[bytes], file), field)
            else:
                yield from read_parquet(path, cast(IO[bytes], file), field, packed is not None)
    except DAMAGE as error:
        raise DataError(f"text: {path} is damaged or cut short ({error}); get it anew") from error


def read_txt(path: Path, file: IO[bytes], whole: bool) -> Iterator[str]:
    """The documents of a file of text: what stands between blank lines, or all of it (`whole`)."""
    held, size, line, begun = io.StringIO(), 0, 1, 1
    for chunk in decoded_chunks(path, file):
        for text, ended in [(chunk, False)] if whole else divided(chunk):
            held.write(text)
            size += len(text)
            if size > LONGEST:
                raise DataError(
                    f"text: {path}, line {begun}: a document has more than {LONGEST} characters; {SHORTER}"
                )
            if ended and size:
                document, held, size = held.getvalue(), io.StringIO(), 0  # one copy while others work on it
                yield document.rstrip("\r\n")
            if ended:
                begun = line  # or a few lines later
        line += chunk.count("\n")
    document, held = held.getvalue(), io.StringIO()
    if not whole:
        document, _, last = document.rpartition("\n")
        document = f"{document}\n{last}" if last.strip() else document  # the last line may be blank
        document = document.rstrip("\r\n")
    if document:
        yield document


def divided(chunk: str) -> Iterator[tuple[str, bool]]:
    """The text between the blank lines of some lines, and whether a blank line follows."""
    begin = LEADING.match(chunk)
    at = begin.end() if begin else 0
    if at:
        yield "", True
    for blank in BLANK.finditer(chunk, at):
        yield chunk[at : blank.start() + 1], True
        at = blank.end()
    if at < len(chunk):
        yield chunk[at:], False


def read_jsonl(path: Path, file: IO[bytes], field: str) -> Iterator[str]:
    """The field of each line of JSON. Raises DataError with file and line."""
    for number, line in enumerate(decoded_lines(path, file), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except RecursionError as error:
            raise DataError(
                f"text: {path}, line {number}: lists within lists, too deep to be read"
            ) from error
        except ValueError as error:  # no JSON, or a number of thousands of digits
            raise DataError(
                f"text: {path}, line {number}: no JSON ({str(error).partition(';')[0]})"
            ) from error
        if not isinstance(row, dict) or field not in row:
            there = ", ".join(row) if isinstance(row, dict) else "no fields"
            raise DataError(f"text: {path}, line {number}: there is no field {field!r}; there is {there}")
        yield from checked(row[field], field, f"{path}, line {number}")


def read_parquet(path: Path, file: IO[bytes], field: str, packed: bool) -> Iterator[str]:
    """The field of each row of a Parquet file. Raises DataError with the file."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(io.BytesIO(unpacked(path, file)) if packed else file)
        if field not in table.schema_arrow.names:
            there = ", ".join(table.schema_arrow.names)
            raise DataError(f"text: {path}: there is no column {field!r}; there is {there}")
        number = 0
        for batch in table.iter_batches(columns=[field]):
            for value in batch.column(0):
                number += 1
                yield from checked(of_row(path, number, value), field, f"{path}, row {number}")
    except pyarrow.ArrowException as error:
        raise DataError(f"text: {path} is no parquet file, or is damaged ({error})") from error


def of_row(path: Path, number: int, value: Any) -> Any:
    """A value of a parquet file as Python's."""
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        raise DataError(
            f"text: {path}, row {number}: byte {error.start} of it is not UTF-8; write the column anew"
        ) from error


def unpacked(path: Path, file: IO[bytes]) -> bytes:
    """All of a packed file. Raises DataError for one that unpacks to far more than text does."""
    most = allowed(path)
    found = file.read(most + 1)
    if len(found) > most:
        raise DataError(swollen(path))
    return found


def allowed(path: Path) -> int:
    """The bytes that a packed file may unpack to: text shrinks to a fourth, hardly to a hundredth."""
    return max(SMALL, SHRINKS * path.stat().st_size)


def swollen(path: Path) -> str:
    """What to say of a file that unpacks to more than text ever does."""
    return (
        f"text: {path} unpacks to more than {SHRINKS} times its size, as no text does; if it is meant, "
        "unpack it and name what comes out"
    )


def checked(value: Any, field: str, place: str) -> Iterator[str]:
    """The text, if it is not empty. Raises DataError if it is no text, or cannot be written as UTF-8."""
    if not isinstance(value, str):
        raise DataError(f"text: {place}: field {field!r} is {type(value).__name__}, not text")
    if len(value) > LONGEST:
        raise DataError(f"text: {place}: a document has more than {LONGEST} characters; {SHORTER}")
    if half := HALF.search(value):
        raise DataError(f"text: {place}: character {half.start()} is half a surrogate pair")
    if value:
        yield value


def decoded_lines(path: Path, file: IO[bytes]) -> Iterator[str]:
    """The lines of a file, without the byte order mark, which is no text."""
    return decoded_chunks(path, file, 0)


def decoded_chunks(path: Path, file: IO[bytes], size: int = CHUNK) -> Iterator[str]:
    """The file in chunks of whole lines, about `size` bytes each (0: lines), without a byte order mark."""
    if file.read(len(BOM_UTF8)) != BOM_UTF8:
        file.seek(0)
    offset, most = file.tell(), allowed(path) if path.suffix in PACKED else None
    number = 1
    while True:
        chunk = file.read(size) if size else b""
        if not size or (chunk and not chunk.endswith(b"\n")):
            rest = file.readline(LONGEST + 1)
            if len(rest) > LONGEST:
                number += chunk.count(b"\n")
                raise DataError(
                    f"text: {path}, line {number}: a line has more than {LONGEST} bytes; {SHORTER}"
                )
            chunk = chunk + rest if chunk else rest
        if not chunk:
            return
        try:
            yield chunk.decode()
        except UnicodeDecodeError as error:
            place = "byte" if path.suffix not in PACKED else "unpacked byte"
            at, value = offset + error.start, chunk[error.start]
            raise DataError(
                f"text: {path}, {place} {at}: 0x{value:02x} is not UTF-8; convert it (iconv)"
            ) from error
        offset += len(chunk)
        number += chunk.count(b"\n") if size else 1
        if most is not None and offset > most:
            raise DataError(swollen(path))
