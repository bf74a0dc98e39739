"""The tables below the verdicts of a corpus, as text made from the frames of `ablate.study.report.frames`."""

from collections.abc import Iterator
from dataclasses import replace

from ablate.amounts import MINUS, PLUS_MINUS, TIMES, amount, places_of, short
from ablate.study.design.claim import declared
from ablate.study.judge.compare import Comparison, Verdict
from ablate.study.judge.corpus import Judged
from ablate.study.judge.sensitivity_claims import STARTS
from ablate.study.judge.solved import Verdicts
from ablate.study.judge.study_judgement import StudyJudgement
from ablate.study.report import frames
from ablate.study.report.budget_tables import budget_table, speed_up_table
from ablate.study.report.factor_tables import factor_tables
from ablate.study.report.looks_table import looks_table
from ablate.study.report.phrasing import decimals, seed_ranges, seeds_needed, verdict_in_words
from ablate.study.report.reference_tables import reference_tables
from ablate.study.report.run_curves import anchor_of, run_ids
from ablate.study.report.sample_tables import sample_tables
from ablate.study.report.set_tables import set_tables
from ablate.study.report.summary import COSTS, arm_costs, means, ranked
from ablate.study.report.table import (
    Column,
    FrameRow,
    Table,
    absent,
    chance,
    digits,
    ends,
    figure,
    fraction_of,
    label_column,
    table_of,
    whole_column,
)


def verdict_table(judged: Judged) -> Table | None:
    """The leaderboard: the best first, the baseline in its place. None without a comparison."""
    import pandas as pd

    comparison = judged.comparison
    if comparison is None:
        return None
    places, known = decimals(comparison), means(comparison)
    base = {"arm": comparison.baseline, "n": len(comparison.outcomes(comparison.baseline).values)}
    frame = pd.concat([frames.verdict_frame(judged), pd.DataFrame([base])]).set_index("arm", drop=False)
    frame = frame.loc[ranked(judged)]
    frame["mean"] = frame["arm"].map(known)
    waiting = frame["difference"].isna()
    frame.loc[waiting, ["sd", "correlation"]] = None
    beside = bool(frame["documents_error"].notna().any())
    tokens = judged.slope is not None
    columns = [
        label_column("arm"),
        Column("verdict", lambda row: _word(comparison, row["arm"]), numeric=False),
        figure("difference", "difference", places, signed=True),
        ends("interval", places),
        whole_column("seeds", "n", hide_zero=True),
        figure("mean", "mean", places),
        figure("sd", "sd", places),
        figure("r", "correlation", 2),
    ]
    if beside:
        exact = max(places, places_of(frame["documents_error"].dropna()) - 1)
        shown = figure("", "documents_difference", exact, signed=True)
        error = figure("", "documents_error", exact)
        columns.append(
            Column(
                "other text",
                lambda row: (
                    ""
                    if absent(row["documents_error"])
                    else f"{shown.write(row)} {PLUS_MINUS} {error.write(row)}"
                ),
            )
        )
    if tokens:
        columns.append(Column("tokens", lambda row: _worth(judged, row)))
    return table_of("", frame, columns, _verdict_note(comparison, beside, tokens))


def _word(comparison: Comparison, arm: str) -> str:
    return "baseline" if arm == comparison.baseline else verdict_in_words(comparison.verdict(arm))


def _worth(judged: Judged, row: FrameRow) -> str:
    """1.30x [1.10, 1.60]; nothing where it is blank."""
    if absent(row["tokens_multiple"]):
        return ""
    effect = judged.tokens(row["arm"])
    interval = ends("", 2, False, "tokens_low", "tokens_high").write(row)
    reason = f" ({effect.reason})" if effect and effect.reason else ""
    return f"{row['tokens_multiple']:.2f}{TIMES} {interval}{reason}"


