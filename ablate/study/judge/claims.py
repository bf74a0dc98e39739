"""Claims as code: a predicate on a measure, judged against our data and set beside what was published.

    rope < none                    less; `>` greater
    relu2 < swiglu + 0.01          with an offset: not worse by more than 0.01
    rope < learned < none          ordered
    swiglu ~ geglu within 0.01     equivalent
    mha/gqa == 4                   ratio, exact; `within 0.1` allows that much either side
    mqa/mha < 1.02                 ratio, bounded
    alibi < 1.02                   level: one arm's own mean against a number; `>` too
    llama == 1.88 within 0.03      level, within that much either side

An arm whose name is a number, or holds spaces or operators, is put in double quotes. Parsed by hand: nothing
is evaluated.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np

from ablate.amounts import number, places_of, short
from ablate.spec import Strict
from ablate.study.design.claim import (
    Claim,
    Level,
    Ordered,
    Predicate,
    Published,
    Ratio,
    extra,
    is_exact,
    pairs,
)
from ablate.study.judge.compare import Comparison, Contrast, survivors
from ablate.study.judge.verdict import NO_NOISE
from ablate.study.stats import intervals
from ablate.study.stats.outcomes import seed_list

JudgementWord = Literal[
    "pass", "fail", "no difference that matters", "undecided (sign as claimed)", "undecided"
]
NOT_TUNED = "rates not tuned"  # the mark of a claim on arms that share a rate which nobody tuned for them
RATE_IN_DOUBT = "rate in doubt"  # that of a claim on an arm whose rate was chosen beside a failed one


class Beside(Strict):
    """Our effect beside the published one: the sign, and how many times as large ours is."""

    published: float
    ours: float
    same_sign: bool  # of a level: whether both are what the claim says, or neither
    size: float | None  # ours / published; None where the published effect is 0
    source: str
    differs: str


class Judgement(Strict):
    """What our data say of a claim.

    pass                         the interval lies wholly where the claim says
    fail                         it lies wholly elsewhere
    no difference that matters   it contains 0 and lies within the margin, where the claim says they differ
    undecided (sign as claimed)  the estimate agrees and the interval does not settle it, as with chance one
                                 half where nothing differs
    undecided                    neither, or data are missing

    `marks` say what lessens it: rates that were not tuned, or one that was chosen beside a failed rate.
    """

    claim: str
    predicate: str
    measure: str
    word: JudgementWord
    reason: str
    contrasts: tuple[Contrast, ...]  # for a ratio or a level: that and its interval
    beside: Beside | None
    marks: tuple[str, ...] = ()
    settled: bool = False  # by its intervals, whatever its marks make of the word

    @property
    def marked(self) -> str:
        """The word with its marks, as tables show it."""
        return ", ".join([self.word, *self.marks])

    def mark(self, doubts: Mapping[str, str], tuned: bool, published: bool) -> "Judgement":
        """The judgement with its marks. `doubts` are those on the rates of arms.

        Where rates are not as they should be, a published claim cannot fail: the rate may have done it.
        """
        arms = {arm for contrast in self.contrasts for arm in (contrast.first, contrast.second)}
        marks = [NOT_TUNED] * (not tuned) + [RATE_IN_DOUBT] * bool(arms & {*doubts})
        if not marks:
            return self
        word, reason = self.word, self.reason
        if word == "fail" and published:
            word, reason = "undecided", f"{reason}; no failure of a published claim: {', '.join(marks)}"
        return self.model_copy(update={"word": word, "reason": reason, "marks": tuple(marks)})


def judge(claims: Sequence[Claim], comparison: Comparison) -> tuple[Judgement, ...]:
    """Judge the claims on the metric of `comparison`.

    A contrast against the baseline is the verdict's own interval. The contrasts that the claims ask for
    between other arms, the ratios and the levels are a second family: its alpha, as large as that of the
    verdicts, is split over them (Bonferroni). Raises ValueError for an arm that the study lacks, or a claim
    on another measure.
    """
    refuse_unknown(claims, {run.arm for run in comparison.runs})
    more: set[tuple[str, ...]] = set()
    for claim in claims:
        if claim.measure not in (None, comparison.metric):
            raise ValueError(
                f"claim {claim.id}: it is on {claim.measure!r}, "
                f"and this comparison is on {comparison.metric!r}"
            )
        more |= extra(claim.parsed, comparison.baseline)
    alpha = comparison.alpha_spent / max(1, len(more))
    return tuple(_judge(claim, comparison, alpha) for claim in claims)


def refuse_unknown(claims: Sequence[Claim], arms: Collection[str]) -> None:
    """Raise ValueError for a claim on an arm that is not among these."""
    for claim in claims:
        unknown = [arm for arm in claim.parsed.arms if arm not in arms]
        if unknown:
            raise ValueError(
                f"claim {claim.id}: {', '.join(unknown)} is no arm here; "
                f"the arms are {', '.join(sorted(arms))}"
            )


def _judge(claim: Claim, comparison: Comparison, alpha: float) -> Judgement:
    predicate = claim.parsed
    if predicate.kind == "ratio":
        contrasts = [_ratio_contrast(predicate, comparison, alpha)]
        results = [judge_number(predicate, contrasts[0])]
    elif predicate.kind == "level":
        contrasts = [_level_contrast(predicate, comparison, alpha)]
        results = [judge_number(predicate, contrasts[0])]
    else:
        contrasts = [comparison.contrast(a, b, alpha) for a, b in pairs(predicate)]
        if predicate.kind == "equivalent":
            results = [judge_equivalent(predicate.margin, contrasts[0])]
        else:
            results = [judge_order(predicate, contrast, comparison.margin) for contrast in contrasts]
    return judgement(claim, comparison.metric, contrasts, results)


Result = tuple[JudgementWord, str]
WORST_FIRST: tuple[JudgementWord, ...] = (
    "fail", "no difference that matters", "undecided", "undecided (sign as claimed)", "pass",
)  # fmt: skip


def judgement(
    claim: Claim, measure: str, contrasts: Sequence[Contrast], results: Sequence[Result]
) -> Judgement:
    """Sum up the steps of a claim: a chain passes if all of them do, and fails if any does."""
    words = [word for word, _ in results]
    worst = min(words, key=WORST_FIRST.index)
    return Judgement(
        claim=claim.id,
        predicate=claim.predicate,
        measure=measure,
        word=worst,
        reason=_reasons(results),
        contrasts=tuple(contrasts),
        beside=_beside(claim.published, list(contrasts), claim.parsed),
        settled=not worst.startswith("undecided"),
    )


def _reasons(results: Sequence[Result]) -> str:
    """Why; of a chain, the word of each step too."""
    if len(results) == 1:
        return results[0][1]
    return "; ".join(f"{reason} ({word})" if reason else word for word, reason in results)


def judge_order(predicate: Ordered, contrast: Contrast, margin: float | None) -> Result:
    """The word on a claim that one arm is below or above another, with the reason."""
    if contrast.difference is None or contrast.low is None or contrast.high is None:
        return "undecided", contrast.reason
    sign = 1 if predicate.relation == "<" else -1  # turn > into <
    ends = sorted(sign * (end - predicate.offset) for end in (contrast.low, contrast.high))
    estimate = sign * (contrast.difference - predicate.offset)
    interval = _interval(contrast)
    if ends[1] < 0:
        return "pass", interval
    if ends[0] >= 0:
        return "fail", f"the opposite holds: {interval}" if ends[1] > 0 else interval
    inside = margin is not None and -margin <= contrast.low and contrast.high <= margin
    if inside and predicate.offset == 0:
        return "no difference that matters", f"the two differ by less than the margin {margin:g}: {interval}"
    return _undecided(estimate < 0), interval


def judge_equivalent(margin: float, contrast: Contrast) -> Result:
    """The word on a claim that two arms differ by no more than `margin`, with the reason."""
    if contrast.difference is None or contrast.low is None or contrast.high is None:
        return "undecided", contrast.reason
    interval = _interval(contrast)
    if -margin <= contrast.low and contrast.high <= margin:
        return "pass", interval
    if contrast.low > margin or contrast.high < -margin:
        return "fail", f"they differ by more than {margin:g}: {interval}"
    return _undecided(abs(contrast.difference) < margin), interval


def _undecided(as_claimed: bool) -> JudgementWord:
    return "undecided (sign as claimed)" if as_claimed else "undecided"


def _ratio_contrast(predicate: Ratio, comparison: Comparison, alpha: float) -> Contrast:
    """The ratio of the arms, from the paired t interval on the differences of logs; an exact measure, the
    same at every seed, gives one without width. That it is exact is not believed of a single seed."""
    first, second = (comparison.outcomes(arm) for arm in predicate.arms)
    common = sorted(first.values.keys() & second.values.keys())
    a = np.array([first.values[seed] for seed in common])
    b = np.array([second.values[seed] for seed in common])
    waiting = ""
    if comparison.look is None:
        waiting = "waiting for the next declared look"
    elif missing := {*first.missing, *second.missing}:
        waiting = f"waiting for missing runs: seeds {seed_list(missing)}"
    elif not common:
        waiting = "no seed at which both arms finished"
    elif a.min() <= 0 or b.min() <= 0:
        waiting = "a ratio needs positive values"
    elif len(common) < 2:
        waiting = "fewer than two seeds at which both arms finished"
    if waiting:
        return Contrast.waiting(*predicate.arms, alpha, waiting, len(common))
    ratios = a / b
    if np.ptp(ratios) <= intervals.rounding_of(ratios):
        if not is_exact(comparison.metric):
            return Contrast.waiting(*predicate.arms, alpha, NO_NOISE.format(comparison.metric), len(common))
        low = ratio = high = float(ratios[0])
        p = 0.0 if ratio != predicate.value else 1.0
    else:
        estimate = intervals.paired(np.log(a), np.log(b) + np.log(predicate.value), alpha)
        low, ratio, high = (
            float(predicate.value * np.exp(log)) for log in (estimate.low, estimate.difference, estimate.high)
        )
        p = estimate.p
    return Contrast(
        first=first.arm, second=second.arm, difference=ratio, low=low, high=high, p=p, n=len(common),
        alpha=alpha, reason=survivors(first, second),
    )  # fmt: skip


def _level_contrast(predicate: Level, comparison: Comparison, alpha: float) -> Contrast:
    """The mean of the arm with Student's t interval over its seeds; exact measures as for ratios."""
    runs = comparison.outcomes(predicate.arms[0])
    values = np.array([runs.values[seed] for seed in sorted(runs.values)])
    waiting = ""
    if comparison.look is None:
        waiting = "waiting for the next declared look"
    elif runs.missing:
        waiting = f"waiting for missing runs: {runs.arm} seeds {seed_list(set(runs.missing))}"
    elif len(values) < 2:
        waiting = f"fewer than two seeds at which {runs.arm} finished"
    if waiting:
        return Contrast.waiting(runs.arm, "", alpha, waiting, len(values))
    estimate = intervals.paired(values, np.full_like(values, predicate.value), alpha)
    if estimate.error == 0 and not is_exact(comparison.metric):
        return Contrast.waiting(runs.arm, "", alpha, NO_NOISE.format(comparison.metric), len(values))
    return Contrast.of(runs.arm, "", estimate, alpha, survivors(runs), zero=predicate.value)


