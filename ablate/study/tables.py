"""The tables of a report, as text to be read. The same numbers at full precision are in `paper.sheets`."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ablate.amounts import amount
from ablate.study.claims import Judgement, parse
from ablate.study.compare import Comparison, Verdict
from ablate.study.figures import COSTS, arm_costs, means, ranked
from ablate.study.intervals import Estimate
from ablate.study.judged import Judged, Told, headlines
from ablate.study.results import Results
from ablate.study.scale import Scale, Size, Trend
from ablate.study.solved import Verdicts, declared
from ablate.study.tokens import TokenEffect
from ablate.study.tuned import STARTS
from ablate.study.wording import (
    MINUS,
    decimals,
    interval,
    number,
    numbers,
    places_of,
    probability,
    seeds_needed,
    short,
    unit,
    word,
)

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 40  # of runs that failed and of differences; the rest is in the CSV
PM = "\N{PLUS-MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
ARROW = "\N{RIGHTWARDS ARROW}"


@dataclass(frozen=True)
class Table:
    """Rows of text below headings. `note` says what must be known to read it; `numeric` are the columns that
    stand to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    numeric: tuple[int, ...] = ()


def verdict_table(judged: Judged) -> Table | None:
    """The leaderboard: the best first, the baseline in its place."""
    comparison = judged.comparison
    if comparison is None:
        return None
    columns = ["arm", "verdict", "difference", "interval", "seeds", "mean", "sd", "r"]
    beside = any(verdict.documents for verdict in comparison.verdicts)
    tokens = judged.slope is not None
    columns += ["other text"] * beside + ["tokens"] * tokens
    rows = []
    for arm in ranked(judged):
        cells = verdict_cells(judged, arm)
        rows.append(tuple(cells[column] for column in columns))
    level = f"{100 * (1 - comparison.alpha_spent):g} %"
    note = (
        f"Differences in {comparison.metric}, arm minus {comparison.baseline}, over seeds. The "
        f"intervals hold together at {level}. sd: of the differences by seed; r: the correlation of arm and "
        "baseline over seeds."
    )
    if declared(comparison.metric):
        note = (
            f"Differences in P(solved), arm minus {comparison.baseline}. The verdict is Fisher's exact test "
            f"on the counts below, at {100 * comparison.alpha_spent:g} % over all arms; a difference of so "
            "few counts has no exact interval."
        )
    if beside:
        note += " Other text: the same difference with its standard error over documents."
    if tokens:
        note += " Tokens: the multiple of the baseline's text that would give the arm's loss."
    return Table("", tuple(columns), tuple(rows), note, tuple(range(2, len(columns))))


def worth(effect: TokenEffect) -> str:
    """1.30x [1.10, 1.60]; nothing where it is blank."""
    if effect.multiple is None:
        return ""
    ends = interval(effect.low, effect.high, 2, signed=False)
    return f"{effect.multiple:.2f}{TIMES} {ends}" + (f" ({effect.reason})" if effect.reason else "")


def verdict_cells(judged: Judged, arm: str) -> dict[str, str]:
    """What is shown of an arm, by column. All empty but the mean for the baseline."""
    comparison = judged.comparison
    assert comparison is not None
    places = decimals(comparison)
    mean = number(means(comparison).get(arm), places)
    if arm == comparison.baseline:
        runs = len(comparison.outcomes(arm).values)
        empty = dict.fromkeys(("difference", "interval", "sd", "r", "other text", "tokens"), "")
        return {**empty, "arm": arm, "verdict": "baseline", "seeds": str(runs), "mean": mean, "note": ""}
    verdict = comparison.verdict(arm)
    documents = verdict.documents
    effect = judged.tokens(arm)
    return {
        "arm": arm,
        "verdict": word(verdict),
        "difference": number(verdict.difference, places, True),
        "interval": interval(verdict.low, verdict.high, places),
        "seeds": str(verdict.n) if verdict.n else "",
        "mean": mean,
        "sd": number(verdict.sd, places) if verdict.difference is not None else "",
        "r": number(verdict.correlation, 2) if verdict.difference is not None else "",
        "other text": ""
        if documents is None
        else f"{number(documents.difference, places, True)} {PM} {number(documents.error, places)}",
        "tokens": "" if effect is None else worth(effect),
        "note": notes_on(verdict, comparison),
    }


