"""Amounts and durations for a person to read."""

import math


def amount(value: float | None, unit: str = "", digits: int = 3) -> str:
    """1234567 -> 1.23M, or 1.23MB; nothing for None."""
    if value is None or math.isnan(value):
        return ""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.{digits}g}{letter}{unit}"
    return f"{value:.{digits}g}{unit and ' ' + unit}"


def duration(seconds: float) -> str:
    """5 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
