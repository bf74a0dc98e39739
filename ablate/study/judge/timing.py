"""Claims on times that were measured in turn: `race/training step`, `race/next token, 8x512`."""

from collections.abc import Sequence

from ablate.study.design.claim import RACE, Claim
from ablate.study.judge.claims import Judgement, judge
from ablate.study.judge.compare import compare
from ablate.study.results import Results


def judge_race(claims: Sequence[Claim], results: Results, measure: str) -> tuple[Judgement, ...]:
    """Judge ratios of times, paired by round: Student's t on their logarithms. Raises ValueError where the
    arms were not timed at this."""
    kept, frame = results.manifest, results.race
    if frame is None:
        raise ValueError(f"the arms were not timed: python sweep.py experiment={kept.name} race=true")
    laps = frame[frame["what"] == measure.removeprefix(RACE)]
    if laps.empty:
        timed = ", ".join(f"{RACE}{what}" for what in dict.fromkeys(frame["what"]))
        raise ValueError(f"{measure} was not timed; there are {timed}")
    runs = laps.rename(columns={"round": "seed", "seconds": measure})
    runs = runs.assign(status="finished", role="test")
    return judge(claims, compare(runs, kept.baseline, measure, None, "paired", kept.study.alpha))