def notes_on(verdict: Verdict, comparison: Comparison) -> str:
    """What a reader must know beside the word."""
    parts = []
    if verdict.word == "waiting" or (verdict.difference is None and verdict.reason):
        parts.append(verdict.reason)
    if verdict.seeds_needed:
        parts.append(seeds_needed(verdict, comparison))
    if verdict.conditional and verdict.difference is not None:
        parts.append("judged among the runs that finished")
    if verdict.method == "welch":
        parts.append("no common seeds: Welch's unpaired interval")
    if verdict.stability.word in ("more stable", "less stable"):
        parts.append(f"{verdict.stability.word} than {comparison.baseline}")
    return "; ".join(parts)


def corpus_tables(results: Results, judged: Judged) -> list[Table]:
    """What stands below the leaderboard of a corpus."""
    made = [
        *(_solved(found) for found in judged.solved),
        _stability(judged),
        _fixed(judged),
        _rates(results, judged),
        _sensitivity(judged),
        *_factors(judged),
        _costs(judged),
        _descriptions(judged),
    ]
    return [table for table in made if table is not None and table.rows]


def _solved(found: Verdicts) -> Table:
    """How often each arm solves its task, the most often first."""
    rows = []
    for arm in sorted(found.arms.values(), key=lambda arm: -(arm.share or 0.0)):
        contrast = found.contrasts.get(arm.arm)
        rows.append(
            (
                arm.arm,
                contrast.word if contrast else "baseline",
                f"{arm.solved} of {arm.runs}",
                number(arm.share, 2),
                interval(arm.low, arm.high, 2, signed=False) if arm.runs else "",
                probability(contrast.p_adjusted) if contrast else "",
                "" if arm.between is None else str(arm.between),
            )
        )
    note = (
        f"{found.metric}, over the test runs that finished or diverged, which is not solved. Intervals "
        f"of Clopper and Pearson at {100 * (1 - found.alpha):g} %; Fisher's exact test against the baseline, "
        f"Holm over the arms. With fewer than {found.fewest} seeds not even all against none is decided. "
        "Between: runs that get some examples exactly right and not enough; where they are many, read the "
        "exact match instead."
    )
    columns = ("arm", "verdict", "solved", "P(solved)", "interval", "p", "between")
    return Table(f"P(solved) by {found.metric}", columns, tuple(rows), note, (2, 3, 4, 5, 6))


def _stability(judged: Judged) -> Table | None:
    comparison = judged.comparison
    if comparison is None:
        return None
    rows = []
    for arm in ranked(judged):
        if arm == comparison.baseline:
            continue
        found = comparison.verdict(arm).stability
        rows.append(
            (
                arm,
                found.word,
                f"{found.diverged} of {found.runs}",
                f"{found.baseline_diverged} of {found.baseline_runs}",
                probability(found.p_adjusted),
            )
        )
    return Table(
        "Stability",
        ("arm", "verdict", "diverged", "baseline diverged", "p"),
        tuple(rows),
        "Fisher's exact test on diverged and finished runs, Holm over the arms. A verdict beside quality.",
        (2, 3, 4),
    )


def _fixed(judged: Judged) -> Table | None:
    """Every arm at the baseline's rate: how much of the effect is the rate's."""
    comparison = judged.fixed
    if comparison is None:
        return None
    places = decimals(comparison)
    rows = [
        (v.arm, word(v), number(v.difference, places, True), interval(v.low, v.high, places), str(v.n))
        for v in comparison.verdicts
    ]
    return Table(
        "At the baseline's rate",
        ("arm", "verdict", "difference", "interval", "seeds"),
        tuple(rows),
        "The contrast without tuning: every arm at the rate that was chosen for the baseline. Beside the "
        "verdicts above, not in their place.",
        (2, 3, 4),
    )


def _rates(results: Results, judged: Judged) -> Table | None:
    if judged.tuning is None:
        return None
    tune = results.kept.said().tune
    rows = []
    for choice in judged.tuning.choices:
        chosen = choice.rates(tune is not None and tune.nested)
        how = "vertex of a parabola" if choice.kind == "vertex" else choice.reason
        rows.append(
            (
                choice.arm,
                ", ".join(map(short, chosen)),
                ", ".join(f"{rate:g}" for rate in choice.failed),
                "the better of both at each test seed" if len(chosen) > 1 else how,
            )
        )
    seeds = numbers(judged.tuning.seeds)
    grid = sorted({rate for choice in judged.tuning.choices for rate in (*choice.means, *choice.failed)})
    note = (
        f"{tune.path if tune else 'rate'}, chosen on {tune.metric if tune else ''} over "
        f"{', '.join(f'{rate:g}' for rate in grid)}, tuning seeds {seeds}."
    )
    note = " ".join([note, *(f"{warning}." for warning in judged.tuning.warnings)])
    return Table("Rates", ("arm", "chosen", "failed at", "how"), tuple(rows), note, (1,))


