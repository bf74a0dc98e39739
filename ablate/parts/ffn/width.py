"""How wide the feed-forward's hidden layer is."""

from fractions import Fraction
from math import ceil, floor
from typing import Any

RULE = ("ratio", "multiplier", "multiple_of")  # what a given width leaves without effect


def hidden_width(width: int, given: int | None, ratio: float, multiplier: float, multiple_of: int) -> int:
    """The given width, or m ceil(multiplier floor(ratio C) / m): LLaMA's rule (Touvron et al. 2023 and
    Llama-3's code), of which 4 C is the case ratio 4, and 2/3 of 4 C the case ratio 8/3."""
    if given is not None:
        return given
    return multiple_of * ceil(
        floor(exact_fraction(multiplier) * floor(exact_fraction(ratio) * width)) / multiple_of
    )


def plain_width(options: Any, width: int) -> dict[str, Any]:
    """What a given width leaves without effect at its default; and no width, where the defaults give it."""
    if options.width is None:
        return {}
    defaults = {name: type(options).model_fields[name].default for name in RULE}
    needless = options.width == hidden_width(width, None, **defaults)
    return {**defaults, "width": None if needless else options.width}


def exact_fraction(x: float) -> Fraction:
    """The number that was meant: 8/3 is not a float, and 1.3 is not 1.3 exactly."""
    near = Fraction(x).limit_denominator(1000)
    return near if float(near) == x else Fraction(str(x))
