"""Turn a knob of an arm until it costs what the baseline costs: a search over whole numbers."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ablate.errors import AblateError
from ablate.spec import LayerSpec
from ablate.study.design.differences import fetch, with_value
from ablate.study.design.fields import STEPS

_LARGEST = 1 << 24  # no knob is turned further

_Cost = Callable[[int], float]


@dataclass(frozen=True)
class Matched:
    """How an arm was matched. `residual` is (arm - baseline) / baseline of what is held."""

    hold: str
    by: str
    before: int | None  # the knob in the configuration; None where a ratio decides it
    after: int | None  # None: it agreed without being turned
    unmatched: float  # the residual before
    residual: float


class OutOfReach(AblateError):
    """No value of the knob brings the arm within the tolerance."""


def candidates(spec: dict[str, Any], knob: str, multiple: int) -> Sequence[int]:
    """The values that the knob may take, ascending: the divisors of the heads for key-value heads,
    multiples of `multiple` for all else."""
    if knob.endswith(".kv_heads"):
        heads = fetch(spec, "model.heads")
        return [n for n in range(1, heads + 1) if heads % n == 0]
    return range(multiple, _LARGEST + 1, multiple)


def turned(spec: dict[str, Any], knob: str, value: int) -> dict[str, Any]:
    """A copy of the specification with the knob at this value.

    A knob of the common layer is turned in each variant of it that has the same value there: variants are
    small overrides. Raises KeyError where the arm has no such knob.
    """
    if knob == STEPS:
        return with_value(spec, "budget.tokens", value * fetch(spec, "budget.batch_tokens"))
    before = fetch(spec, knob)
    spec = with_value(spec, knob, value)
    model, _, rest = knob.partition(".")
    if model != "model" or rest.split(".")[0] not in LayerSpec.model_fields:
        return spec
    for name in spec["model"].get("variants", {}):
        place = f"model.variants.{name}.{rest}"
        try:
            same = fetch(spec, place) == before
        except KeyError:  # another part stands there
            continue
        spec = with_value(spec, place, value) if same else spec
    return spec


def setting(spec: dict[str, Any], knob: str) -> int | None:
    """The knob's value; None where it is left open. Raises KeyError where it is no whole number."""
    if knob == STEPS:
        return int(fetch(spec, "budget.tokens")) // int(fetch(spec, "budget.batch_tokens"))
    value = fetch(spec, knob)
    if not isinstance(value, int | None):
        raise KeyError(f"{knob} is {value!r}, and whole numbers are turned")
    return value


def solve(cost: _Cost, target: float, values: Sequence[int], start: int | None = None) -> int:
    """The value whose cost comes nearest to the target, for a cost that rises with the value.

    `values` ascend. From `start` the search doubles its steps until the target is enclosed, then follows
    the secant, and the middle where that stalls: three or four looks where the cost is linear. Raises
    OutOfReach where the cost does not rise, or the target lies beyond the ends.
    """
    known: dict[int, float] = {}

    def at(i: int) -> float:
        if i not in known:
            known[i] = cost(values[i])
        return known[i]

    low, high = _enclose(at, target, values, start)
    halve = False
    while high - low > 1:
        share = 0.5 if halve else (target - at(low)) / (at(high) - at(low))
        middle = min(max(low + int(share * (high - low)), low + 1), high - 1)
        width = high - low
        if at(middle) < at(low) or at(middle) > at(high):
            raise OutOfReach("it does not rise with the knob")
        low, high = (middle, high) if at(middle) <= target else (low, middle)
        halve = high - low > width / 2
    return values[min((low, high), key=lambda i: abs(at(i) - target))]


def _enclose(at: _Cost, target: float, values: Sequence[int], start: int | None) -> tuple[int, int]:
    """Two places in `values`, the cost at most the target at the first and at least at the second; the ends
    where the target lies beyond them."""
    last = len(values) - 1
    first = min(bisect_left(values, start or values[0]), last)
    low = high = first
    step = max(1, first)
    while at(high) < target and high < last:
        low, high = high, min(high + step, last)
        step *= 2
        if at(high) <= at(low):
            raise OutOfReach("it does not rise with the knob")
    while at(low) > target and low > 0:
        high, low = low, max(low - step, 0)
        step *= 2
        if at(low) >= at(high):
            raise OutOfReach("it does not rise with the knob")
    return low, high
