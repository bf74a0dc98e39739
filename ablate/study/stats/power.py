"""What a study can decide, worked out before it runs: detectable effects, power, seeds needed.

Nothing here takes an observed effect.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import integrate, optimize, stats

from ablate.study.stats.intervals import Variance, planned_critical_value

MOST_SEEDS = 100_000  # beyond this no number of seeds is named


@dataclass(frozen=True)
class Setting:
    """What a study will be judged by, apart from its seeds. Raises ValueError for an impossible one."""

    arms: int  # beside the baseline
    sd: float  # of the differences between an arm and the baseline, by seed
    variance: Variance
    alpha: float = 0.05
    looks: int = 1  # declared, over which alpha is split

    def __post_init__(self) -> None:
        if not (np.isfinite(self.sd) and self.sd >= 0):
            raise ValueError(f"sd of the differences must be a number from 0 up, not {self.sd}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, not {self.alpha}")
        if self.looks < 1:
            raise ValueError(f"there must be one look or more, not {self.looks}")

    def critical_value(self, seeds: int) -> tuple[float, int]:
        """The critical value of one look and its degrees of freedom."""
        return planned_critical_value(self.variance, seeds, self.arms, self.alpha / self.looks)


def detectable(seeds: int, setting: Setting, power: float = 0.8) -> float:
    """The least true effect that is found with this power, in the unit of `setting.sd`."""
    _check_noise(setting)
    if not setting.alpha < power < 1:
        raise ValueError(f"power must lie between alpha = {setting.alpha} and 1, not {power}")
    c, df = setting.critical_value(seeds)
    far = c
    while _beyond(far, c, df) < power:
        far *= 1.5
    shift = float(optimize.brentq(lambda shift: _beyond(shift, c, df) - power, 0, far))
    return float(shift * setting.sd / seeds**0.5)


def _beyond(shift: float, c: float, df: int) -> float:
    """P(|T| > c) for Student's t with `df` degrees of freedom and noncentrality `shift`."""
    if shift == 0:
        return float(2 * stats.t.sf(c, df))
    wrong_side = stats.nct.cdf(-c, df, shift)  # scipy gives nan where it is too small to be a double
    return float(stats.nct.sf(c, df, shift) + np.nan_to_num(wrong_side))


def power_of_equivalence(margin: float, seeds: int, setting: Setting, effect: float = 0.0) -> float:
    """The chance of the verdict `equivalent`: the interval contains 0 and lies within ± margin.

    Given the estimated error s of the difference, the estimate must lie within min(c s, margin - c s)
    of 0; that is integrated over the chi distribution of s.
    """
    _check_noise(setting)
    _check_margin(margin)
    c, df = setting.critical_value(seeds)
    error = setting.sd / seeds**0.5

    def given(ratio: float) -> float:  # of the estimated to the true error
        half = c * ratio * error
        reach = min(half, margin - half)
        inside = stats.norm.cdf((reach - effect) / error) - stats.norm.cdf((-reach - effect) / error)
        return float(inside * stats.chi.pdf(ratio * df**0.5, df) * df**0.5)

    widest = margin / (c * error)  # beyond it the interval is longer than the two margins
    reached, _ = integrate.quad(given, 0, widest, points=[widest / 2], limit=200)
    return min(float(reached), 1.0)


def seeds_for_equivalence(margin: float, setting: Setting, power: float = 0.8) -> int | None:
    """The least number of seeds at which a true difference of 0 is called equivalent with this power."""
    _check_margin(margin)
    return _least(lambda n: power_of_equivalence(margin, n, setting) >= power)


def seeds_for_half_width(margin: float, setting: Setting) -> int | None:
    """The least number of seeds at which the interval's half-width is at most `margin`; None beyond
    100,000. It uses the noise alone, never the effect."""
    _check_margin(margin)
    if setting.sd == 0:
        return 2
    alpha = setting.alpha / setting.looks
    degrees = 1 if setting.variance == "paired" else setting.arms

    def narrow(n: int, c: float) -> bool:
        return bool(c * setting.sd / n**0.5 <= margin)

    # Dunnett's value takes long to integrate: look for it only between the t and the Bonferroni value.
    fewest = _least(lambda n: narrow(n, stats.t.isf(alpha / 2, degrees * (n - 1))))
    if fewest is None:
        return None
    return _least(
        lambda n: (
            narrow(n, stats.t.isf(alpha / (2 * setting.arms), degrees * (n - 1)))
            or narrow(n, setting.critical_value(n)[0])
        ),
        fewest,
    )


def _least(enough: Callable[[int], bool], first: int = 2) -> int | None:
    """The least n >= first for which `enough` holds, which must stay true once it is."""
    low, high, step = first - 1, first, 1
    while not enough(high):
        low, high, step = high, high + step, 2 * step
        if high > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def warn_undetectable(name: str, predicted: float, detectable_effect: float) -> str | None:
    """A warning where a claim predicts less than the study can detect; None where it can be decided."""
    if abs(predicted) >= detectable_effect:
        return None
    return (
        f"this study cannot decide {name}: it predicts {abs(predicted):.4g}, and the least effect found "
        f"with the promised power is {detectable_effect:.4g}; plan more seeds, fewer arms or a larger effect"
    )


def _check_noise(setting: Setting) -> None:
    if setting.sd == 0:
        raise ValueError("sd of the differences must be positive: without noise everything is decided")


def _check_margin(margin: float) -> None:
    if not (np.isfinite(margin) and margin > 0):
        raise ValueError(f"margin must be a positive number, not {margin}")