def judge_number(predicate: Ratio | Level, contrast: Contrast) -> Result:
    """`contrast` is the ratio, or the level, with its interval."""
    if contrast.difference is None or contrast.low is None or contrast.high is None:
        return "undecided", contrast.reason
    interval = _number(contrast)
    if predicate.relation == "==":
        least, most = _reach(predicate)
        if least <= contrast.low and contrast.high <= most:
            return "pass", interval
        if contrast.low > most or contrast.high < least:
            return "fail", interval
    else:
        sign = 1 if predicate.relation == "<" else -1
        ends = sorted(sign * (end - predicate.value) for end in (contrast.low, contrast.high))
        if ends[1] < 0:
            return "pass", interval
        if ends[0] >= 0:
            return "fail", interval
    return _undecided(_agrees(predicate, contrast.difference)), interval


def _reach(predicate: Ratio | Level) -> tuple[float, float]:
    reach = max(predicate.within, 1e-9 * abs(predicate.value))
    return predicate.value - reach, predicate.value + reach


def _agrees(predicate: Ratio | Level, value: float) -> bool:
    """Whether a number is as the claim says."""
    if predicate.relation == "==":
        least, most = _reach(predicate)
        return least <= value <= most
    return value < predicate.value if predicate.relation == "<" else value > predicate.value


