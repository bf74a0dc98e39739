"""What `ablate try` does: plans a change against the baseline of a campaign, runs the pairs, judges them."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ablate.campaign.journal import BaselineEntry, CampaignState, Journal, TryEntry, overrides_of
from ablate.campaign.referee import decide, threshold_now
from ablate.campaign.rules import FRESH, OWN_PARTS, RULES_FILE, CampaignError, load_campaign
from ablate.cli.campaign_runs import CampaignRuns, campaign_options
from ablate.cli.scoring import check_heldout, check_measures, requested_measures
from ablate.cli.workspace import Workspace
from ablate.engine.launch import EngineError
from ablate.measure import reads_heldout
from ablate.spec import RunSpec, digest
from ablate.study.design.plan import plan
from ablate.study.design.planned import Facts, Plan, PlannedArm, seeded
from ablate.study.design.runs import PlannedRun, judged_runs
from ablate.study.design.study import Study, StudyError, parse_study

BASELINE, CHANGE = "baseline", "change"  # the arms of a try
FIRST_SEEDS = 2  # seeds on which a new baseline is measured


@dataclass(frozen=True)
class RefereeAnswer:
    """What the referee says to a change."""

    campaign: str
    number: int
    change: tuple[str, ...]
    word: str  # keep, discard or undecided
    reason: str
    more: int | None  # runs that would settle it, where it is undecided
    pairs: int
    difference: float | None  # arm - baseline, in the unit of the metric
    e_value_log: float
    log_threshold: float
    runs: int  # that this call trained
    tries_left: int
    baseline: int  # the number of the baseline that stands now

    def plain(self) -> dict[str, Any]:
        """The answer as plain JSON."""
        return {**asdict(self), "change": list(self.change)}

    @property
    def lines(self) -> list[str]:
        """The answer for a terminal."""
        runs = f"{self.more} more run{'s' * (self.more != 1)}"
        more = f": {runs} would settle it" if self.word == "undecided" and self.more else ""
        pairs = f"{self.pairs} pair{'s' * (self.pairs != 1)}"
        effect = (
            "" if self.difference is None else f"{self.difference:+.4f} against the baseline over {pairs}; "
        )
        return [
            f"{self.word}{more}",
            f"try {self.number} of {self.campaign}: {' '.join(self.change)}",
            f"{effect}{self.reason}",
            f"{self.runs} runs trained now; {self.tries_left} tries left; baseline {self.baseline} stands",
        ]


class CampaignRunner:
    """One try of a campaign on this machine; another change needs a runner of its own. It holds the lock of
    the campaign: others wait for it."""

    def __init__(self, folder: Path, **options: Any):
        self.folder = folder
        if not (folder / RULES_FILE).is_file():
            raise CampaignError(
                [f"{folder / RULES_FILE}: there is no such file; write one (docs/campaigns.md)"]
            )
        self.rules = load_campaign(folder)
        self.options = campaign_options(folder, **options)
        self.workspace = Workspace(self.options)
        self.measures = requested_measures(self.as_study((), ()), self.options)
        self.runs = CampaignRuns(self.rules, self.workspace, self.measures)

    # ------------------------------------------------------------------------------------- a try

    def attempt(self, change: Sequence[str], more: int = 0) -> RefereeAnswer:
        """Try a change, or give an undecided one `more` pairs.

        Raises CampaignError or ConfigError for a change that is refused before anything is run, EngineError
        where the baseline cannot be run."""
        with self.locked():
            journal = Journal(self.folder)
            state = journal.read(self.rules) or self.begin(journal)
            change = self.with_files(change)
            planned = self.planned(overrides_of(state, change), state.baseline.overrides)
            arm = planned.arm(planned.corpora[0], CHANGE)
            identity = self.identity(planned, CHANGE)
            self.refuse_new_sources(state, planned)
            entry = state.known(identity) or self.new_entry(state, change, identity, arm)
            if entry.word in ("keep", "discard"):
                return self.answer(state, entry)
            if entry.word == "undecided" and not more:
                return self.answer(state, entry)
            journal.add(state, entry.model_copy(update={"word": "begun"}))
            entry = self.run_pairs(
                journal, state, entry, planned, max(self.rules.seeds, len(entry.values) + more)
            )
            journal.add(state, entry)
            if entry.word == "keep":
                # The study is planned with the arm in its place: its runs on new seeds are the baseline's.
                self.measure_baseline(journal, state, self.runs_of(planned, state, FIRST_SEEDS)[CHANGE])
            return self.answer(state, entry)

    def begin(self, journal: Journal) -> CampaignState:
        """The state of a new campaign, its baseline planned and measured."""
        if not any(reads_heldout(name) for name in self.measures):
            raise CampaignError(
                [
                    f"metric: {self.rules.metric} is not measured on held-out text, and runs see all other "
                    "text; take one that is, such as heldout/loss"
                ]
            )
        spec = seeded(json.loads(json.dumps(self.workspace.compose(list(self.rules.base)))), 0)
        facts = self.workspace.check(spec)
        if facts.refusals:
            raise CampaignError([f"base: {line}" for line in facts.refusals])
        state = journal.begin(self.rules)
        identity = digest([self.workspace.identify(spec), self.source_hash(spec)])
        journal.add(
            state,
            BaselineEntry(baseline=0, overrides=self.rules.base, identity=identity, facts=costs_of(facts)),
        )
        return state

    def new_entry(
        self, state: CampaignState, change: Sequence[str], identity: str, arm: PlannedArm
    ) -> TryEntry:
        """A try that begins. Raises CampaignError where no try is left, or the change costs too much."""
        if state.left < 1:
            raise CampaignError(
                [
                    f"{self.folder.name} has had its {self.rules.tries} tries, and alpha is spent; begin "
                    "another campaign, with the baseline of this one as its base"
                ]
            )
        first, now = state.baselines[0].facts, costs_of(arm.facts)
        costs = {name: now[name] / first[name] for name in now if first.get(name)}
        beyond = {name: most for name, most in self.rules.cost.items() if costs.get(name, 0.0) > most}
        if beyond:
            raise CampaignError(
                [
                    f"cost.{name}: the change has {costs[name]:.3f} times that of the first baseline; "
                    f"{most:g} times is the most"
                    for name, most in beyond.items()
                ]
            )
        return TryEntry(
            number=len(state.tries) + 1,
            baseline=state.keeps,
            identity=identity,
            change=tuple(change),
            word="begun",
            log_threshold=threshold_now(state),
            costs=costs,
        )

    def run_pairs(
        self, journal: Journal, state: CampaignState, entry: TryEntry, planned: Plan, most: int
    ) -> TryEntry:
        """Pair after pair, until the try is decided or has had `most` of them."""
        runs = self.runs_of(planned, state, most)
        while True:
            decision = decide(state, entry, entry.values)
            pairs = len(entry.values)
            if decision.word != "undecided" or pairs >= most:
                break
            seeds = range(pairs, min(most, pairs + max(1, len(self.workspace.slots) // 2)))
            base, own = [runs[BASELINE][n] for n in seeds], [runs[CHANGE][n] for n in seeds]
            self.runs.train([*base, *own], {run.seed: run.id for run in base})  # in this order, in one go
            self.measure_baseline(journal, state, base)
            found, lost = self.runs.measured(own)
            entry = entry.model_copy(update={"values": {**entry.values, **found}})
            if lost is not None:
                word, more = ("discard", None) if lost.counts else ("undecided", 1)
                return entry.model_copy(update={"word": word, "reason": str(lost), "more": more})
        return entry.model_copy(
            update={
                "word": decision.word,
                "reason": decision.reason,
                "difference": decision.difference,
                "log_e": decision.log_e,
                "more": decision.more,
            }
        )

    def answer(self, state: CampaignState, entry: TryEntry) -> RefereeAnswer:
        """The answer that an entry stands for."""
        return RefereeAnswer(
            campaign=self.folder.name,
            number=entry.number,
            change=entry.change,
            word=entry.word,
            reason=entry.reason,
            more=entry.more,
            pairs=len(entry.values),
            difference=entry.difference,
            e_value_log=entry.log_e,
            log_threshold=entry.log_threshold,
            runs=self.runs.trained,
            tries_left=state.left,
            baseline=state.baseline.baseline,
        )

    # ------------------------------------------------------------------------------------ the plan

    def as_study(self, change: Sequence[str], baseline: Sequence[str]) -> Study:
        """A study of one arm beside the baseline."""
        return parse_study(
            {
                "question": self.rules.question,
                "axis": list(self.rules.axis),
                "baseline": BASELINE,
                "arms": {BASELINE: list(baseline), CHANGE: list(change)},
                "placebo": False,
                "seeds": 1,
                "tune": "fixed",
                "metric": self.rules.metric,
                "better": self.rules.better,
            }
        )

    def planned(self, change: Sequence[str], baseline: Sequence[str]) -> Plan:
        """The plan of a try, both arms checked. Raises StudyError with what is wrong with the change."""
        try:
            planned = plan(self.as_study(change, baseline), self.workspace)
        except StudyError as error:
            lines = [line.replace(f"arm {CHANGE}: ", "") for line in error.mistakes]
            raise CampaignError(lines) from None
        check_measures(planned.study, self.options)
        check_heldout(planned, self.workspace)
        return planned

    def runs_of(self, planned: Plan, state: CampaignState, number: int) -> dict[str, list[PlannedRun]]:
        """The runs of both arms on the first seeds of the baseline that stands now."""
        first = FRESH * state.baseline.baseline
        study = planned.study.model_copy(update={"seeds": tuple(range(first, first + number))})
        runs, _ = judged_runs(Plan(study, planned.arms), self.workspace.identify)
        return {arm: [run for run in runs if run.arm == arm] for arm in (BASELINE, CHANGE)}

    def identity(self, planned: Plan, name: str) -> str:
        """The hash of an arm and of the sources behind it, whatever the seed."""
        spec = planned.arm(planned.corpora[0], name).spec
        return digest([self.workspace.identify(spec), self.source_hash(spec)])

    def source_hash(self, spec: dict[str, Any]) -> str:
        from ablate.train.state.source_hash import source_hash

        return source_hash(RunSpec.model_validate(spec))

    def refuse_new_sources(self, state: CampaignState, planned: Plan) -> None:
        """Raise CampaignError where the baseline's sources are no longer those that it was measured with."""
        if set(planned.arms[0].overrides) != set(state.baseline.overrides):
            raise CampaignError(
                [
                    "kernel: the change cannot be run with the baseline's; name one that serves both in base "
                    f"({'; '.join(planned.warnings)})"
                ]
            )
        if state.baseline.identity != self.identity(planned, BASELINE):
            raise CampaignError(
                [
                    "the baseline's text or sources have changed since it was measured, so no run of today "
                    "compares with it; put them back, or begin another campaign"
                ]
            )

    def with_files(self, change: Sequence[str]) -> list[str]:
        """The change, with each file of one's own copied to the campaign: what is kept must not change."""
        words = []
        for word in change:
            if not word.endswith(".py") or "=" in word:
                words.append(word)
                continue
            file = Path(word)
            if not file.is_file():
                raise CampaignError([f"{word}: there is no such file; name a file with a part, or overrides"])
            content = file.read_bytes()
            copy = self.folder / OWN_PARTS / f"{file.stem}_{digest(content.decode(errors='replace'))[:8]}.py"
            copy.parent.mkdir(exist_ok=True)
            if not copy.is_file():
                shutil.copyfile(file, copy)
            words.append(f"{OWN_PARTS}=[{os.path.relpath(copy)}]")
        return words

    # ------------------------------------------------------------------------------------ the runs

    def measure_baseline(self, journal: Journal, state: CampaignState, runs: Sequence[PlannedRun]) -> None:
        """Run the baseline on these seeds. Raises EngineError where it does not finish."""
        baseline = state.baseline
        new = [run for run in runs if run.seed not in baseline.values]
        if not new:
            return
        self.runs.train(new, {})
        found, lost = self.runs.measured(new)
        if lost is not None:
            raise EngineError(f"the baseline has no value to compare with: {lost}")
        values = {**baseline.values, **found}
        journal.add(state, baseline.model_copy(update={"values": values}))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the campaign: two tries at once would each take the share of alpha of the other."""
        from filelock import FileLock

        with FileLock(self.folder / ".lock"):
            yield


def costs_of(facts: Facts) -> dict[str, float]:
    """The costs of an arm that `cost:` may bound."""
    named = ("flops_per_token", "kv_bytes_per_token", "memory_bytes")
    return {**facts.parameters, **{name: getattr(facts, name) for name in named}}