def _sensitivity(judged: Judged) -> Table | None:
    """What a wrong rate costs each arm, the least first."""
    found = judged.sensitivities
    if found is None:
        return None
    known = [arm.sensitivity for arm in found.arms if arm.sensitivity]
    places = places_of([(s.high - s.low) / 2 for s in known if s.low is not None and s.high is not None])
    rows = []
    for arm in sorted(found.arms, key=lambda arm: arm.sensitivity.value if arm.sensitivity else math.inf):
        s = arm.sensitivity
        rows.append(
            (
                arm.arm,
                number(s.value, places) if s else arm.reason,
                interval(s.low, s.high, places, signed=False) if s else "",
                short(s.best_rate) if s else "",
                short(arm.start, 4),
                f"{arm.diverged} of {arm.runs}",
                str(s.clipped) if s else "",
                "" if arm.failed is None else str(arm.failed),
            )
        )
    seeds = len(found.seeds)
    note = (
        f"The mean over the rates {', '.join(f'{rate:g}' for rate in found.rates)} of min(l, l0) "
        f"{MINUS} l*, in nats (Wortsman et al. 2023): l the final {found.metric}, averaged over "
        f"{seeds} tuning seed{'s' * (seeds != 1)}, l* its least. "
    )
    note += f"l0 is {STARTS[found.source]}. " if found.source else ""
    note += (
        "The intervals are bootstrapped over seeds"
        + (", too few of them: they are too narrow" if seeds < 6 else "")
        + "; claims are judged by Student's t over seeds instead. Failed: diverged, or ended above half-way "
        "between l0 and the least loss of any arm."
    )
    columns = ("arm", "sensitivity", "interval", "best rate", "l0", "diverged", "above l0", "failed")
    return Table(f"Sensitivity to {found.path}", columns, tuple(rows), note, tuple(range(1, 8)))


def _factors(judged: Judged) -> Iterator[Table | None]:
    found = judged.factorial
    if found is not None:
        title = "Main effects and interactions"
        if found.waiting:
            note = f"Waiting for {len(found.waiting)} runs, first of all {found.waiting[0]}."
            yield Table(title, ("effect",), (("waiting",),), note)
        else:
            halves = [(e.high - e.low) / 2 for e in found.effects]
            places = places_of(halves)
            rows = [
                (
                    f" {TIMES} ".join(e.factors),
                    ", ".join(e.references),
                    ", ".join(e.levels),
                    number(e.difference, places, True),
                    interval(e.low, e.high, places),
                    "excludes 0" if e.low > 0 or e.high < 0 else "contains 0",
                )
                for e in found.effects
            ]
            note = (
                f"{found.metric}: the mean at the second level minus the mean at the first; for a pair, how "
                f"much that changes when the other factor changes. The intervals hold together at "
                f"{100 * (1 - found.alpha):g} %."
            )
            note += " Judged among the runs that finished." if found.conditional else ""
            yield Table(
                title, ("effect", "from", "to", "difference", "interval", ""), tuple(rows), note, (3, 4)
            )
    if judged.ingredients:
        estimates = [e for i in judged.ingredients for e in (i.added, i.left_out) if e]
        places = places_of([(e.high - e.low) / 2 for e in estimates])
        added = [
            (i.factor, *_estimate(i.added, places), *_estimate(i.left_out, places))
            for i in judged.ingredients
        ]
        first, last = _ends(judged)
        note = "With minus without, so that both agree where nothing interacts. Blank where runs are missing."
        if first:
            note = f"Added to {first}, and left out of {last}. {note}"
        note += " The intervals of this table hold together."
        note += " Judged among the runs that finished." if judged.ingredients[0].conditional else ""
        yield Table(
            "Each ingredient, added alone and left out",
            ("factor", "added", "interval", "left out", "interval"),
            tuple(added),
            note,
            (1, 2, 3, 4),
        )


def _ends(judged: Judged) -> tuple[str, str]:
    """The cells of a factorial between which ingredients are added; empty for other designs."""
    found = judged.factorial
    if found is None:
        return "", ""
    ends = [", ".join(levels[at] for levels in found.factors.values()) for at in (0, -1)]
    return ends[0], ends[1]


