"""The report: rebuilt from its files, the numbers of the judge, and nothing lost of what went wrong."""

import csv
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import report_world
from report_world import TUNED, curve, finished, loss, planned, save, world
from rich.console import Console
from study_fakes import identify

from ablate.amounts import interval_text
from ablate.engine.store import Store
from ablate.study.design.freeze import Amendment, amendments, freeze
from ablate.study.design.runs import PlannedRun, judged_runs, tuning_runs
from ablate.study.design.study import parse_study as read_study
from ablate.study.judge.corpus import Judged, judge_results
from ablate.study.judge.study_judgement import StudyJudgement, judge_study
from ablate.study.report import (
    claim_tables,
    curve_figures,
    drawing,
    export,
    figures,
    methods,
    phrasing,
    run_curves,
    study_tables,
    summary,
    tables,
)
from ablate.study.report.answer import UNTUNED_NOTE, answer, banners
from ablate.study.report.bars import bar
from ablate.study.report.factors_in_words import effect_in_words, level_effects
from ablate.study.report.frames import sheets
from ablate.study.report.markup import fenced, markdown
from ablate.study.report.phrasing import decimals
from ablate.study.report.render import report
from ablate.study.report.table import Table
from ablate.study.report.terminal import show
from ablate.study.results import (
    FOLDER,
    POINTS,
    PlanRecord,
    Results,
    collect,
    read_results,
    study_as_yaml,
    write_results,
    write_samples,
)
from ablate.study.results.manifest import COSTS_OF_ARM

ARMS: dict[str, list[str]] = {
    "rope": [],
    "alibi": ["model/position=alibi"],
    "learned": ["model/position=learned"],
    "none": ["model/position=none"],
}
CLAIMS = [
    {
        "id": "C16",
        "predicate": "rope < none",
        "published": {"effect": -0.098, "source": "Haviv et al. 2022", "differs": "125M parameters"},
    },
    {"id": "C2", "predicate": "none < alibi"},
]

OF_SEVERAL = [
    {"id": "C11", "predicate": "rope < none", "measure": "stability/failed"},
    {"id": "C12", "predicate": "rope < none", "measure": "tuning/sensitivity"},
    {"id": "C09", "predicate": "rope < none", "measure": "tuning/failed"},
]
START = 5.0  # the first loss of tuning runs


def with_failures(run: PlannedRun) -> dict[str, Any]:
    """`none` diverges at seed 2, and at the highest rate."""
    if run.arm == "none" and (run.seed == 2 or (run.role == "tuning" and (run.rate or 0) > 2.5e-3)):
        return {"status": "diverged", "reason": "loss is not finite at step 120", "began": START}
    return finished(run) | {"began": START}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuned and matched study on two corpora, with claims and a failure, reported."""
    folder = tmp_path_factory.mktemp("experiments") / "tuned"
    world(
        folder,
        with_failures,
        arms=ARMS,
        seeds=7,
        match={"hold": "non_embedding_params", "by": "ffn.width"},
        corpora=["data=stdlib", "data=english"],
        measures=["validation/loss"],
        claims=[*CLAIMS, *OF_SEVERAL],
        **TUNED,
    )
    report(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    names = ["report.md", "report.html", "tables/*", "figures/*"]
    return {str(file.relative_to(folder)): file.read_bytes() for name in names for file in folder.glob(name)}


def shown(judged: Judged, arm: str) -> dict[str, str]:
    """What the table of verdicts says of an arm, by column, and the note below it."""
    table = tables.verdict_table(judged)
    assert table is not None and judged.comparison is not None
    (row,) = [row for row in table.rows if row[0] == arm]
    note = tables.notes_on(judged.comparison.verdict(arm), judged.comparison)
    return {**dict(zip(table.columns, row, strict=True)), "note": note}


def below(results: Results) -> list[Table]:
    """The tables below the verdicts of the first corpus."""
    judgement = judge_study(results)
    return tables.corpus_tables(judgement, judgement.corpora[0])


class Page(HTMLParser):
    """What stands in a page: tags, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.parts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    handle_startendtag = handle_starttag

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.parts).split())


def rendered(text: str) -> Page:
    """Markdown as a viewer shows it, the HTML in it let through."""
    from markdown_it import MarkdownIt

    return Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


# ------------------------------------------------------------------------------------------ the files


def test_the_report_is_rebuilt_from_its_files_alone_byte_by_byte(tuned: Path, tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    for file in (tuned / FOLDER).iterdir():
        (tmp_path / FOLDER / file.name).write_bytes(file.read_bytes())
    code = (
        "import sys; from pathlib import Path; from ablate.study.report.render import report; "
        "report(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        check=True,
        cwd=Path(__file__).parents[2],
        env={"PYTHONHASHSEED": "7", "PATH": "/usr/bin:/bin", "MPLCONFIGDIR": str(tmp_path / "fonts")},
    )
    assert contents(tmp_path) == contents(tuned)
    expected = {"report.md", "report.html", "tables/verdicts.csv", "tables/verdicts.tex", "tables/runs.csv"}
    drawn = ("differences", "curves", "gaps", "rates", "sensitivity", "costs")
    expected |= {f"figures/{name}-{n}.{kind}" for name in drawn for n in (1, 2) for kind in ("svg", "pdf")}
    assert expected <= set(contents(tuned))


def test_results_come_back_as_they_were_written(tuned: Path, tmp_path: Path) -> None:
    results = read_results(tuned)
    write_results(results, tmp_path)
    again = read_results(tmp_path)
    assert again.manifest == results.manifest
    for name in ("runs", "curves"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(results, name))
    for file in (tuned / FOLDER).iterdir():
        assert (tmp_path / FOLDER / file.name).read_bytes() == file.read_bytes()
    cut = tmp_path / FOLDER / "curves.parquet"
    cut.write_bytes(cut.read_bytes()[:100])
    said = r"curves\.parquet is missing or damaged .*; restore it, or run the study again"
    with pytest.raises(ValueError, match=said):
        read_results(tmp_path)
    cut.unlink()
    with pytest.raises(ValueError, match=r"curves\.parquet is missing or damaged"):
        read_results(tmp_path)


def test_arms_of_an_earlier_version_are_read(tuned: Path, tmp_path: Path) -> None:
    """Its costs stood beside the name of an arm, and its matching was a plain dictionary."""
    results = read_results(tuned)
    write_results(results, tmp_path)
    file = tmp_path / FOLDER / "study.json"
    stored = json.loads(file.read_text())
    for arm in stored["arms"]:
        facts = arm.pop("facts")
        arm.pop("spec")
        arm |= {name: facts[name] for name in COSTS_OF_ARM}
    for key in ("hash", "files"):  # it had none of these either
        stored.pop(key, None)
    file.write_text(json.dumps(stored))
    again = read_results(tmp_path).manifest
    for arm, before in zip(again.arms, results.manifest.arms, strict=True):
        assert (arm.name, arm.matched, arm.differs) == (before.name, before.matched, before.differs)
        assert arm.facts.parameters == before.facts.parameters
        assert arm.facts.memory_bytes == before.facts.memory_bytes
    assert any(arm.matched for arm in again.arms)
    stored["study"]["metrik"] = "loss"
    file.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"study\.json is damaged .*metrik"):
        read_results(tmp_path)


