"""Simultaneous intervals for the differences between arms and a baseline, and the sign-flip check.

`paired`  Student's t on the differences by seed, at the level that Bonferroni gives each arm.
`pooled`  the blocked model `value ~ arm + seed` with one residual variance; Dunnett's critical value.
`welch`   two samples without a common seed, at the level that Bonferroni gives each arm.

Why Bonferroni, and not Holm, under `paired`: a verdict is read off an interval, so each decision needs an
interval that agrees with it. One-sided bounds that match Holm's decisions stick at 0, however large the
effect (Strassburger and Bretz 2008, Statistics in Medicine 27, 4914; Guilbaud 2008, Biometrical Journal 50,
678; arXiv:2402.13719). Two-sided regions that match its later steps leave out the single point 0: they are
no intervals, and that the sign may be read off is proven for independent arms only (Shaffer 1980, Annals of
Statistics 8, 1342), which arms with one baseline are not. Bonferroni's intervals are simultaneous under any
dependence between arms, and whatever they decide Holm decides too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, stats

Variance = Literal["paired", "pooled"]
_EXACT = 1e-12  # a spread below this share of the values is rounding
FLIPS = 20_000  # random sign flips, where all of them would be more than 2 ** ENUMERATED
ENUMERATED = 14
_DRAWS = 9_999  # of a bootstrap
SIGNS_AT_A_TIME = 250_000  # signs in memory at a time; the draws are the same whatever it is
MOST_DEGREES = 1000  # in planning: beyond it Dunnett's value falls by less than 0.5 %, at an integral each


@dataclass(frozen=True)
class Estimate:
    """A difference first - second with its two-sided interval, in the unit of the metric."""

    difference: float
    error: float  # standard error of the difference
    df: float  # degrees of freedom of the error
    low: float
    high: float
    p: float  # unadjusted, two-sided
    n: int  # pairs; for Welch the runs of the smaller side


def paired(first: NDArray[np.float64], second: NDArray[np.float64], alpha: float) -> Estimate:
    """Student's t on first - second, both (n,) in the same order of seeds; n >= 2. Covers with 1 - alpha."""
    differences = first - second
    n = len(differences)
    if n < 2:
        raise ValueError(f"a paired interval needs two pairs or more; there are {n}")
    mean = float(differences.mean())
    rounding = rounding_of(first, second)
    if np.ptp(differences) <= rounding:
        return _exact(mean, rounding, n - 1, n)
    test = stats.ttest_1samp(differences, 0.0)
    interval = test.confidence_interval(1 - alpha)
    error = float(differences.std(ddof=1)) / n**0.5
    return Estimate(mean, error, n - 1, float(interval.low), float(interval.high), float(test.pvalue), n)


def welch(first: NDArray[np.float64], second: NDArray[np.float64], alpha: float) -> Estimate:
    """Welch's t for first - second: no common seeds, no common variance. Both sides need two runs."""
    from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

    n = min(len(first), len(second))
    if n < 2:
        raise ValueError(f"Welch's interval needs two runs or more on each side; there are {n}")
    difference = float(first.mean() - second.mean())
    rounding = rounding_of(first, second)
    if max(np.ptp(first), np.ptp(second)) <= rounding:
        return _exact(difference, rounding, n - 1, n)
    both = CompareMeans(DescrStatsW(first), DescrStatsW(second))
    _, p, df = both.ttest_ind(usevar="unequal")
    low, high = both.tconfint_diff(alpha, usevar="unequal")
    error = float(both.std_meandiff_separatevar)
    return Estimate(difference, error, float(df), float(low), float(high), float(p), n)


def bartlett_p(variances: NDArray[np.float64], degrees: NDArray[np.integer]) -> float:
    """p of Bartlett's test that independent samples have one variance, from variances and degrees, both (k,).

    Bartlett 1937, Proceedings of the Royal Society A 160, 268."""
    total, k = degrees.sum(), len(degrees)
    together = (degrees * variances).sum() / total
    statistic = total * np.log(together) - (degrees * np.log(variances)).sum()
    correction = 1 + ((1 / degrees).sum() - 1 / total) / (3 * (k - 1))
    return float(stats.chi2.sf(statistic / correction, k - 1))