def _estimate(estimate: Estimate | None, places: int) -> tuple[str, str]:
    if estimate is None:
        return "", ""
    return number(estimate.difference, places, True), interval(estimate.low, estimate.high, places)


def _costs(judged: Judged) -> Table | None:
    table = arm_costs(judged)
    shown = [(column, label) for column, (label, _) in COSTS.items() if table[column].notna().any()]
    if not shown:
        return None
    rows = [
        (str(arm), *(amount(float(table.loc[arm, column])) for column, _ in shown))  # type: ignore[arg-type]
        for arm in table.index
    ]
    return Table(
        "Costs",
        ("arm", *(label for _, label in shown)),
        tuple(rows),
        "Speed: the median over finished runs. Memory: the highest peak. Measured beside other runs where "
        "several shared a machine.",
        tuple(range(1, len(shown) + 1)),
    )


def _descriptions(judged: Judged) -> Table | None:
    rows = []
    for metric, group in groupby(judged.descriptions, key=lambda found: found.metric):
        mine = list(group)
        places = places_of([(d.high - d.low) / 2 for d in mine if d.low is not None and d.high is not None])
        rows += [
            (
                metric,
                d.arm,
                number(d.difference, places, True),
                interval(d.low, d.high, places),
                str(d.n),
                probability(d.p_adjusted),
            )
            for d in mine
        ]
    return Table(
        "Other measures",
        ("measure", "arm", "difference", "interval", "seeds", "p"),
        tuple(rows),
        "Described, not decided: plain intervals; p by Benjamini and Hochberg over all rows.",
        (2, 3, 4, 5),
    )


def scale_tables(scale: Scale, metric: str, alpha: float) -> list[Table]:
    """The gaps by size, and the ranks."""
    return [table for table in (_trends(scale, metric), _ranks(scale, alpha)) if table is not None]


def _trends(scale: Scale, metric: str) -> Table | None:
    comparison = scale.comparison
    if comparison is None:
        return None
    known = [found for found in scale.trends if found.low is not None and found.high is not None]
    places = places_of([(found.high - found.low) / 2 for found in known])  # type: ignore[operator]
    bends = len(scale.sizes) > 2
    rows = [
        (
            found.arm,
            found.word,
            number(found.slope, places, True),
            interval(found.low, found.high, places),
            str(found.n),
            *([str(found.df or "")] if comparison.variance == "paired" else []),
            *(_gap(size, found) for size in scale.sizes),
            *([number(found.bend, places)] if bends else []),
        )
        for found in scale.trends
    ]
    columns = [
        "arm",
        "the gap",
        "slope",
        "interval",
        "seeds",
        *(["df"] if comparison.variance == "paired" else []),
        *(f"at {size.name} ({amount(size.parameters)})" for size in scale.sizes),
        *(["off the line"] if bends else []),
    ]
    decades = math.log10(scale.sizes[-1].parameters / scale.sizes[0].parameters)
    how = (
        "Student's t on the slopes by seed"
        if comparison.variance == "paired"
        else "Dunnett's in the blocked model slope ~ arm + seed"
    )
    note = (
        f"{metric}, arm minus {scale.baseline}: at each size with the interval of its verdict there, and the "
        f"slope in {unit(metric)} per decade of parameters without embeddings, by least squares. Intervals "
        f"of the slopes: {how}, {100 * (1 - comparison.alpha_spent):g} % for all together. They speak of "
        f"seeds at these sizes, over {decades:.2g} decades; beyond these nothing is known."
    )
    note += " Off the line: how far a mean gap lies from it at most." if bends else ""
    if any(verdict.conditional for verdict in comparison.verdicts):
        note += " Judged among the seeds that finished at every size."
    return Table("Gap by size", tuple(columns), tuple(rows), note, tuple(range(2, len(columns))))


def _gap(size: Size, found: Trend) -> str:
    verdict, places = size.gap(found.arm), decimals(size.judged.comparison)
    if verdict is None or verdict.difference is None:
        return ""
    return f"{number(verdict.difference, places, True)} {interval(verdict.low, verdict.high, places)}"