def test_files_of_an_earlier_report_do_not_stay(tmp_path: Path) -> None:
    world(tmp_path, arms=ARMS, seeds=3)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "rates.svg").write_text("of an earlier, tuned study")
    report(tmp_path)
    assert not (tmp_path / "figures" / "rates.svg").exists()
    assert (tmp_path / "figures" / "differences.svg").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        TUNED,
        {"match": {"hold": "total_params", "by": "depth", "also_unmatched": ["none"]}, "claims": CLAIMS[:1]},
        {"interim_seeds": [3, 6], "corpora": ["data=stdlib", "data=english"], "interval": "pooled"},
    ],
)
def test_a_study_is_said_so_that_it_can_be_read_again(changes: dict[str, Any]) -> None:
    told = report_world.study(arms=ARMS, **changes)
    assert read_study(json.loads(json.dumps(study_as_yaml(told)))) == told


# ------------------------------------------------------------------------------------------- the numbers


def test_numbers_are_those_of_the_comparison(tuned: Path) -> None:
    judged = judge_results(read_results(tuned))
    sheet = pd.read_csv(tuned / "tables" / "verdicts.csv").set_index(["corpus", "arm"])
    page, text = Page((tuned / "report.html").read_text()), rendered((tuned / "report.md").read_text()).text
    checked = 0
    for corpus in judged:
        assert corpus.comparison is not None
        places = decimals(corpus.comparison)
        for verdict in corpus.comparison.verdicts:
            row = sheet.loc[(corpus.corpus, verdict.arm)]
            for name in ("difference", "low", "high", "mean", "sd", "correlation", "p"):
                assert row[name] == pytest.approx(getattr(verdict, name), rel=1e-9)
            assert row["word"] == verdict.word and row["n"] == verdict.n
            text_shown = interval_text(verdict.low, verdict.high, places)
            assert text_shown in page.text and text_shown in text
            low, high = (float(end.replace("−", "-")) for end in re.findall(r"[+−]?\d+\.\d+", text_shown))
            assert low == pytest.approx(verdict.low, abs=10**-places)
            assert high == pytest.approx(verdict.high, abs=10**-places)
            checked += 1
    assert checked == 2 * 4
    assert "alibi" in page.text and "worse" in page.text and "equivalent" in page.text


def drawn(judgement: StudyJudgement) -> dict[int, tuple[float, float, str]]:
    """Row -> the ends and the colour of the interval that the figure shows."""
    (judged,) = judgement.corpora
    with drawing.figure_settings():
        figure = figures.draw_differences(judged, drawing.ArmStyles(judgement, judged))
    assert figure is not None
    bars = {}
    for line in figure.axes[0].lines:
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        if line.get_linewidth() == 2.2:
            bars[int(y[0])] = (float(x[0]), float(x[1]), str(line.get_color()))
    return bars


@pytest.mark.parametrize("variance", ["paired", "pooled"])
@pytest.mark.parametrize("far", [0.0, 5.0])
def test_no_interval_in_a_figure_contradicts_a_verdict(tmp_path: Path, variance: str, far: float) -> None:
    def outcome(run: PlannedRun) -> dict[str, Any]:
        return {"status": "finished", "value": loss(run) + far * (run.arm == "none")}

    results = world(tmp_path, outcome, arms=ARMS, seeds=5, interval=variance)
    judgement = judge_study(results)
    (judged,) = judgement.corpora
    comparison = judged.comparison
    assert comparison is not None
    axis, bars = summary.span(comparison), drawn(judgement)
    words = set()
    for row, arm in enumerate(arm for arm in summary.ranked(judged) if arm != "rope"):
        verdict = comparison.verdict(arm)
        assert verdict.low is not None and verdict.high is not None
        low, high, colour = bars[row]
        assert (low, high) == (verdict.low, verdict.high)
        assert axis.low < low < high < axis.high  # the axis reaches every arm
        assert colour == drawing.WORD_COLOURS[verdict.word]
        in_table = bar(comparison, verdict)
        assert in_table is not None
        for left, zero, right in ((low, 0.0, high), (in_table.left, in_table.zero, in_table.right)):
            assert (left > zero or right < zero) == (verdict.word in ("better", "worse"))
        words.add(verdict.word)
    assert {"worse", "better"} <= words
    assert (axis.linear is not None) == (far > 0)  # one arm far away: logarithmic there
    shares = [
        axis.share(value)
        for value in (axis.low, -0.3, -0.01, 0.0, 0.01, 0.3, axis.high)
        if axis.low <= value <= axis.high
    ]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == pytest.approx(1)


def test_gaps_while_training_are_those_of_the_same_seeds(tmp_path: Path) -> None:
    judgement = judge_study(world(tmp_path, arms=ARMS, seeds=3))
    (judged,) = judgement.corpora
    curves = judgement.results.curves
    with drawing.figure_settings():
        styles = drawing.ArmStyles(judgement, judged)
        figure = curve_figures.draw_gaps(curves, judged, styles)
    assert figure is not None
    runs = judged.runs[judged.runs["role"] == "test"]
    last = {
        (arm, seed): curves["loss"][curves["id"] == id].iloc[-1]
        for arm, seed, id in zip(runs["arm"], runs["seed"], runs["id"], strict=True)
    }
    expected = np.mean([last["alibi", seed] - last["rope", seed] for seed in range(3)])
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "alibi"]
    assert float(np.asarray(line.get_ydata())[-1]) == pytest.approx(expected)
    assert "rope" not in {line.get_label() for line in figure.axes[0].lines}


def test_an_axis_in_two_parts_is_that_of_the_figure() -> None:
    from matplotlib.scale import SymmetricalLogTransform

    axis = summary.Span(-0.5, 7.0, linear=0.2)
    theirs = SymmetricalLogTransform(10, 0.2, summary.LINEAR_DECADES)
    low, high, middle = (float(theirs.transform(np.array([x]))[0]) for x in (axis.low, axis.high, 0.11))
    assert axis.share(0.11) == pytest.approx((middle - low) / (high - low))
    low, high, far = (float(theirs.transform(np.array([x]))[0]) for x in (axis.low, axis.high, 3.3))
    assert axis.share(3.3) == pytest.approx((far - low) / (high - low))


def test_names_break_at_plus_and_minus() -> None:
    assert phrasing.pieces("post+sin-cold") == ["post+", "sin-", "cold"]
    assert phrasing.in_lines("post+rope+swiglu-cold-2") == "post+rope+swiglu-\ncold-2"
    assert phrasing.in_lines("rope") == "rope"
    assert max(map(len, phrasing.in_lines("a" * 90).split("\n"))) <= 2 * phrasing.LINE


def test_losses_by_seed_are_listed_and_folded(tuned: Path) -> None:
    results = read_results(tuned)
    (table,) = [table for table in below(results) if table.title == "Losses by seed"]
    assert table.folded and table.columns[:3] == ("arm", "seed 0", "seed 1")
    values = judge_results(results)[0].comparison.outcomes("alibi").values  # type: ignore[union-attr]
    row = next(row for row in table.rows if row[0] == "alibi")
    assert [float(cell) for cell in row[1:]] == pytest.approx([values[seed] for seed in range(7)], abs=0.01)
    assert next(row for row in table.rows if row[0] == "none")[3] == ""  # diverged at seed 2
    html = (tuned / "report.html").read_text()
    assert html.count("<details><summary>Losses by seed</summary>") == 2
    assert "<details><summary>Losses by seed</summary>" in (tuned / "report.md").read_text()


