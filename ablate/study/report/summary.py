"""Facts about the arms that tables and figures share."""

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from ablate.study.design.claim import declared
from ablate.study.judge.compare import Comparison, Verdict
from ablate.study.judge.corpus import Judged

if TYPE_CHECKING:
    import pandas as pd

FAR_REACH = (
    12  # an interval that reaches so many times as far as the middle one makes the axis logarithmic beyond
)
LINEAR_DECADES = 3.0  # the height of the linear part at each side, in decades of the logarithmic one


COSTS = {  # column -> label, whether more is better
    "speed": ("tokens / s", True),
    "memory": ("peak bytes", False),
    "kv": ("KV bytes / token", False),
    "parameters": ("parameters", False),
}


@dataclass(frozen=True)
class Span:
    """The axis that the intervals of a comparison are drawn on: the same in figures and tables.

    It reaches every interval. Where one arm lies far beyond the others it is linear up to `linear` and
    logarithmic beyond, so that the others stay visible; `linear` is None on a plain axis.
    """

    low: float
    high: float
    linear: float | None = None

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        low, high = self.height(self.low), self.height(self.high)
        return (self.height(value) - low) / (high - low)

    def height(self, value: float) -> float:
        """The value on the axis, as matplotlib's scale `symlog` with base 10 has it."""
        if self.linear is None:
            return value
        stretched = LINEAR_DECADES / (1 - 0.1)  # one decade beyond `linear` is 1 high
        if abs(value) <= self.linear:
            return stretched * value / self.linear
        return math.copysign(stretched + math.log10(abs(value) / self.linear), value)


def span(comparison: Comparison) -> Span:
    """Every interval, 0 and the margin."""
    ends = [
        end
        for verdict in comparison.verdicts
        if verdict.low is not None and verdict.high is not None
        for end in (verdict.low, verdict.high)
    ]
    reach = [max(abs(a), abs(b)) for a, b in zip(ends[::2], ends[1::2], strict=True)]
    margin = comparison.margin or 0.0
    most = max(median(reach), margin) if reach else 0.0
    low, high = min([*ends, -margin, 0.0]), max([*ends, margin, 0.0])
    if most > 0 and max(reach) > FAR_REACH * most:
        far = Span(low, high, _round_up(2 * most))
        room = 0.06 * (far.height(high) - far.height(low))
        return Span(_grown(far, low, -room), _grown(far, high, room), far.linear)
    room = 0.06 * (high - low) or 1.0
    return Span(low - room, high + room)


def _grown(axis: Span, end: float, room: float) -> float:
    """The end moved outwards by `room` of the axis."""
    assert axis.linear is not None
    if abs(end) > axis.linear and end * room > 0:
        return end * 10 ** abs(room)
    return end + room * axis.linear * (1 - 0.1) / LINEAR_DECADES


def _round_up(value: float) -> float:
    """The next of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def ranked(judged: Judged) -> list[str]:
    """The arms, the best first; those that wait at the end, in the order of the plan."""
    comparison = judged.comparison
    if comparison is None:
        return list(dict.fromkeys(judged.frame["arm"]))
    sign = 1 if comparison.better == "lower" else -1
    place = {verdict.arm: verdict.difference for verdict in comparison.verdicts} | {comparison.baseline: 0.0}
    arms = [run.arm for run in comparison.runs]
    return sorted(arms, key=lambda arm: (place[arm] is None, sign * (place[arm] or 0.0)))


def by_seed(comparison: Comparison, verdict: Verdict) -> list[float]:
    """The differences that the verdict rests on; none where the seeds are not paired."""
    if verdict.method == "welch":
        return []
    arm, base = comparison.outcomes(verdict.arm).values, comparison.outcomes(comparison.baseline).values
    return [arm[seed] - base[seed] for seed in sorted(arm.keys() & base.keys())]


def arm_costs(judged: Judged) -> "pd.DataFrame":
    """One row for each arm: the mean of the metric where there is a verdict, and each cost of COSTS.

    Speed is the median over the finished test runs that were trained alone, memory their highest peak (of the
    device where there is one); the sizes are those of the plan.
    """
    import pandas as pd

    rows = judged.runs[(judged.runs["role"] == "test") & (judged.runs["status"] == "finished")]
    table = pd.DataFrame(index=pd.Index(ranked(judged), name="arm"))
    table["mean"] = pd.Series(means(judged.comparison), dtype=float)
    table["speed"] = table["memory"] = float("nan")
    if "speed/tokens_per_second" in rows.columns:
        alone = rows if "origin/replicas" not in rows else rows[rows["origin/replicas"].isna()]
        table["speed"] = alone.groupby("arm")["speed/tokens_per_second"].median()
    peaks = [name for name in ("memory/peak_device_bytes", "memory/peak_resident_bytes") if name in rows]
    if peaks:
        table["memory"] = rows[peaks].astype(float).bfill(axis=1).iloc[:, 0].groupby(rows["arm"]).max()
    table["kv"] = pd.Series({arm.name: arm.facts.kv_bytes_per_token for arm in judged.arms})
    table["parameters"] = pd.Series({arm.name: arm.facts.parameters.get("total") for arm in judged.arms})
    return table.astype(float)


def means(comparison: Comparison | None) -> dict[str, float]:
    """The mean of each arm's finished runs; nothing for an arm whose verdict waits."""
    if comparison is None or comparison.look is None:
        return {}
    known = {v.arm: v.mean for v in comparison.verdicts if v.mean is not None}
    base = comparison.outcomes(comparison.baseline)
    if known and base.values and not base.missing:
        runs = len(base.values) + (len(base.diverged) if declared(comparison.metric) else 0)
        known[comparison.baseline] = sum(base.values.values()) / runs
    return known


def best_verdict(comparison: Comparison, placebo: str | None) -> Verdict | None:
    """The verdict on the best arm beside the baseline; None while all wait."""
    sign = 1 if comparison.better == "lower" else -1
    known = [v for v in comparison.verdicts if v.arm != placebo and v.difference is not None]
    return min(known, key=lambda verdict: sign * (verdict.difference or 0.0), default=None)


def front(costs: "pd.Series", quality: "pd.Series", more: bool, higher: bool) -> list[str]:
    """The arms that no other arm beats in both, by cost; equals stand together."""
    cost, loss = (-costs if more else costs), (-quality if higher else quality)
    known = costs.notna() & quality.notna()
    best: list[str] = []
    for arm in known.index[known]:
        no_worse = (cost <= cost[arm]) & (loss <= loss[arm])
        truly = no_worse & ((cost < cost[arm]) | (loss < loss[arm]))
        if not truly[known].any():
            best.append(arm)
    return sorted(best, key=lambda arm: (float(costs[arm]), float(loss[arm])))
