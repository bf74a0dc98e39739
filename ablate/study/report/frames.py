"""The tables of a report as frames, at full precision; `tables` and its siblings make text of them."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ablate.study.judge.compare import Comparison
from ablate.study.judge.corpus import Judged
from ablate.study.judge.headlines import JudgedClaims
from ablate.study.judge.scale import Scale
from ablate.study.judge.solved import Verdicts
from ablate.study.judge.study_judgement import StudyJudgement
from ablate.study.report.reference_tables import beside_frame
from ablate.study.report.set_tables import set_frame
from ablate.study.report.summary import arm_costs
from ablate.study.results import Manifest

if TYPE_CHECKING:
    import pandas as pd

LISTS = ("stability", "documents", "missing", "baseline_missing")  # of a verdict: no cells of a table


def sheets(judgement: StudyJudgement) -> dict[str, "pd.DataFrame"]:
    """Every table of a report by the name of its CSV file; empty ones are left out."""
    import pandas as pd

    runs = judgement.results.runs
    parts: dict[str, list[pd.DataFrame]] = {
        "runs": [runs if runs["stale"].any() else runs.drop(columns="stale")]
    }

    def add(name: str, block: JudgedClaims, frame: "pd.DataFrame") -> None:
        if len(frame):
            frame.insert(0, "corpus", block.corpus)
            parts.setdefault(name, []).append(frame)

    for corpus in judgement.corpora:
        if corpus.comparison is not None:
            add("verdicts", corpus, verdict_frame(corpus))
            add("stability", corpus, stability_frame(corpus.comparison))
        add("claims", corpus, claim_frame(corpus))
        add("measures", corpus, models_frame(corpus.descriptions))
        add("costs", corpus, arm_costs(corpus).reset_index())
        add("sets", corpus, set_frame(corpus))
        add("references", corpus, beside_frame(judgement, corpus))
        if corpus.factorial is not None:
            add("effects", corpus, corpus.factorial.table())
        add("ingredients", corpus, ingredient_frame(corpus))
        add("rates", corpus, rate_frame(corpus))
        add("sensitivity", corpus, sensitivity_frame(corpus))
        for verdicts in corpus.solved:
            add("solved", corpus, solved_frame(verdicts))
    for scale in judgement.scales:
        add("claims", scale, claim_frame(scale))
        add("scale", scale, trend_frame(scale))
        add("ranks", scale, rank_frame(scale))
    differences = difference_frame(judgement.manifest)
    if len(differences):
        parts["differences"] = [differences]
    return {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}


def verdict_frame(judged: Judged) -> "pd.DataFrame":
    """One row for each verdict, in the order of the plan; the baseline has none."""
    import pandas as pd

    comparison = judged.comparison
    assert comparison is not None
    rows = []
    for verdict in comparison.verdicts:
        documents, effect = verdict.documents, judged.tokens(verdict.arm)
        rows.append(
            {
                **verdict.model_dump(exclude={*LISTS, *([] if len(comparison.looks) > 1 else ["look"])}),
                "documents_difference": documents.difference if documents else None,
                "documents_error": documents.error if documents else None,
                "tokens_multiple": effect.multiple if effect else None,
                "tokens_low": effect.low if effect else None,
                "tokens_high": effect.high if effect else None,
                "stability": verdict.stability.word,
                "baseline": comparison.baseline,
                "metric": comparison.metric,
                "margin": comparison.margin,
                "alpha": comparison.alpha_spent,
            }
        )
    return pd.DataFrame(rows)


def comparison_frame(comparison: Comparison) -> "pd.DataFrame":
    """One row for each verdict of any comparison, without what only the main one has."""
    return models_frame(comparison.verdicts, exclude=LISTS)


def seed_frame(comparison: Comparison, arms: Sequence[str]) -> "pd.DataFrame":
    """The metric of these arms: one row an arm, one column a judged seed; NaN where a run did not finish."""
    import pandas as pd

    values = {arm: comparison.outcomes(arm).values for arm in arms}
    rows = [
        {"arm": arm, **{str(seed): by_seed.get(seed) for seed in comparison.seeds}}
        for arm, by_seed in values.items()
    ]
    return pd.DataFrame(rows)


def stability_frame(comparison: Comparison) -> "pd.DataFrame":
    """One row for each arm beside the baseline: how many runs diverged, and the test of it."""
    import pandas as pd

    return pd.DataFrame([{"arm": v.arm, **v.stability.model_dump()} for v in comparison.verdicts])


def claim_frame(block: JudgedClaims) -> "pd.DataFrame":
    """One row for each claim that was judged, with our effect beside the published one."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                **claim.model_dump(include={"claim", "predicate", "measure", "word", "reason"}),
                **{name: getattr(claim.beside, name, None) for name in ("ours", "published", "source")},
            }
            for claim in block.claims
        ]
    )


