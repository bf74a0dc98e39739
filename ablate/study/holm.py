"""Fisher's exact test of each arm's runs against the baseline's, and Holm's p over the arms."""

from collections.abc import Mapping

from scipy import stats

Cells = tuple[int, int]  # so many runs, and so many others


def fisher(first: Cells, second: Cells) -> float:
    """The two-sided p of Fisher's exact test."""
    return float(stats.fisher_exact([first, second]).pvalue)


def holm(arms: Mapping[str, Cells | None], baseline: Cells) -> dict[str, tuple[float | None, float | None]]:
    """p and Holm's p of each arm.

    An arm that waits (None) has neither, and keeps its place in the family, so that the others do not change
    when it arrives.
    """
    from statsmodels.stats.multitest import multipletests

    raw = {name: None if cells is None else fisher(cells, baseline) for name, cells in arms.items()}
    family = [1.0 if p is None else p for p in raw.values()]
    if len(family) > 1 and min(family) < 1:  # else nothing to adjust: spares a call that collects garbage
        family = multipletests(family, method="holm")[1].tolist()
    return {name: (p, None if p is None else q) for (name, p), q in zip(raw.items(), family, strict=True)}
