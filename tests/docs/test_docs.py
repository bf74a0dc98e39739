"""The commands that README and docs show are accepted (that of a part of one's own: test_own_part.py)."""

import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from ablate.cli.compose import plain_config
from ablate.spec import RunSpec
from ablate.study.design.arms import expand
from ablate.study.design.study import load

ROOT = Path(__file__).parents[2]
LINES = [
    line.strip()
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for line in page.read_text().replace("\\\n", "").splitlines()
    if "parts=" not in line
]


def composed(*overrides: str) -> RunSpec:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        node = plain_config(compose("train", list(overrides)))
    return RunSpec.model_validate({field: node[field] for field in RunSpec.model_fields})


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("python train.py ")])
def test_a_run_that_is_shown_is_accepted(line):
    words = [word for word in shlex.split(line, comments=True) if "=" in word]
    composed(*(word if "[" in word else word.split(",")[0] for word in words))


def test_the_study_that_is_shown_is_of_runs_that_are_accepted(tmp_path):
    page = (ROOT / "docs/studies.md").read_text()
    (tmp_path / "study.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    study = load(tmp_path / "study.yaml")
    for corpus in study.corpora.values():
        assert getattr(composed(*study.base, *corpus).data.source, "heldout", 1), corpus
    for arm in expand(study):
        composed(*study.base, *arm.overrides)
