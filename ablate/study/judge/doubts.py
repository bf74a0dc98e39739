"""What casts doubt on verdicts that were made by the rules."""

from collections.abc import Mapping

import numpy as np

from ablate.study.judge.verdict import Verdict
from ablate.study.stats.intervals import bartlett_p


def doubts(verdicts: tuple[Verdict, ...], placebo: str | None) -> list[str]:
    """A placebo that is decided casts doubt on all verdicts. Raises ValueError where there is no such arm."""
    if placebo is None:
        return []
    placed = [verdict for verdict in verdicts if verdict.arm == placebo]
    if not placed:
        raise ValueError(f"placebo: {placebo!r} is no arm beside the baseline")
    if placed[0].word not in ("better", "worse"):
        return []
    return [
        f"the placebo {placebo!r} came out {placed[0].word} than the baseline that it equals: "
        "distrust every verdict of this study until the reason is known"
    ]


def unequal_noise(noise: Mapping[str, tuple[float, int]], alpha: float) -> list[str]:
    """Where arms are not equally noisy, a pooled interval is wrong for the noisy ones.

    `noise` maps an arm to the standard deviation of its differences by seed and their number. Bartlett's test
    says whether it is chance, for three differences or more of each arm.
    """
    able = {arm: (sd, n) for arm, (sd, n) in noise.items() if n > 2 and sd > 0}
    if len(able) < 2:
        return []
    variances = np.array([sd**2 for sd, _ in able.values()])
    degrees = np.array([n - 1 for _, n in able.values()])
    if bartlett_p(variances, degrees) > alpha:
        return []
    worst = max(able, key=lambda arm: able[arm][0])
    times = able[worst][0] / float(np.sqrt((variances * degrees).sum() / degrees.sum()))
    return [
        f"the arms are not equally noisy (the differences of {worst} vary {times:.2g} times as much as those "
        "of all arms together): `pooled` is wrong here; declare `paired`"
    ]