def test_every_loss_by_seed_leads_to_the_curve_of_its_run(tuned: Path) -> None:
    results = read_results(tuned)
    html = (tuned / "report.html").read_text()
    drawn = dict(re.findall(r'<figure id="(run-[^"]+)"><svg[^>]*><polyline points="([^"]+)"', html))
    links = re.findall(r'<a href="#(run-[^"]+)">([^<]*)</a>', html)
    assert links and {link for link, _ in links} <= drawn.keys()
    losses = results.runs.drop_duplicates("id").set_index("id")[results.manifest.study.metric]
    shown = {link.removeprefix("run-"): float(cell) for link, cell in links if cell}
    assert shown == pytest.approx(losses[list(shown)].to_dict(), abs=0.01)
    for points in drawn.values():
        pairs = [tuple(map(float, pair.split(","))) for pair in points.split()]
        assert all(0 <= x <= run_curves.ACROSS and 0 <= y <= run_curves.DOWN for x, y in pairs)
        assert pairs == sorted(pairs) and len(pairs) <= run_curves.MOST_POINTS


def test_samples_are_shown_where_they_were_asked_for(tmp_path: Path) -> None:
    world(tmp_path, finished, arms=ARMS, seeds=2)
    report(tmp_path)
    plain = (tmp_path / "report.html").read_text()
    runs = read_results(tmp_path).runs.query("role == 'test'").drop_duplicates("arm")
    rows = [
        {
            "id": run.id,
            "corpus": run.corpus,
            "arm": run.arm,
            "prompt": "Once <b>",
            "text": f"I am {run.arm} |\0",
        }
        for run in runs.itertuples()
    ]
    write_samples(tmp_path, [*rows, {**rows[0], "id": "of a run that is gone", "text": "stale"}])
    report(tmp_path)
    html, markdown = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert "<details><summary>Sample: Once &lt;b&gt;</summary>" in html and "Sample:" not in plain
    assert all(f"I am {arm} |" in html for arm in runs["arm"]) and "stale" not in html
    assert "\0" not in html + markdown
    assert "I am rope \\|" in markdown


def test_losses_by_seed_say_nothing_of_an_arm_that_waits(troubled: Path) -> None:
    (table,) = [table for table in below(read_results(troubled)) if table.title == "Losses by seed"]
    assert not {"arm crashed", "arm interrupted", "arm not run"} & {row[0] for row in table.rows}


def test_small_errors_over_documents_keep_their_digits(tmp_path: Path) -> None:
    """The error over documents may be far less than the interval over seeds: three decimals hid it."""
    results = world(tmp_path, lambda run: {"status": "finished", "value": loss(run, 0.1)}, arms=ARMS, seeds=4)
    (judged,) = judge_results(results)
    assert judged.comparison is not None
    for verdict in judged.comparison.verdicts:
        assert verdict.documents is not None
        error = float(shown(judged, verdict.arm)["other text"].split("±")[1])
        assert error == pytest.approx(verdict.documents.error, rel=0.5) and error > 0


def test_curves_are_averaged_to_a_hundred_points(tmp_path: Path) -> None:
    results = world(tmp_path, arms=ARMS, seeds=2)
    run = results.runs[results.runs["role"] == "test"].iloc[0]
    mine = results.curves[results.curves["id"] == run["id"]]
    study_plan = planned(arms=ARMS, seeds=2, placebo=True, equivalence_margin=0.02)
    (made,) = [r for r in judged_runs(study_plan, identify)[0] if r.id == run["id"]]
    whole = curve(loss(made), made)
    assert len(whole) > POINTS == len(mine)
    assert mine["tokens"].iloc[-1] == whole["tokens"].iloc[-1]
    assert mine["loss"].mean() == pytest.approx(whole["loss"].mean(), abs=0.02)
    assert mine["loss"].iloc[0] == pytest.approx(whole["loss"].iloc[:2].mean())


