"""Tables of the study itself: differences, matching, outcomes, failures and origins of its runs."""

from typing import TYPE_CHECKING, Any

from ablate.study.report.phrasing import short
from ablate.study.report.table import Table
from ablate.study.report.tables import ARROW
from ablate.study.results import Results

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 40  # of runs that failed and of differences; the rest is in the CSV


def difference_table(results: Results) -> Table | None:
    """What differed between arms: all that their specifications do not share with the baseline's."""
    study = results.manifest.study
    many = len(study.places) > 1
    rows = [
        (*([arm.corpus] if many else []), arm.name, d.path, _value(d.baseline), _value(d.arm), d.reason)
        for arm in results.manifest.arms
        for d in arm.differs
    ]
    note = "Everything else in the specifications is equal."
    if len(rows) > MOST_ROWS:
        note += f" The first {MOST_ROWS} of {len(rows)} are shown; tables/differences.csv has all."
    columns = (
        *(["corpus"] if many else []),
        "arm",
        "path",
        results.manifest.baseline,
        "arm's value",
        "because",
    )
    return Table("What differed", columns, tuple(rows[:MOST_ROWS]), note) if rows else None


def _value(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}\N{HORIZONTAL ELLIPSIS}"


def matching_table(results: Results) -> Table | None:
    study = results.manifest.study
    if study.match is None:
        return None
    many = len(study.places) > 1
    rows = []
    for arm in results.manifest.arms:
        if arm.matched is None:
            continue
        m = arm.matched
        knob = "as configured" if m.after is None else f"{m.by}: {m.before or 'open'} {ARROW} {m.after}"
        rows.append(
            (
                *([arm.corpus] if many else []),
                arm.name,
                knob,
                f"{m.unmatched:+.2%}",
                f"{m.residual:+.2%}",
            )
        )
    return (
        Table(
            "Matching",
            (*(["corpus"] if many else []), "arm", "knob", "off before", "off after"),
            tuple(rows),
            f"{study.match.hold} held within {study.match.tolerance:.2%} of the baseline's.",
            tuple(range(2 + many, 4 + many)),
        )
        if rows
        else None
    )


def outcome_table(results: Results) -> Table:
    """How the runs of every arm ended, by class."""
    runs = results.runs
    status = runs["status"].fillna("not run")
    order = ["finished", "diverged", "out_of_memory", "crashed", "interrupted", "refused", "not run"]
    there = [word for word in order if (status == word).any()]
    keys = ["corpus", "arm", "role"] if runs["corpus"].nunique() > 1 else ["arm", "role"]
    rows = []
    for where, group in runs.assign(status=status).groupby(keys, sort=False):
        counts = group["status"].value_counts()
        said = where if isinstance(where, tuple) else (where,)
        rows.append((*map(str, said), *(str(counts.get(word, 0)) for word in there)))
    return Table(
        "How runs ended",
        (*keys, *(word.replace("_", " ") for word in there)),
        tuple(rows),
        "Diverged counts against the arm; out of memory is a cost; crashed and interrupted are missing data, "
        "and the verdict waits for them.",
        tuple(range(len(keys), len(keys) + len(there))),
    )


def failure_table(results: Results) -> Table | None:
    """Each run that did not finish, and why."""
    runs = results.runs
    failed = runs[runs["status"].notna() & (runs["status"] != "finished")]
    rows = [
        (
            str(run["status"]).replace("_", " "),
            str(run["arm"]),
            f"{run['role']} {run['seed']}",
            short(run["rate"]),
            str(run["id"]),
            _value(run["reason"] or ""),
        )
        for run in failed.head(MOST_ROWS)[["status", "arm", "role", "seed", "rate", "id", "reason"]].to_dict(
            "records"
        )
    ]
    note = ""
    if len(failed) > MOST_ROWS:
        note = f"The first {MOST_ROWS} of {len(failed)}; tables/runs.csv has all."
    columns = ("status", "arm", "role and seed", "rate", "run", "reason")
    return Table("Runs that failed", columns, tuple(rows), note) if rows else None


def origin_table(results: Results) -> Table:
    """Code, data, versions and hardware."""
    runs = results.runs[results.runs["status"].notna()]
    rows = []
    for column, said in (
        ("code", "code (hash of the sources, by arm's parts)"),
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
            rows.append((said, _counted(runs[column])))
    for column in sorted(c for c in runs.columns if c.startswith("fingerprint/")):
        rows.append((f"data: {column.partition('/')[2]}", _counted(runs[column])))
    looks = runs.drop_duplicates("id")["looks"].fillna(0).astype(int)  # a test run may be a fixed run, too
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