def bootstrap(
    seeds: int,
    statistic: Callable[[NDArray[np.intp]], NDArray[np.float64]],
    alpha: float,
    draws: int = _DRAWS,
) -> tuple[float, float] | None:
    """The percentile interval of a statistic over `seeds` seeds that are drawn again, 1 - alpha of the draws.

    `statistic` takes the chosen seeds (draws, seeds) and gives one number for each draw (draws,). None with a
    single seed. Seeded: the same numbers give the same interval.
    """
    if seeds < 2:
        return None
    interval = stats.bootstrap(
        (np.arange(seeds),),
        lambda chosen, axis: statistic(chosen),
        n_resamples=draws,
        vectorized=True,
        confidence_level=1 - alpha,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def rounding_of(*values: NDArray[np.float64]) -> float:
    """The size below which a difference between such values is rounding."""
    return _EXACT * max(float(np.abs(side).max()) for side in values)


def _exact(difference: float, rounding: float, df: float, n: int) -> Estimate:
    """The interval without width of a metric that does not vary."""
    difference = difference if abs(difference) > rounding else 0.0
    return Estimate(difference, 0.0, df, difference, difference, 0.0 if difference else 1.0, n)


def pooled(values: pd.DataFrame, baseline: str, alpha: float) -> dict[str, Estimate]:
    """Dunnett's intervals for every other arm against the baseline, in `value ~ arm + seed`.

    `values` has one row for each seed and one column for each arm; NaN where a run diverged. All arms
    share one residual variance. The critical value is the multivariate t quantile for the correlations
    that the fit gives, so that missing cells are allowed. Raises ValueError if nothing is left to
    estimate the variance from.
    """
    arms = [arm for arm in values.columns if arm != baseline]
    fit, contrasts = _blocked(values, [(arm, baseline) for arm in arms])
    tests = fit.t_test(contrasts)
    covariance = contrasts @ fit.cov_params() @ contrasts.T
    differences, errors, p = np.ravel(tests.effect), np.sqrt(np.diag(covariance)), np.ravel(tests.pvalue)
    df = int(fit.df_resid)
    n = [int((values[arm].notna() & values[baseline].notna()).sum()) for arm in arms]
    rounding = rounding_of(values.to_numpy()[values.notna().to_numpy()])
    if errors.max() <= rounding:
        return {
            arm: _exact(float(d), rounding, df, pairs)
            for arm, d, pairs in zip(arms, differences, n, strict=True)
        }
    half = critical_value(_correlations(covariance), df, alpha) * errors
    return {
        arm: Estimate(float(d), float(e), df, float(d - h), float(d + h), float(q), pairs)
        for arm, d, e, h, q, pairs in zip(arms, differences, errors, half, p, n, strict=True)
    }


def pooled_contrast(values: pd.DataFrame, first: str, second: str, alpha: float) -> Estimate:
    """One difference first - second in `value ~ arm + seed`, with the t interval of level 1 - alpha."""
    fit, contrasts = _blocked(values, [(first, second)])
    test = fit.t_test(contrasts)
    low, high = np.asarray(test.conf_int(alpha))[0]
    n = int((values[first].notna() & values[second].notna()).sum())
    difference, error = float(np.squeeze(test.effect)), float(np.squeeze(test.sd))
    rounding = rounding_of(values.to_numpy()[values.notna().to_numpy()])
    if error <= rounding:
        return _exact(difference, rounding, fit.df_resid, n)
    return Estimate(
        difference, error, fit.df_resid, float(low), float(high), float(np.squeeze(test.pvalue)), n
    )


def pooled_weights(
    values: pd.DataFrame, weights: NDArray[np.float64], alpha: float
) -> tuple[list[Estimate], float]:
    """Contrasts of several columns in `value ~ column + seed`, each with the t interval of level 1 - alpha.

    `values` has one row for each seed, `weights` (contrasts, columns) sum to 0 in each row. Returns the
    estimates and the residual standard deviation.
    """
    fit, _ = _blocked(values, [])
    rows = np.zeros((len(weights), len(fit.params)))
    rows[:, : values.shape[1]] = weights
    test = fit.t_test(rows)
    bounds = np.asarray(test.conf_int(alpha))
    n = int(values.notna().all(axis=1).sum())
    return [
        Estimate(float(d), float(e), fit.df_resid, float(low), float(high), float(p), n)
        for d, e, (low, high), p in zip(
            np.atleast_1d(test.effect), np.ravel(test.sd), bounds, np.atleast_1d(test.pvalue), strict=True
        )
    ], float(np.sqrt(fit.scale))


def _blocked(values: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> tuple[Any, NDArray[np.float64]]:
    """Fit `value ~ arm + seed`; return the fit and the contrast rows (len(pairs), parameters)."""
    import statsmodels.api as sm

    seeds, arms = values.shape
    columns = list(values.columns)
    arm_column = np.tile(np.eye(arms), (seeds, 1))
    seed_column = np.repeat(np.eye(seeds), arms, axis=0)[:, 1:]  # the arms carry the constant
    y = values.to_numpy(dtype=float).ravel()
    seen = np.isfinite(y)
    x = np.hstack([arm_column, seed_column])[seen]
    used = x.any(axis=0)  # a seed without a finished run has no effect to estimate
    used[:arms] = True
    fit = sm.OLS(y[seen], x[:, used]).fit()
    if fit.df_resid < 1:
        raise ValueError("the blocked model `value ~ arm + seed` has no degree of freedom left for the noise")
    contrasts = np.zeros((len(pairs), int(used.sum())))
    for row, (first, second) in enumerate(pairs):
        contrasts[row, columns.index(first)] += 1
        contrasts[row, columns.index(second)] -= 1
    return fit, contrasts


def _correlations(covariance: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    scale = np.sqrt(np.diag(covariance))
    return tuple(tuple(row) for row in np.round(covariance / np.outer(scale, scale), 6).tolist())


def balanced(arms: int) -> tuple[tuple[float, ...], ...]:
    """The correlations of `arms` differences to one baseline when every arm ran every seed: 1/2."""
    return tuple(tuple(1.0 if i == j else 0.5 for j in range(arms)) for i in range(arms))


@lru_cache(maxsize=4096)
def critical_value(correlations: tuple[tuple[float, ...], ...], df: int, alpha: float) -> float:
    """The c with P(max |T| <= c) = 1 - alpha for a multivariate t: Dunnett's two-sided critical value.

    Dunnett 1955, JASA 50, 1096. scipy integrates; its generator is seeded, so that c is reproducible.
    """
    arms = len(correlations)
    lowest = float(stats.t.isf(alpha / 2, df))
    if arms == 1:
        return lowest
    highest = float(stats.t.isf(alpha / (2 * arms), df))  # Bonferroni: never exceeded

    def excess(c: float) -> float:
        inside = stats.multivariate_t.cdf(
            np.full(arms, c),
            shape=np.array(correlations),
            df=df,
            lower_limit=np.full(arms, -c),
            allow_singular=True,
            maxpts=2_000 * arms,
            random_state=np.random.default_rng(0),
        )
        return float(inside) - (1 - alpha)

    if excess(highest) <= 0:  # the two agree to the error of the integral
        return highest
    if excess(lowest) >= 0:
        return lowest
    return float(optimize.brentq(excess, lowest, highest, xtol=1e-4))


def planned_critical_value(variance: Variance, seeds: int, arms: int, alpha: float) -> tuple[float, int]:
    """The critical value and its degrees of freedom, for a study with `arms` arms beside the baseline
    in which every run finishes."""
    if seeds < 2 or arms < 1:
        raise ValueError(f"an interval needs two seeds and one arm or more, not {seeds} seeds, {arms} arms")
    if variance == "paired":
        return float(stats.t.isf(alpha / (2 * arms), seeds - 1)), seeds - 1
    df = arms * (seeds - 1)
    return critical_value(balanced(arms), min(df, MOST_DEGREES), alpha), df


def sign_flip_p(differences: pd.DataFrame) -> dict[str, float]:
    """Adjusted p of every arm by max-T sign flips, joint over the arms: one flip turns a whole seed.

    `differences` has one row for each seed and one column for each arm, NaN where the pair is missing.
    Under the null the differences of a seed may change sign together. Every flip is enumerated up to
    2 ** 14, else 20,000 are drawn; so p is at least 2 / 2 ** seeds. Westfall and Young 1993, single step.
    """
    d = differences.to_numpy(dtype=float)
    n = np.isfinite(d).sum(axis=0)
    usable = n >= 2
    d, n = np.nan_to_num(d[:, usable]), n[usable]
    if not usable.any():
        return {}
    squares = (d**2).sum(axis=0)
    seeds = len(d)

    def each(signs: NDArray[np.float64]) -> NDArray[np.float64]:
        """|t| of every arm (..., arms) under the signs (..., seeds)."""
        mean = signs @ d / n
        variance = np.maximum((squares - n * mean**2) / (n - 1), _EXACT * squares / n)
        error = np.sqrt(variance / n)
        t: NDArray[np.float64] = np.divide(np.abs(mean), error, out=np.zeros_like(mean), where=error > 0)
        return t

    test = stats.permutation_test(
        (np.ones(seeds),),
        lambda signs, axis=-1: each(signs).max(axis=-1),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf if seeds <= ENUMERATED else FLIPS,
        batch=max(1, SIGNS_AT_A_TIME // seeds),
        alternative="greater",
        rng=np.random.default_rng(0),
    )
    largest = np.asarray(test.null_distribution)
    drawn = 0 if seeds <= ENUMERATED else 1  # the seen assignment counts as one of the drawn ones
    reached = largest[:, None] >= each(np.ones(seeds)) * (1 - 1e-9)
    p = (reached.sum(axis=0) + drawn) / (len(largest) + drawn)
    return dict(zip(differences.columns[usable], p.tolist(), strict=True))
