"""Which runs of a study are compiled. In a warm worker an arm is compiled once, for all of its runs there."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ablate.spec import RunSpec
from ablate.study.design.backend import Backend
from ablate.study.design.planned import Plan, PlannedArm
from ablate.study.design.runs import PlannedRun

ENOUGH = 600.0  # seconds of a block's runs in a slot: the measurement takes the better part of a minute of it
_WORTH = 2.0  # times the compiler's time must be saved: validation is compiled, too


class CompileGain(Protocol):
    """Seconds of a step as it is and compiled, and of the compiler; or why there is no compiled step."""

    @property
    def eager(self) -> float: ...
    @property
    def compiled(self) -> float: ...
    @property
    def once(self) -> float: ...
    @property
    def reason(self) -> str: ...


@dataclass
class Compiling:
    """Asked for each run. Where `wish` is auto, a block of arms (a corpus, a size) is compiled if that saves
    time, measured on its baseline; but on a GPU, where nothing has been measured, no run is.

    Arms with routed experts are not compiled: how many tokens an expert gets is data, and torch would compile
    again for each number.
    """

    wish: bool | str
    planned: Plan
    slots: int
    backend: Backend
    say: Callable[[str], None]
    pays: dict[str, bool] = field(default_factory=dict)  # by block

    def __call__(self, run: PlannedRun) -> bool:
        if self.wish != "auto":
            return bool(self.wish)
        if self.backend.device == "cuda" or has_experts(self.planned.arm(run.corpus, run.arm)):
            return False
        if run.corpus not in self.pays:
            self.pays[run.corpus] = self.paying(run.corpus)
        return self.pays[run.corpus]

    def paying(self, block: str) -> bool:
        arms = [arm for arm in self.planned.on(block) if not has_experts(arm)]
        arm, spec = arms[0], RunSpec.model_validate(arms[0].spec)
        share = len(self.planned.study.seeds) / self.slots  # runs of an arm in a slot
        if self.backend.probe(spec) * share * len(arms) < ENOUGH:
            return False
        gain = self.backend.compile_gain(arm.spec)
        if gain.reason:
            self.say(f"not compiled: {gain.reason}")
            return False
        if (gain.eager - gain.compiled) * spec.steps * share < _WORTH * gain.once:
            return False
        steps = f"{1e3 * gain.compiled:.0f} ms then, not {1e3 * gain.eager:.0f}"
        self.say(f"compiled, since a step of {arm.name} takes {steps}")
        return True


def has_experts(arm: PlannedArm) -> bool:
    """Whether the arm has experts that a token does not pass through."""
    return arm.facts.parameters["active"] < arm.facts.parameters["total"]
