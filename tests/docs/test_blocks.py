"""Every fenced block of README.md and docs/ is used, page by page and in order, in a folder of its own.

By default commands are checked, not run: runs and arms of studies are composed and validated, other commands
are parsed. Python is executed and files are written. One tutorial is really run, with its budget cut to `CUT`
tokens and two seeds and without its `plan=true`; the slow tests run all tutorials as they stand.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from hydra import compose, initialize, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from pages import LANGUAGES, PAGES, ROOT, TUTORIALS, Fenced, as_ablate, blocks

from ablate.__main__ import HYDRA, parser
from ablate.campaign.rules import load_campaign, merged
from ablate.cli.campaign_command import try_words
from ablate.cli.campaign_runs import campaign_options
from ablate.cli.compose import BESIDE, ConfigError, Rest, job, plain_config
from ablate.cli.hints import TRAIN
from ablate.cli.options import SweepOptions
from ablate.cli.own_parts import load_named_parts
from ablate.cli.project import make_project
from ablate.registry import load_parts
from ablate.spec import RunSpec
from ablate.study.design.arms import expand
from ablate.study.design.claim import Claim
from ablate.study.design.study import Study, load_study, parse_study
from ablate.train.settings import Settings

CONF = str(ROOT / "conf")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
CUT = 4096  # tokens of the tutorial that is really run by default
RUN = "ffn"  # that tutorial
# Commands of other programs, which these tests neither run nor know.
OTHERS = {".", "git", "trackio", "wandb", "pre-commit", "torchrun"}
FRAGMENT = {  # what a fragment of a study is put into
    "question": "q",
    "axis": ["model.position"],
    "baseline": "rope",
    "arms": {"rope": [], "none": ["model/position=none"]},
    "tune": "fixed",
}


def train_config(overrides: list[str]):
    """The composed configuration of a run; of a multirun, the first."""
    words = [word for word in overrides if word not in ("-m", "--multirun") and not word.startswith("hydra/")]
    first = [word if {"[", "{"} & {*word} else word.split(",")[0] for word in words]
    load_named_parts(first)
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("train", first)


def check_run(*overrides: str) -> RunSpec:
    node = plain_config(train_config(list(overrides)))
    load_parts(node["parts"])
    return RunSpec.model_validate({field: node[field] for field in RunSpec.model_fields})


def check_study(study: Study) -> None:
    """All arms on all corpora and sizes are runs."""
    for arm in expand(study):
        for corpus in (study.corpora or {"": ()}).values():
            for size in (study.sizes or {"": ()}).values():
                check_run(*study.base, *corpus, *size, *arm.overrides)


def check_sweep(overrides: list[str], folder: Path) -> None:
    # As the command does it: the groups of conf/ are those of train.py.
    ConfigStore.instance().store("sweep", OmegaConf.load(Path(CONF) / "sweep.yaml"))
    with initialize(config_path=None, version_base="1.3"):
        node = plain_config(compose("sweep", overrides))
    with patch("ablate.cli.options.find_spec"):  # optional libraries may be absent where pages are checked
        options = SweepOptions.model_validate(node)
    if options.experiment not in (None, "NAME"):
        places = (folder / "experiments", ROOT / "experiments")
        assert any((place / options.experiment / "study.yaml").is_file() for place in places)


def check_try(words: list[str], folder: Path) -> None:
    """The change beside the baseline of a campaign that the page has shown is a run."""
    place, change, _, options = try_words(words)
    rules = load_campaign(folder / place)
    campaign_options(folder / place, **options)
    check_run(*merged(rules.base, change))


def check_command(words: list[str], folder: Path) -> Path:
    """Check a command of a page; returns the folder in which the next one stands."""
    own = as_ablate(words)
    if own is not None:
        if "--help" in own and own[0] in ("--help", *HYDRA):
            return folder
        if own[0] == "train":
            check_run(*own[1:])
        elif own[0] == "sweep":
            check_sweep(own[1:], folder)
        elif own[0] == "try":
            check_try(parser().parse_args(own).words, folder)
        else:
            options = parser().parse_args(own)
            if own[0] == "init":
                make_project(folder / options.folder)
    elif words[0] == "cd":
        folder = folder / words[1]
        assert folder.is_dir()
        os.chdir(folder)
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    elif words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        asked = re.findall(r"\[(.*?)\]", words[-1])
        assert words[-1].startswith(".") and all(extra in extras for extra in asked)
    elif words[:3] == ["python", "-m", "pytest"]:
        assert all((ROOT / word).exists() for word in words[3:] if word.startswith("tests/"))
    elif words[0] == "python" and (folder / words[1]).is_file():
        subprocess.run([sys.executable, words[1]], cwd=folder, env=ENVIRONMENT, check=True)
    elif words[0] == "python":
        script = ROOT / words[1]
        assert script.is_file() or (script / "__main__.py").is_file()
    else:
        assert words[0] in OTHERS, "neither a command of this project nor one that these tests know"
    return folder


def check_console(block: Fenced) -> None:
    """A wrong command prints the mistakes that the page shows."""
    (words,) = block.commands
    own = as_ablate(words)
    assert own is not None and own[0] == "train"
    with pytest.raises(ConfigError) as caught:
        job(train_config(own[1:]))
    assert caught.value.mistakes == block.output


def check_yaml(block: Fenced) -> None:
    node = yaml.safe_load(block.text)
    if "question" in node:
        check_study(load_text(block.text))
        return
    for claim in node.pop("claims", []):
        Claim.model_validate(claim)
    whole = FRAGMENT | node
    if "design" in node:
        del whole["arms"], whole["baseline"]
    check_study(parse_study(whole))


def load_text(text: str) -> Study:
    Path("study.yaml").write_text(text)
    return load_study(Path("study.yaml"))


def write_file(block: Fenced, folder: Path) -> None:
    assert block.file is not None
    (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
    (folder / block.file).write_text(block.text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_parts: None) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "docs").symlink_to(ROOT / "docs")  # of the clone, whose examples the pages name
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_s_blocks_are_accepted(page, folder):
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block}: say one of {', '.join(LANGUAGES)}"
        try:
            if block.file is not None:
                write_file(block, folder)
            if block.file and block.file.endswith("study.yaml"):
                check_study(load_study(folder / block.file))
            elif block.file and block.file.endswith("campaign.yaml"):
                check_run(*load_campaign((folder / block.file).parent).base)
            elif block.language == "console":
                check_console(block)
            elif block.language == "bash":
                for words in block.commands:
                    folder = check_command(words, folder)
            elif block.language == "yaml" and block.file is None:
                check_yaml(block)
            elif block.language == "python" and block.file is None:
                exec(compile(block.text, str(block), "exec"), {"__name__": "page"})
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{block}: {error}") from error


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_command_hides_outside_the_blocks_that_are_checked(page):
    outside = re.sub(r"^```(?!text).*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"^ *(?:\$ )?(?:python|ablate|make|pip) .*$", outside, flags=re.MULTILINE)


def really(page: Path, folder: Path, cache: Path, cut: bool) -> None:
    """Follow a tutorial: write its files, run its commands, and look for the reports that it names."""
    for block in blocks(page):
        text = block.text
        if cut:
            text = re.sub(r"budget\.tokens=\d+", f"budget.tokens={CUT}", text)
            text = re.sub(r"^seeds: \d+", "seeds: 2", text, flags=re.MULTILINE)
        block = Fenced(block.page, block.line, block.language, text)
        if block.file is not None:
            write_file(block, folder)
            continue
        for words in block.commands if block.language == "bash" else ():
            if words[0] == "cd":
                folder = folder / words[1]
                continue
            if cut and "plan=true" in words:  # checked by the other tests
                continue
            if not (folder / "cache").exists():
                (folder / "cache").symlink_to(cache)
            own = as_ablate(words)
            command = words[1:] if own is None else ["-m", "ablate", *own]
            done = subprocess.run(
                [sys.executable, *command], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{block}: {' '.join(words)}\n{done.stdout[-3000:]}{done.stderr}"
    reports = set(re.findall(r"`(experiments/\w+/report\.html)`", page.read_text()))
    assert reports, "a tutorial ends with a result"
    for report in reports:
        assert (folder / report).is_file()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenised texts that all tutorials share."""
    return tmp_path_factory.mktemp("cache")


