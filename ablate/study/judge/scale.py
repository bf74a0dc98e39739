"""The same study at several sizes: how the gap of each arm moves with size, and whether the arms keep their
ranks.

For each arm and seed, b is the slope of the metric on log10 N over the sizes, by least squares; N is the
number of the baseline's parameters without embeddings. The slope of a gap is b of the arm less b of the
baseline at the same seed, so it is judged as any difference by seed is (`ablate.study.judge.compare`): with
Student's t on n - 1 degrees of freedom where the study says `paired`. Neither a straight line nor equal noise
at all sizes is assumed, nor that the sizes are independent: the interval is that of the linear trend over
these sizes, and it speaks of seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ablate.study.design.claim import SCALE, Claim, counts
from ablate.study.design.level import table_alpha
from ablate.study.judge.claims import Judgement, judge
from ablate.study.judge.compare import Comparison, Verdict, compare
from ablate.study.judge.corpus import Judged
from ablate.study.stats.intervals import bootstrap

if TYPE_CHECKING:
    from ablate.study.results import Results

TrendWord = Literal["shrinks", "grows", "turns", "moves", "undecided", "waiting"]
_DRAWS = 999  # of the seeds, for the range of tau: each takes a sort by arm
FEWEST_ARMS = 3  # the ranks of two are the verdict again
WORST = ("refused", "diverged", "out_of_memory", "crashed", "interrupted")  # what the sizes of a seed come to


@dataclass(frozen=True)
class Size:
    """One size: what it is called, and N, the baseline's parameters without embeddings."""

    name: str
    parameters: float
    judged: Judged

    def gap(self, arm: str) -> Verdict | None:
        """The gap of the arm with its own interval at this size."""
        return self.judged.comparison.verdict(arm) if self.judged.comparison else None


@dataclass(frozen=True)
class Trend:
    """What size does to the gap of one arm; the numbers in the unit of the metric, by decade of parameters.

    shrinks, grows   the interval of the slope excludes 0; the gap has one sign at every size that decides it
    turns            it has both signs
    moves            no size decides its sign
    undecided        the interval contains 0
    waiting          runs are missing
    """

    arm: str
    word: TrendWord
    slope: float | None
    low: float | None
    high: float | None
    n: int  # seeds
    df: int | None  # of Student's t; None for Dunnett's
    bend: float | None  # how far a mean gap lies from the line at most; None for two sizes, which always fit
    line: tuple[float, float] | None  # the gap that the line gives at the least and at the greatest size
    reason: str


@dataclass(frozen=True)
class Rank:
    """Kendall's tau-b between the arms' means at two sizes, and its range over seeds drawn again.

    `p` is exact for the ranks of the means: how often ranks at random agree or disagree as much. It is None,
    as tau is, where `reason` says something.
    """

    first: str
    second: str
    arms: tuple[str, ...]
    n: int  # seeds
    tau: float | None
    low: float | None
    high: float | None
    p: float | None
    reason: str = ""


@dataclass(frozen=True)
class Scale:
    """All sizes of one corpus."""

    corpus: str  # as tables call it
    text: str  # the corpus itself
    sizes: tuple[Size, ...]  # ascending
    baseline: str
    comparison: Comparison | None  # of the slopes
    reason: str  # why there is none
    trends: tuple[Trend, ...]
    ranks: tuple[Rank, ...]
    claims: tuple[Judgement, ...]
    unjudged: tuple[tuple[Claim, str], ...]
    size: str = ""  # it is all of them


def judge_scale(results: "Results", judged: Sequence[Judged]) -> tuple[Scale, ...]:
    """The sizes of each corpus together; nothing for a study without sizes."""
    study = results.manifest.study
    if not study.sizes:
        return ()
    corpora = dict.fromkeys(block.corpus for block in study.blocks)
    return tuple(_judge(results, [block for block in judged if block.text == text]) for text in corpora)


