"""All that the judge says of a study's results, corpus by corpus: what reports and the terminal show."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ablate.study.design.claim import OF_SEVERAL, SCALE, TIMING, Claim, declared, of_quality, of_runs
from ablate.study.design.level import has_effects, table_alpha
from ablate.study.design.planned import PlannedArm
from ablate.study.design.study import Block, Study
from ablate.study.judge.budgets import BudgetGap, budget_gaps
from ablate.study.judge.claims import Judgement, judge
from ablate.study.judge.compare import Comparison, compare
from ablate.study.judge.counts import failed, judge_counts, solved
from ablate.study.judge.mixed import mixed_runs
from ablate.study.judge.rates import above_trigram, mark_plateaus, one_rate, rate_doubts
from ablate.study.judge.sensitivity_claims import (
    Sensitivities,
    failed_tuning,
    judge_sensitivity,
    sensitivities,
)
from ablate.study.judge.solved import Verdicts, in_words, judge_solved
from ablate.study.judge.speedups import ArmSpeedUps, arm_speed_ups
from ablate.study.judge.stopping import ArmStop, Look, Stopping, on_test_runs, walk_looks
from ablate.study.judge.timing import judge_timing
from ablate.study.results import Results
from ablate.study.stats.describe import Description, describe
from ablate.study.stats.factorial import Factorial, Ingredient, factorial, one_at_a_time
from ablate.study.stats.outcomes import Role
from ablate.study.stats.plateau import plateau_level
from ablate.study.stats.tokens import TokenEffect, TokenSlope, effect_in_tokens, token_slope
from ablate.study.stats.tuning import Tuning

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Judged:
    """One corpus. `runs` are its rows as they were judged; `frame` all of them, tuning too."""

    corpus: str  # its name: that of the text, the size, or both
    text: str
    size: str  # empty where the study has none
    arms: tuple[PlannedArm, ...]
    frame: "pd.DataFrame"
    runs: "pd.DataFrame"
    comparison: Comparison | None
    reason: str  # why there is no comparison
    fixed: Comparison | None  # every arm at the baseline's rate, where rates were tuned
    tuning: Tuning | None
    sensitivities: Sensitivities | None  # where rates were tuned on a loss
    solved: tuple[Verdicts, ...]  # P(solved), where skills are asked for
    stops: dict[str, ArmStop]  # arms that were decided before the last look
    claims: tuple[Judgement, ...]
    unjudged: tuple[tuple[Claim, str], ...]  # claims that could not be judged, and why
    descriptions: tuple[Description, ...]
    factorial: Factorial | None
    ingredients: tuple[Ingredient, ...]
    slope: TokenSlope | None
    budget_gaps: tuple[BudgetGap, ...]  # against the length of training, where the study has shorter budgets
    speed_ups: tuple[ArmSpeedUps, ...]  # from those budgets
    rate_doubts: dict[str, str]  # arm -> why its rate is not what the rules choose today
    reference: dict[str, float]  # n-gram losses of the text, on validation
    mixed: tuple[str, ...]  # one sentence for each thing that the runs should share and do not
    problems: tuple[str, ...]  # parts of the scoring that the data refused

    def tokens(self, arm: str) -> TokenEffect | None:
        """The arm's effect in tokens; None where the slope is not known."""
        if self.comparison is None or self.slope is None or self.slope.status == "blank":
            return None
        verdict = self.comparison.verdict(arm)
        return effect_in_tokens(verdict.difference, verdict.low, verdict.high, self.slope)


def arms_going_on(results: Results) -> set[tuple[str, str]]:
    """The (corpus, arm) that get the seeds of the next look; the baseline is not named."""
    study = results.manifest.study
    going = {block.name: _Corpus(results, study, block).going_on() for block in study.blocks}
    return {(corpus, arm) for corpus, arms in going.items() for arm in arms}


def judge_results(results: Results) -> tuple[Judged, ...]:
    """Judge every corpus by the rules that the study declares. What cannot be judged says why."""
    study = results.manifest.study
    return tuple(_Corpus(results, study, block).judged() for block in study.blocks)


def _of_skill(metric: str) -> bool:
    return declared(metric) or metric.startswith("skill/")


