"""What the tuning runs of a study tell beside the rate: how much a wrong rate costs each arm, and where it
fails. The sensitivities of `ablate.study.stats.sensitivity`, arm by arm, on the same rates and seeds.

l0, the loss before training, is measured: `stability/start_loss`, or where fewer arms have it the loss of the
first step, which is taken before any update (`curve/first_loss`, of one batch). The log of the vocabulary is
no substitute: weights as they are drawn do not guess evenly.
"""

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import pandas as pd

from ablate.spec import Strict
from ablate.study.design.claim import Claim, pairs
from ablate.study.judge.claims import Judgement, judge_equivalent, judge_order, judgement, refuse_unknown
from ablate.study.judge.compare import Contrast
from ablate.study.judge.counts import Counted, adjusted
from ablate.study.stats.fisher import Count
from ablate.study.stats.outcomes import by_arm
from ablate.study.stats.sensitivity import Sensitivity, sensitivity, sensitivity_difference

if TYPE_CHECKING:
    from ablate.study.stats.sensitivity import Losses

STARTS = {  # the columns that hold l0, the best first -> what they are called
    "stability/start_loss": "the loss of the weights as they were drawn, on validation",
    "curve/first_loss": "the training loss of the first step, before any update",
}
METRIC = "validation/loss"  # the sensitivity is one of a loss


class Tuned(Strict):
    """The tuning runs of one arm. Where `reason` says something, it has no sensitivity yet."""

    arm: str
    runs: int
    diverged: int
    losses: tuple[tuple[float, int, float | None], ...]  # rate, seed, loss; None: the run diverged
    start: float | None = None  # l0
    sensitivity: Sensitivity | None = None
    failed: int | None = None  # diverged, or ended above the bar
    bar: float | None = None  # half-way between l0 and the least loss of any arm
    reason: str = ""

    @property
    def table(self) -> "Losses":
        return {(rate, seed): loss for rate, seed, loss in self.losses}


class Sensitivities(Strict):
    """All arms that were tuned, on the rates and seeds that they have in common."""

    path: str
    metric: str
    source: str  # a key of STARTS; empty where no run recorded its start
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    alpha: float
    arms: tuple[Tuned, ...]

    def arm(self, name: str) -> Tuned:
        """Raises KeyError, naming the arms there are."""
        return by_arm(self.arms, name, "{} was not tuned")


def sensitivities(
    frame: pd.DataFrame, path: str, declared: Sequence[float], seeds: Sequence[int], alpha: float = 0.05
) -> Sensitivities:
    """Read them off the tuning runs in `frame`, that of one corpus.

    `declared` are the rates of the plan: every arm waits until it has them on all tuning seeds. Rates that
    were added because some arm was best at the edge count where every arm has them. A run that ran out of
    memory has no loss, and its arm no sensitivity.
    """
    rows = frame[(frame["role"] == "tuning") & frame["rate"].notna()]
    outcomes = {
        (str(arm), float(rate), int(seed)): (status, loss)
        for arm, rate, seed, status, loss in zip(
            *(rows[name] for name in ("arm", "rate", "seed", "status", METRIC)), strict=True
        )
    }
    arms = list(dict.fromkeys(rows["arm"].astype(str)))
    more = sorted({float(rate) for rate in rows["rate"]} - {*declared})
    common = [
        rate for rate in more if all(_ended(outcomes.get((arm, rate, s))) for arm, s in product(arms, seeds))
    ]
    rates = tuple(sorted([*declared, *common]))
    source, starts = _starts(frame, arms)
    first = [_arm(arm, outcomes, rates, seeds, starts.get(arm), alpha) for arm in arms]
    best = min((arm.sensitivity.best_loss for arm in first if arm.sensitivity), default=None)
    return Sensitivities(
        path=path,
        metric=METRIC,
        source=source,
        rates=rates,
        seeds=tuple(seeds),
        alpha=alpha,
        arms=tuple(_failures(arm, best) for arm in first),
    )


def _ended(run: tuple[object, float] | None) -> bool:
    return run is not None and (run[0] == "diverged" or (run[0] == "finished" and not pd.isna(run[1])))


def _starts(frame: pd.DataFrame, arms: Sequence[str]) -> tuple[str, dict[str, float]]:
    """The source of l0 that most arms have, and l0 of each: one source for all, or they would not compare."""
    there: dict[str, dict[str, float]] = {}
    for column in STARTS:
        if column in frame.columns:
            means = frame[frame[column].notna()].groupby("arm")[column].mean()
            there[column] = {str(arm): float(means[arm]) for arm in means.index if arm in arms}
    source = max(there, key=lambda column: len(there[column]), default="")
    return (source, there[source]) if source and there[source] else ("", {})