def _judge(results: "Results", blocks: Sequence[Judged]) -> Scale:
    kept, study = results.manifest, results.manifest.study
    sizes = sorted((_size(block, kept.baseline) for block in blocks), key=lambda size: size.parameters)
    mine = [claim for claim in study.claims if claim.measure == SCALE]
    alpha = table_alpha(study, kept.plan.judged_before if kept.plan else 0)
    doubts = {arm: doubt for block in blocks for arm, doubt in block.rate_doubts.items()}
    comparison: Comparison | None = None
    claims: tuple[Judgement, ...] = ()
    trends: tuple[Trend, ...] = ()
    reason = ""
    try:
        comparison = compare(
            slopes(sizes, study.metric), kept.baseline, SCALE, None, study.interval, alpha,
            study.declared_looks, study.better, placebo=kept.placebo,
        )  # fmt: skip
        trends = tuple(trend(verdict, comparison, sizes, study.metric) for verdict in comparison.verdicts)
        claims = tuple(
            judgement.mark(doubts, study.tune is not None, claim.published is not None)
            for claim, judgement in zip(mine, judge(mine, comparison), strict=True)
        )
    except ValueError as error:
        reason = str(error)
    return Scale(
        corpus=blocks[0].text if study.corpora else "all sizes",
        text=blocks[0].text,
        sizes=tuple(sizes),
        baseline=kept.baseline,
        comparison=comparison,
        reason=reason,
        trends=trends,
        ranks=tuple(ranks(*pair, kept.placebo, study.alpha) for pair in combinations(sizes, 2)),
        claims=claims,
        unjudged=() if claims else tuple((claim, reason) for claim in mine),
    )


def _size(block: Judged, baseline: str) -> Size:
    parameters = next(arm.facts.parameters["non_embedding"] for arm in block.arms if arm.name == baseline)
    return Size(block.size, parameters, block)


def slopes(sizes: Sequence[Size], metric: str) -> pd.DataFrame:
    """One row for each arm and seed, as `compare` takes it: the column `scale/slope`, in the unit of the
    metric by decade. A seed has finished where it has at every size; else its status is the worst of them.
    Raises ValueError where there is nothing to draw a line through."""
    if counts(metric):
        raise ValueError(f"{metric} counts runs, which have no slope")
    tables = {size.name: _tests(size) for size in sizes}
    if any(table.empty for table in tables.values()):
        raise ValueError("no test run is planned yet: the rates are still being tuned")
    if any(table.duplicated(["arm", "seed"]).any() for table in tables.values()):
        raise ValueError("a seed of an arm stands twice at one size")
    frame = pd.concat([table.assign(size=name) for name, table in tables.items()], ignore_index=True)
    decades = np.log10([size.parameters for size in sizes])
    rows = []
    for (arm, seed), mine in frame.groupby(["arm", "seed"], sort=False):
        here = mine.set_index("size").reindex(list(tables))
        status = _together(here["status"])
        seed_slope = slope(decades, here[metric].to_numpy(float)) if status == "finished" else None
        rows.append({"arm": arm, "seed": seed, "role": "test", "status": status, SCALE: seed_slope})
    return pd.DataFrame(rows, columns=["arm", "seed", "role", "status", SCALE]).astype({SCALE: float})


