"""What users type and bring is refused by one line that names the place and what to do: no traceback, no
abort, no command that does not end. The inputs are in bad_inputs.yaml."""

import gzip
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from forked import Ended, Server
from test_foreign import a_llama

from ablate.__main__ import main
from ablate.record import content_hash

TINY = [
    "model.width=16",
    "model.depth=1",
    "model.heads=2",
    "model.context=16",
    "data=text",
    "data.source.files=[t.txt]",
    "data/tokenizer=bytes",
    "budget.tokens=2560",
    "budget.batch_tokens=256",
    "evaluation.every=0",
    "evaluation.tokens=512",
    "trainer=cpu",
    "sample.tokens=0",
]
BASE = [override for override in TINY if not override.startswith(("trainer", "sample"))]
STUDY = {
    "question": "Does position matter?",
    "base": BASE,
    "axis": ["model.position"],
    "baseline": "rope",
    "arms": {"rope": [], "alibi": ["model/position=alibi"], "none": ["model/position=none"]},
    "placebo": False,
    "seeds": 2,
    "tune": "fixed",
}
FAST = 16  # every so many of the table are in the default tests
SECONDS = 30
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Case(NamedTuple):
    section: str
    given: Any
    place: str
    remedy: str
    name: str = ""  # of the file that holds `given`
    command: str = ""


def table() -> list[Case]:
    """The rows of bad_inputs.yaml."""
    node = yaml.safe_load((Path(__file__).parent / "bad_inputs.yaml").read_text())
    cases = [
        Case(section, *row) for section in ("train", "sweep", "ablate", "study") for row in node[section]
    ]
    cases += [Case("data", given, place, remedy, name) for name, given, place, remedy in node["data"]]
    cases += [
        Case("folders", given, place, remedy, name, command)
        for command, name, given, place, remedy in node["folders"]
    ]
    return cases


CASES = table()


def title(case: Case) -> str:
    text = f"{case.section} {case.command} {case.name} {case.given}"
    return "".join(c if c.isprintable() and c.isascii() else "?" for c in text)[:100]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model as a run, as a Hugging Face folder, and imported; some text; a study."""
    place = tmp_path_factory.mktemp("model")
    run = a_llama(place / "run")
    assert main(["export", str(run), str(place / "hub")]) == 0
    assert main(["import", str(place / "hub"), str(place / "imported")]) == 0
    (place / "t.txt").write_text(
        "\n\n".join(f"Document {n}: {'so it goes ' * (n % 7 + 3)}" for n in range(200))
    )
    (place / "experiments" / "good").mkdir(parents=True)
    (place / "experiments" / "good" / "study.yaml").write_text(yaml.safe_dump(STUDY))
    return place


@pytest.fixture
def place(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "place", symlinks=True))


def bring(file: Path, given: Any) -> None:
    """Put what is given in the place of a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(given, str):
        file.write_text(given)
        return
    before = file.read_bytes() if file.is_file() else b""
    file.unlink(missing_ok=True)
    if "link" in given:
        file.symlink_to(given["link"])
    elif "folder" in given:
        file.mkdir()
    elif "fifo" in given:
        os.mkfifo(file)
    elif "parquet" in given:
        pyarrow.parquet.write_table(pyarrow.table(given["parquet"]), file)
    elif "gzip" in given:
        with gzip.open(file, "wb", compresslevel=1) as packed:
            for _ in range(given.get("times", 1) // 10**6):
                packed.write(given["gzip"].encode() * 10**6)
            packed.write(given["gzip"].encode() * (given.get("times", 1) % 10**6))
        file.write_bytes(file.read_bytes()[: given.get("cut")])
    elif "flip" in given:
        file.write_bytes(
            before[: -given["flip"]] + bytes([before[-given["flip"]] ^ 4]) + before[1 - given["flip"] :]
        )
    elif "cut" in given:
        file.write_bytes(before[: -given["cut"]])
    elif "json" in given:
        node = {**json.loads(before), **given["json"]}
        if node.pop("hash", None):  # as whoever edits it on purpose would write it
            node["hash"] = content_hash(node)
        file.write_text(json.dumps(node))
    elif "delete" not in given:
        text = bytes.fromhex(given["hex"]) if "hex" in given else given["text"].encode()
        file.write_bytes(text * given.get("times", 1))


def study_text(given: Any) -> bytes:
    """A study.yaml that is wrong in the given way."""
    if isinstance(given, str):
        return given.encode()
    if "text" in given:
        text, times = given["text"]
        return bytes.fromhex(given.get("hex", "")) + (text * times).encode() + b"1" * given.get("number", 0)
    if "factors" in given:
        factors = {f"f{n}": {"a": [], "b": [f"model.width={16 * (n + 2)}"]} for n in range(given["factors"])}
        given = {"design": {"kind": "factorial", "factors": factors}, "arms": None, "baseline": None}
    node = {**STUDY, **given}
    node = {key: value for key, value in node.items() if value is not None or key not in given}
    return yaml.safe_dump(node, allow_unicode=True).encode()


def options_for(given: list[str]) -> list[str]:
    """Those of a tiny run; without those of its model or its text where that is another's."""
    others = (
        *(["model."] if "model=started" in given else []),
        *(["data.source."] if any(option.startswith("data=") for option in given) else []),
    )
    return [option for option in TINY if not option.startswith(tuple(others))]


def command_of(case: Case, place: Path) -> list[str]:
    """The arguments, once what is given lies where it belongs."""
    match case.section:
        case "train":
            given = shlex.split(case.given)
            return ["train", *(() if given[0].startswith("--") else options_for(given)), *given]
        case "sweep":
            return ["sweep", *shlex.split(case.given)]
        case "study":
            (place / "experiments" / "good" / "study.yaml").write_bytes(study_text(case.given))
            return ["sweep", "experiment=good", "plan=true"]
        case "data":
            bring(place / case.name, case.given)
            return ["train", *TINY, f"data.source.files=[{case.name}]"]
        case "folders":
            bring(place / case.name, case.given)
            command, *given = shlex.split(case.command)
            return [command, *(options_for(given) if command == "train" else []), *given]
    return [argument.replace("LONG", "a" * 100_000) for argument in shlex.split(case.given)]


def judge(case: Case, ended: Ended) -> list[str]:
    """What is wrong with how a command ended; empty if nothing is."""
    wrong = []
    if ended.code is None:
        wrong.append("no end")
    elif ended.code < 0:
        wrong.append(f"signal {-ended.code}")
    elif ended.code not in (1, 2) or (
        ended.code == 1 and not re.search("No such file|directory|folder|Perm", ended.err)
    ):
        wrong.append(f"exit {ended.code}")
    if "Traceback" in ended.out + ended.err:
        wrong.append("traceback")
    if CONTROL.search(ended.err) or CONTROL.search(ended.out):
        wrong.append("control characters")
    lines = [line for line in ended.err.splitlines() if case.place in line and case.remedy in line]
    if not lines:
        wrong.append("no line with place and remedy")
    return wrong


def refused(case: Case, server: Server, place: Path) -> None:
    ended = server.run(command_of(case, place), place, SECONDS)
    wrong = judge(case, ended)
    assert not wrong, f"{', '.join(wrong)}\n{ended.out[-2000:]}\n{ended.err[-4000:]}"


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 300 and len({repr(case) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES[::FAST], ids=title)
def test_some_bad_inputs_are_a_line(case: Case, server: Server, place: Path) -> None:
    refused(case, server, place)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=title)
def test_every_bad_input_is_a_line(case: Case, server: Server, place: Path) -> None:
    refused(case, server, place)
