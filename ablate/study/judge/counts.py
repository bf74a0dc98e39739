"""Claims on how many runs of an arm failed, or solved their task: Fisher's exact test on the counts.

Counts have no interval for their difference that is exact at a few runs (`ablate.study.judge.solved`), so a
claim that one arm has fewer is read off p: it passes or fails where p is at most its share of alpha.
"""

from collections.abc import Iterable, Mapping, Sequence

from ablate.spec import Strict
from ablate.study.design.claim import Claim, extra, pairs
from ablate.study.judge.claims import Judgement, Result, judge_number, judgement, refuse_unknown
from ablate.study.judge.compare import Comparison, Contrast
from ablate.study.judge.solved import Verdicts
from ablate.study.stats.fisher import Count, against, fisher, share_interval
from ablate.study.stats.outcomes import seed_list


class Counted(Strict):
    """The counts of all arms on one measure. `adjusted` is Holm's p of each arm against the baseline, as the
    verdicts have it: a claim on such a pair is read off the same number."""

    measure: str
    baseline: str
    counts: dict[str, Count]
    adjusted: dict[str, float | None]
    alpha: float


def judge_counts(claims: Sequence[Claim], counted: Counted) -> tuple[Judgement, ...]:
    """Judge claims of the kinds `pre < post` and `pre < 0.1`. Pairs without the baseline and levels (Clopper
    and Pearson's interval) are a second family, over which alpha is split. Raises ValueError for an arm that
    is not there."""
    refuse_unknown(claims, counted.counts)
    more = set().union(*(extra(claim.parsed, counted.baseline) for claim in claims))
    alpha = counted.alpha / max(1, len(more))
    return tuple(_judge(claim, counted, alpha) for claim in claims)


def _judge(claim: Claim, counted: Counted, alpha: float) -> Judgement:
    predicate = claim.parsed
    if predicate.kind == "level":
        contrasts = [_level(counted.counts[predicate.arms[0]], alpha)]
        return judgement(claim, counted.measure, contrasts, [judge_number(predicate, contrasts[0])])
    if predicate.kind != "ordered":
        raise ValueError(f"claim {claim.id}: counts are ordered, or compared with a number")
    contrasts = [_contrast(counted, *pair, alpha) for pair in pairs(predicate)]
    sign = 1 if predicate.relation == "<" else -1
    return judgement(claim, counted.measure, contrasts, [_judge_order(sign, c) for c in contrasts])


def _judge_order(sign: int, contrast: Contrast) -> Result:
    if contrast.difference is None or contrast.p is None:
        return "undecided", contrast.reason
    if contrast.p <= contrast.alpha:
        return ("pass" if sign * contrast.difference < 0 else "fail"), contrast.reason
    as_claimed = sign * contrast.difference < 0
    return ("undecided (sign as claimed)" if as_claimed else "undecided"), contrast.reason


def _contrast(counted: Counted, first: str, second: str, alpha: float) -> Contrast:
    a, b = counted.counts[first], counted.counts[second]
    n = min(a.runs, b.runs)
    by_holm = counted.baseline in (first, second)
    alpha = counted.alpha if by_holm else alpha
    if waiting := "; ".join(dict.fromkeys(side.waiting for side in (a, b) if side.waiting)):
        return Contrast.waiting(first, second, alpha, waiting, n)
    other = second if first == counted.baseline else first
    p = counted.adjusted[other] if by_holm else fisher(a.cells, b.cells)
    if p is None:
        return Contrast.waiting(first, second, alpha, "waiting for runs", n)
    how = "Fisher's p, by Holm over the arms," if by_holm else "Fisher's p"
    reason = f"{first} {a.hits} of {a.runs} against {second} {b.hits} of {b.runs}, {how} {p:.2g}"
    return Contrast(
        first=first, second=second, difference=a.share - b.share, p=p, n=n, alpha=alpha, reason=reason
    )


def _level(count: Count, alpha: float) -> Contrast:
    if count.waiting:
        return Contrast.waiting(count.arm, "", alpha, count.waiting, count.runs)
    low, high = share_interval(count.hits, count.runs, alpha)
    return Contrast(
        first=count.arm, second="", difference=count.share, low=low, high=high, n=count.runs, alpha=alpha
    )


def adjusted(counts: Mapping[str, Count], baseline: str) -> dict[str, float | None]:
    """Holm's p of each arm against the baseline; None while it waits."""
    return {arm: tested.p_adjusted for arm, tested in against(counts, baseline).items()}


def failed(comparison: Comparison) -> Counted:
    """The test runs that failed, among those that diverged or finished: `stability/failed`.

    A run failed that diverged or ended on a plateau. p is that of the verdicts on stability.
    """
    counts = {
        run.arm: _count(
            run.arm,
            len(run.diverged) + len(run.plateau),
            len(run.values) - len(run.plateau),
            run.missing,
            comparison.look,
        )
        for run in comparison.runs
    }
    return Counted(
        measure="stability/failed",
        baseline=comparison.baseline,
        counts=counts,
        adjusted={verdict.arm: verdict.stability.p_adjusted for verdict in comparison.verdicts},
        alpha=comparison.alpha_spent,
    )


def solved(verdicts: Verdicts, comparison: Comparison) -> Counted:
    """The test runs that solved their task, among those that finished or diverged."""
    counts = {
        run.arm: _count(
            run.arm,
            verdicts.arms[run.arm].solved,
            verdicts.arms[run.arm].runs - verdicts.arms[run.arm].solved,
            run.missing,
            comparison.look,
        )
        for run in comparison.runs
    }
    return Counted(
        measure=verdicts.metric,
        baseline=verdicts.baseline,
        counts=counts,
        adjusted={arm: contrast.p_adjusted for arm, contrast in verdicts.contrasts.items()},
        alpha=verdicts.alpha,
    )


def _count(arm: str, hits: int, others: int, missing: Iterable[int], look: int | None) -> Count:
    waiting = ""
    if look is None:
        waiting = "waiting for the next declared look"
    elif set(missing):
        waiting = f"waiting for missing runs: {arm} seeds {seed_list(set(missing))}"
    elif not hits + others:
        waiting = f"no run of {arm} finished or diverged"
    return Count(arm=arm, hits=hits, runs=hits + others, waiting=waiting)
