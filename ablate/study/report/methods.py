"""The methods paragraph: what was done, in sentences for a paper."""

import re
from collections.abc import Callable
from typing import Any

from ablate.amounts import MINUS, amount
from ablate.spec import MACRO
from ablate.study.design.claim import counts
from ablate.study.design.differences import fetch
from ablate.study.design.level import has_effects, held_to_the_end, other_families, table_alpha, true_level
from ablate.study.design.study import Study
from ablate.study.design.tune import Tune
from ablate.study.report.phrasing import seed_ranges
from ablate.study.results import Manifest, PlanRecord, Results

NESTED = (
    "each test seed was trained at the best rate and at its better neighbour, and the better on validation "
    "was kept"
)
HELD = {
    "non_embedding_params": "the number of parameters without embeddings",
    "total_params": "the number of parameters",
    "active_flops": "the training FLOPs of a token",
    "train_flops": "the FLOPs of training",
}


def methods(results: Results) -> str:
    """The methods paragraph, from the plan alone: seeds, tuning, matching, test, family, looks."""
    manifest = results.manifest
    study = manifest.study
    sentences = [
        _models(manifest, study),
        _arms(manifest, study),
        _matching(study),
        _tuning(study),
        _seeds(study),
        _budgets(study),
        _scoring(study),
        _test(manifest, study),
        _looks(study, results.manifest.plan),
        _factors(study),
        _scale(study),
        _claims_on_several(study),
        _failures(),
        _frozen(manifest),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _models(manifest: Manifest, study: Study) -> str:
    def option(path: str, how: Callable[[Any], str] = str) -> str:
        try:
            return how(fetch(manifest.spec, path))
        except KeyError:
            return ""

    tokens = option("budget.tokens", amount)
    batch, optimizer = option("budget.batch_tokens", lambda n: f"{n:,}"), option("optim.name")
    shape = [f"{word} {option(f'model.{word}')}" for word in ("depth", "width", "heads", "context")]
    shape = [part for part in shape if part.split(" ", 1)[1]]
    first = next(iter(study.sizes), "")
    counted = [
        manifest.on(block.name)[0].facts.parameters.get("non_embedding")
        for block in study.blocks
        if block.corpus == study.blocks[0].corpus
    ]
    size = f"; {', '.join(map(amount, counted))} parameters without embeddings" if all(counted) else ""
    shaped = f"{f'at {first} ' if first and shape else ''}{', '.join(shape)}"
    text = f"We trained decoder-only language models ({shaped}{size})"
    text += f" on {tokens} tokens" if tokens else ""
    text += f" in batches of {batch}" if batch else ""
    text += f" with {optimizer}" if optimizer else ""
    precision = option("precision")
    return f"{text}{f' in {precision}' if precision else ''}."


def _arms(manifest: Manifest, study: Study) -> str:
    arms = manifest.on(manifest.arms[0].corpus)
    others = len(arms) - 1 - bool(manifest.placebo)
    where = f", on each of {len(study.corpora)} corpora" if len(study.corpora) > 1 else ""
    where += f", at each of {len(study.sizes)} sizes ({', '.join(study.sizes)})" if study.sizes else ""
    text = (
        f"{_counted(others, 'arm')} {'was' if others == 1 else 'were'} compared with the baseline "
        f"{manifest.baseline}{where}; their specifications differ in {', '.join(study.axis)} and nowhere "
        "else that is not declared."
    )
    if manifest.placebo:
        redrawn = next(arm.redraw for arm in arms if arm.name == manifest.placebo)
        text += (
            " A placebo arm, equal to the baseline but for the draws of "
            f"{', '.join(redrawn)}, shows what the seed alone does."
        )
    return text


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _matching(study: Study) -> str:
    match = study.match
    if match is None:
        return ""
    held = HELD[match.hold]
    own = "".join(f", of {arm} {knob}" for arm, knob in match.by_arm.items())
    return (
        f"{held[0].upper()}{held[1:]} was held within {100 * match.tolerance:g}% of the baseline's by "
        f"turning {match.by}{own}."
    )


def _tuning(study: Study) -> str:
    tune = study.tune
    if tune is None:
        return "No rate was tuned: every arm ran at that of its configuration."
    how = (
        NESTED
        if tune.nested
        else "the vertex of a parabola in log rate, through the best rate and its neighbours, was taken"
    )
    fixed = " Every arm was also run at the baseline's rate." if tune.fixed_rate_table else ""
    if tune.search == "rounds":
        return f"{_rounds(tune)}{fixed}"
    return (
        f"{tune.path} was tuned for every arm over the same grid "
        f"({', '.join(f'{rate:g}' for rate in tune.rates)}), widened for all where the best lay at its edge, "
        f"on {_counted(len(tune.seeds), 'seed')} that served for nothing else, by {tune.metric}; {how}."
        f"{fixed}{_sensitive(study)}"
    )


def _rounds(tune: Tune) -> str:
    how = NESTED if tune.nested else "the vertex of the least-squares parabola in log rate was taken"
    grid = ", ".join(f"{rate:g}" for rate in tune.rates)
    return (
        f"{tune.path} was tuned by rounds on {_counted(len(tune.seeds), 'seed')} that served for nothing "
        f"else, by {tune.metric}. The baseline took the grid {grid} with "
        "the first of them, every other arm the baseline's best rate and half a step of the grid to either "
        "side with all. From there every arm was run at its best rate so far and its neighbours with all "
        "seeds until neither changed, with a rate more on either side where the three were flat, in at most "
        f"{tune.rounds.runs} runs an arm; {how}."
    )


def _sensitive(study: Study) -> str:
    if study.tune is None or not study.tune.tells_sensitivity:
        return ""
    return (
        f" The same runs give the sensitivity to {study.tune.path} (Wortsman et al. 2023): the mean over the "
        "rates that every arm has of min(l, l0) less the least l, where l0 is the measured loss before "
        "training and runs that diverged count as l0; its interval is a percentile bootstrap over the tuning "
        "seeds."
    )


def _seeds(study: Study) -> str:
    return (
        f"Every arm was trained with seeds {seed_ranges(study.seeds)} ({len(study.seeds)} in all). A seed "
        "sets the initial values, keyed by the names of the parameters, and the order of the data, so that "
        "arms share both."
    )


def _budgets(study: Study) -> str:
    if not study.budgets:
        return ""
    shares = ", ".join(f"{share:g}" for share in study.budgets[:-1])
    return (
        f"Each of these runs was also ended at {shares} of its tokens, by a decay that branches off the same "
        "run; gaps there are described. Effective speed-ups are read off the losses at all budgets, with "
        "intervals that invert Student's t over seeds."
    )


def _scoring(study: Study) -> str:
    what = f"The primary metric is {study.metric} ({study.better} is better), taken at the last step"
    what += _on_which_text(study.metric)
    rest = f"; {', '.join(study.measures)} are described only" if study.measures else ""
    margin = (
        f" Differences below {study.equivalence_margin:g} were declared not to matter."
        if study.equivalence_margin
        else ""
    )
    return f"{what}{rest}.{margin}"


def _on_which_text(metric: str) -> str:
    """On all of held-out, on one set, or on average over the sets; nothing of other metrics."""
    kind, *names = metric.split("/")[:-1]
    split = {"heldout": "held-out", "validation": "validation"}.get(kind)
    if split is None or (kind == "validation" and not names):
        return ""
    if names == [MACRO]:
        return f" as the mean over the {split} splits of the sets"
    return f" on all of the {split} split" + "".join(f" of {name}" for name in names)


def _test(manifest: Manifest, study: Study) -> str:
    family = _counted(len(manifest.on(manifest.arms[0].corpus)) - 1, "comparison")
    alpha, level = table_alpha(study, before := manifest.plan.judged_before if manifest.plan else 0), ""
    if alpha < study.alpha:
        level = f"The level {study.alpha:g} is split over the declared tables of all corpora and sizes"
        level += f", halved for each of {before} earlier judgements. " if before else ". "
    others = other_families(study, manifest.baseline)
    bound = true_level(study, manifest.baseline, before)
    level += (
        f"Beside them, at {alpha:g} each in every corpus and size: {', '.join(others)}. Where nothing "
        f"differs, the chance that the study decides anything is at most {bound:.2g}."
    )
    if counts(study.metric):
        return (
            f"The family is all {family} with the baseline. Each run solves its task or does not; verdicts "
            "are read off Fisher's exact test on the counts, with Holm's adjustment over the arms, at the "
            f"level {alpha:g}; runs that diverged count as not solved. {level}"
        )
    how = (
        "Student's t on the differences by seed, at the level that Bonferroni gives each comparison"
        if study.interval == "paired"
        else "Dunnett's interval in the blocked model metric ~ arm + seed with one residual variance"
    )
    equivalent = (
        ", and equivalent if it contains 0 and lies within the margin" if study.equivalence_margin else ""
    )
    return (
        f"The family is all {family} with the baseline. Verdicts are read from one simultaneous interval for "
        f"each arm ({how}; family-wise level {alpha:g}): an arm is better or worse if it excludes 0"
        f"{equivalent}; otherwise it is undecided. {level}"
    )


LOOKED_AT = ("study.seeds", "study.interim_seeds")


def _looks(study: Study, plan: PlanRecord | None) -> str:
    looks = study.declared_looks
    moved = [rule for rule in plan.moved_rules if rule.startswith(LOOKED_AT)] if plan else []
    if moved:
        kept = "no level was kept for earlier looks"
        if plan and plan.judged_before:
            kept = "the level was halved for each earlier judgement"
        return (
            f"The data were judged at {_counted(len(study.seeds), 'seed')}, which is not what was frozen "
            f"({'; '.join(moved)}): {kept}."
        )
    if len(looks) < 2:
        return f"The data were judged once, at {_counted(len(study.seeds), 'seed')}."
    stopped = ""
    if not held_to_the_end(study, (), ""):
        stopped = (
            " An arm whose verdict and claims were decided at a look got no more seeds; its interval is that "
            "of the look."
        )
    return (
        f"The data were judged at {', '.join(map(str, looks))} seeds, as declared, with the level split "
        f"evenly over these looks.{stopped}"
    )


def _factors(study: Study) -> str:
    design = study.design
    if not has_effects(study):
        return ""
    alone = (
        "each factor was added alone to one end and left out of the other, judged by Student's t on the "
        "differences by seed, Bonferroni over the contrasts"
    )
    binary = all(len(levels) == 2 for levels in design.factors.values())
    if design.kind != "factorial" or (study.exclude and binary):
        return f"{alone[0].upper()}{alone[1:]}."
    if study.exclude:
        return ""
    text = (
        "Main effects and two-way interactions are those of metric ~ (factors)^2 + seed with sum coding, "
        "their intervals simultaneous by Bonferroni"
    )
    return f"{text}; beside them, {alone}." if binary else f"{text}."


def _scale(study: Study) -> str:
    if not study.sizes or counts(study.metric):
        return ""
    how = (
        f"Student's t on n {MINUS} 1 degrees of freedom for n seeds, Bonferroni over the arms"
        if study.interval == "paired"
        else "Dunnett's interval in the blocked model slope ~ arm + seed"
    )
    return (
        "All of this was done at each size apart. For each arm and seed the slope of the metric on the "
        "decimal logarithm of the baseline's parameters without embeddings was fitted by least squares; an "
        f"arm's slope less the baseline's at the same seed is that of its gap, judged by {how}, as one "
        "family beside those of the sizes. Ranks at two sizes are compared by Kendall's tau-b of the means."
    )


def _claims_on_several(study: Study) -> str:
    """How claims were judged that have no interval of the verdicts."""
    measures = {claim.measure for claim in study.claims}
    sentences = []
    if any(claim.parsed.kind == "level" for claim in study.claims):
        sentences.append("Claims on a level are read off Student's interval over the seeds of their arm.")
    if "tuning/sensitivity" in measures:
        sentences.append("Claims on sensitivity are read off Student's interval over tuning seeds, paired.")
    if any(counts(claim.measure or study.metric) for claim in study.claims):
        sentences.append(
            "Claims on failures are read off Fisher's exact test, and Clopper and Pearson's interval."
        )
    return " ".join(sentences)


def _failures() -> str:
    return (
        "Runs that diverged count against their arm (Fisher's exact test, Holm over the arms), and quality "
        "is compared among the finished; no run was dropped."
    )


def _frozen(manifest: Manifest) -> str:
    plan = manifest.plan
    if plan is None:
        return "The plan was not frozen before the runs."
    when = "before the first test run" if plan.test_runs == 0 else f"after {plan.test_runs} test runs"
    count = len(plan.amendments)
    changed = (
        f"with {count} later amendment{'s' if count > 1 else ''}" if count else "and followed as planned"
    )
    return f"The plan was frozen {when} (hash {re.sub(r'[^0-9a-f]', '', plan.hash)}) {changed}."
