"""What a plan will cost and what it can decide, before anything is run: the tables of `plan=true`.

Planning may use the noise seen so far, never the effect.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from statistics import variance
from typing import TYPE_CHECKING, Any

from ablate.study.design.claim import SCALE, Claim, declared, extra
from ablate.study.design.level import held_to_the_end, table_alpha
from ablate.study.design.planned import Plan
from ablate.study.design.runs import DECAY, PlannedRun
from ablate.study.design.study import WITH_EFFECTS, Study, under
from ablate.study.design.tune import Tune
from ablate.study.stats.fisher import fewest_seeds
from ablate.study.stats.power import Setting, detectable, seeds_for_equivalence, warn_undetectable
from ablate.study.stats.tokens import BUDGETS

if TYPE_CHECKING:
    import pandas

POWER = 0.8


def outlook(
    plan: Plan,
    runs: Sequence[PlannedRun] = (),
    finished: Collection[str] = frozenset(),
    seconds: Mapping[tuple[str, str], float] | None = None,
    noise: float | None = None,
    slots: int = 1,
    later: Sequence[PlannedRun] = (),
) -> dict[str, Any]:
    """Plain data for tables; `arms` are those of the plan.

    `runs` are those known so far (test runs are not while rates are being tuned), `finished` the ids with
    an outcome, `seconds` the time of one run by (corpus, arm), `noise` the sd of differences by seed, in the
    unit of the metric, `slots` the runs at a time. `later` are the runs that looks after those known may add,
    where no arm stops before: counts and hours are upper bounds by them.
    """
    study = plan.study
    return {
        "question": study.question,
        "baseline": plan.baseline,
        "axis": list(study.axis),
        "metric": study.metric,
        "margin": study.equivalence_margin,
        "corpora": list(plan.corpora),
        "seeds": list(study.seeds),
        "looks": list(study.declared_looks),
        "excluded": dict(study.exclude),
        "arms": plan.arms,
        "protocol": protocol(plan),
        "runs": count_runs(plan, [*runs, *later], finished),
        "hours": _hours(plan, [*runs, *later], finished, seconds, slots),
        "power": _power(plan, noise),
        "warnings": [*plan.warnings, *_warnings(plan, noise)],
    }


def protocol(plan: Plan) -> list[str]:
    """How runs come to be called for, in sentences: what may stop early, what is left out."""
    study = plan.study
    sentences = []
    looks = study.declared_looks
    if len(looks) > 1:
        held: dict[str, list[str]] = {}
        for arm in plan.on(plan.corpora[0])[1:]:
            held.setdefault(held_to_the_end(study, plan.arms, arm.name), []).append(arm.name)
        sentences.append(
            f"judged at {', '.join(map(str, looks))} seeds, at {table_alpha(study) / len(looks):.2g} each: "
            "an arm whose verdict and claims are decided at a look gets no more seeds, and the baseline goes "
            "on as long as any arm does; runs are counted as if none stopped"
        )
        sentences += [
            f"{', '.join(arms)}: all {len(study.seeds)} seeds, for {reason}"
            for reason, arms in held.items()
            if reason
        ]
    if study.budgets:
        shares = ", ".join(f"{share:g}" for share in study.budgets[:-1])
        sentences.append(
            f"every test run is ended at {shares} of its tokens too: a branch off the same run, which makes "
            "the steps of its decay alone"
        )
    if study.tune and study.tune.search == "rounds":
        search = study.tune.rounds
        sentences.append(
            f"tuned by rounds: the same budget of {search.runs} runs for every arm. The baseline spends "
            f"{len(search.grid)} of them on the grid; an arm makes {search.fewest} at least, and is refused "
            "where the budget does not reach its best rate. Tuning runs are counted as if no arm moved far"
        )
    if study.tune and not study.tune.fixed_rate_table:
        sentences.append("no table at the baseline's rate; ask for it by tune.fixed_rate_table: true")
    return sentences


def count_runs(
    plan: Plan, runs: Sequence[PlannedRun], finished: Collection[str]
) -> dict[str, dict[str, int]]:
    """Runs by role: planned, finished and missing. Before rates are known the planned tests are an upper
    bound: an arm whose rate is the baseline's shares its fixed runs with its test runs."""
    expected = _expected(plan)
    table: dict[str, dict[str, int]] = {}
    seen: set[str] = set()
    for role, planned in expected.items():
        ids = {run.id for run in runs if run.role == role} - seen
        seen |= ids
        known = any(run.role == role for run in runs)
        total = len(ids) if known else planned
        if role == "tuning" and not any(run.role == "test" for run in runs):
            total = max(total, planned)  # by rounds only the first are known
        done = sum(id in finished for id in ids)
        table[role] = {"planned": total, "finished": done, "missing": total - done}
    table["all"] = {
        key: sum(row[key] for row in table.values()) for key in ("planned", "finished", "missing")
    }
    return table