class _Corpus:
    def __init__(self, results: Results, study: Study, block: Block) -> None:
        self.results, self.kept = results, results.manifest
        self.study, self.block, self.corpus = study, block, block.name
        frame = results.runs[results.runs["corpus"] == block.name].reset_index(drop=True)
        self.budgets = self.complete(frame[frame["role"] == "budget"])
        self.frame = self.complete(frame[frame["role"] != "budget"])
        self.reference = self.kept.reference.get(block.name, {})
        self.problems: list[str] = []
        self.stopped: dict[str, ArmStop] = {}
        self.alpha = table_alpha(study, self.kept.plan.judged_before if self.kept.plan else 0)
        self.documents = results.documents
        self.of_loss = study.tune is not None and study.tune.of_loss

    def complete(self, frame: "pd.DataFrame") -> "pd.DataFrame":
        """A column for every metric that is asked for: before the first run has finished there is none."""
        tuned = [self.study.tune.metric] if self.study.tune else []
        asked = [self.study.metric, *self.study.measures, *tuned]
        asked += of_runs(self.study.claims)
        lacking = {metric: float("nan") for metric in asked if metric not in frame.columns}
        return frame.assign(**lacking).astype(dict.fromkeys(asked, float))

    def judged(self) -> Judged:
        runs = self.best_rates()
        tuning = self.tuning(runs)
        runs = mark_plateaus(runs, self.reference, tuning, self.of_loss)
        self.stopped = self.stopping(runs).stops
        scored = self.with_documents(runs)
        comparison, reason = self.compared(scored, self.study.metric, self.study.equivalence_margin)
        fixed = None
        if (runs["role"] == "fixed").any():
            fixed, _ = self.compared(runs, self.study.metric, self.study.equivalence_margin, role="fixed")
        self.sensitivities = self.sensitive()
        claims, unjudged = self.claims(runs, comparison, reason)
        table, ingredients = self.factors(runs, comparison)
        return Judged(
            corpus=self.corpus,
            text=self.block.corpus,
            size=self.block.size,
            arms=self.kept.on(self.corpus),
            frame=self.frame,
            runs=runs,
            comparison=comparison,
            reason=reason,
            fixed=fixed,
            tuning=tuning,
            rate_doubts=self.rate_doubts,
            reference=self.reference,
            sensitivities=self.sensitivities,
            solved=self.solved(runs),
            stops=self.stopped,
            claims=claims,
            unjudged=unjudged,
            descriptions=self.descriptions(runs),
            factorial=table,
            ingredients=ingredients,
            slope=self.slope(runs),
            budget_gaps=self.budget_gaps(comparison),
            speed_ups=self.speed_ups(runs, comparison),
            mixed=(*above_trigram(runs, self.kept.baseline, self.reference), *mixed_runs(runs, self.study)),
            problems=tuple(self.problems),
        )

    def going_on(self) -> tuple[str, ...]:
        runs = self.best_rates()
        runs = mark_plateaus(runs, self.reference, self.tuning(runs), self.of_loss)
        return self.stopping(runs).going_on

    def stopping(self, runs: "pd.DataFrame") -> Stopping:
        """The arms that stopped at an early look, and those that get the seeds of the next."""

        def judged_at(look: int, stopped: Mapping[str, ArmStop]) -> Look:
            self.stopped = dict(stopped)
            first = runs[(runs["role"] != "test") | runs["seed"].isin(self.study.seeds[:look])]
            comparison, reason = self.compared(first, self.study.metric, self.study.equivalence_margin)
            claims, _ = self.claims(first, comparison, reason, on_test_runs)
            return Look(comparison, claims)

        planned = runs["seed"][runs["role"] == "test"].nunique()
        return walk_looks(self.study, self.kept.on(self.corpus), planned, judged_at)

    def best_rates(self) -> "pd.DataFrame":
        try:
            return one_rate(self.frame, self.study.tune)
        except ValueError as error:
            self.problems.append(str(error))
            return self.frame

    def with_documents(self, runs: "pd.DataFrame") -> "pd.DataFrame":
        import numpy as np
        import pandas as pd

        ids = {*runs["id"][runs["role"] == "test"]} & {*self.documents["id"]}
        if not ids:
            return runs
        rows = self.documents[self.documents["id"].isin(ids)]
        pairs = {
            id: np.column_stack([loss, tokens])
            for id, loss, tokens in zip(rows["id"], rows["loss"], rows["tokens"], strict=True)
        }
        return runs.assign(by_document=pd.Series([pairs.get(id) for id in runs["id"]], runs.index, object))

    def compared(
        self, runs: "pd.DataFrame", metric: str, margin: float | None, role: Role = "test"
    ) -> tuple[Comparison | None, str]:
        study = self.study
        arms = {arm.name for arm in self.kept.on(self.corpus)}
        if runs.empty or not (runs["role"] == role).any():
            return None, "no test run is planned yet: the rates are still being tuned"
        if gone := arms.difference(runs["arm"]):  # without it the family would be smaller than was planned
            return None, f"the results hold no run of {', '.join(sorted(gone))}"
        placebo = self.kept.placebo if role == "test" else None
        try:
            comparison = compare(
                runs, self.kept.baseline, metric, margin, study.interval, self.alpha,
                study.declared_looks, study.better, role, placebo,
                {arm: stop.seeds for arm, stop in self.stopped.items()},
            )  # fmt: skip
            if declared(metric):
                comparison = in_words(comparison, self.counted(runs, comparison, role), placebo)
            return comparison, ""
        except ValueError as error:
            return None, str(error)

    def counted(self, runs: "pd.DataFrame", comparison: Comparison, role: Role = "test") -> Verdicts:
        """How many runs solved their task, at the seeds that are judged. Raises ValueError."""
        seeds = {run.arm: run.seeds for run in comparison.runs}
        mine = [seed in seeds.get(arm, ()) for arm, seed in zip(runs["arm"], runs["seed"], strict=True)]
        return judge_solved(
            runs[mine], self.kept.baseline, comparison.metric, comparison.alpha_spent, role=role
        )

    def solved(self, runs: "pd.DataFrame") -> tuple[Verdicts, ...]:
        """P(solved), once a look is due, for each metric that counts solved runs; for other skills beside
        them, the one that the same measure gives."""
        claimed = [claim.measure for claim in self.study.claims if claim.measure]
        asked = [self.study.metric, *self.study.measures, *claimed]
        skills = [name if declared(name) else "skill/solved" for name in asked if _of_skill(name)]
        verdicts = []
        for metric in dict.fromkeys(skills):
            comparison = self.compared(runs, metric, None)[0] if metric in runs.columns else None
            if comparison is not None and comparison.look is not None:
                verdicts.append(self.counted(runs, comparison))
        return tuple(verdicts)

    def tuning(self, runs: "pd.DataFrame") -> Tuning | None:
        """The rates by the rules as they are, and in `rate_doubts` which arms were tested at others."""
        self.rate_doubts: dict[str, str] = {}
        tune_by = self.study.tune
        if tune_by is None or not (runs["role"] == "tuning").any():
            return None
        arms = [arm.name for arm in self.kept.on(self.corpus)]
        try:
            tuning, _ = tune_by.choose(runs, arms, plateau_level(self.reference))
        except ValueError as error:
            self.problems.append(str(error))
            return None
        self.rate_doubts = rate_doubts(self.frame, tuning, tune_by.nested)
        self.problems += [f"{arm}: {doubt}" for arm, doubt in self.rate_doubts.items()]
        return tuning

    def sensitive(self) -> Sensitivities | None:
        tune = self.study.tune
        if tune is None or not tune.tells_sensitivity or not (self.frame["role"] == "tuning").any():
            return None
        try:
            return sensitivities(self.frame, tune.path, tune.rates, tune.seeds, self.alpha)
        except ValueError as error:
            self.problems.append(str(error))
            return None

    def claims(
        self,
        runs: "pd.DataFrame",
        comparison: Comparison | None,
        reason: str,
        of: Callable[[str | None], bool] = lambda measure: measure != SCALE,
    ) -> tuple[tuple[Judgement, ...], tuple[tuple[Claim, str], ...]]:
        """Claims on the metric are one family; those on each other measure are another. Claims on the slope
        are on all sizes together (`ablate.study.judge.scale`)."""
        by_measure: dict[str, list[Claim]] = {}
        for claim in self.study.claims:
            if not of(claim.measure):
                continue
            by_measure.setdefault(claim.measure or self.study.metric, []).append(claim)
        judged: dict[str, Judgement] = {}
        unjudged: list[tuple[Claim, str]] = []
        published = {claim.id for claim in self.study.claims if claim.published}
        for measure, claims in by_measure.items():
            try:
                judgements = self.on_measure(measure, claims, runs, comparison, reason)
            except ValueError as error:
                unjudged += [(claim, str(error)) for claim in claims]
                continue
            if of_quality(measure):
                tuned = self.study.tune is not None
                judgements = tuple(
                    judgement.mark(self.rate_doubts, tuned, judgement.claim in published)
                    for judgement in judgements
                )
            judged |= {judgement.claim: judgement for judgement in judgements}
        order = [claim.id for claim in self.study.claims if claim.id in judged]
        return tuple(judged[id] for id in order), tuple(unjudged)

    def on_measure(
        self,
        measure: str,
        claims: list[Claim],
        runs: "pd.DataFrame",
        comparison: Comparison | None,
        reason: str,
    ) -> tuple[Judgement, ...]:
        """Raises ValueError where there is nothing to judge by."""
        if measure.startswith("tuning/"):
            if self.sensitivities is None:
                raise ValueError("there are no tuning runs to judge by")
            if measure == "tuning/failed":
                return judge_counts(claims, failed_tuning(self.sensitivities, self.kept.baseline))
            return judge_sensitivity(claims, self.sensitivities)
        if measure.startswith(TIMING):
            if self.corpus != next(iter(self.study.places)):
                raise ValueError("arms are timed on the first corpus alone")
            return judge_timing(claims, self.results, measure)
        judged, why = comparison, reason
        if measure not in (self.study.metric, *OF_SEVERAL):
            judged, why = self.compared(runs, measure, None)
        if judged is None:
            raise ValueError(why)
        if measure == "stability/failed":
            return judge_counts(claims, failed(judged))
        if declared(measure):
            return judge_counts(claims, solved(self.counted(runs, judged), judged))
        return judge(claims, judged)

    def descriptions(self, runs: "pd.DataFrame") -> tuple[Description, ...]:
        measures = [measure for measure in self.study.measures if not declared(measure)]
        if not measures or runs.empty:
            return ()
        try:
            return describe(runs, self.kept.baseline, measures, self.study.alpha)
        except ValueError as error:
            self.problems.append(str(error))
            return ()

    def factors(
        self, runs: "pd.DataFrame", comparison: Comparison | None
    ) -> tuple[Factorial | None, tuple[Ingredient, ...]]:
        """What the design's factors do, at the seeds that are judged. Its arms alone: the placebo and listed
        arms are in no cell."""
        design, metric = self.study.design, self.study.metric
        if comparison is None or comparison.look is None or not has_effects(self.study):
            return None, ()
        cells = {arm.name: arm.factors for arm in self.kept.on(self.corpus) if arm.factors}
        mine = runs[(runs["role"] == "test") & runs["arm"].isin(cells) & runs["seed"].isin(comparison.seeds)]
        table = mine[["seed", "status", metric]].assign(
            **{factor: [cells[arm][factor] for arm in mine["arm"]] for factor in design.factors}
        )
        effects, start, end = None, design.start, design.end
        alpha = comparison.alpha_spent
        if design.kind == "factorial" and all(len(each) == 2 for each in design.factors.values()):
            alpha /= 2  # the effects and the ingredients share the level of one table
        try:
            if design.kind == "factorial":
                levels = {factor: tuple(levels) for factor, levels in design.factors.items()}
                if len(cells) == math.prod(map(len, levels.values())):  # else some are excluded
                    effects = factorial(table, levels, metric, alpha, self.study.interval)
                if any(len(each) > 2 for each in levels.values()):
                    return effects, ()  # no single way leads from the first levels to the last
                start, end = ({name: each[at] for name, each in levels.items()} for at in (0, -1))
            return effects, one_at_a_time(table, start, end, metric, alpha)
        except ValueError as error:
            self.problems.append(f"{design.kind}: {error}")
            return effects, ()

    def budget_gaps(self, comparison: Comparison | None) -> tuple[BudgetGap, ...]:
        if comparison is None or not self.study.budgets:
            return ()
        stopped = {arm: stop.seeds for arm, stop in self.stopped.items()}
        try:
            return budget_gaps(self.budgets, comparison, self.study, self.alpha, stopped)
        except ValueError as error:
            self.problems.append(f"budgets: {error}")
            return ()

    def speed_ups(self, runs: "pd.DataFrame", comparison: Comparison | None) -> tuple[ArmSpeedUps, ...]:
        if comparison is None or comparison.look is None or self.budgets.empty:
            return ()
        return arm_speed_ups(runs, self.budgets, comparison, self.kept.on(self.corpus), self.study)

    def slope(self, runs: "pd.DataFrame") -> TokenSlope | None:
        import pandas as pd

        if self.budgets.empty or not self.study.effect_in_tokens:
            return None
        own = runs[(runs["role"] == "test") & (runs["arm"] == self.kept.baseline)].assign(budget=1.0)
        other = self.budgets[self.budgets["seed"].isin(own["seed"])]
        columns = ["budget", "seed", "status", self.study.metric]
        both = pd.concat([table[columns] for table in (own, other)], ignore_index=True)
        try:
            return token_slope(both, self.study.metric, self.study.alpha)
        except ValueError as error:
            self.problems.append(str(error))
            return None
