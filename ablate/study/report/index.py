"""The index of all studies of a folder as one HTML page that needs nothing beside it."""

from collections import Counter
from typing import Any
from urllib.parse import quote

from ablate.study.judge.corpus import Judged
from ablate.study.judge.study_judgement import StudyJudgement
from ablate.study.report.answer import banners
from ablate.study.report.bars import bar
from ablate.study.report.experiments import Evidence, ListedStudy
from ablate.study.report.markup import TEMPLATES, html_environment
from ablate.study.report.phrasing import verdict_in_words
from ablate.study.report.summary import ranked
from ablate.study.report.table import Table

WARNINGS = 2  # of a study that are read at once; the others are unfolded


def index_page(evidence: Evidence, claims: Table) -> str:
    """The page: each study with its question, answer and verdicts, then the catalogue of claims."""
    counts = Counter(row[2].split(",")[0] for row in claims.rows)
    context = {
        "studies": [_study(study) for study in evidence.studies],
        "claims": claims.without("command"),
        "counts": [(word, str(number)) for word, number in counts.most_common()],
        "shown": WARNINGS,
        "style": (TEMPLATES / "style.css").read_text(),
    }
    return html_environment().get_template("index.html.jinja").render(context)


def _study(study: ListedStudy) -> dict[str, Any]:
    judgement = study.judgement
    return {
        "name": study.name,
        "link": f"{quote(study.name)}/report.html" if judgement else "",
        "question": study.question,
        "state": study.state,
        "answer": study.answer,
        "banners": banners(judgement) if judgement else [],
        "corpora": _corpora(judgement) if judgement else [],
    }


def _corpora(judgement: StudyJudgement) -> list[dict[str, Any]]:
    return [
        {"name": judged.corpus if judgement.several else "", "rows": _rows(judged)}
        for judged in judgement.corpora
    ]


def _rows(judged: Judged) -> list[dict[str, Any]]:
    """The arms of a corpus, the best first, each with its verdict and its interval."""
    comparison = judged.comparison
    if comparison is None:
        return []
    verdicts = [comparison.verdict(arm) for arm in ranked(judged) if arm != comparison.baseline]
    return [
        {
            "arm": verdict.arm,
            "word": verdict.word,
            "said": verdict_in_words(verdict),
            "bar": bar(comparison, verdict),
        }
        for verdict in verdicts
    ]