def _verdict_note(comparison: Comparison, beside: bool, tokens: bool) -> str:
    note = (
        f"Differences in {comparison.metric}, arm minus {comparison.baseline}, over seeds. The "
        f"intervals hold together at {100 * (1 - comparison.alpha_spent):g} %. sd: of the differences by "
        "seed; r: the correlation of arm and baseline over seeds."
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
    return note


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


def corpus_tables(judgement: StudyJudgement, judged: Judged) -> list[Table]:
    """The tables below the leaderboard of a corpus; those without a row are left out."""
    tables = [
        *(_solved(verdicts) for verdicts in judged.solved),
        *filter(None, [looks_table(judgement.study, judged), budget_table(judged), speed_up_table(judged)]),
        *reference_tables(judgement, judged),
        *set_tables(judged),
        *_stability(judged),
        *_fixed(judged),
        *_rates(judgement, judged),
        *_sensitivity(judged),
        *factor_tables(judged),
        *_costs(judged),
        _descriptions(judged),
    ]
    tables += [*_by_seed(judgement, judged), *sample_tables(judgement, judged)]
    return [table for table in tables if table.rows]


def _solved(verdicts: Verdicts) -> Table:
    """How often each arm solves its task, the most often first."""
    frame = frames.solved_frame(verdicts)
    frame = frame.sort_values("share", key=lambda share: -share.fillna(0), kind="stable")
    interval = ends("", 2, signed=False)
    note = (
        f"{verdicts.metric}, over the test runs that finished or diverged, which is not solved. Intervals "
        f"of Clopper and Pearson at {100 * (1 - verdicts.alpha):g} %; Fisher's exact test against the "
        f'baseline, Holm over the arms. With fewer than {verdicts.fewest} seeds even "all runs solved" '
        'against "none" is not significant. Between: runs that get some examples exactly right and not '
        "enough; where they are many, read the exact match instead."
    )
    columns = [
        label_column("arm"),
        label_column("verdict", "word", missing="baseline"),
        fraction_of("solved", "solved", "runs"),
        figure("P(solved)", "share", 2),
        Column("interval", lambda row: interval.write(row) if row["runs"] else ""),
        chance("p", "p_adjusted"),
        whole_column("between", "between"),
    ]
    return table_of(f"P(solved) by {verdicts.metric}", frame, columns, note)


def _stability(judged: Judged) -> Iterator[Table]:
    if judged.comparison is None:
        return
    frame = frames.stability_frame(judged.comparison).set_index("arm", drop=False)
    arms = [arm for arm in ranked(judged) if arm != judged.comparison.baseline]
    columns = [
        label_column("arm"),
        label_column("verdict", "word"),
        fraction_of("diverged", "diverged", "runs"),
        fraction_of("baseline diverged", "baseline_diverged", "baseline_runs"),
        chance("p", "p_adjusted"),
    ]
    note = (
        "Fisher's exact test on diverged and finished runs, Holm over the arms. This verdict is independent "
        "of the loss."
    )
    yield table_of("Stability", frame.loc[arms], columns, note)


def _fixed(judged: Judged) -> Iterator[Table]:
    """Every arm at the baseline's rate: how much of the effect is the rate's."""
    comparison = judged.fixed
    if comparison is None:
        return
    places = decimals(comparison)
    columns = [
        label_column("arm"),
        Column("verdict", lambda row: _word(comparison, row["arm"]), numeric=False),
        figure("difference", "difference", places, signed=True),
        ends("interval", places),
        whole_column("seeds", "n"),
    ]
    note = (
        "The contrast without tuning: every arm at the rate that was chosen for the baseline. Beside the "
        "verdicts above, not in their place."
    )
    yield table_of("At the baseline's rate", frames.comparison_frame(comparison), columns, note)


def _rates(judgement: StudyJudgement, judged: Judged) -> Iterator[Table]:
    tuning, tune = judged.tuning, judgement.study.tune
    if tuning is None or tune is None:
        return
    chosen = {choice.arm: choice.rates(tune.nested) for choice in tuning.choices}

    def how(row: FrameRow) -> str:
        if len(chosen[row["arm"]]) > 1:
            return "the better of both at each test seed"
        return "vertex of a parabola" if row["kind"] == "vertex" else str(row["reason"])

    columns = [
        label_column("arm"),
        Column("chosen", lambda row: ", ".join(map(short, chosen[row["arm"]]))),
        Column("failed at", lambda row: row["failed"].replace(" ", ", "), numeric=False),
        Column("how", how, numeric=False),
    ]
    grid = sorted({rate for choice in tuning.choices for rate in (*choice.means, *choice.failed)})
    note = (
        f"{tune.path}, chosen on {tune.metric} over {', '.join(f'{rate:g}' for rate in grid)}, tuning seeds "
        f"{seed_ranges(tuning.seeds)}."
    )
    note = " ".join([note, *(f"{warning}." for warning in tuning.warnings)])
    yield table_of("Rates", frames.rate_frame(judged), columns, note)


def _sensitivity(judged: Judged) -> Iterator[Table]:
    """What a wrong rate costs each arm, the least first."""
    sensitivities = judged.sensitivities
    if sensitivities is None:
        return
    frame = frames.sensitivity_frame(judged)
    frame = frame.sort_values("value", kind="stable", na_position="last")
    places = places_of(((frame["high"] - frame["low"]) / 2).dropna())
    value = figure("", "value", places)
    columns = [
        label_column("arm"),
        Column("sensitivity", lambda row: value.write(row) or row["reason"]),
        ends("interval", places, signed=False),
        digits("best rate", "best_rate"),
        digits("l0", "start", 4),
        fraction_of("diverged", "diverged", "runs"),
        whole_column("above l0", "clipped"),
        whole_column("failed", "failed"),
    ]
    seeds = len(sensitivities.seeds)
    note = (
        f"The mean over the rates {', '.join(f'{rate:g}' for rate in sensitivities.rates)} of min(l, l0) "
        f"{MINUS} l*, in nats (Wortsman et al. 2023): l the final {sensitivities.metric}, averaged over "
        f"{seeds} tuning seed{'s' * (seeds != 1)}, l* its least. "
    )
    note += f"l0 is {STARTS[sensitivities.source]}. " if sensitivities.source else ""
    note += (
        "The intervals are bootstrapped over seeds"
        + (", too few of them: they are too narrow" if seeds < 6 else "")
        + "; claims are judged by Student's t over seeds instead. Failed: diverged, or ended above half-way "
        "between l0 and the least loss of any arm."
    )
    yield table_of(f"Sensitivity to {sensitivities.path}", frame, columns, note)


def _costs(judged: Judged) -> Iterator[Table]:
    frame = arm_costs(judged)
    shown = [(column, heading) for column, (heading, _) in COSTS.items() if frame[column].notna().any()]
    if not shown:
        return
    note = (
        "Speed: the median over finished runs. Memory: the highest peak. Measured beside other runs where "
        "several shared a machine."
    )
    yield table_of(
        "Costs", frame.reset_index(), [label_column("arm"), *(_amount(*each) for each in shown)], note
    )


def _amount(name: str, heading: str) -> Column:
    return Column(heading, lambda row: amount(row[name]))


def _by_seed(judgement: StudyJudgement, judged: Judged) -> Iterator[Table]:
    """The metric of every run that a verdict rests on, linked to the run's curve; nothing of an arm while its
    verdict waits."""
    comparison = judged.comparison
    if comparison is None:
        return
    frame = frames.seed_frame(comparison, [arm for arm in ranked(judged) if arm in means(comparison)])
    seeds = [column for column in frame.columns if column != "arm"]
    if frame.empty or not seeds:
        return
    places = decimals(comparison)
    note = f"{comparison.metric} of each run, by seed. Blank where a run did not finish."
    columns = [label_column("arm"), *(figure(f"seed {seed}", seed, places) for seed in seeds)]
    ids, kept = run_ids(judged), set(judgement.results.curves["id"])
    links = {
        (row, column): anchor_of(id)
        for row, arm in enumerate(frame["arm"])
        for column, seed in enumerate(seeds, 1)
        if (id := ids.get((arm, int(seed)))) in kept and id is not None
    }
    yield replace(table_of("Losses by seed", frame, columns, note), folded=True, links=links)


def _descriptions(judged: Judged) -> Table:
    frame = frames.models_frame(judged.descriptions)
    if len(frame):
        halves = (frame["high"] - frame["low"]) / 2
        by_measure = halves.groupby(frame["metric"]).transform(lambda widths: places_of(widths.dropna()))
        frame = frame.assign(places=by_measure)
    columns = [
        label_column("measure", "metric"),
        label_column("arm"),
        figure("difference", "difference", "places", signed=True),
        ends("interval", "places"),
        whole_column("seeds", "n"),
        chance("p", "p_adjusted"),
    ]
    note = "Described, not decided: plain intervals; p by Benjamini and Hochberg over all rows."
    return table_of("Other measures", frame, columns, note)
