"""Tables of the study itself: differences, matching, outcomes, failures and origins of its runs."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from ablate.study.report.frames import difference_frame
from ablate.study.report.table import Column, FrameRow, Table, absent, digits, label_column, table_of
from ablate.study.results import Manifest, Results

if TYPE_CHECKING:
    import pandas as pd

ARROW = "\N{RIGHTWARDS ARROW}"
MOST_ROWS = 40  # of runs that failed and of differences; the rest is in the CSV
LONGEST_VALUE = 80  # letters of a value of a specification


def difference_table(manifest: Manifest) -> Table | None:
    """Everything in which the specifications of arms differ from the baseline's."""
    frame = difference_frame(manifest)
    columns = [
        *_where(manifest),
        label_column("arm"),
        label_column("path"),
        _value(manifest.baseline, "baseline"),
        _value("arm's value", "value"),
        label_column("because", "reason"),
    ]
    note = "Everything else in the specifications is equal."
    if len(frame) > MOST_ROWS:
        note += f" The first {MOST_ROWS} of {len(frame)} are shown; tables/differences.csv has all."
    return table_of("What differed", frame.head(MOST_ROWS), columns, note) if len(frame) else None


def matching_table(manifest: Manifest) -> Table | None:
    """How each arm was matched to the baseline; None where none was."""
    import pandas as pd

    match = manifest.study.match
    frame = pd.DataFrame(
        [
            {"corpus": arm.corpus, "arm": arm.name, **asdict(arm.matched)}
            for arm in manifest.arms
            if arm.matched
        ],
        dtype=object,
    )
    if match is None or frame.empty:
        return None

    def knob(row: FrameRow) -> str:
        if absent(row["after"]):
            return "as configured"
        return f"{row['by']}: {row['before'] or 'open'} {ARROW} {row['after']}"

    columns = [
        *_where(manifest),
        label_column("arm"),
        Column("knob", knob, numeric=False),
        Column("off before", lambda row: f"{row['unmatched']:+.2%}"),
        Column("off after", lambda row: f"{row['residual']:+.2%}"),
    ]
    note = f"{match.hold} held within {match.tolerance:.2%} of the baseline's."
    return table_of("Matching", frame, columns, note)


def _where(manifest: Manifest) -> list[Column]:
    """The column of the corpus, where there are several."""
    return [label_column("corpus")] if len(manifest.study.places) > 1 else []


def _value(heading: str, name: str) -> Column:
    return Column(heading, lambda row: _clipped(str(row[name])), numeric=False)


def _clipped(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}\N{HORIZONTAL ELLIPSIS}"


def outcome_table(results: Results) -> Table | None:
    """How the runs of every arm ended, by class."""
    runs = results.runs
    if runs.empty:
        return None
    status = runs["status"].fillna("not run")
    order = ["finished", "diverged", "out_of_memory", "crashed", "interrupted", "refused", "not run"]
    there = [word for word in order if (status == word).any()]
    keys = ["corpus", "arm", "role"] if runs["corpus"].nunique() > 1 else ["arm", "role"]
    rows = []
    for where, group in runs.assign(status=status).groupby(keys, sort=False):
        counts = group["status"].value_counts()
        place = where if isinstance(where, tuple) else (where,)
        rows.append((*map(str, place), *(str(counts.get(word, 0)) for word in there)))
    return Table(
        "How runs ended",
        (*keys, *(word.replace("_", " ") for word in there)),
        tuple(rows),
        "Diverged counts against the arm; out of memory is a cost; crashed and interrupted are missing data, "
        "and the verdict waits for them.",
        tuple(range(len(keys), len(keys) + len(there))),
    )


def failure_table(results: Results) -> Table | None:
    """Each run that did not finish, and why; None where all did."""
    runs = results.runs
    failed = runs[runs["status"].notna() & (runs["status"] != "finished")]
    columns = [
        Column("status", lambda row: row["status"].replace("_", " "), numeric=False),
        label_column("arm"),
        Column("role and seed", lambda row: f"{row['role']} {row['seed']}", numeric=False),
        Column("rate", digits("rate", "rate").write, numeric=False),
        label_column("run", "id"),
        Column("reason", lambda row: _clipped(str(row["reason"] or "")), numeric=False),
    ]
    note = ""
    if len(failed) > MOST_ROWS:
        note = f"The first {MOST_ROWS} of {len(failed)}; tables/runs.csv has all."
    return table_of("Runs that failed", failed.head(MOST_ROWS), columns, note) if len(failed) else None


def origin_table(results: Results) -> Table:
    """Code, data, versions and hardware."""
    runs = results.runs[results.runs["status"].notna()]
    rows = []
    for column, heading in (
        ("source_hash", "code (hash of the sources, by arm's parts)"),
        ("origin/git", "commit"),
        ("kernel", "attention kernel"),
        ("precision", "precision"),
        ("device_kind", "hardware"),
        ("origin/devices", "devices a run"),
        ("origin/replicas", "runs trained as one"),
        ("origin/ablate", "ablate"),
        ("origin/torch", "torch"),
        ("origin/lightning", "lightning"),
        ("origin/python", "python"),
        ("origin/platform", "platform"),
    ):
        if column in runs.columns:
            rows.append((heading, _counted(runs[column])))
    for column in sorted(c for c in runs.columns if c.startswith("fingerprint/")):
        rows.append((f"data: {column.partition('/')[2]}", _counted(runs[column])))
    looks = (
        runs.drop_duplicates("id")["heldout_reads"].fillna(0).astype(int)
    )  # a test run may be a fixed run, too
    if len(looks):
        rows.append(
            ("looks at held-out", f"{looks.sum()} in {len(looks)} runs, at most {looks.max()} in one")
        )
    if "origin/began" in runs.columns and runs["origin/began"].notna().any():
        rows.append(
            ("trained", f"{runs['origin/began'].dropna().min()} to {runs['origin/ended'].dropna().max()}")
        )
    return Table("Origin", ("", ""), tuple(row for row in rows if row[1]))


def _counted(column: "pd.Series") -> str:
    """The values, with how many runs have each where there are several."""
    values = column.dropna().astype(str)
    counts = values[values != ""].value_counts()
    if len(counts) <= 1:
        return "".join(counts.index)
    shown = [f"{value} ({count} runs)" for value, count in sorted(counts.items())]
    more = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
    return ", ".join(shown[:6]) + more
