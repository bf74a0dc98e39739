"""Numbers from the curve of a run: spikes, and the size of the gradient."""

import io
from pathlib import Path

import pandas as pd

from ablate.record import RunRecord, read_curve


def curve_frame(folder: Path | None, record: RunRecord) -> pd.DataFrame | None:
    """The rows by step of a run, None where they are not there. Raises OSError where they are damaged."""
    if folder is None or not (folder / "curve.parquet").is_file():
        return None
    try:
        return pd.read_parquet(io.BytesIO(read_curve(folder, record.curve_hash)))
    except (OSError, ValueError) as error:
        raise OSError(f"{folder / 'curve.parquet'} is damaged: {error}") from None


def spike_score(values: pd.Series, window: int = 1000, deviations: float = 7.0) -> float | None:
    """The share of values that lie at least so many standard deviations above the mean of the `window` values
    before (OLMo 2, arXiv:2501.00656).

    The first tenth of a window is not judged: a deviation from a handful of values is no deviation. None
    where that leaves nothing.
    """
    before = values.shift(1).rolling(window, min_periods=max(2, window // 10))
    mean, deviation = before.mean(), before.std()
    judged = deviation.notna() & values.notna()
    if not judged.any():
        return None
    high = values[judged] - mean[judged] >= deviations * deviation[judged]
    return float((high & (deviation[judged] > 0)).mean())
