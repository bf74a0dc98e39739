"""Which arms need no more seeds: those whose comparisons were decided at a declared look.

At every look but the last an arm stops where its verdict is better, worse or equivalent, and each claim that
it takes part in is settled. The placebo, of which nothing is asked, stops with the last of the others.

Every look has its share of alpha, so the intervals of all looks hold together: whichever look an arm stops
at, its interval there holds. Its difference is another matter: what is decided early happened to be large.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ablate.spec import Strict
from ablate.study.design.claim import SCALE, TIMING
from ablate.study.design.level import held_to_the_end
from ablate.study.design.planned import PlannedArm
from ablate.study.design.study import Study
from ablate.study.judge.claims import Judgement
from ablate.study.judge.compare import Comparison, Verdict

DECIDED = ("better", "worse", "equivalent")


class ArmStop(Strict):
    """An arm that gets no more seeds."""

    arm: str
    seeds: int  # the look at which it was decided
    reason: str


class Look(NamedTuple):
    """What the judge says at one look."""

    comparison: Comparison | None
    claims: Sequence[Judgement]


class Stopping(Strict):
    """The arms that have stopped, and those that get the seeds of the next look. An arm in neither waits for
    missing runs, was refused, or has all its seeds."""

    stops: dict[str, ArmStop]
    going_on: tuple[str, ...]


def walk_looks(
    study: Study,
    arms: Sequence[PlannedArm],
    planned: int,
    judged_at: Callable[[int, Mapping[str, ArmStop]], Look],
) -> Stopping:
    """Walk over the looks of one corpus, up to the number of seeds that runs are planned for so far.

    `judged_at` judges the first seeds of the study, so many as it is given, with the arms that have stopped
    at theirs.
    """
    stops: dict[str, ArmStop] = {}
    going_on: tuple[str, ...] = ()
    placebo = next((arm.name for arm in arms if arm.redraw), "")
    for look in [look for look in study.declared_looks[:-1] if look <= planned]:
        at_look = judged_at(look, stops)
        if at_look.comparison is None or at_look.comparison.look != look:
            return Stopping(stops=stops, going_on=())
        unsettled = _unsettled(at_look, study)
        running = [verdict for verdict in at_look.comparison.verdicts if verdict.arm not in stops]
        for verdict in running:
            held = held_to_the_end(study, arms, verdict.arm)
            if not held and verdict.word in DECIDED and verdict.arm not in unsettled:
                stops[verdict.arm] = _stop(verdict, at_look, look)
        others = [each for each in running if each.arm not in stops and each.arm != placebo]
        if not others and placebo and placebo not in stops:
            stops[placebo] = ArmStop(arm=placebo, seeds=look, reason="every other arm has stopped")
        ready = {verdict.arm for verdict in others if verdict.word != "waiting"}
        ready |= {each.arm for each in running if ready and each.arm == placebo and each.word != "waiting"}
        going_on = tuple(each.arm for each in running if each.arm in ready and each.arm not in stops)
    return Stopping(stops=stops, going_on=going_on)


def _unsettled(at_look: Look, study: Study) -> set[str]:
    """The arms of claims that more seeds may settle."""
    settled = {judgement.claim for judgement in at_look.claims if judgement.settled}
    return {
        arm
        for claim in study.claims
        if claim.id not in settled and on_test_runs(claim.measure)
        for arm in claim.parsed.arms
    }


def on_test_runs(measure: str | None) -> bool:
    """Whether a claim on the measure is judged on test runs, of one size at a time."""
    return measure is None or not (measure == SCALE or measure.startswith((TIMING, "tuning/")))


def _stop(verdict: Verdict, at_look: Look, look: int) -> ArmStop:
    claims = [
        f"{judgement.claim}: {judgement.word}"
        for judgement in at_look.claims
        if any(verdict.arm in (contrast.first, contrast.second) for contrast in judgement.contrasts)
    ]
    return ArmStop(arm=verdict.arm, seeds=look, reason="; ".join([verdict.reason, *claims]))
