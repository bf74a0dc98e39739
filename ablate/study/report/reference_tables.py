"""Arms beside published models that read the same text, by bits per byte: these compare across tokenizers."""

from typing import TYPE_CHECKING

from ablate.study.judge.corpus import Judged
from ablate.study.judge.study_judgement import StudyJudgement
from ablate.study.report.summary import means
from ablate.study.report.table import Column, Table, absent, figure, label_column, table_of

if TYPE_CHECKING:
    import pandas as pd

BITS = "bits_per_byte"


def references_on(judgement: StudyJudgement, corpus: str) -> "pd.DataFrame":
    """The rows of published models on one corpus, of those that the study still names."""
    import pandas as pd

    frame = judgement.results.references
    if frame is None or frame.empty:
        return pd.DataFrame()
    known = frame["reference"].isin(judgement.study.references)
    return frame[known & (frame["corpus"] == corpus)].dropna(axis="columns", how="all")


def beside_frame(judgement: StudyJudgement, judged: Judged) -> "pd.DataFrame":
    """One row for each arm whose verdict does not wait, and each published model, the best first: `name`,
    `what`, `parameters`, and its bits per byte under the names of metrics. Empty without such models."""
    import pandas as pd

    published = references_on(judgement, judged.corpus)
    metrics = [column for column in published.columns if column.endswith(f"/{BITS}")]
    runs = judged.runs[(judged.runs["role"] == "test") & (judged.runs["status"] == "finished")]
    rows = []
    for arm in means(judged.comparison) if metrics else ():
        found = runs[runs["arm"] == arm]
        planned = next((each for each in judged.arms if each.name == arm), None)
        numbers = {m: found[m].astype(float).mean() for m in metrics if m in found.columns}
        size = planned.facts.parameters.get("total") if planned else None
        rows.append({"name": arm, "what": "arm", "parameters": size, **numbers})
    for row in published.to_dict("records") if metrics else ():
        numbers = {m: row[m] for m in metrics}
        named = {"name": row["reference"], "what": "published model", "parameters": row["parameters"]}
        rows.append({**named, **numbers})
    frame = pd.DataFrame(rows)
    return frame if frame.empty else frame.sort_values(metrics[0], kind="stable", ignore_index=True)


def reference_tables(judgement: StudyJudgement, judged: Judged) -> list[Table]:
    """One table, where the study names published models and they have been measured."""
    from ablate.amounts import amount

    frame = beside_frame(judgement, judged)
    if frame.empty:
        return []
    metrics = [column for column in frame.columns if column.endswith(f"/{BITS}")]
    columns = [
        label_column("model", "name"),
        label_column("", "what"),
        Column("parameters", lambda row: "" if absent(row["parameters"]) else amount(row["parameters"])),
        *(figure(metric, metric, 4) for metric in metrics),
    ]
    read = references_on(judgement, judged.corpus)["read"].iloc[0]
    note = (
        "Published models are read as they are, each in its own tokens, and no verdict is of them: they saw "
        f"other text, and perhaps this one. How they read: {read}. Arms: the mean over finished test runs."
    )
    return [table_of("Beside published models", frame, columns, note)]