def slope(decades: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """The least-squares slope of `values` on `decades`, both (sizes,); NaN where a value is."""
    return float(stats.linregress(decades, values).slope)


def _tests(size: Size) -> pd.DataFrame:
    return size.judged.runs[size.judged.runs["role"] == "test"]


def _together(status: pd.Series) -> str | None:
    """The status of a seed over the sizes; None while a run is missing."""
    statuses = set(status)
    for word in WORST:
        if word in statuses:
            return word
    return "finished" if statuses == {"finished"} else None


def trend(verdict: Verdict, comparison: Comparison, sizes: Sequence[Size], metric: str) -> Trend:
    """`verdict` is on the slope of the arm."""
    arm, bend, line = verdict.arm, None, None
    if verdict.difference is not None:
        runs, base = comparison.outcomes(arm).values, comparison.outcomes(comparison.baseline).values
        gaps = _gaps(arm, comparison.baseline, sorted(runs.keys() & base.keys()), sizes, metric)
        decades = np.log10([size.parameters for size in sizes])
        fit = gaps.mean() + verdict.difference * (decades - decades.mean())
        bend = float(np.abs(gaps - fit).max()) if len(sizes) > 2 else None
        line = float(fit[0]), float(fit[-1])
    decided = [size.gap(arm) for size in sizes]
    return Trend(
        arm=arm,
        word=_word(verdict, [gap for gap in decided if gap is not None]),
        slope=verdict.difference,
        low=verdict.low,
        high=verdict.high,
        n=verdict.n,
        df=verdict.n - 1 if verdict.method == "paired" and verdict.difference is not None else None,
        bend=bend,
        line=line,
        reason=verdict.reason if verdict.difference is None else "",
    )


def _gaps(
    arm: str, baseline: str, seeds: Sequence[int], sizes: Sequence[Size], metric: str
) -> NDArray[np.float64]:
    """The mean gap at each size (sizes,), over these seeds."""
    values = [_tests(size).set_index(["arm", "seed"])[metric] for size in sizes]
    return np.array([(value[arm][seeds] - value[baseline][seeds]).mean() for value in values])


def _word(verdict: Verdict, gaps: Sequence[Verdict]) -> TrendWord:
    """Read off the interval of the slope and, for the sign of the gap, those of the gaps."""
    if verdict.word == "waiting":
        return "waiting"
    if verdict.low is None or verdict.high is None or verdict.low <= 0 <= verdict.high:
        return "undecided"
    signs = {np.sign(g.low) for g in gaps if g.low is not None and g.high is not None and g.low * g.high > 0}
    if len(signs) != 1:
        return "turns" if signs else "moves"
    return "grows" if np.sign(verdict.low) in signs else "shrinks"


def ranks(first: Size, second: Size, placebo: str | None, alpha: float) -> Rank:
    """Of the arms that finished every seed at both sizes, without the placebo, whose rank is chance."""
    a, b = (_values(size, placebo) for size in (first, second))
    arms = [arm for arm in a.columns if arm in b.columns]
    seeds = a.index.intersection(b.index)
    a, b = a.loc[seeds, arms], b.loc[seeds, arms]
    reason = ""
    if len(arms) < FEWEST_ARMS:
        reason = f"fewer than {FEWEST_ARMS} arms finished every seed at both sizes"
    elif any(table.mean().nunique() == 1 for table in (a, b)):
        reason = "all arms are equal at one size: they have no ranks"
    rank = Rank(first.name, second.name, tuple(arms), len(seeds), None, None, None, None, reason)
    return rank if reason else _ranked(rank, a.to_numpy(float), b.to_numpy(float), alpha)


def _values(size: Size, placebo: str | None) -> pd.DataFrame:
    """(seeds, arms): the metric, of arms without a gap; empty while the size waits."""
    comparison = size.judged.comparison
    if comparison is None or comparison.look is None:
        return pd.DataFrame()
    seeds = list(comparison.seeds)
    return pd.DataFrame(
        {
            run.arm: [run.values[seed] for seed in seeds]
            for run in comparison.runs
            if run.arm != placebo and set(seeds) <= set(run.values)
        },
        index=seeds,
    )


def _ranked(rank: Rank, a: NDArray[np.float64], b: NDArray[np.float64], alpha: float) -> Rank:
    """With tau between the means of `a` and `b`, both (seeds, arms), whose rows are drawn again together."""

    def tau(chosen: NDArray[np.intp]) -> NDArray[np.float64]:
        return np.array(
            [_tau(a[seeds].mean(axis=0), b[seeds].mean(axis=0))[0] for seeds in np.atleast_2d(chosen)]
        )

    value, p = _tau(a.mean(axis=0), b.mean(axis=0))
    low, high = bootstrap(len(a), tau, alpha, _DRAWS) or (None, None)
    return replace(rank, tau=value, low=low, high=high, p=p)


def _tau(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float]:
    tau = stats.kendalltau(first, second)
    return float(tau.statistic), float(tau.pvalue)
