"""The runs that a plan asks for, in the order in which they are wanted: tuning, then the tests look by look.

The arms are composed already: seeds and rates are set on their specifications, so thousands of runs cost
little. Identity comes from `Backend.identify`, which is asked once for each arm and rate.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ablate.record import RunRecord, RunSummary
from ablate.spec import digest
from ablate.study.design.backend import Backend
from ablate.study.design.differences import put
from ablate.study.design.planned import Plan, PlannedArm, Spec, seeded
from ablate.study.design.study import StudyError
from ablate.study.stats.frame import frame_of
from ablate.study.stats.outcomes import Role
from ablate.study.stats.plateau import plateau_level
from ablate.study.stats.tokens import BUDGETS
from ablate.study.stats.tuning import Tuning, tune

if TYPE_CHECKING:
    import pandas

TOKENS = "budget.tokens"
WIDENINGS = 4  # how often a grid is extended or refined before a person must look at it

Identify = Callable[[Spec], dict[str, Any]]
Grids = Mapping[str, Sequence[float]]  # corpus -> rates


@dataclass(frozen=True)
class PlannedRun:
    """One run. Two may have the same id: a test run at the baseline's own rate is its fixed run too."""

    id: str
    corpus: str
    arm: str
    role: Role
    seed: int
    rate: float | None  # the tuned value; None where nothing is tuned
    look: int | None  # the number of seeds at which it is first judged; None for tuning
    spec: Spec
    factors: Mapping[str, str] = field(default_factory=dict)
    budget: float = 1.0  # times the study's


@dataclass(frozen=True)
class Stage:
    """Runs to be done before what comes next is known."""

    name: str  # tuning, or the look
    runs: tuple[PlannedRun, ...]
    notes: tuple[str, ...] = ()


def stages(plan: Plan, backend: Backend) -> Iterator[Stage]:
    """Yield what to run, stage by stage. Run (or find finished) the runs of a stage before taking the next.

    `Backend.outcomes` gives the tidy frame of runs (`tidy`). A winner at the edge, or beside a rate
    that failed, yields what a wider or finer grid adds, for every arm. Ends early where a tuning run is still
    missing: the study waits. Raises StudyError where that is still so after `WIDENINGS` wider grids, or
    the baseline has no rate.
    """
    tunings: dict[str, Tuning] = {}
    if plan.study.tune:
        grids: dict[str, list[float]] = {corpus: list(plan.study.tune.rates) for corpus in plan.corpora}
        there: set[str] = set()
        for widened in range(WIDENINGS + 1):
            runs = tuning_runs(plan, backend.identify, grids)
            new = tuple(run for run in runs if run.id not in there)
            there |= {run.id for run in new}
            yield Stage("tuning" if not widened else f"tuning, wider {widened}", new)
            tunings = _choose(plan, backend.outcomes(runs))
            choices = [choice for tuning in tunings.values() for choice in tuning.choices]
            if any(choice.kind == "waiting" for choice in choices):
                return
            if not any(tuning.extend for tuning in tunings.values()):
                break
            for corpus, tuning in tunings.items():
                grids[corpus] = sorted({*grids[corpus], *tuning.extend})
        else:
            edges = ", ".join(
                f"{choice.arm} on {corpus}"
                for corpus, tuning in tunings.items()
                for choice in tuning.choices
                if choice.extend
            )
            raise StudyError(
                [
                    f"tune: the best rate of {edges} still lies at the edge, or beside a failed one, after "
                    f"{WIDENINGS} wider grids; give a grid around it ({plan.study.tune.path})"
                ]
            )
    runs, notes = judged_runs(plan, backend.identify, tunings)
    looks = plan.study.declared_looks or (len(plan.study.seeds),)
    for look in looks:
        yield Stage(f"look at {look} seeds", tuple(r for r in runs if r.look == look), notes)


def _choose(plan: Plan, frame: "pandas.DataFrame") -> dict[str, Tuning]:
    by = plan.study.tune
    assert by is not None
    if by.metric not in frame.columns:  # nothing has finished yet
        frame = frame.assign(**{by.metric: float("nan")})
    levels = {corpus: plateau_level(plan.on(corpus)[0].facts.reference) for corpus in plan.corpora}
    return {
        corpus: tune(
            frame[frame["corpus"] == corpus], by.metric, by.better, by.nested, level if by.of_loss else None
        )
        for corpus, level in levels.items()
    }


def tuning_runs(plan: Plan, identify: Identify, grids: Grids | None = None) -> tuple[PlannedRun, ...]:
    """Every arm, the placebo too, at every rate of its corpus's grid on every tuning seed; none where the
    rate is fixed."""
    if plan.study.tune is None:
        return ()
    identities = _Identities(plan, identify)
    return tuple(
        identities.run(arm, "tuning", seed, rate, None)
        for seed in plan.study.tune.seeds
        for arm in plan.arms
        for rate in (grids[arm.corpus] if grids else plan.study.tune.rates)
    )