def test_a_tutorial_leads_to_its_result(tmp_path, cache):
    really(ROOT / f"docs/tutorials/{RUN}.md", tmp_path, cache, cut=True)


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_every_tutorial_leads_to_its_result_as_it_stands(page, tmp_path, cache):
    really(page, tmp_path, cache, cut=False)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("```\npython train.py\n```\n", "say one of"),
        ("```bash\npython train.py model/position=rppe\n```\n", "rppe"),
        ("```bash\nablate sweep experiment=position paln=true\n```\n", "paln"),
        ("```bash\nablate generate\n```\n", "2"),
        ("```bash\nmake nothing\n```\n", "make nothing|assert"),
        ("```yaml\nquestion: q\naxis: [model.norm]\nmistake: 1\n```\n", "mistake"),
        ("```python\nnothing()\n```\n", "nothing"),
        ("```console\n$ ablate train model.norm.eps=-1\nall is well\n```\n", "all is well"),
    ],
)
def test_a_wrong_block_is_found(text, wrong, folder, monkeypatch):
    page = folder / "page.md"
    page.write_text(text)
    monkeypatch.setattr("pages.ROOT", folder)
    with pytest.raises(AssertionError, match=wrong):
        test_a_page_s_blocks_are_accepted(page, folder)


WORDS = (ROOT / "docs/words.md").read_text()
ROWS = [row.split(" | ") for row in re.findall(r"^\| (.*) \|$", WORDS, flags=re.MULTILINE)]


@pytest.mark.parametrize(
    "said",
    sorted(
        {
            span
            for row in ROWS
            if len(row) == 3
            for span in re.findall(r"`([^`]*)`", row[1])
            if re.match(r"[\w./]+=", span) or span.startswith("ablate ")
        }
    ),
)
def test_a_word_of_ours_is_accepted(said, folder):
    if said.startswith("ablate "):
        check_command(said.split(), folder)
    elif said.startswith(("wandb.", "engine=")):
        check_sweep(["experiment=NAME", said], folder)
    else:
        check_settings(said)


def check_settings(said: str) -> None:
    """An option of train.py is composed and valid, also where it decides no number."""
    node = plain_config(train_config([said]))
    RunSpec.model_validate({field: node.pop(field) for field in RunSpec.model_fields})
    beside = {name: node.pop(name) for name in BESIDE}
    Settings.model_validate(node.pop("trainer") | beside)
    Rest.model_validate(node)


def test_every_word_that_the_commands_answer_is_in_the_table():
    theirs = " ".join(row[0] for row in ROWS)
    for key in TRAIN:
        if key.startswith(("trainer.", "max_", "experiment")):
            assert key.removeprefix("trainer.") in theirs, f"docs/words.md lacks {key}"


def test_the_site_has_every_page():
    listed = re.findall(r"^ +- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(pages)


def test_help_of_make_names_every_target():
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    said = re.findall(r"^([a-z-]+):.*## \w", makefile, flags=re.MULTILINE)
    assert phony and sorted(phony.group(1).split()) == sorted(said)