def _ranks(scale: Scale, alpha: float) -> Table | None:
    rows = [
        (
            f"{rank.first}, {rank.second}",
            number(rank.tau, 2, True),
            interval(rank.low, rank.high, 2),
            probability(rank.p),
            str(len(rank.arms)),
            str(rank.n),
            rank.reason,
        )
        for rank in scale.ranks
    ]
    few = any(rank.n < 6 for rank in scale.ranks)
    note = (
        "Kendall's tau between the arms' means at two sizes: 1 is the same order, -1 the reverse; the "
        f"placebo is left out. Range: {100 * (1 - alpha):g} % of bootstrap draws of the seeds"
        + (", too few of them: it is too narrow" if few else "")
        + ". p: how often ranks at random agree or disagree as much, exact."
    ).replace("-1", f"{MINUS}1")
    columns = ["sizes", "tau", "range", "p", "arms", "seeds"]
    said = any(rank.reason for rank in scale.ranks)
    return Table(
        "Do the arms keep their ranks?",
        (*columns, *([""] if said else [])),
        tuple(row if said else row[:-1] for row in rows),
        note,
        (1, 2, 3, 4, 5),
    )


def place(judged: Sequence[Told]) -> str:
    """What the column is called that says where something was found."""
    corpora, sized = len({one.text for one in judged}) > 1, any(one.size for one in judged)
    return "corpus and size" if corpora and sized else "size" if sized else "corpus"


def claim_table(judged: Sequence[Told]) -> Table | None:
    """Every claim on every corpus, at every size and on all of them, beside what was published."""
    many = len(judged) > 1
    corpora = len({one.text for one in judged}) > 1
    told = headlines(judged)
    rows = []
    for corpus in judged:
        found: list[tuple[str, ...]] = [_claim(judgement) for judgement in corpus.claims]
        found += [
            (claim.id, claim.predicate, "inconclusive", why, "", "", "") for claim, why in corpus.unjudged
        ]
        for row in found:
            headline = "yes" if told.get(row[0]) else "no"
            rows.append(
                (row[0], *([corpus.corpus] if many else []), *row[1:], *([headline] if corpora else []))
            )
    if not rows:
        return None
    columns = [
        "claim",
        *([place(judged)] if many else []),
        "says",
        "verdict",
        "our data",
        "published",
        "beside",
        "source",
    ]
    note = (
        "pass: the interval lies where the claim says; fail: it lies elsewhere; direction only: the estimate "
        "agrees and the interval does not settle it. Beside: ours divided by the published figure, which "
        "comes from another scale."
    )
    if corpora:
        note += " Headline: the claim passes on two corpora with the same sign."
    else:
        note += " One corpus: none of these is a headline yet."
    return Table("Claims", (*columns, *(["headline"] if corpora else [])), tuple(rows), note)


def _claim(judgement: Judgement) -> tuple[str, ...]:
    beside = judgement.beside
    published, size, source = "", "", ""
    if beside is not None:
        published = short(beside.published)
        if parse(judgement.predicate).kind == "level":
            size = f"ours {short(beside.ours, 4)}"
            size += f", {beside.size:.3g}{TIMES}" if beside.size is not None else ""
        else:
            size = "same sign" if beside.same_sign else "other sign"
            size += f", {beside.size:.2g}{TIMES}" if beside.size is not None and beside.same_sign else ""
        source = beside.source + (f" ({beside.differs})" if beside.differs else "")
    return (judgement.claim, judgement.predicate, judgement.word, judgement.reason, published, size, source)


def difference_table(results: Results) -> Table | None:
    """What differed between arms: all that their specifications do not share with the baseline's."""
    study = results.kept.said()
    many = len(study.places) > 1
    rows = [
        (*([arm.corpus] if many else []), arm.name, d.path, _value(d.baseline), _value(d.arm), d.reason)
        for arm in results.kept.arms
        for d in arm.differs
    ]
    note = "Everything else in the specifications is equal."
    if len(rows) > MOST_ROWS:
        note += f" The first {MOST_ROWS} of {len(rows)} are shown; tables/differences.csv has all."
    columns = (*(["corpus"] if many else []), "arm", "path", results.kept.baseline, "arm's value", "because")
    return Table("What differed", columns, tuple(rows[:MOST_ROWS]), note) if rows else None


def _value(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}\N{HORIZONTAL ELLIPSIS}"


def matching_table(results: Results) -> Table | None:
    study = results.kept.said()
    if study.match is None:
        return None
    many = len(study.places) > 1
    rows = []
    for arm in results.kept.arms:
        if arm.matched is None:
            continue
        m = arm.matched
        knob = (
            "as configured"
            if m["after"] is None
            else f"{m['by']}: {m['before'] or 'open'} {ARROW} {m['after']}"
        )
        rows.append(
            (
                *([arm.corpus] if many else []),
                arm.name,
                knob,
                f"{m['unmatched']:+.2%}",
                f"{m['residual']:+.2%}",
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