def _expected(plan: Plan) -> dict[str, int]:
    study, arms = plan.study, len(plan.arms)
    shorter = len(BUDGETS) * len(plan.corpora) if study.effect_in_tokens else 0
    shorter = shorter or arms * len(study.budgets[:-1])
    budgets = {"budget": shorter * len(study.seeds)} if shorter else {}
    if study.tune is None:
        return {"test": arms * len(study.seeds), **budgets}
    fixed = (arms - len(plan.corpora)) * len(study.seeds) if study.tune.fixed_rate_table else 0
    return {
        "tuning": _expected_tuning(plan, study.tune),
        "test": arms * len(study.seeds) * (2 if study.tune.nested else 1),
        **({"fixed": fixed} if fixed else {}),
        **budgets,
    }


def _expected_tuning(plan: Plan, tune: Tune) -> int:
    """The tuning runs of a grid that nothing widens; by rounds, of a best rate that is found at once: the
    baseline makes the rest of its three rates on top of the grid."""
    corpora, arms = len(plan.corpora), len(plan.arms)
    if tune.search == "grid":
        return arms * len(tune.rates) * len(tune.seeds)
    fewest = tune.rounds.fewest
    return (arms - corpora) * fewest + corpora * (len(tune.rates) + fewest - 1)


def _hours(
    plan: Plan,
    runs: Sequence[PlannedRun],
    finished: Collection[str],
    seconds: Mapping[tuple[str, str], float] | None,
    slots: int,
) -> float | None:
    """Time until all is done, with every slot busy; None while the time of a run is not known. An arm that
    has not been timed takes the mean of the others."""
    if not seconds:
        return None
    mean = sum(seconds.values()) / len(seconds)
    left = 0.0
    missing = {run.id: run for run in runs if run.id not in finished}
    for run in missing.values():
        trained = run.budget * (_decay(run) if run.stem else 1.0)  # a branch makes its decay alone
        left += trained * seconds.get((run.corpus, run.arm), mean)
    known = {run.role for run in runs}
    per_arm = sum(seconds.get((arm.corpus, arm.name), mean) for arm in plan.arms) / len(plan.arms)
    left += sum(planned for role, planned in _expected(plan).items() if role not in known) * per_arm
    return left / slots / 3600


def _decay(run: PlannedRun) -> float:
    decay: float = run.spec.get("schedule", {}).get("decay", DECAY)
    return decay


def _power(plan: Plan, noise: float | None) -> list[dict[str, Any]]:
    """The minimum detectable effect at each look."""
    study = plan.study
    looks = study.declared_looks
    return [
        {
            "seeds": seeds,
            "noise": noise,
            "power": POWER,
            "detectable": None
            if noise is None or declared(study.metric)
            else detectable(seeds, _setting(study, len(plan.family), noise), POWER),
            "alpha": table_alpha(study) / len(looks),
        }
        for seeds in looks
    ]


def _setting(study: Study, arms: int, noise: float) -> Setting:
    return Setting(arms, noise, study.interval, table_alpha(study), len(study.declared_looks) or 1)


def _warnings(plan: Plan, noise: float | None) -> list[str]:
    study = plan.study
    warnings = []
    if study.tune is None:
        warnings.append("rates are fixed, not tuned: an arm may lose because the rate suits another")
    elif len(study.tune.seeds) < 2 and not study.tune.nested:
        warnings.append(
            "one tuning seed: the choice of the rate is noisy, and no interval over test seeds contains that"
        )
    warnings += _confounded(plan)
    if study.claims and len(study.corpora) < 2:
        warnings.append("one corpus: a headline claim needs two, with the same sign")
    if declared(study.metric):
        fewest = fewest_seeds(len(plan.family), table_alpha(study) / max(1, len(study.declared_looks)))
        if len(study.seeds) < fewest:
            warnings.append(f"with fewer than {fewest} seeds not even all solved against none is decided")
        return warnings
    if noise is None or len(study.seeds) < 2:
        if study.declared_looks:
            warnings.append("no noise has been seen yet: what this study can detect is not known")
        return warnings
    seeds = len(study.seeds)
    if study.equivalence_margin:
        needed = seeds_for_equivalence(
            study.equivalence_margin, _setting(study, len(plan.family), noise), POWER
        )
        if needed is None or needed > seeds:
            many = "more than 100,000" if needed is None else str(needed)
            warnings.append(
                f"equivalence within {study.equivalence_margin:g} needs about {many} seeds at noise "
                f"{noise:.3g}; {seeds} are planned"
            )
    for claim in study.claims:
        warning = _claim_warning(plan, claim, noise)
        warnings += [warning] if warning else []
    return warnings


