"""Numbers, intervals, amounts and durations as a person reads them: the one place that writes them."""

import math
from collections.abc import Iterable

MINUS = "\N{MINUS SIGN}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"


def amount(value: float | None, unit: str = "", digits: int = 3) -> str:
    """1234567 -> 1.23M, or 1.23 MB with a unit; nothing for None."""
    if value is None or math.isnan(value):
        return ""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.{digits}g}{unit and ' '}{letter}{unit}"
    return f"{value:.{digits}g}{unit and ' ' + unit}"


def duration(seconds: float) -> str:
    """5 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def places_of(halves: Iterable[float]) -> int:
    """Enough decimals for two digits of the least of these half-widths."""
    least = min((half for half in halves if half > 0), default=0.01)
    return min(6, max(2, 1 - math.floor(math.log10(least))))


def number(value: float | None, places: int, signed: bool = False) -> str:
    """1.2345 -> 1.23; nothing for None. A minus sign is one."""
    if value is None or math.isnan(value):
        return ""
    text = f"{value:{'+' if signed else ''}.{places}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def interval_text(low: float | None, high: float | None, places: int, signed: bool = True) -> str:
    """An interval as text, `[low, high]`; empty where an end is missing."""
    if low is None or high is None:
        return ""
    return f"[{number(low, places, signed)}, {number(high, places, signed)}]"


def short(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """Significant digits, for numbers of any size; nothing for None."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:{'+' if signed else ''}.{digits}g}".replace("-", MINUS)


def probability(p: float | None) -> str:
    """A probability with three places; empty where there is none."""
    if p is None or math.isnan(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