def judged_runs(
    plan: Plan, identify: Identify, tunings: Mapping[str, Tuning] | None = None
) -> tuple[tuple[PlannedRun, ...], tuple[str, ...]]:
    """The test runs, the fixed-rate contrast and the baseline at other budgets, there at the rate of its own;
    and notes on arms that had none.

    In the order of looks, then seeds: arms of one seed stand together, so that pairs are complete early.
    `tunings` (by corpus) must be settled. An arm that failed at every rate is tested at the baseline's,
    where its failures count against it. Raises StudyError where the baseline has no rate.
    """
    identities = _Identities(plan, identify)
    notes: list[str] = []
    runs: list[PlannedRun] = []
    rates = {(arm.corpus, arm.name): _rates(plan, arm, tunings or {}, notes) for arm in plan.arms}
    for n, seed in enumerate(plan.study.seeds):
        look = next((k for k in plan.study.interim_seeds if n < k), len(plan.study.seeds))
        for arm in plan.arms:
            tests, fixed = rates[arm.corpus, arm.name]
            runs += [identities.run(arm, "test", seed, rate, look) for rate in tests]
            if plan.study.tune:
                runs.append(identities.run(arm, "fixed", seed, fixed, look))
            if plan.study.effect_in_tokens and arm.name == plan.baseline:
                runs += [identities.run(arm, "budget", seed, fixed, look, budget) for budget in BUDGETS]
    return tuple(runs), tuple(notes)


def _rates(
    plan: Plan, arm: PlannedArm, tunings: Mapping[str, Tuning], notes: list[str]
) -> tuple[tuple[float | None, ...], float | None]:
    """The rates of an arm's test runs, and the rate of its fixed runs."""
    if plan.study.tune is None:
        return (None,), None
    nested = plan.study.tune.nested
    baseline = tunings[arm.corpus].choice(plan.baseline)
    if baseline.rate is None:
        raise StudyError([f"tune: the baseline {plan.baseline} on {arm.corpus}: {baseline.reason}"])
    fixed = baseline.nested[0] if nested and baseline.nested else baseline.rate
    choice = tunings[arm.corpus].choice(arm.name)
    if choice.rate is None:
        notes.append(f"{arm.name} on {arm.corpus}: {choice.reason}; tested at the baseline's rate {fixed:g}")
        return baseline.shared or (fixed,), fixed
    return choice.rates(nested), fixed


class _Identities:
    """Ids of runs: the canonical form of an arm, rate and budget is made once; only its seed changes."""

    def __init__(self, plan: Plan, identify: Identify) -> None:
        self.path = plan.study.tune.path if plan.study.tune else ""
        self.identify = identify
        self.known: dict[tuple[str, str, float | None, float], tuple[Spec, dict[str, Any]]] = {}

    def run(
        self,
        arm: PlannedArm,
        role: Role,
        seed: int,
        rate: float | None,
        look: int | None,
        budget: float = 1.0,
    ) -> PlannedRun:
        key = (arm.corpus, arm.name, rate, budget)
        if key not in self.known:
            spec = arm.spec if rate is None else put(arm.spec, self.path, rate)
            spec = spec if budget == 1 else put(spec, TOKENS, tokens_of(arm, budget))
            self.known[key] = spec, self.identify(spec)
        spec, canonical = self.known[key]
        seeds: dict[str, Any] = {"init": seed, "data": seed, "dropout": seed}
        seeds |= {"redraw": list(arm.redraw)} if arm.redraw else {}  # what is at its default is left out
        return PlannedRun(
            id=digest({**canonical, "seed": seeds}),
            corpus=arm.corpus,
            arm=arm.name,
            role=role,
            seed=seed,
            rate=rate,
            look=look,
            spec=seeded(spec, seed, arm.redraw),
            factors=arm.factors,
            budget=budget,
        )


def tokens_of(arm: PlannedArm, budget: float) -> int:
    return int(arm.spec["budget"]["tokens"] * budget)


def typed(plan: Plan, run: PlannedRun) -> list[str]:
    """What a person would type to train.py to get this run."""
    arm = plan.arm(run.corpus, run.arm)
    rate = [] if run.rate is None or plan.study.tune is None else [f"{plan.study.tune.path}={run.rate!r}"]
    seed = f"seed={run.seed}"
    if arm.redraw:
        patterns = ", ".join(f'"{pattern}"' for pattern in arm.redraw)
        seed = f"seed={{init: {run.seed}, data: {run.seed}, dropout: {run.seed}, redraw: [{patterns}]}}"
    tokens = [] if run.budget == 1 else [f"{TOKENS}={tokens_of(arm, run.budget)}"]
    return [*arm.overrides, *rate, *tokens, seed]


def tidy(
    runs: Sequence[PlannedRun], find: Callable[[str], RunRecord | RunSummary | None]
) -> "pandas.DataFrame":
    """The frame that the judge reads: one row for each planned run, in the plan's order.

    Columns: id, corpus, arm, role, seed, rate, look, the factors, and of the record status (None where there
    is none), reason, code, kernel, the metrics under their names, `counts/...`, `speed/...`, `memory/...`.
    """
    import pandas

    frame = frame_of({**_place(run), **_record(find(run.id))} for run in runs)
    columns = [
        "id",
        "corpus",
        "arm",
        "role",
        "seed",
        "rate",
        "look",
        "status",
        "reason",
        "source_hash",
        "kernel",
    ]
    return frame if len(frame) else pandas.DataFrame(columns=columns)


def _place(run: PlannedRun) -> dict[str, Any]:
    named = ("id", "corpus", "arm", "role", "seed", "rate", "look")
    return {**run.factors, **{name: getattr(run, name) for name in named}}


def _record(record: RunRecord | RunSummary | None) -> dict[str, Any]:
    if record is None:
        return {"status": None, "reason": "", "source_hash": "", "kernel": ""}
    return record.columns()