def _confounded(plan: Plan) -> list[str]:
    """What arms that differ along several axes at once are compared for. A design with factors tells them
    apart by itself."""
    if plan.study.design.kind in WITH_EFFECTS:
        return []
    several = {}
    for arm in plan.on(plan.corpora[0]):
        paths = [difference.path for difference in arm.differs if difference.reason == "axis"]
        axes = [axis for axis in plan.study.axis if any(under(path, axis) for path in paths)]
        if len(axes) > 1 and not arm.redraw:
            several[arm.name] = axes
    return [
        f"{name} differs from {plan.baseline} in {', '.join(axes)} at once: its verdict is on all of these "
        "together; `design: {kind: factorial}` tells them apart"
        for name, axes in several.items()
    ]


def _claim_warning(plan: Plan, claim: Claim, noise: float) -> str | None:
    """Whether the claim predicts less than the study can detect. Contrasts without the baseline form a
    family of their own."""
    study = plan.study
    predicate = claim.parsed
    if claim.measure == SCALE:
        noise *= _of_slope(plan)
    if (
        claim.measure not in (None, study.metric, SCALE)
        or predicate.kind == "ratio"
        or predicate.kind == "level"
    ):
        return None  # the noise of differences says nothing of these
    pairs = list(zip(predicate.arms, predicate.arms[1:], strict=False))
    inside = all(plan.baseline in pair for pair in pairs)
    arms = len(plan.family) if inside else max(1, _contrasts(plan, claim.measure or study.metric))
    setting = replace(_setting(study, arms, noise), variance=study.interval if inside else "paired")
    seeds = len(study.seeds)
    if predicate.kind == "equivalent":
        needed = seeds_for_equivalence(predicate.margin, setting, POWER)
        if needed is not None and needed <= seeds:
            return None
        many = "more than 100,000" if needed is None else str(needed)
        return (
            f"this study cannot decide {claim.id}: equivalence within {predicate.margin:g} needs about "
            f"{many} seeds at noise {noise:.3g}; {seeds} are planned"
        )
    if claim.predicted is None:
        return None
    # along a chain the least of the steps is at most the mean step
    predicted = (claim.predicted - predicate.offset) / len(pairs)
    return warn_undetectable(claim.id, predicted, detectable(seeds, setting, POWER))


def _of_slope(plan: Plan) -> float:
    """The sd of a slope by decade over the sizes of one corpus, where that at each size is 1 and the sizes
    are independent."""
    corpus = plan.study.blocks[0].corpus
    names = [block.name for block in plan.study.blocks if block.corpus == corpus]
    decades = [math.log10(plan.on(name)[0].facts.parameters["non_embedding"]) for name in names]
    return 1 / math.sqrt(variance(decades) * (len(decades) - 1))


def _contrasts(plan: Plan, measure: str) -> int:
    """How many intervals without the baseline the claims on this measure ask for."""
    mine = [claim.parsed for claim in plan.study.claims if (claim.measure or plan.study.metric) == measure]
    return len(set().union(*(extra(predicate, plan.baseline) for predicate in mine)))


def seen_noise(plan: Plan, frame: "pandas.DataFrame") -> float | None:
    """The sd of differences by seed between an arm and the baseline, on the metric, from finished runs.

    From the placebo where it has three pairs or more, else pooled over all arms. Tuning runs serve (same
    rate, same seed) while there are no test runs. The mean difference, the effect, is taken out and not
    returned. None while no arm has two pairs.
    """
    metric, tune = plan.study.metric, plan.study.tune
    if frame.empty:
        return None
    for role, by in (("test", metric), ("tuning", tune.metric if tune else metric)):
        if by not in frame.columns:
            continue
        rows = frame[(frame["role"] == role) & (frame["status"] == "finished") & frame[by].notna()]
        if tune is not None and tune.metric in rows.columns:  # nested: the better of a seed's runs is judged
            rows = rows.sort_values(tune.metric, ascending=tune.better == "lower")
        keys = ["corpus", "seed"] if role == "test" else ["corpus", "rate", "seed"]
        value = rows.groupby(["arm", *keys], dropna=False)[by].first().unstack("arm")
        if plan.baseline not in value.columns:
            continue
        differences = value.drop(columns=plan.baseline).sub(value[plan.baseline], axis=0)
        groups = [key for key in keys if key != "seed"]
        centred = differences - differences.groupby(level=groups, dropna=False).transform("mean")
        cells = differences.groupby(level=groups, dropna=False).count()
        freedom = (cells - 1).clip(lower=0).sum()
        squares = (centred**2).sum()
        placebo = plan.placebo
        if placebo is not None and placebo in freedom and freedom[placebo] >= 2:
            freedom, squares = freedom[[placebo]], squares[[placebo]]
        if freedom.sum() > 0 and squares.sum() > 0:
            return float((squares.sum() / freedom.sum()) ** 0.5)
    return None
