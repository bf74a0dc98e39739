"""The experiments of a folder: the catalogue of claims, what our runs say of each, and every study.

experiments/claims.yaml        the catalogue: id, what it says, what was published
experiments/NAME/study.yaml    a study; with NAME/results it has been run, with NAME/plan.json it is frozen
experiments/NAME/claims.json   the findings of an experiment that is no study: [ClaimFinding, ...]

A study's claim C16-learned belongs to the entry C16. Every figure comes from stored results.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from ablate.spec import Strict
from ablate.study.design.freeze import NAME as PLAN
from ablate.study.design.study import load_study, plain_yaml
from ablate.study.judge.study_judgement import StudyJudgement, judge_study
from ablate.study.report.answer import answer
from ablate.study.report.claim_tables import claim_table, place_heading
from ablate.study.results import FOLDER, read_results

CATALOGUE = "claims.yaml"
FINDINGS = "claims.json"


class CatalogueEntry(Strict):
    """One claim of the catalogue. `judge` says how a study would decide it, `against` who found otherwise."""

    id: str
    says: str
    published: str
    judge: str = ""
    against: str = ""

    @property
    def sources(self) -> str:
        """What is published, and what contradicts it."""
        return f"{self.published}; against: {self.against}" if self.against else self.published


class ClaimFinding(Strict):
    """What one experiment found of a claim. `claim` is the id of an entry, or begins with it and a hyphen."""

    claim: str
    study: str
    corpus: str = ""
    predicate: str
    verdict: str
    ours: str = ""
    published: str = ""
    beside: str = ""
    command: str

    def of(self, entry: CatalogueEntry) -> bool:
        """Whether the finding belongs to the entry."""
        return self.claim == entry.id or self.claim.startswith(f"{entry.id}-")


@dataclass(frozen=True)
class ListedStudy:
    """A study as a list shows it; `judgement` is None where it is no evidence: not run, or not frozen."""

    name: str
    question: str
    state: str
    judgement: StudyJudgement | None

    @property
    def answer(self) -> str:
        """The answer of the study; empty where it is no evidence."""
        return answer(self.judgement) if self.judgement else ""


@dataclass(frozen=True)
class Evidence:
    """All experiments of a folder, each judged once."""

    entries: tuple[CatalogueEntry, ...]
    findings: tuple[ClaimFinding, ...]
    studies: tuple[ListedStudy, ...]

    def on(self, entry: CatalogueEntry) -> list[ClaimFinding]:
        """The findings on an entry, in the order of the folders."""
        return [finding for finding in self.findings if finding.of(entry)]


def read_evidence(experiments: Path) -> Evidence:
    """Read and judge every experiment of the folder. Raises ValueError for results that are damaged."""
    findings: list[ClaimFinding] = []
    studies = []
    for folder in sorted(child for child in experiments.iterdir() if child.is_dir()):
        study = listed(folder) if (folder / "study.yaml").is_file() else None
        if study is not None:
            studies.append(study)
        findings += findings_of(folder, study.judgement if study else judgement_of(folder))
    return Evidence(tuple(read_catalogue(experiments)), tuple(findings), tuple(studies))


def read_catalogue(experiments: Path) -> list[CatalogueEntry]:
    """The entries of the catalogue, in its order."""
    entries = plain_yaml(experiments / CATALOGUE)
    return [CatalogueEntry.model_validate({"id": id, **entry}) for id, entry in entries.items()]


def judgement_of(folder: Path) -> StudyJudgement | None:
    """The judgement on results of a frozen plan: others, such as the quickstart's, are no evidence."""
    evident = (folder / FOLDER).is_dir() and (folder / PLAN).is_file()
    return judge_study(read_results(folder)) if evident else None


def listed(folder: Path) -> ListedStudy:
    """The study in `folder`, run or not."""
    judgement = judgement_of(folder)
    if judgement is None:
        state = "planned and frozen, not run" if (folder / PLAN).is_file() else "not frozen: no evidence"
        return ListedStudy(folder.name, load_study(folder / "study.yaml").question, state, None)
    runs = judgement.results.runs.drop_duplicates("id")
    state = f"{int(runs['status'].notna().sum())} of {len(runs)} runs"
    return ListedStudy(folder.name, judgement.study.question, state, judgement)


def findings_of(folder: Path, judgement: StudyJudgement | None) -> Iterator[ClaimFinding]:
    """What an experiment found of claims: stored findings, then those of its study."""
    if (folder / FINDINGS).is_file():
        yield from TypeAdapter(list[ClaimFinding]).validate_json((folder / FINDINGS).read_bytes())
    table = claim_table(judgement.claimed) if judgement else None
    if judgement is None or table is None:
        return
    for row in table.rows:
        cells = dict(zip(table.columns, row, strict=True))
        yield ClaimFinding(
            claim=cells["claim"],
            study=folder.name,
            corpus=cells.get(place_heading(judgement.claimed), ""),
            predicate=cells["says"],
            verdict=cells["verdict"],
            ours=cells["our data"],
            published=cells["published"],
            beside=cells["beside"],
            command=f"python sweep.py experiment={folder.name}",
        )


def dump(findings: Sequence[ClaimFinding]) -> bytes:
    """The content of a claims.json."""
    return (json.dumps([finding.model_dump() for finding in findings], indent=1) + "\n").encode()
