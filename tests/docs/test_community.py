"""The files for contributors agree with the project that they speak of."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
FINDINGS = sorted((ROOT / "findings").glob("*.sh"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_ci_begins_at_the_oldest_python_that_is_allowed():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert PROJECT["requires-python"] == f">={tested[0]}"


def test_hooks_are_tools_of_the_environment():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    required = {re.split(r"[\[<>=]", need)[0] for need in PROJECT["optional-dependencies"]["dev"]}
    (repository,) = config["repos"]
    tools = {hook["entry"].split()[0] for hook in repository["hooks"]}
    assert tools == {".venv/bin/ruff", ".venv/bin/mypy"}
    assert {Path(tool).name for tool in tools} <= required


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_an_issue_form_is_one_that_github_accepts(form):
    fields = yaml.safe_load(form.read_text())
    assert fields.keys() >= {"name", "description", "body"}
    ids = [field["id"] for field in fields["body"]]
    assert len(ids) == len(set(ids))
    for field in fields["body"]:
        assert field["type"] in {"input", "textarea", "dropdown", "checkboxes"}
        assert field["attributes"]["label"]


def test_forms_ask_for_what_decides():
    assert {form.stem for form in FORMS} == {"bug", "part"}
    asked = {form.stem: {f["id"] for f in yaml.safe_load(form.read_text())["body"]} for form in FORMS}
    assert "record" in asked["bug"]
    assert asked["part"] >= {"paper", "formula"}


def test_generated_files_that_are_marked_are_there():
    for line in (ROOT / ".gitattributes").read_text().splitlines():
        if line.endswith("linguist-generated"):
            assert list(ROOT.glob(line.split()[0])), line


@pytest.mark.parametrize("script", FINDINGS, ids=lambda script: script.stem)
def test_a_finding_has_its_form(script):
    text = script.read_text()
    (install,) = re.findall(r"pip install --quiet (.+)", text)
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", package) for package in install.split()), install
    assert "set -euo pipefail" in text
    assert """trap 'rm -rf "$folder"' EXIT""" in text
    for word in ("version:", "expected:", "seen:", "output:", "the behaviour has changed"):
        assert word in text, word
    assert not re.search(r"\bablate\b|index-url|://", text), "runs without ablate and names no host"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    assert f"({script.name})" in (ROOT / "findings/README.md").read_text(), "not in the list"


def test_the_files_that_a_workflow_names_exist():
    for workflow in (ROOT / ".github/workflows").glob("*.yml"):
        for path in re.findall(r"\b(?:tests|benchmarks|docs)/[\w/]+\.\w+", workflow.read_text()):
            assert (ROOT / path).is_file(), f"{workflow.name}: {path}"
