"""Claims on times that were measured in turn: `timing/training step`, `timing/next token, 8x512`."""

from collections.abc import Sequence

from ablate.study.design.claim import TIMING, Claim
from ablate.study.judge.claims import Judgement, judge
from ablate.study.judge.compare import compare
from ablate.study.results import Results


def judge_timing(claims: Sequence[Claim], results: Results, measure: str) -> tuple[Judgement, ...]:
    """Judge ratios of times, paired by round: Student's t on their logarithms. Raises ValueError where the
    arms were not timed at this."""
    kept, frame = results.manifest, results.timings
    if frame is None:
        raise ValueError(f"the arms were not timed: python sweep.py experiment={kept.name} timing=true")
    laps = frame[frame["what"] == measure.removeprefix(TIMING)]
    if laps.empty:
        timed = ", ".join(f"{TIMING}{what}" for what in dict.fromkeys(frame["what"]))
        raise ValueError(f"{measure} was not timed; there are {timed}")
    runs = laps.rename(columns={"round": "seed", "seconds": measure})
    runs = runs.assign(status="finished", role="test")
    return judge(claims, compare(runs, kept.baseline, measure, None, "paired", kept.study.alpha))
