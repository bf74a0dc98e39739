"""E-values for a campaign: many changes tried one after the other, each against the baseline of its time.

A try is a row of pairs by seed. x is by how much an arm is better than the baseline at one seed; nothing is
gained where its mean is 0 or less. The evidence is the likelihood ratio of Student's t for a standardised
mean of `EFFECTS`, mixed evenly, against 0: the t-test e-process. It may be looked at after every pair, since

    P(it ever reaches 1 / level) <= level    where nothing is gained    (Ville 1939)

Robbins and Siegmund 1974, Annals of Statistics 2, 415 (mixtures); Pérez-Ortiz, Lardy, de Heide and Grünwald
2024, Annals of Statistics 52, 1410 (arXiv:2208.07610: invariant e-statistics); Wang and Ramdas 2024
(arXiv:2310.03722: anytime-valid t-tests). Ours differs in that the noise of earlier tries enters with its
degrees of freedom, as the likelihood of a common variance allows; without it a few pairs decide nothing.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

Floats = NDArray[np.float64]

EFFECTS = (1.5, 3.0, 6.0)  # standardised means: in standard deviations of x
NODES = 61  # of the integral over the unknown noise
PEAK_WIDTHS = 8.0  # standard deviations on either side of its peak


def log_e_value(n: Any, total: Any, squares: Any, noise: Any = 0.0, df: Any = 0) -> Floats:
    """The logarithm of the e-value against "nothing is gained", for arrays that broadcast together.

    `n` pairs have the sum `total` and the sum of squares `squares` of x. `noise` is a sum of squared
    residuals of x's scale with `df` degrees of freedom, from elsewhere. Where n + df < 2 nothing is known: 0.

    With c = effect · total / sqrt(squares + noise) and N = n + df the ratio is
    exp(-n effect² / 2) · E[exp(c r)], r from the chi distribution with N degrees of freedom.
    """
    n, total, squares, noise, df = np.broadcast_arrays(
        *(np.asarray(given, dtype=float) for given in (n, total, squares, noise, df))
    )
    known = (n + df >= 2) & (squares + noise > 0)
    degrees = np.where(known, n + df, 2.0)
    scaled = total / np.sqrt(np.where(known, squares + noise, 1.0))
    ratios = [-n * effect**2 / 2 + _log_mean_exp(effect * scaled, degrees) for effect in EFFECTS]
    return np.where(known, logsumexp(ratios, axis=0) - np.log(len(EFFECTS)), 0.0)


def _log_mean_exp(slope: Floats, degrees: Floats) -> Floats:
    """log E[exp(slope r)], r from the chi distribution; by the trapezoidal rule around the peak."""
    power = degrees - 1
    peak = (slope + np.sqrt(slope**2 + 4 * power)) / 2
    width = 1 / np.sqrt(1 + power / peak**2)
    low = np.maximum(peak - PEAK_WIDTHS * width, 1e-12)
    step = (peak + PEAK_WIDTHS * width - low) / (NODES - 1)
    r = low[..., None] + step[..., None] * np.arange(NODES)
    log_density = power[..., None] * np.log(r) - r**2 / 2 + slope[..., None] * r
    constant = (degrees / 2 - 1) * np.log(2) + gammaln(degrees / 2)
    return np.asarray(logsumexp(log_density, axis=-1) + np.log(step) - constant)


@dataclass
class Noise:
    """The common noise of runs, from the additive model `value ~ arm + seed` of every arm that was run beside
    one baseline. Arrays may have leading axes: many campaigns at once.

    An arm has the first seeds of the row, and how many differs: its mean is taken out, what is left of the
    seeds is solved for. Where an arm has one seed only it says nothing.
    """

    weights: Floats  # (..., seeds, seeds): the normal matrix of the seeds
    moments: Floats  # (..., seeds)
    squares: Floats  # (...)
    df: Floats  # (...): within the arms, the seeds not yet taken off

    @classmethod
    def empty(cls, seeds: int, shape: tuple[int, ...] = ()) -> "Noise":
        return cls(
            np.zeros((*shape, seeds, seeds)), np.zeros((*shape, seeds)), np.zeros(shape), np.zeros(shape)
        )

    def with_arm(self, values: Floats, n: Any) -> "Noise":
        """With one arm more: its `values` (..., seeds), of which the first `n` (...) count."""
        seeds = self.moments.shape[-1]
        has = (np.arange(seeds) < np.asarray(n)[..., None]).astype(float)
        count = np.maximum(has.sum(-1), 1)
        values = np.where(has > 0, values, 0.0)
        centred = has * (values - (values.sum(-1) / count)[..., None])
        centring = (
            has[..., None] * np.eye(seeds) - has[..., None] * has[..., None, :] / count[..., None, None]
        )
        return Noise(
            self.weights + centring,
            self.moments + centred,
            self.squares + (centred**2).sum(-1),
            self.df + np.maximum(has.sum(-1) - 1, 0),
        )

    def residual(self) -> tuple[Floats, Floats]:
        """The sum of squared residuals of runs, and its degrees of freedom; 0 and 0 where none are left."""
        seen = np.diagonal(self.weights, axis1=-2, axis2=-1) > 0
        # The matrix is a graph's Laplacian: singular along the ones, in which moments have no share.
        whole = (
            self.weights + seen[..., None] * seen[..., None, :] + ~seen[..., None] * np.eye(seen.shape[-1])
        )
        solved = np.linalg.solve(whole, self.moments[..., None])[..., 0]
        left = np.maximum(self.squares - (self.moments * solved).sum(-1), 0.0)
        df = np.maximum(self.df - np.maximum(seen.sum(-1) - 1, 0), 0.0)
        return np.where(df > 0, left, 0.0), df


def log_threshold(alpha: float, tries: int, keeps: Any) -> Floats:
    """The logarithm that an e-value must reach for a keep, after `keeps` of them, where `tries` are planned.

    e-LOND with an even share for each try: the level is alpha / tries · (keeps + 1). Then the expected share
    of false keeps among the keeps is at most alpha, however the tries depend on each other, and a campaign in
    which nothing is gained keeps anything with a chance of at most alpha. Xu and Ramdas 2024, Proceedings of
    Machine Learning Research 238 (arXiv:2311.06412); LOND: Javanmard and Montanari 2018, Annals of
    Statistics 46, 526."""
    return np.asarray(np.log(tries / alpha) - np.log(np.asarray(keeps) + 1.0))


def is_futile(n: Any, total: Any, squares: Any, noise: Any, df: Any, margin: float, miss: float) -> Any:
    """Whether a gain of `margin` is `1 / miss` times less likely than none, for arrays as of `log_e_value`.

    It is the lower border of Wald's sequential test (1945, Annals of Mathematical Statistics 16, 117) with
    the estimated variance: a gain of just the margin is given up about as often as `miss` says. It never
    keeps.
    """
    n, total = np.asarray(n, dtype=float), np.asarray(total, dtype=float)
    own = np.maximum(squares - total**2 / n, 0.0)
    degrees = df + n - 1
    variance = np.where(degrees > 0, (noise + own) / np.maximum(degrees, 1), np.inf)
    return margin * total - n * margin**2 / 2 <= variance * np.log(miss)
