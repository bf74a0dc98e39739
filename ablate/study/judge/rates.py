"""The rates that a study was tested at, against those that the rules choose; runs that ended on a plateau."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ablate.study.design.tune import Tune
from ablate.study.stats.plateau import plateau_level
from ablate.study.stats.tuning import Tuning, keep_better

if TYPE_CHECKING:
    import pandas as pd

_LOSS = "validation/loss"  # what n-gram lines and plateaus are levels of


def one_rate(frame: "pd.DataFrame", by: Tune | None) -> "pd.DataFrame":
    """Keep one test run for each arm and seed, where each was trained at several rates. Raises ValueError as
    `keep_better` does."""
    tests = frame[frame["role"] == "test"]
    if by is None or not (by.nested or tests.duplicated(["arm", "seed"]).any()):
        return frame
    signed = frame
    if by.better == "higher":  # keep_better keeps the least
        signed = frame.assign(**{by.metric: -frame[by.metric]})
    kept, _ = keep_better(signed, by.metric)
    return frame.merge(kept[["id", "arm", "role", "seed", "rate"]], how="inner")


def rate_doubts(frame: "pd.DataFrame", tuning: Tuning, nested: bool) -> dict[str, str]:
    """Say which arms were tested at a rate that the rules would not choose beside a failed one, and why."""
    tested = frame[frame["role"] == "test"].groupby("arm")["rate"].unique()
    doubts = {}
    for choice in tuning.choices:
        rates = sorted(tested.get(choice.arm, ()))
        beside_failed = choice.failed or choice.shared
        if rates and beside_failed and not _short(rates) <= _short(choice.rates(nested)):
            at = ", ".join(f"{rate:g}" for rate in rates)
            doubts[choice.arm] = f"tested at {at}, but {choice.reason}"
    return doubts


def _short(rates: "list[float] | tuple[float, ...]") -> set[str]:
    return {f"{rate:.3g}" for rate in rates}


def mark_plateaus(
    runs: "pd.DataFrame", lines: Mapping[str, float], tuning: Tuning | None, of_loss: bool
) -> "pd.DataFrame":
    """The runs with a column `plateau`, where it is known from which loss a run has learned nothing.

    `lines` are the n-gram losses of the text; without them the level is that of the tuning runs.
    """
    level = plateau_level(lines)
    if level is None and tuning is not None and of_loss:
        level = tuning.level
    if level is None or _LOSS not in runs.columns:
        return runs
    return runs.assign(plateau=(runs["status"] == "finished") & (runs[_LOSS] >= level))


def above_trigram(runs: "pd.DataFrame", baseline: str, lines: Mapping[str, float]) -> Iterator[str]:
    """Say so where the baseline has not got beyond what counting three tokens gives."""
    if "trigram" not in lines or _LOSS not in runs.columns:
        return
    tests = runs[(runs["role"] == "test") & (runs["arm"] == baseline) & (runs["status"] == "finished")]
    loss = tests[_LOSS].mean()
    if loss >= lines["trigram"]:
        yield (
            f"the baseline's validation loss, {loss:.3f}, is not below that of a trigram model, "
            f"{lines['trigram']:.3f}: this measures when attention forms, not which part is better"
        )
