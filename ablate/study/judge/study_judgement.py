"""The judge's say on a whole study: made once, shown by reports, the terminal and dashboards."""

from dataclasses import dataclass

from ablate.study.design.study import Study
from ablate.study.judge.corpus import Judged, judge_results
from ablate.study.judge.headlines import JudgedClaims
from ablate.study.judge.scale import Scale, judge_scale
from ablate.study.results import Manifest, Results


@dataclass(frozen=True)
class StudyJudgement:
    """Results with all that the judge says of them.

    corpora  one for each corpus, at each size
    scales   all sizes of one corpus together; empty for a study without sizes
    """

    results: Results
    corpora: tuple[Judged, ...]
    scales: tuple[Scale, ...]

    @property
    def manifest(self) -> Manifest:
        return self.results.manifest

    @property
    def study(self) -> Study:
        return self.results.manifest.study

    @property
    def several(self) -> bool:
        """Whether there is more than one corpus or size, so that each must be named."""
        return len(self.corpora) > 1

    @property
    def claimed(self) -> tuple[JudgedClaims, ...]:
        """Everything that claims are judged on, in the order of the tables."""
        return (*self.corpora, *self.scales)


def judge_study(results: Results) -> StudyJudgement:
    """Judge every corpus and every scale by the rules that the study declares."""
    corpora = judge_results(results)
    return StudyJudgement(results, corpora, judge_scale(results, corpora))
