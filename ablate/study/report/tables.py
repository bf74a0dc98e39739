"""The tables of a report, as text to be read. The same numbers at full precision are in `paper.sheets`."""

import math
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from ablate.amounts import amount
from ablate.study.design.claim import declared
from ablate.study.judge.compare import Comparison, Verdict
from ablate.study.judge.corpus import Judged
from ablate.study.judge.sensitivity_claims import STARTS
from ablate.study.judge.solved import Verdicts
from ablate.study.report.phrasing import (
    MINUS,
    decimals,
    interval,
    number,
    numbers,
    places_of,
    probability,
    seeds_needed,
    short,
    word,
)
from ablate.study.report.summary import COSTS, arm_costs, means, ranked
from ablate.study.report.table import Table
from ablate.study.results import Results
from ablate.study.stats.factorial import Effect, Factorial
from ablate.study.stats.intervals import Estimate
from ablate.study.stats.tokens import TokenEffect

if TYPE_CHECKING:
    pass

PM = "\N{PLUS-MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
ARROW = "\N{RIGHTWARDS ARROW}"


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
                    _flag(e),
                )
                for e in found.effects
            ]
            note = (
                f"{found.metric}: the mean at the second level minus the mean at the first; for a pair, how "
                f"much that changes when the other factor changes, and so on. The intervals hold together at "
                f"{100 * (1 - found.alpha):g} %."
            )
            note += " Judged among the runs that finished." if found.conditional else ""
            yield Table(
                title, ("effect", "from", "to", "difference", "interval", ""), tuple(rows), note, (3, 4)
            )
            yield _simple_effects(found)
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


def _flag(effect: Effect) -> str:
    text = "excludes 0" if effect.low > 0 or effect.high < 0 else "contains 0"
    return f"{text}; its sign is not that of every cell" if effect.in_every_cell is False else text


def _simple_effects(table: Factorial) -> Table | None:
    """What each factor does in every cell of the others."""
    if not table.simple:
        return None
    places = places_of([(e.high - e.low) / 2 for e in table.simple])
    rows = [
        (
            e.factors[0],
            e.references[0],
            e.levels[0],
            ", ".join(e.within.values()),
            number(e.difference, places, True),
            interval(e.low, e.high, places),
        )
        for e in table.simple
    ]
    note = "Described, not decided: the intervals have the level of one effect above, and hold each alone."
    columns = ("factor", "from", "to", "in the cell", "difference", "interval")
    return Table("Each factor in every cell of the others", columns, tuple(rows), note, (4, 5))


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