def models_frame(models: Iterable[Any], exclude: Sequence[str] = ()) -> "pd.DataFrame":
    """One row for each pydantic model."""
    import pandas as pd

    return pd.DataFrame([model.model_dump(exclude=set(exclude)) for model in models])


def ingredient_frame(judged: Judged) -> "pd.DataFrame":
    """Two rows for each factor: added to one end, and left out of the other."""
    import pandas as pd

    return pd.DataFrame(
        [
            {"factor": ingredient.factor, "how": how, **asdict(estimate)}
            for ingredient in judged.ingredients
            for how, estimate in (("added", ingredient.added), ("left out", ingredient.left_out))
            if estimate
        ]
    )


def rate_frame(judged: Judged) -> "pd.DataFrame":
    """The choice of each arm's rate. Lists are text: a cell of CSV holds one value."""
    import pandas as pd

    def cell(value: Any) -> Any:
        if isinstance(value, dict):
            return " ".join(f"{rate:g}={loss:.10g}" for rate, loss in value.items())
        return " ".join(f"{rate:g}" for rate in value) if isinstance(value, tuple) else value

    choices = judged.tuning.choices if judged.tuning else ()
    return pd.DataFrame([{name: cell(value) for name, value in c.model_dump().items()} for c in choices])


def sensitivity_frame(judged: Judged) -> "pd.DataFrame":
    """What a wrong rate costs each arm; an arm without a sensitivity yet has only its reason."""
    import pandas as pd

    sensitivities = judged.sensitivities
    numbers = ("value", "low", "high", "best_rate", "best_loss", "clipped")
    return pd.DataFrame(
        [
            {
                **arm.model_dump(include={"arm", "runs", "diverged", "failed", "start", "bar", "reason"}),
                **{name: getattr(arm.sensitivity, name, None) for name in numbers},
                "source": sensitivities.source if sensitivities else "",
            }
            for arm in (sensitivities.arms if sensitivities else ())
        ]
    )


def solved_frame(verdicts: Verdicts) -> "pd.DataFrame":
    """P(solved) of each arm, the baseline among them, and its test against the baseline."""
    import pandas as pd

    names = ("word", "difference", "p", "p_adjusted")
    return pd.DataFrame(
        [
            {
                "metric": verdicts.metric,
                **arm.model_dump(),
                **{name: getattr(verdicts.contrasts.get(arm.arm), name, None) for name in names},
            }
            for arm in verdicts.arms.values()
        ]
    )


def trend_frame(scale: Scale) -> "pd.DataFrame":
    """The slope of each arm's gap over sizes; `first` and `last` are the gap on the line at the ends."""
    import pandas as pd

    rows = []
    for trend in scale.trends:
        row = asdict(trend)
        row["first"], row["last"] = row.pop("line") or (None, None)
        row["baseline"] = scale.baseline
        row["alpha"] = scale.comparison.alpha_spent if scale.comparison else None
        rows.append(row)
    return pd.DataFrame(rows)


def rank_frame(scale: Scale) -> "pd.DataFrame":
    """One row for each pair of sizes: Kendall's tau of the means of the arms."""
    import pandas as pd

    return pd.DataFrame([{**asdict(rank), "arms": " ".join(rank.arms)} for rank in scale.ranks])


def difference_frame(manifest: Manifest) -> "pd.DataFrame":
    """One row for each path at which an arm differs from the baseline."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "corpus": arm.corpus,
                "arm": arm.name,
                "path": difference.path,
                "baseline": difference.baseline,
                "value": difference.arm,
                "reason": difference.reason,
            }
            for arm in manifest.arms
            for difference in arm.differs
        ]
    )
