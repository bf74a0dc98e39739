"""Every committed report says what its stored results say, and nothing else."""

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ablate.study.design.freeze import NAME as PLAN
from ablate.study.report import evidence
from ablate.study.report.experiments import read_evidence
from ablate.study.report.index import index_page
from ablate.study.report.render import report

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
# `make quickstart` leaves results that are not committed.
STUDIES = [p.parent for p in sorted(EXPERIMENTS.glob("*/study.yaml")) if p.parent.name != "quickstart"]
DONE = [folder for folder in STUDIES if (folder / "results").is_dir()]


def without_figures(page: str) -> str:
    """Inline figures differ between versions of matplotlib."""
    return re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)


def same(table: str, other: str) -> bool:
    """Whether two tables have the same words and numbers, these up to the rounding of a machine's library."""
    words, others = (re.split(r"[\s,&]+", text) for text in (table, other))
    return len(words) == len(others) and all(map(alike, words, others))


def alike(word: str, other: str) -> bool:
    try:
        return word == other or math.isclose(float(word), float(other), rel_tol=1e-7, abs_tol=1e-12)
    except ValueError:
        return False


@pytest.mark.parametrize("folder", DONE, ids=lambda folder: folder.name)
def test_a_report_is_rebuilt_from_its_results(folder, tmp_path):
    again = tmp_path / folder.name
    shutil.copytree(folder / "results", again / "results")
    report(again)
    written = (again / "report.md").read_text()
    assert written == (folder / "report.md").read_text()
    assert not re.search(r"^\\#", written, re.MULTILINE)  # a heading that would be shown as text
    pages = [without_figures((place / "report.html").read_text()) for place in (again, folder)]
    assert pages[0] == pages[1]
    names = [sorted(p.name for p in (place / "tables").iterdir()) for place in (again, folder)]
    assert names[0] == names[1]
    for name in names[0]:
        assert same(*((place / "tables" / name).read_text() for place in (again, folder))), name
    figures = {p.name for p in (folder / "figures").glob("*.svg")}
    assert figures == {p.name for p in (again / "figures").glob("*.svg")}


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_a_study_is_frozen_and_keeps_a_diary(folder):
    assert (folder / PLAN).is_file()
    assert re.search(r"^\*{0,2}20\d\d-\d\d-\d\d", (folder / "LOG.md").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def found():
    return read_evidence(EXPERIMENTS)


def test_the_page_of_experiments_is_made_from_the_results(found):
    about = (EXPERIMENTS / "about.md").read_text()
    assert evidence.experiments_page(found, about) == (EXPERIMENTS / evidence.README_PAGE).read_text()


def test_the_index_is_made_from_the_results_and_needs_nothing_beside_it(found):
    html = (EXPERIMENTS / evidence.INDEX).read_text()
    assert index_page(found, evidence.claim_rows(found)) == html
    links = re.findall(r'href="([^"]*)"', html)
    assert links == [f"{folder.name}/report.html" for folder in DONE if (folder / PLAN).is_file()]
    assert not re.search(r"<(script|link|iframe|img)|src=|url\(|@import", html)
    for study in found.studies:
        assert study.name in html


def test_the_readme_shows_what_the_headline_study_found():
    readme = (ROOT / "README.md").read_text()
    assert evidence.with_headline(readme, EXPERIMENTS / "rope_4m") == readme


def test_every_claim_of_a_study_is_in_the_catalogue_or_a_check_of_its_own(found):
    for said in found.findings:
        named = re.match(r"C\d\d", said.claim)
        assert not named or any(said.of(entry) for entry in found.entries), f"{said.study}: {said.claim}"


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "data" / "english.txt.xz").is_file(), reason="the text is not here")
def test_a_row_gives_its_loss_again_by_its_command(tmp_path):
    """Bit for bit on the kind of machine that made it; 1e-3 is for others."""
    runs = pd.read_parquet(EXPERIMENTS / "calibration" / "results" / "runs.parquet")
    row = runs[(runs["arm"] == "half") & (runs["seed"] == 0)].iloc[0]
    words = [sys.executable, *shlex.split(row["command"])[1:]]
    options = [f"runs={tmp_path}", f"cache={tmp_path}/cache", "sample.tokens=0"]
    subprocess.run([*words, *options], cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
    record = json.loads((tmp_path / row["id"] / "record.json").read_text())
    assert record["metrics"]["validation/loss"] == pytest.approx(row["validation/loss"], abs=1e-3)


def test_a_claim_at_one_rate_for_all_arms_is_marked_unless_it_is_on_costs(found):
    marks = {(finding.study, finding.claim): finding.verdict for finding in found.findings}
    assert marks["moe", "C23"].endswith(", rates not tuned")
    assert (
        "rates not tuned" not in marks["attention", "C20"] and "rates not tuned" not in marks["norm", "C05"]
    )