def _arm(
    arm: str,
    outcomes: dict[tuple[str, float, int], tuple[object, float]],
    rates: Sequence[float],
    seeds: Sequence[int],
    start: float | None,
    alpha: float,
) -> Tuned:
    runs = {(rate, seed): outcomes.get((arm, rate, seed)) for rate, seed in product(rates, seeds)}
    ended = {place: run for place, run in runs.items() if run is not None and _ended(run)}
    lacking = [place for place in runs if place not in ended]
    memory = [place for place in lacking if (runs[place] or ("",))[0] == "out_of_memory"]
    reason = ""
    if memory:
        reason = f"{_named(memory)} ran out of memory: the loss there is not known"
    elif lacking:
        reason = f"waiting for the tuning runs at {_named(lacking)}"
    elif start is None:
        reason = "no run recorded its loss before training"
    losses = {place: None if run[0] == "diverged" else float(run[1]) for place, run in ended.items()}
    return Tuned(
        arm=arm,
        runs=len(ended),
        diverged=sum(loss is None for loss in losses.values()),
        losses=tuple((rate, seed, loss) for (rate, seed), loss in losses.items()),
        start=start,
        sensitivity=None if reason or start is None else sensitivity(losses, start, alpha),
        reason=reason,
    )


def _named(places: Sequence[tuple[float, int]]) -> str:
    return ", ".join(f"{rate:g} seed {seed}" for rate, seed in places)


def _failures(arm: Tuned, best: float | None) -> Tuned:
    """A run fails that diverged, or that covered less than half of the way from l0 to the least loss that any
    arm came to: an arm that trains at no rate must not be measured by itself."""
    if arm.sensitivity is None or arm.start is None or best is None:
        return arm
    bar = (arm.start + best) / 2
    failed = sum(loss is None or loss > bar for *_, loss in arm.losses)
    return arm.model_copy(update={"bar": bar, "failed": failed})


def failed_tuning(tuned: Sensitivities, baseline: str) -> Counted:
    """`tuning/failed`: the tuning runs of each arm that failed, over all rates and seeds."""
    counts = {
        arm.arm: Count(arm=arm.arm, hits=arm.failed or 0, runs=arm.runs, waiting=_waiting(arm))
        for arm in tuned.arms
    }
    return Counted(
        measure="tuning/failed",
        baseline=baseline,
        counts=counts,
        adjusted=adjusted(counts, baseline),
        alpha=tuned.alpha,
    )


def _waiting(arm: Tuned) -> str:
    return f"{arm.arm}: {arm.reason}" if arm.reason else ""


def judge_sensitivity(claims: Sequence[Claim], tuned: Sensitivities) -> tuple[Judgement, ...]:
    """Judge claims on `tuning/sensitivity`, a family of its own: alpha is split over the pairs they name. The
    interval is Student's over the tuning seeds (see `sensitivity_difference`). Raises ValueError for an
    arm that was not tuned."""
    refuse_unknown(claims, [arm.arm for arm in tuned.arms])
    family = {tuple(sorted(pair)) for claim in claims for pair in pairs(claim.parsed)}
    alpha = tuned.alpha / max(1, len(family))
    return tuple(_judge(claim, tuned, alpha) for claim in claims)


def _judge(claim: Claim, tuned: Sensitivities, alpha: float) -> Judgement:
    predicate = claim.parsed
    contrasts = [_contrast(tuned, *pair, alpha) for pair in pairs(predicate)]
    if predicate.kind == "ordered":
        results = [judge_order(predicate, contrast, None) for contrast in contrasts]
    elif predicate.kind == "equivalent":
        results = [judge_equivalent(predicate.margin, contrasts[0])]
    else:
        raise ValueError(f"claim {claim.id}: sensitivities are ordered or equivalent")
    return judgement(claim, "tuning/sensitivity", contrasts, results)


def _contrast(tuned: Sensitivities, first: str, second: str, alpha: float) -> Contrast:
    a, b = tuned.arm(first), tuned.arm(second)
    dead = [f"{arm.arm} trains at no rate" for arm in (a, b) if arm.failed == arm.runs]
    reason = "; ".join(filter(None, (_waiting(a), _waiting(b), *dead)))
    if not reason and len(tuned.seeds) < 2:
        reason = "one tuning seed: no interval"
    n = len(tuned.seeds)
    if reason or a.start is None or b.start is None:
        return Contrast.waiting(first, second, alpha, reason, n)
    between = sensitivity_difference(a.table, b.table, (a.start, b.start), alpha)
    return Contrast(
        first=first, second=second, difference=between.value, low=between.low, high=between.high,
        p=between.p, n=n, alpha=alpha,
    )  # fmt: skip
