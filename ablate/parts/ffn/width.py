"""How wide the feed-forward's hidden layer is."""

from fractions import Fraction
from math import ceil, floor


def hidden_width(width: int, given: int | None, ratio: float, multiplier: float, multiple_of: int) -> int:
    """The given width, or m ceil(multiplier floor(ratio C) / m): LLaMA's rule (Touvron et al. 2023 and
    Llama-3's code), of which 4 C is the case ratio 4, and 2/3 of 4 C the case ratio 8/3."""
    if given is not None:
        return given
    exact = floor(Fraction(ratio).limit_denominator(1000) * width)  # 8/3 is not a float
    return multiple_of * ceil(floor(Fraction(multiplier).limit_denominator(1000) * exact) / multiple_of)
