"""The runs that a plan asks for, in the order in which they are wanted: tuning, then the tests look by look.

The arms are composed already: seeds and rates are set on their specifications, so thousands of runs cost
little. Identity comes from `Backend.identify`, which is asked once for each arm and rate.
"""

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ablate.record import RunRecord, RunSummary
from ablate.spec import digest
from ablate.study.design.backend import Backend
from ablate.study.design.differences import with_value
from ablate.study.design.planned import Plan, PlannedArm, Spec, seeded
from ablate.study.design.study import StudyError
from ablate.study.stats.frame import frame_of
from ablate.study.stats.outcomes import Role
from ablate.study.stats.plateau import plateau_level
from ablate.study.stats.rounds import Wanted
from ablate.study.stats.tokens import BUDGETS
from ablate.study.stats.tuning import Tuning

if TYPE_CHECKING:
    import pandas

TOKENS = "budget.tokens"
DECAY = 0.2  # the share of a run in which the schedule wsd decays, where its options do not say
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
    stem: str = ""  # the id of the longer run whose first steps are its own


@dataclass(frozen=True)
class Stage:
    """Runs to be done before what comes next is known."""

    name: str  # tuning, or the look
    runs: tuple[PlannedRun, ...]
    notes: tuple[str, ...] = ()
    later: tuple[PlannedRun, ...] = ()  # what the looks after it may add, where no arm stops


# Given the runs of all stages so far: the (corpus, arm) that get the seeds of the next look.
GoingOn = Callable[[Sequence[PlannedRun]], Collection[tuple[str, str]]]


def stages(plan: Plan, backend: Backend, going_on: GoingOn | None = None) -> Iterator[Stage]:
    """Yield what to run, stage by stage. Run (or find finished) the runs of a stage before taking the next.

    `Backend.outcomes` gives the tidy frame of runs (`tidy`). A winner at the edge, or beside a rate
    that failed, yields what a wider or finer grid adds, for every arm. Ends early where a tuning run is still
    missing: the study waits. `going_on` is asked after each look but the last which arms get more seeds; the
    baseline does as long as any arm of its corpus does. Without it all arms do.

    Raises StudyError where no rate is settled after `WIDENINGS` wider grids, or the baseline has none.
    """
    tunings: Mapping[str, Tuning] | None = {}
    seen: list[PlannedRun] = []
    if plan.study.tune:
        by = _by_rounds if plan.study.tune.search == "rounds" else _by_grid
        tunings = yield from by(plan, backend, seen)
        if tunings is None:
            return
    runs, notes = judged_runs(plan, backend.identify, tunings)
    for look in plan.study.declared_looks or (len(plan.study.seeds),):
        called = tuple(run for run in runs if run.look == look)
        later = tuple(run for run in runs if run.look is not None and run.look > look)
        if not called:
            return
        first = tuple(run for run in called if not run.stem)
        branches = tuple(run for run in called if run.stem)  # once what they branch off is there
        yield Stage(f"look at {look} seeds", first, notes, (*branches, *later))
        if branches:
            yield Stage(f"shorter budgets at {look} seeds", branches, (), later)
        seen += called
        if later and going_on is not None:
            going = set(going_on(seen))
            going |= {(corpus, plan.baseline) for corpus, _ in going}
            runs = tuple(run for run in later if (run.corpus, run.arm) in going)


def _by_grid(
    plan: Plan, backend: Backend, seen: list[PlannedRun]
) -> Generator[Stage, None, dict[str, Tuning] | None]:
    """The whole grid for every arm, wider or finer while a choice asks for that.

    Returns the choices by corpus, None while runs are missing; what was yielded is added to `seen`.
    """
    tune = plan.study.tune
    assert tune is not None
    grids: dict[str, list[float]] = {corpus: list(tune.rates) for corpus in plan.corpora}
    tunings: dict[str, Tuning] = {}
    for widened in range(WIDENINGS + 1):
        runs = tuning_runs(plan, backend.identify, grids)
        there = {run.id for run in seen}
        yield Stage(
            "tuning" if not widened else f"tuning, wider {widened}",
            new := tuple(run for run in runs if run.id not in there),
        )
        seen += new
        tunings = {corpus: tuning for corpus, (tuning, _) in _choose(plan, backend.outcomes(runs)).items()}
        if any(choice.kind == "waiting" for tuning in tunings.values() for choice in tuning.choices):
            return None
        if not any(tuning.extend for tuning in tunings.values()):
            return tunings
        for corpus, tuning in tunings.items():
            grids[corpus] = sorted({*grids[corpus], *tuning.extend})
    edges = ", ".join(
        f"{choice.arm} on {corpus}"
        for corpus, tuning in tunings.items()
        for choice in tuning.choices
        if choice.extend
    )
    raise StudyError(
        [
            f"tune: the best rate of {edges} still lies at the edge, or beside a failed one, after "
            f"{WIDENINGS} wider grids; give a grid around it ({tune.path})"
        ]
    )


def _by_rounds(
    plan: Plan, backend: Backend, seen: list[PlannedRun]
) -> Generator[Stage, None, dict[str, Tuning] | None]:
    """What every arm wants next, round by round. Returns as `_by_grid` does."""
    tune = plan.study.tune
    assert tune is not None
    identities, round_number = _Identities(plan, backend.identify), 0
    while True:
        chosen = _choose(plan, backend.outcomes(seen))
        there = {(run.corpus, run.arm, run.rate, run.seed) for run in seen}
        new = tuple(
            identities.run(plan.arm(corpus, run.arm), "tuning", run.seed, run.rate, None)
            for corpus, (_, wanted) in chosen.items()
            for run in wanted
            if (corpus, *run) not in there
        )
        if not new:
            break
        round_number += 1
        yield Stage(f"tuning, round {round_number}", new)
        seen += new
    lost = [
        f"{choice.arm} on {corpus}: {choice.reason}"
        for corpus, (tuning, _) in chosen.items()
        for choice in tuning.choices
        if choice.kind == "edge"
    ]
    if lost:
        raise StudyError([f"tune: {line}; give a grid around it ({tune.path})" for line in lost])
    if any(choice.kind == "waiting" for tuning, _ in chosen.values() for choice in tuning.choices):
        return None
    return {corpus: tuning for corpus, (tuning, _) in chosen.items()}


def _choose(plan: Plan, frame: "pandas.DataFrame") -> dict[str, tuple[Tuning, tuple[Wanted, ...]]]:
    """By corpus: the choices so far, and the runs that are wanted by rounds."""
    by = plan.study.tune
    assert by is not None
    if by.metric not in frame.columns:  # nothing has finished yet
        frame = frame.assign(**{by.metric: float("nan")})
    return {
        corpus: by.choose(
            frame[frame["corpus"] == corpus],
            [arm.name for arm in plan.on(corpus)],
            plateau_level(plan.on(corpus)[0].facts.reference),
        )
        for corpus in plan.corpora
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
    """The test runs, the fixed-rate contrast where it is asked for, the baseline at other budgets and at its
    own rate; and notes on arms that had no rate.

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
            stems = [identities.run(arm, "test", seed, rate, look) for rate in tests]
            runs += stems
            runs += [
                replace(identities.run(arm, "budget", seed, stem.rate, look, budget), stem=stem.id)
                for stem in stems
                for budget in plan.study.budgets[:-1]
            ]
            if plan.study.tune and plan.study.tune.fixed_rate_table:
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
            spec = arm.spec if rate is None else with_value(arm.spec, self.path, rate)
            spec = spec if budget == 1 else with_value(spec, TOKENS, tokens_of(arm, budget))
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
    """The tokens of an arm at a share of its budget."""
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