def test_the_curve_of_a_run_that_diverged_is_kept(tmp_path: Path) -> None:
    made = planned(arms=ARMS, seeds=2)
    runs, _ = judged_runs(made, identify)
    store = Store(tmp_path / "runs")
    save(store, runs[0], {"status": "diverged"})
    rows = [{"step": n, "tokens": n * 80, "loss": 3.0 + n, "validation_loss": None} for n in range(1, 4)]
    (store.folder(runs[0].id) / "curve.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step"')
    results = collect(made, runs, store, name="x")
    assert results.curves["loss"].tolist() == [4.0, 5.0, 6.0]


# ----------------------------------------------------------------------------- what goes wrong is shown


BAD = ["diverged", "out_of_memory", "crashed", "interrupted", "refused"]


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One arm for each way in which a run can end, and one with a run that was never done."""
    arms: dict[str, list[str]] = {"rope": []}
    arms |= {f"arm {word}": [f"model.position.base={1000 + n}"] for n, word in enumerate([*BAD, "not run"])}

    def outcome(run: PlannedRun) -> dict[str, Any] | None:
        word = run.arm.removeprefix("arm ")
        if word == "not run" and run.seed == 1:
            return None
        if word == "refused" or (word in BAD and run.seed == 1):
            return {"status": word, "reason": f"because of {word}"}
        return finished(run)

    folder = tmp_path_factory.mktemp("experiments") / "troubled"
    world(folder, outcome, arms=arms, seeds=4)
    report(folder)
    return folder


def test_every_status_is_shown_and_what_waits_has_no_effect(troubled: Path) -> None:
    results = read_results(troubled)
    (judged,) = judge_results(results)
    assert judged.comparison is not None
    page, text = Page((troubled / "report.html").read_text()), (troubled / "report.md").read_text()
    for word in BAD:
        assert f"because of {word}" in page.text
        assert word.replace("_", " ") in page.text and f"because of {word}".replace("_", r"\_") in text
    waiting = {v.arm for v in judged.comparison.verdicts if v.word == "waiting"}
    assert waiting == {"arm crashed", "arm interrupted", "arm not run"}
    assert judged.comparison.refused == ("arm refused",)
    assert "arm refused: refused before training" in page.text
    conditional = {v.arm for v in judged.comparison.verdicts if v.conditional}
    assert conditional == {"arm diverged", "arm out_of_memory"}
    costs = summary.arm_costs(judged)
    sheet = pd.read_csv(troubled / "tables" / "verdicts.csv").set_index("arm")
    for arm in waiting:
        cells = shown(judged, arm)
        assert [cells[name] for name in ("difference", "interval", "mean", "sd", "r")] == [""] * 5
        assert "waiting for missing runs" in cells["note"]
        assert np.isnan(costs.loc[arm, "mean"])
        assert sheet.loc[arm, ["difference", "low", "high", "mean", "p"]].isna().all()
    outcomes = study_tables.outcome_table(results)
    assert outcomes is not None
    counts = {row[0]: row[2:] for row in outcomes.rows if row[1] == "test"}
    assert counts["arm not run"][-1] == "1" and counts["rope"][0] == "4"


def test_stability_stands_beside_quality(troubled: Path) -> None:
    (table,) = [t for t in below(read_results(troubled)) if t.title == "Stability"]
    rows = {row[0]: row for row in table.rows}
    assert rows["arm diverged"][2:4] == ("1 of 4", "0 of 4")
    assert rows["arm out_of_memory"][2] == "0 of 3"  # a cost, no instability
    assert rows["arm diverged"][1] == "undecided" and rows["arm crashed"][1] == "waiting"


@pytest.mark.parametrize("changes", [{}, TUNED, {"corpora": ["data=stdlib", "data=english"]}])
def test_a_study_without_any_run_says_so(tmp_path: Path, changes: dict[str, Any]) -> None:
    world(tmp_path, lambda run: None, arms=ARMS, seeds=2, claims=CLAIMS, **changes)
    report(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    said = answer(judge_study(read_results(tmp_path)))
    assert said in page.text
    assert "waits for runs" in said or "There is no answer yet" in said
    assert "than" not in said
    assert not list((tmp_path / "figures").iterdir())
    assert "not run" in page.text


def test_an_arm_of_which_nothing_is_left_is_not_undecided(tmp_path: Path) -> None:
    def lost(run: PlannedRun) -> dict[str, Any]:
        return {"status": "diverged"} if run.arm == "none" else finished(run)

    said = answer(judge_study(world(tmp_path, lost, arms=ARMS, seeds=6)))
    assert "no run of none finished" in said
    assert "none and" not in said and "and none" not in said


def test_equivalence_among_survivors_is_said_to_be_that(tmp_path: Path) -> None:
    def partly(run: PlannedRun) -> dict[str, Any]:
        lost = (run.arm, run.seed) == ("alibi", 1)
        return (
            {"status": "diverged"}
            if lost
            else {"status": "finished", "value": 3 + run.seed / 10 + noise(run)}
        )

    def noise(run: PlannedRun) -> float:
        return run.seed * 1e-6 if run.arm == "alibi" else 0.0

    said = answer(judge_study(world(tmp_path, partly, arms={"rope": [], "alibi": ARMS["alibi"]}, seeds=4)))
    assert "equivalent" in said and said.endswith(", among the runs that finished.")


def test_many_arms_of_one_verdict_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    arms: dict[str, list[str]] = {"rope": []}
    arms |= {f"base-{n}": [f"model.position.base={1000 + n}"] for n in range(1, 7)}

    def outcome(run: PlannedRun) -> dict[str, Any]:
        effect = -0.1 * int(run.arm[-1]) if run.arm[-1].isdigit() else 0.0
        return {"status": "finished", "value": 3 + effect + report_world.seeded(run.id).normal(0, 0.002)}

    results = world(tmp_path, outcome, arms=arms, seeds=4)
    said = answer(judge_study(results))
    assert said.startswith("6 arms are better than rope, most of all base-6 (−0.5")
    assert "more" not in said


def test_an_arm_with_one_verdict_everywhere_is_named_once(tmp_path: Path) -> None:
    def outcome(run: PlannedRun) -> dict[str, Any]:
        effect = {"none": 0.3, "alibi": -0.3 if run.corpus == "english" else 0.3}.get(run.arm, 0.0)
        return {"status": "finished", "value": 3 + effect + report_world.seeded(run.id).normal(0, 0.002)}

    arms = {name: ARMS[name] for name in ("rope", "alibi", "none")}
    corpora = ["data=stdlib", "data=english"]
    results = world(tmp_path, outcome, arms=arms, seeds=4, corpora=corpora, placebo=False)
    assert answer(judge_study(results)) == (
        "none is worse than rope on stdlib and english; alibi is worse on stdlib and better on english."
    )


def test_rules_that_were_changed_after_the_plan_was_frozen_are_said(tmp_path: Path) -> None:
    results = world(tmp_path, arms=ARMS, seeds=6)
    moved = tuple(
        Amendment(path=path, frozen=old, now=new)
        for path, old, new in (
            ("study.seeds", 4, 6),
            ("study.equivalence_margin", 0.01, 0.02),
            ("study.notes", "", "x"),
        )
    )
    plan = PlanRecord(hash="h", date="", test_runs=0, amendments=moved, exploratory=())
    manifest = results.manifest.model_copy(update={"plan": plan})
    judgement = judge_study(replace(results, manifest=manifest))
    (said,) = [line for line in banners(judgement) if "rules were changed" in line]
    assert "study.seeds: 4 -> 6" in said and "study.equivalence_margin" in said and "notes" not in said
    assert "not what was frozen" in methods._looks(manifest.study, plan)


def test_tables_name_the_arms_and_hold_the_losses(tuned: Path) -> None:
    differences = pd.read_csv(tuned / "tables" / "differences.csv")
    assert set(differences["arm"]) == {arm.name for arm in read_results(tuned).manifest.arms} - {"rope"}
    assert pd.read_csv(tuned / "tables" / "rates.csv")["means"].str.contains("0.001=").all()


def test_runs_that_all_failed_give_no_answer(tmp_path: Path) -> None:
    world(tmp_path, lambda run: {"status": "crashed", "reason": "disk"}, arms=ARMS, seeds=2)
    report(tmp_path)
    text = Page((tmp_path / "report.html").read_text()).text
    assert "waits for runs" in text and "crashed" in text and "disk" in text


def test_an_arm_whose_rows_are_gone_does_not_make_the_family_smaller(tmp_path: Path) -> None:
    results = world(tmp_path, arms=ARMS, seeds=3)
    write_results(replace(results, runs=results.runs[results.runs["arm"] != "alibi"]), tmp_path)
    report(tmp_path)
    assert "the results hold no run of alibi" in Page((tmp_path / "report.html").read_text()).text


def test_a_duplicated_record_is_no_answer_but_a_reason(tmp_path: Path) -> None:
    results = world(tmp_path, arms=ARMS, seeds=3)
    twice = replace(results, runs=pd.concat([results.runs, results.runs.tail(1)], ignore_index=True))
    judgement = judge_study(twice)
    (judged,) = judgement.corpora
    assert judged.comparison is None and "duplicated record" in judged.reason
    assert any("duplicated record" in line for line in banners(judgement))


def test_unpaired_seeds_fall_back_to_welch_and_say_so(tmp_path: Path) -> None:
    results = world(tmp_path, arms=ARMS, seeds=4)
    runs = results.runs.copy()
    runs.loc[runs["arm"] == "none", "seed"] += 100
    (judged,) = judge_results(replace(results, runs=runs))
    assert judged.comparison is not None
    verdict = judged.comparison.verdict("none")
    assert verdict.method == "welch" and summary.by_seed(judged.comparison, verdict) == []
    cells = shown(judged, "none")
    assert "Welch" in cells["note"] and cells["r"] == "" and cells["difference"] != ""


# --------------------------------------------------------------------------------------------- mixtures


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"device_kind": "another"}, "2 kinds of device are mixed"),
        ({"kernel": "reference"}, "2 kernels are mixed"),
        ({"precision": "bf16"}, "2 precisions are mixed"),
        ({"source_hash": "beef"}, "its runs come from 2 versions of the code (beef, c0de)"),
    ],
)
def test_a_mixed_comparison_is_said_loudly(tmp_path: Path, said: dict[str, Any], expected: str) -> None:
    results = world(tmp_path, lambda run: finished(run) | (said if run.seed == 1 else {}), arms=ARMS, seeds=3)
    assert any(expected in line for line in banners(judge_study(results)))


def test_runs_of_older_code_are_stale(tmp_path: Path) -> None:
    also = {"source_hash": lambda run: "new" if run.arm == "none" else "c0de"}
    results = world(tmp_path, arms=ARMS, seeds=3, also=also)
    (judged,) = judge_results(results)
    assert results.runs.groupby("arm")["stale"].sum().to_dict() == {
        "rope": 0, "alibi": 0, "learned": 0, "none": 3, "placebo": 0,
    }  # fmt: skip
    assert any("3 runs are stale" in line and "none" in line for line in judged.mixed)


# ------------------------------------------------------------------------------- tuning, factors, claims


def test_rates_failed_runs_and_the_fixed_contrast_are_reported(tuned: Path) -> None:
    judgement = judge_study(read_results(tuned))
    judged = judgement.corpora[0]
    assert judged.tuning is not None and judged.fixed is not None
    titles = {table.title: table for table in below(read_results(tuned))}
    rates = {row[0]: row for row in titles["Rates"].rows}
    assert float(rates["alibi"][1]) == pytest.approx(judged.tuning.choice("alibi").rate, rel=1e-2)
    assert rates["none"][2] == "0.003"
    assert len(titles["At the baseline's rate"].rows) == 4
    assert UNTUNED_NOTE not in banners(judgement)


def test_the_sensitivity_is_reported_and_claimed_on(tuned: Path) -> None:
    results = read_results(tuned)
    tuning = results.runs[results.runs["role"] == "tuning"]
    assert (tuning["curve/first_loss"] == START).all()
    assert results.runs["curve/first_loss"][results.runs["role"] != "tuning"].isna().all()
    judged = judge_results(results)
    found = judged[0].sensitivities
    assert found is not None and found.source == "curve/first_loss"
    titles = {table.title: table for table in below(results)}
    table = titles["Sensitivity to optim.lr"]
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert set(rows) == {*ARMS, "placebo"} and table.rows[-1][0] == "none"
    for name, row in rows.items():
        arm = found.arm(name)
        assert arm.sensitivity is not None
        assert float(row["sensitivity"]) == pytest.approx(arm.sensitivity.value, abs=0.01)
    assert rows["none"]["diverged"] == "2 of 10" and rows["none"]["failed"] == "2"
    assert rows["none"]["l0"] == "5" and rows["rope"]["diverged"] == "0 of 10"
    assert "the training loss of the first step" in table.note and "too narrow" in table.note
    sheet = pd.read_csv(tuned / "tables" / "sensitivity.csv").set_index(["corpus", "arm"])
    assert sheet.loc[("english", "none"), "failed"] == 2
    claims = {judgement.claim: judgement for judgement in judged[0].claims}
    assert claims["C12"].word in ("pass", "undecided (sign as claimed)") and claims["C12"].contrasts[0].n == 2
    assert claims["C09"].word == "undecided (sign as claimed)" and "none 2 of 10" in claims["C09"].reason
    assert claims["C11"].word == "undecided (sign as claimed)" and "none 1 of 7" in claims["C11"].reason
    assert "Wortsman" in methods.methods(results) and "Fisher's exact test, and Clopper" in methods.methods(
        results
    )


def test_the_first_loss_is_that_of_the_first_step_or_none(tmp_path: Path) -> None:
    def outcome(run: PlannedRun) -> dict[str, Any]:
        return finished(run) | {"began": float("nan") if run.seed == 1000 else START}

    results = world(tmp_path, outcome, arms=ARMS, seeds=2, **TUNED)
    tuning = results.runs[results.runs["role"] == "tuning"]
    assert (tuning["curve/first_loss"].isna() == (tuning["seed"] == 1000)).all()
    later = tmp_path / "runs" / tuning["id"].iloc[-1] / "curve.parquet"
    pd.read_parquet(later).assign(step=[10, 20]).to_parquet(later)  # as a GPU logs: no first step
    made = planned(arms=ARMS, seeds=2, placebo=True, equivalence_margin=0.02, **TUNED)
    again = collect(made, tuning_runs(made, identify), Store(tmp_path / "runs"), name="x")
    column = again.runs.set_index("id")["curve/first_loss"]
    assert np.isnan(column[later.parent.name]) and column.notna().sum() == len(column) // 2 - 1


def test_a_damaged_curve_is_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    results = world(tmp_path, arms=ARMS, seeds=2)
    first, *others = dict.fromkeys(results.curves["id"])
    file = tmp_path / "runs" / first / "curve.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    made = planned(arms=ARMS, seeds=2, placebo=True, equivalence_margin=0.02)
    runs, _ = judged_runs(made, identify)
    again = collect(made, runs, Store(tmp_path / "runs"), name="x")
    assert list(dict.fromkeys(again.curves["id"])) == others
    assert f"{file} is damaged and left out" in caplog.text


def test_nested_tuning_judges_the_better_rate_of_each_seed(tmp_path: Path) -> None:
    tune = {"tune": {**TUNED["tune"], "nested": True}}
    results = world(tmp_path, arms=ARMS, seeds=3, **tune)
    (judged,) = judge_results(results)
    test = results.runs[(results.runs["role"] == "test") & (results.runs["arm"] == "alibi")]
    assert len(test) == 6 and judged.comparison is not None
    best = test.groupby("seed")["validation/loss"].idxmin()
    assert judged.comparison.outcomes("alibi").values == dict(
        zip(test["seed"][best], test["heldout/loss"][best], strict=True)
    )
    assert not judged.problems and judged.tuning is not None
    (rates,) = [table for table in below(results) if table.title == "Rates"]
    assert {row[3] for row in rates.rows} == {"the better of both at each test seed"}
    chosen = {row[0]: row[1] for row in rates.rows}["alibi"]
    assert {float(rate) for rate in chosen.split(", ")} == set(test["rate"])


def test_a_study_at_a_fixed_rate_is_called_a_demonstration(tmp_path: Path) -> None:
    world(tmp_path, arms=ARMS, seeds=2)
    report(tmp_path)
    assert UNTUNED_NOTE in Page((tmp_path / "report.html").read_text()).text
    assert UNTUNED_NOTE in rendered((tmp_path / "report.md").read_text()).text
    with Path("/dev/null").open("w") as nowhere:
        console = Console(width=200, record=True, file=nowhere)
        show(console, judge_study(read_results(tmp_path)))
    printed = console.export_text()
    assert "a demonstration" in printed and "baseline" in printed and "alibi" in printed


FACTORS = {
    "norm": {"layer": ["model/norm=layer"], "rms": ["model/norm=rms"]},
    "position": {"learned": ["model/position=learned"], "rope": ["model/position=rope"]},
}
DESIGNED = {"arms": {}, "baseline": None, "axis": ["model.norm", "model.position"]}


def test_a_factorial_shows_effects_and_interactions(tmp_path: Path) -> None:
    results = world(tmp_path, design={"kind": "factorial", "factors": FACTORS}, seeds=4, **DESIGNED)
    (judged,) = judge_results(results)
    assert judged.factorial is not None and not judged.problems
    (table,) = [t for t in below(results) if "interactions" in t.title]
    assert [row[0] for row in table.rows] == ["norm", "position", "norm × position"]
    for row, effect in zip(table.rows, judged.factorial.effects, strict=True):
        assert float(row[3].replace("−", "-")) == pytest.approx(effect.difference, abs=0.01)
        assert row[5].split(";")[0] == ("excludes 0" if effect.low > 0 or effect.high < 0 else "contains 0")
        assert ("not that of every cell" in row[5]) == (effect.in_every_cell is False)
    assert len(sheets(judge_study(results))["effects"]) == 3 + 4  # and the simple effects
    said = answer(judge_study(results))
    assert "rms instead of layer" in said and "rope instead of learned" in said and "arms are" not in said


def test_a_factorial_is_answered_factor_by_factor_and_where_it_depends() -> None:
    """`c` lowers the loss in one combination and raises it in three: no average may hide that."""
    factors = {"norm": ("layer", "rms"), "ffn": ("relu", "glu")}
    cells = {("layer", "relu"): 3.0, ("rms", "relu"): 2.8, ("layer", "glu"): 2.9, ("rms", "glu"): 2.95}
    norm, ffn = level_effects(factors, cells)
    assert (norm.level, norm.reference) == ("rms", "layer")
    assert norm.differences == pytest.approx([-0.2, 0.05]) and ffn.differences == pytest.approx([-0.1, 0.15])
    said = effect_in_words({"": ffn}, "the loss", True)
    assert said == "glu instead of relu lowers the loss in 1 of 2 combinations (−0.10 to +0.15)"
    both = norm._replace(differences=[-0.2, -0.05])
    said = effect_in_words({" on a": both, " on b": both}, "the loss", True)
    assert said == "rms instead of layer lowers the loss in all 2 combinations on a and on b, by 0.05 to 0.20"
    assert level_effects(factors, {("layer", "relu"): 3.0}) == []  # a cell without a mean


def test_a_factorial_of_two_levels_shows_each_ingredient_too(tmp_path: Path) -> None:
    """rms acts alone; rope acts, and a third more where rms is there."""

    def outcome(run: PlannedRun) -> dict[str, Any]:
        effect = -0.1 * ("rms" in run.arm) - 0.2 * ("rope" in run.arm) - 0.06 * (run.arm == "rms+rope")
        noise = np.random.default_rng([run.seed, len(run.arm)]).normal(0, 0.002)
        return {"status": "finished", "value": 3 + effect + noise}

    design = {"kind": "factorial", "factors": FACTORS}
    results = world(tmp_path, outcome, design=design, seeds=4, **DESIGNED)
    (judged,) = judge_results(results)
    found = {i.factor: (i.added, i.left_out) for i in judged.ingredients}
    for factor, alone, last in (("norm", -0.1, -0.16), ("position", -0.2, -0.26)):
        for estimate, truth in zip(found[factor], (alone, last), strict=True):
            assert estimate is not None and estimate.low <= truth <= estimate.high
            assert estimate.high - estimate.low < 0.05
    (table,) = [t for t in below(results) if t.title.startswith("Each ingredient")]
    assert "Added to layer, learned, and left out of rms, rope" in table.note
    assert len(sheets(judge_study(results))["ingredients"]) == 4
    assert "added alone to one end" in methods.methods(results)


def test_a_factorial_with_an_excluded_cell_waits_for_nothing(tmp_path: Path) -> None:
    study = {"design": {"kind": "factorial", "factors": FACTORS}, "exclude": {"rms+learned": "slow"}}
    results = world(tmp_path, seeds=3, **study, **DESIGNED)
    (judged,) = judge_results(results)
    assert judged.factorial is None and judged.ingredients and not judged.problems
    assert "cannot be fitted" in results.manifest.notes[0]
    assert "interactions" not in methods.methods(results) and "added alone" in methods.methods(results)


def test_a_factorial_with_three_levels_has_no_single_way(tmp_path: Path) -> None:
    factors = {**FACTORS, "position": {**FACTORS["position"], "alibi": ["model/position=alibi"]}}
    results = world(tmp_path, design={"kind": "factorial", "factors": factors}, seeds=3, **DESIGNED)
    (judged,) = judge_results(results)
    assert judged.factorial is not None and judged.factorial.effects and not judged.ingredients
    assert "added alone" not in methods.methods(results)


def test_effects_wait_for_a_look_and_share_its_alpha(tmp_path: Path) -> None:
    study = {
        "design": {"kind": "factorial", "factors": FACTORS},
        "seeds": 8,
        "interim_seeds": [4, 8],
        **DESIGNED,
    }
    for seeds, alpha in ((3, None), (4, 0.05 / 2 / 2 / 2)):  # looks, tables, two halves of the second
        folder = tmp_path / str(seeds)

        def outcome(run: PlannedRun, seeds: int = seeds) -> dict[str, Any] | None:
            return finished(run) if run.seed < seeds else None

        (judged,) = judge_results(world(folder, outcome, **study))
        assert (judged.factorial.alpha if judged.factorial else None) == alpha
        assert bool(judged.ingredients) == (alpha is not None)


def test_ingredients_are_shown_added_and_left_out(tmp_path: Path) -> None:
    design = {
        "kind": "add_one_in",
        "factors": FACTORS,
        "from": {"norm": "layer", "position": "learned"},
        "to": {"norm": "rms", "position": "rope"},
    }
    results = world(tmp_path, design=design, seeds=3, **DESIGNED)
    (judged,) = judge_results(results)
    assert [i.factor for i in judged.ingredients] == ["norm", "position"]
    assert all(i.added is not None and i.left_out is None for i in judged.ingredients)
    (table,) = [t for t in below(results) if t.title.startswith("Each ingredient")]
    assert table.rows[0][1] != "" and table.rows[0][3] == ""
    assert table.note.endswith("The intervals of this table hold together.")

    def diverging(run: PlannedRun) -> dict[str, Any]:
        return {"status": "diverged"} if (run.arm, run.seed) == ("baseline", 0) else finished(run)

    results = world(tmp_path / "partly", diverging, design=design, seeds=3, **DESIGNED)
    (judged,) = judge_results(results)
    (table,) = [t for t in below(results) if t.title.startswith("Each ingredient")]
    assert table.rows[0][1] != "" and table.note.endswith("Judged among the runs that finished.")


def test_claims_stand_beside_what_was_published(tuned: Path) -> None:
    table = claim_tables.claim_table(judge_results(read_results(tuned)))
    assert table is not None
    rows = {(row[0], row[1]): dict(zip(table.columns, row, strict=True)) for row in table.rows}
    for corpus in ("stdlib", "english"):
        assert rows["C16", corpus]["verdict"] == "pass" and rows["C16", corpus]["headline"] == "yes"
        assert rows["C16", corpus]["published"] == "−0.098"
        assert rows["C16", corpus]["beside"].startswith("same sign")
        assert "125M parameters" in rows["C16", corpus]["source"]
        assert rows["C2", corpus]["verdict"] == "fail" and rows["C2", corpus]["headline"] == "no"


def test_a_level_stands_beside_the_published_level(tmp_path: Path) -> None:
    claims = [
        {"id": "L", "predicate": "rope == 3 within 0.1", "published": {"effect": 1.5, "source": "x"}},
        {"id": "M", "predicate": "alibi < 2", "measure": "validation/loss"},
    ]
    results = world(tmp_path, arms=ARMS, seeds=4, claims=claims, measures=["validation/loss"])
    judged = judge_results(results)
    table = claim_tables.claim_table(judged)
    assert table is not None
    level, other = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    words = (level["verdict"], other["verdict"])
    assert words == ("pass, rates not tuned", "fail, rates not tuned")
    assert re.fullmatch(r"rope = [23]\.\d+ \[[23]\.\d+, 3\.\d+\]", level["our data"])
    assert level["published"] == "1.5" and re.fullmatch(r"ours [23]\.?\d*, (2|2.0\d|1.9\d)×", level["beside"])


def test_a_claim_on_another_measure_is_judged_on_it(tmp_path: Path) -> None:
    claims = [{"id": "V", "predicate": "alibi < rope", "measure": "validation/loss"}]
    results = world(tmp_path, arms=ARMS, seeds=4, claims=claims, measures=["validation/loss"])
    (judged,) = judge_results(results)
    assert [(j.claim, j.measure, j.word) for j in judged.claims] == [("V", "validation/loss", "pass")]


def test_the_effect_in_tokens_is_blank_until_the_budgets_are_run(tmp_path: Path) -> None:
    results = world(tmp_path, arms=ARMS, seeds=4)
    (judged,) = judge_results(results)
    assert judged.tokens("alibi") is None

    def by_budget(run: PlannedRun) -> dict[str, Any]:
        return {"status": "finished", "value": loss(run, 0.001) - 0.1 * np.log2(run.budget)}

    results = world(tmp_path, by_budget, arms=ARMS, seeds=4, effect_in_tokens=True)
    spent = results.runs[results.runs["role"] == "budget"]
    assert sorted(spent["budget"]) == [0.5] * 4 + [2.0] * 4 and set(spent["arm"]) == {"rope"}
    assert set(spent["command"].str.extract(r"budget.tokens=(\d+)")[0]) == {"4000", "16000"}
    (judged,) = judge_results(results)
    effect = judged.tokens("alibi")
    assert effect is not None and effect.multiple is not None and 1.1 < effect.multiple < 2
    multiple = f"{effect.multiple:.2f}× [{effect.low:.2f}, {effect.high:.2f}]"
    assert shown(judged, "alibi")["tokens"].startswith(multiple)
    table = tables.verdict_table(judged)
    assert table is not None and "tokens" in table.columns


def test_the_error_over_documents_stands_beside(tuned: Path) -> None:
    judged = judge_results(read_results(tuned))[0]
    assert judged.comparison is not None
    found = judged.comparison.verdict("alibi").documents
    assert found is not None and found.documents == 20
    other = shown(judged, "alibi")["other text"]
    assert float(other.split("±")[1]) == pytest.approx(found.error, abs=1e-3)


# -------------------------------------------------------------------------------------------- skills


def skilled(run: PlannedRun) -> dict[str, Any]:
    """`none` solves nothing and once diverges, `alibi` half, the others all."""
    if (run.arm, run.seed) == ("none", 0):
        return {"status": "diverged"}
    exact = {"none": 0.05, "alibi": 0.5 + 0.45 * (run.seed % 2)}.get(run.arm, 0.95)
    return finished(run) | {"metrics": {"skill/exact": exact, "skill/solved": float(exact >= 0.9)}}


SKILLS: dict[str, Any] = {"arms": ARMS, "seeds": 8, "better": "higher"}


def test_solved_runs_are_judged_by_their_counts(tmp_path: Path) -> None:
    claims = [
        {"id": "A", "predicate": "rope > none"},
        {"id": "B", "predicate": "learned > none"},
        {"id": "C", "predicate": "rope > alibi"},
        {"id": "D", "predicate": "none < 0.45"},
    ]
    results = world(tmp_path, skilled, metric="skill/solved", claims=claims, **SKILLS)
    report(tmp_path)
    (judged,) = judge_results(results)
    comparison = judged.comparison
    assert comparison is not None and not comparison.warnings  # all solved is no lack of noise
    words = {verdict.arm: verdict.word for verdict in comparison.verdicts}
    assert words == {"none": "worse", "alibi": "undecided", "learned": "undecided", "placebo": "undecided"}
    none = comparison.verdict("none")
    assert (none.difference, none.low, none.high, none.method) == (-1, None, None, "fisher")
    assert {j.claim: j.word for j in judged.claims} == {
        "A": "pass", "B": "pass", "C": "undecided (sign as claimed)", "D": "pass",
    }  # fmt: skip
    (table,) = [t for t in below(results) if t.title.startswith("P(solved)")]
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert rows["none"]["solved"] == "0 of 8" and rows["none"]["verdict"] == "solves less"
    assert rows["alibi"]["solved"] == "4 of 8" and rows["alibi"]["between"] == "4"
    assert rows["alibi"]["interval"] == "[0.16, 0.84]" and rows["rope"]["verdict"] == "baseline"
    page, text = Page((tmp_path / "report.html").read_text()), rendered((tmp_path / "report.md").read_text())
    for each in (page.text, text.text):
        assert "P(solved) by skill/solved" in each and "solves less" in each and "[0.16, 0.84]" in each
    assert "Fisher's exact test on the counts" in methods.methods(results)
    assert not (tmp_path / "figures" / "differences.svg").exists()  # there is no interval to draw
    assert len(sheets(judge_study(results))["solved"]) == 5


def test_a_skill_that_is_a_number_has_its_solved_runs_beside(tmp_path: Path) -> None:
    results = world(tmp_path, skilled, measures=["skill/exact"], metric="heldout/loss", **SKILLS)
    (judged,) = judge_results(results)
    assert [found.metric for found in judged.solved] == ["skill/solved"]
    assert judged.solved[0].contrasts["none"].word == "solves less"
    assert judged.comparison is not None and judged.comparison.verdict("none").method == "paired"
    assert {found.metric for found in judged.descriptions} == {"skill/exact"}


def test_solved_runs_are_not_shown_between_looks(tmp_path: Path) -> None:
    def half(run: PlannedRun) -> dict[str, Any] | None:
        return skilled(run) if run.seed < 5 else None

    study = {**SKILLS, "interim_seeds": [3, 8]}
    results = world(tmp_path, half, metric="skill/solved", claims=CLAIMS[:1], **study)
    (judged,) = judge_results(results)
    assert not judged.solved and judged.claims[0].word == "undecided"
    assert judged.comparison is not None
    assert {verdict.word for verdict in judged.comparison.verdicts} == {"waiting"}
    assert all(verdict.difference is None for verdict in judged.comparison.verdicts)
    report(tmp_path)


def test_solved_runs_of_the_seeds_at_the_look_alone_count(tmp_path: Path) -> None:
    def early(run: PlannedRun) -> dict[str, Any] | None:
        return skilled(run) if run.seed < 4 else None

    results = world(tmp_path, early, metric="skill/solved", **{**SKILLS, "interim_seeds": [4, 8]})
    (judged,) = judge_results(results)
    (found,) = judged.solved
    assert {arm.runs for arm in found.arms.values()} == {4} and found.alpha == 0.025


def test_a_solved_metric_that_is_neither_0_nor_1_is_refused(tmp_path: Path) -> None:
    def wrong(run: PlannedRun) -> dict[str, Any]:
        return finished(run) | {"metrics": {"skill/solved": 0.5}}

    (judged,) = judge_results(world(tmp_path, wrong, metric="skill/solved", **SKILLS))
    assert judged.comparison is None and "must be 0 or 1" in judged.reason and not judged.solved


# --------------------------------------------------------------------------------- the plan, the paper


def test_the_frozen_plan_and_its_amendments_are_told(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("{question: x}")
    frozen = freeze(file, planned(arms={"rope": [], "alibi": ["model/position=alibi"]}, seeds=3))
    told = {"frozen": frozen, "amendments": ()}
    few = {"rope": [], "alibi": ["model/position=alibi"]}
    results = world(tmp_path, arms=few, seeds=3, placebo=False, also=told)
    assert results.manifest.plan is not None and not results.manifest.plan.exploratory
    assert "frozen before the first test run" in methods.methods(results)
    assert "followed as planned" in methods.methods(results)

    now = planned(arms=ARMS, seeds=3, equivalence_margin=0.02)
    told["amendments"] = amendments(frozen, file, now)
    results = world(tmp_path, arms=ARMS, seeds=3, placebo=False, also=told)
    assert results.manifest.plan is not None and set(results.manifest.plan.exploratory) == {"learned", "none"}
    report(tmp_path)
    text = Page((tmp_path / "report.html").read_text()).text
    assert "Since then:" in text and "arms[base/none]" in text and "Exploratory" in text


def test_the_methods_come_from_the_plan(tuned: Path) -> None:
    results = read_results(tuned)
    text = methods.methods(results)
    for said in (
        "seeds 0 to 6 (7 in all)",
        "optim.lr was tuned",
        "0.0003, 0.0006, 0.001, 0.002, 0.003",
        "on 2 seeds that served for nothing else",
        "parameters without embeddings was held within 0.5%",
        "Bonferroni",
        "family is all 4 comparisons",
        "judged once, at 7 seeds",
        "placebo",
        "was not frozen",
    ):
        assert said in text
    looks = report_world.study(arms=ARMS, interim_seeds=[3, 6], interval="pooled")
    assert "at 3, 6 seeds" in methods._looks(looks, None) and "Dunnett" in methods._test(
        results.manifest, looks
    )
    match = {"hold": "total_params", "by": "depth", "by_arm": {"alibi": "ffn.width"}, "tolerance": 0.0025}
    said = methods._matching(report_world.study(arms=ARMS, match=match))
    assert said.endswith("within 0.25% of the baseline's by turning model.depth, of alibi model.ffn.width.")


def test_every_run_has_the_command_that_makes_it(tuned: Path) -> None:
    runs = pd.read_csv(tuned / "tables" / "runs.csv")
    assert len(runs) == len(read_results(tuned).runs)
    row = runs[(runs["arm"] == "alibi") & (runs["role"] == "test") & (runs["corpus"] == "english")].iloc[0]
    words = shlex.split(row["command"])
    assert words[:2] == ["python", "train.py"]
    assert {
        "model/position=alibi",
        "data=english",
        f"optim.lr={float(row['rate'])!r}",
        f"seed={row['seed']}",
    } <= {*words}
    redrawn = shlex.split(runs[(runs["arm"] == "placebo")].iloc[0]["command"])
    assert any(word.startswith("seed={init: ") and "redraw: [" in word for word in redrawn)


def test_latex_is_escaped() -> None:
    assert export.latex(r"a_b & 50% $x$ #1 {y} \z ~ ^ <|>") == (
        r"a\_b \& 50\% \$x\$ \#1 \{y\} \textbackslash{}z \textasciitilde{} \textasciicircum{} "
        r"\textless{}\textbar{}\textgreater{}"
    )
    table = Table("", ("arm",), (("[x]\n\\end{tabular}",),), "50 % of\n\\input{x}")
    assert export.latex_table(table).splitlines()[0] == "% 50 % of input{x}"
    assert r"{[}x{]} \textbackslash{}end\{tabular\} \\" in export.latex_table(table)


def test_differences_and_matching_are_listed(tuned: Path) -> None:
    manifest = read_results(tuned).manifest
    table, matching = study_tables.difference_table(manifest), study_tables.matching_table(manifest)
    assert table is not None and matching is not None
    rows = {tuple(row[:3]): row for row in table.rows}
    assert rows["stdlib", "alibi", "model.position.name"][3:] == ("rope", "alibi", "axis")
    assert rows["stdlib", "learned", "model.ffn.width"][5] == "matched"
    assert {row[1] for row in matching.rows} == {"alibi", "learned", "none"}


# ------------------------------------------------------------------------------------ nothing is trusted


NASTY = [
    "<script>alert(1)</script>",
    "a | b",
    "$x^2$ and $y$",
    "`code` *bold* _it_",
    "[x](javascript:alert(1))",
    "![x](http://example.org/x.png)",
    "{{7*7}}{% raw %}",
    "</style></svg>]]><b>",
    "<!-- x --><img src=x onerror=alert(1)>",
    "L" * 100,
    r"\input{x}[red]y[/red]",
    "- # 1. x",
    "=HYPERLINK(1)",
    "@SUM(1)",
]


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arms: dict[str, list[str]] = {"rope": []}
    arms |= {name: [f"model.position.base={1000 + n}"] for n, name in enumerate(NASTY)}

    def outcome(run: PlannedRun) -> dict[str, Any]:
        if run.seed == 1 and run.arm == NASTY[0]:
            return {"status": "diverged", "reason": "because <img src=x onerror=alert(2)> | $a$"}
        return finished(run) | ({"device_kind": "<b>other</b>"} if run.seed == 2 else {})

    folder = tmp_path_factory.mktemp("experiments") / "na<b>sty"
    world(
        folder,
        outcome,
        arms=arms,
        seeds=3,
        question="Is <i>this</i> | safe? $1",
        notes="<script>alert(3)</script>",
        corpora={"a/../b": ["data=stdlib"], "<u>": ["data=english"]},
        claims=[{"id": "<b>C1</b>", "predicate": f'rope < "{NASTY[0]}"', "published": {
            "effect": -1, "source": "<a href=javascript:x>", "differs": "</table>"}}],
    )  # fmt: skip
    report(folder)
    return folder


def test_html_shows_every_name_and_obeys_none(nasty: Path) -> None:
    html = (nasty / "report.html").read_text()
    page = Page(html)
    assert {"script", "img", "i", "u", "link", "iframe"}.isdisjoint(page.tags)
    assert all(href.startswith("#run-") for href in re.findall(r"<a\b[^>]*?href=[\"']?([^\"'\s>]*)", html))
    assert html.count("<a ") == html.count('<a href="#run-')
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href"):
            assert value is not None and value.startswith("#")
        assert "://" not in (value or "") or name.startswith(("xmlns", "aria-label"))
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", html) and "@import" not in html
    for name in NASTY:
        assert name in page.text
    assert "Is <i>this</i> | safe? $1" in page.text and "<script>alert(3)</script>" in page.text
    assert page.tags.count("html") == page.tags.count("main") == page.tags.count("style") == 1


def test_no_cell_of_a_table_is_a_formula(nasty: Path) -> None:
    cells = [
        cell
        for file in (nasty / "tables").glob("*.csv")
        for row in csv.reader(file.open(newline=""))
        for cell in row
        if not re.fullmatch(r"-?[\d.]+(e[-+]\d+)?", cell)
    ]
    assert {"'=HYPERLINK(1)", "'@SUM(1)", "'- # 1. x"} <= set(cells)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_markdown_shows_every_name_and_obeys_none(nasty: Path) -> None:
    page = rendered((nasty / "report.md").read_text())
    assert {"script", "i", "u", "b", "a", "table"} & set(page.tags) == {"table"}
    sources = [value for name, value in page.attributes if name == "src"]
    assert sources and all(re.fullmatch(r"figures/[a-z]+-\d\.svg", str(source)) for source in sources)
    for name in NASTY:
        assert name in page.text
    assert "because <img src=x onerror=alert(2)> | $a$" in page.text


def test_svg_files_hold_names_as_text(nasty: Path) -> None:
    from xml.etree import ElementTree

    for file in (nasty / "figures").glob("*.svg"):
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(file).iter()}
        assert "script" not in tags and "b" not in tags and "img" not in tags
    drawing = (nasty / "figures" / "differences-1.svg").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in drawing and "$x^2$ and $y$" in drawing


def test_the_terminal_obeys_no_markup(nasty: Path) -> None:
    with Path("/dev/null").open("w") as nowhere:
        console = Console(width=220, record=True, file=nowhere)
        show(console, judge_study(read_results(nasty)))
    assert "[red]y[/red]" in console.export_text()


@pytest.mark.parametrize("width", [80, 110])
def test_the_terminal_shows_arms_and_verdicts_beside_effects_in_tokens(tmp_path: Path, width: int) -> None:
    def by_budget(run: PlannedRun) -> dict[str, Any]:
        return {"status": "finished", "value": loss(run, 0.1) - 0.1 * np.log2(run.budget)}

    world(tmp_path, by_budget, seeds=3, effect_in_tokens=True)
    with Path("/dev/null").open("w") as nowhere:
        console = Console(width=width, record=True, file=nowhere)
        show(console, judge_study(read_results(tmp_path)))
    assert re.search(r"^rope +baseline", console.export_text(), re.MULTILINE)


@pytest.mark.parametrize("name", ["---", "# x", "1. x", "+ x", "===", "12) y", "-", "> q", "x\ny"])
def test_no_name_begins_a_block_of_markdown(name: str) -> None:
    page = rendered(f"- {markdown(name)}\n")
    assert page.tags == ["ul", "li"]
    assert page.text == " ".join(name.split())


def test_a_fence_is_longer_than_what_it_holds() -> None:
    assert rendered(fenced("a\n```\n<script>")).tags == ["pre", "code"]