def _interval(contrast: Contrast) -> str:
    """The difference of two arms: `mqa against mha +0.021 [+0.012, +0.030]`."""
    return f"{contrast.first} against {contrast.second} {_estimate(contrast, signed=True)}"


def _number(contrast: Contrast) -> str:
    """A ratio, `mqa / mha = 0.598 [0.552, 0.647]`, or the level of an arm, `alibi = 1.02 [1.01, 1.03]`."""
    name = f"{contrast.first} / {contrast.second}" if contrast.second else contrast.first
    return f"{name} = {_estimate(contrast, signed=False)}"


def _estimate(contrast: Contrast, signed: bool) -> str:
    """The estimate with its interval, to two digits of the half-width; four digits where it has no width."""
    numbers = contrast.difference, contrast.low, contrast.high
    half = ((contrast.high or 0.0) - (contrast.low or 0.0)) / 2
    places = places_of([half])
    estimate, low, high = (number(x, places, signed) if half > 0 else short(x, 4, signed) for x in numbers)
    text = f"{estimate} [{low}, {high}]"
    return f"{text}, {contrast.reason}" if contrast.reason else text


def _beside(published: Published | None, contrasts: list[Contrast], predicate: Predicate) -> Beside | None:
    """The whole chain, first arm against last, beside the published figure."""
    parts = [contrast.difference for contrast in contrasts]
    if published is None or any(part is None for part in parts):
        return None
    ours = float(sum(part for part in parts if part is not None))
    zero = 1.0 if predicate.kind == "ratio" else 0.0  # a ratio of 1 is no effect
    same = bool(np.sign(ours - zero) == np.sign(published.effect - zero))
    if predicate.kind == "level":
        same = _agrees(predicate, ours) == _agrees(predicate, published.effect)
    return Beside(
        published=published.effect,
        ours=ours,
        same_sign=same,
        size=ours / published.effect if published.effect else None,
        source=published.source,
        differs=published.differs,
    )


def headline(first: Judgement, second: Judgement) -> bool:
    """Whether a claim may be made in a headline: it passes on two corpora, with the same sign."""
    signs = [
        {float(np.sign(contrast.difference)) for contrast in judgement.contrasts if contrast.difference}
        for judgement in (first, second)
    ]
    return (
        first.word == second.word == "pass" and first.predicate == second.predicate and signs[0] == signs[1]
    )
