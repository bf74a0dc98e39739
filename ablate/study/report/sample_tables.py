"""What the arms write, where samples were asked for (`sweep.py ... samples=true`)."""

from collections.abc import Iterator

from ablate.errors import printable
from ablate.study.judge.corpus import Judged
from ablate.study.judge.study_judgement import StudyJudgement
from ablate.study.report.summary import ranked
from ablate.study.report.table import Table


def sample_tables(judgement: StudyJudgement, judged: Judged) -> Iterator[Table]:
    """One folded table for each prompt of a corpus: a row an arm. Samples of runs that the results do not
    have any more are left out."""
    samples = judgement.results.samples
    if samples is None:
        return
    mine = samples[(samples["corpus"] == judged.corpus) & samples["id"].isin(judged.runs["id"])]
    order = {arm: n for n, arm in enumerate(ranked(judged))}
    for prompt, found in mine.groupby("prompt", sort=False):
        texts = map(printable, found["text"])  # of bytes, a model may write any character
        by_arm = sorted(zip(found["arm"], texts, strict=True), key=lambda row: order.get(row[0], -1))
        note = (
            "The beginning of a document of validation, and what the first test run of each arm writes next, "
            "drawn at temperature 0.8 from the 40 likeliest tokens. One draw is no measure of quality."
        )
        said = printable(" ".join(str(prompt).split()))
        yield Table(f"Sample: {said}", ("arm", "text"), tuple(by_arm), note, folded=True)
