"""Which runs of a study are compiled. In a warm worker an arm is compiled once, for all of its runs there."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from ablate.study.plan import Plan, PlannedArm
from ablate.study.runs import PlannedRun

ENOUGH = 60.0  # seconds of an arm's runs in a slot: below, the compiler takes longer than it can save
WORTH = 2.0  # times the compiler's time must be saved: validation is compiled, too

Payload = dict[str, Any]


class Compiling:
    """Asked for each run. Where `wish` is auto, a block of arms (a corpus, a size) is compiled if that saves
    time, measured on its baseline; but on a GPU, where nothing has been measured, no run is.

    Arms with routed experts are not compiled: how many tokens an expert gets is data, and torch would compile
    again for each number.
    """

    def __init__(self, wish: bool | str, planned: Plan, slots: int, say: Callable[[str], None]):
        self.wish, self.planned, self.slots, self.say = wish, planned, slots, say
        self.pays: dict[str, bool] = {}  # by block

    def __call__(self, run: PlannedRun, payload: Payload) -> bool:
        if self.wish != "auto":
            return bool(self.wish)
        if payload["settings"]["accelerator"] == "gpu" or routed(self.arm(run)):
            return False
        if run.corpus not in self.pays:
            self.pays[run.corpus] = self.paying(run.corpus, payload)
        return self.pays[run.corpus]

    def arm(self, run: PlannedRun) -> PlannedArm:
        return next(arm for arm in self.planned.on(run.corpus) if arm.name == run.arm)

    def paying(self, block: str, payload: Payload) -> bool:
        from ablate.facts import probe
        from ablate.spec import RunSpec
        from ablate.train.compiled import compiled

        arm = next(arm for arm in self.planned.on(block) if not routed(arm))
        spec = RunSpec.model_validate(arm.spec)
        share = len(self.planned.study.seeds) / self.slots  # runs of an arm in a slot
        if probe(spec) * share < ENOUGH:
            return False
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found = pool.submit(compiled, {**payload, "spec": arm.spec}).result()
        if found.reason:
            self.say(f"not compiled: {found.reason}")
        elif found.saves(share * spec.steps) > (WORTH - 1) * found.once:
            self.say(
                f"compiled, since a step of {arm.name} takes {1e3 * found.compiled:.0f} ms then, "
                f"not {1e3 * found.eager:.0f}"
            )
            return True
        return False


def routed(arm: PlannedArm) -> bool:
    return arm.facts.parameters["active"] < arm.facts.parameters["total"]
