"""The learning rate as a share of its peak: a pure function of the step, so nothing has to be resumed.

`step` counts from 0, `steps` is the length of the run. `warmup` is a number of steps (an integer) or a share
of the run (a fraction); during it the rate rises linearly. `final` is the share of the peak at the end.
"""

import math
from typing import Annotated

from annotated_types import Ge, Le, Lt
from pydantic import Strict

from ablate.registry import Options, schedule

Warmup = Annotated[int, Strict(), Ge(0)] | Annotated[float, Strict(), Ge(0), Lt(1)]
Share = Annotated[float, Ge(0), Le(1)]


def factor(options: Options, step: int, steps: int) -> float:
    """The share of the peak rate at which step `step` of `steps` is made."""
    return float(schedule.build(options, step, steps))


@schedule("constant", paper="arXiv:1412.6980")
def constant(step: int, steps: int, *, warmup: Warmup = 0.02) -> float:
    """The peak, once warm."""
    return rise(step, length(warmup, steps))


@schedule("cosine", paper="arXiv:1608.03983")
def cosine(step: int, steps: int, *, warmup: Warmup = 0.02, final: Share = 0.1) -> float:
    """Half a period of the cosine down to `final` (Loshchilov & Hutter 2017, without restarts)."""
    warm = length(warmup, steps)
    if step < warm:
        return rise(step, warm)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress(step, warm, steps)))


@schedule("linear", paper="arXiv:1810.04805")
def linear(step: int, steps: int, *, warmup: Warmup = 0.02, final: Share = 0.0) -> float:
    """A straight line down to `final`."""
    warm = length(warmup, steps)
    return rise(step, warm) if step < warm else 1 - (1 - final) * progress(step, warm, steps)


@schedule("inverse_sqrt", paper="arXiv:1706.03762")
def inverse_sqrt(step: int, steps: int, *, warmup: Warmup = 0.1) -> float:
    """min(s / warmup, sqrt(warmup / s)) at step s, from 1 (Vaswani et al. 2017, section 5.3, scaled so that
    the peak is 1)."""
    s, warm = step + 1, max(1, length(warmup, steps))
    return min(s / warm, math.sqrt(warm / s))


@schedule("wsd", paper="arXiv:2404.06395")
def wsd(step: int, steps: int, *, warmup: Warmup = 0.02, decay: Share = 0.2, final: Share = 0.0) -> float:
    """Warm-up, the peak, then a straight line down to `final` in the last share `decay` of the run (MiniCPM,
    whose decay is exponential; the line is that of Haegele et al., arXiv:2405.18392)."""
    warm = length(warmup, steps)
    turn = max(warm, steps - round(decay * steps))
    return rise(step, warm) if step < turn else 1 - (1 - final) * progress(step, turn, steps)


def length(warmup: int | float, steps: int) -> int:
    """The steps of a warm-up that is given in steps or as a share of all."""
    return warmup if isinstance(warmup, int) else round(warmup * steps)


def rise(step: int, warm: int) -> float:
    """From 1/(warm + 1) at step 0 to 1 at step `warm`."""
    return min(1.0, (step + 1) / (warm + 1))


def progress(step: int, since: int, steps: int) -> float:
    """0 at step `since`, 1 at the end of the run."""
    return (step - since) / max(1, steps - since)
