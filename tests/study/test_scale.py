"""Sizes: the slope of a gap, its interval, the words, ranks, and a report from records made by formula."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_world import finished, planned, seeded, world
from study_fakes import study

from ablate.study.design.forecast import outlook
from ablate.study.design.freeze import NAME as PLAN
from ablate.study.design.runs import PlannedRun
from ablate.study.design.study import HOME, StudyError
from ablate.study.judge.corpus import judge_results
from ablate.study.judge.headlines import headlines
from ablate.study.judge.scale import SCALE, Scale, judge_scale, slope
from ablate.study.judge.study_judgement import judge_study
from ablate.study.report import claim_tables, scale_tables, tables
from ablate.study.report.answer import answer, with_size
from ablate.study.report.dashboard import paragraphs
from ablate.study.report.experiments import findings_of, judgement_of
from ablate.study.report.render import report
from ablate.study.results import Results
from ablate.study.stats.intervals import paired

SIZES = {"small": ["model.depth=2"], "middle": ["model.depth=8"], "large": ["model.depth=32"]}
ARMS: dict[str, list[str]] = {
    "rope": [],
    "alibi": ["model/position=alibi"],
    "learned": ["model/position=learned"],
    "none": ["model/position=none"],
}
SLOPES = {"none": -0.1, "alibi": -0.06, "learned": 0.0}  # of the gap, by decade
GAPS = {"none": 0.2, "alibi": -0.05, "learned": 0.1}  # at the middle size
C17 = {"id": "C17", "predicate": "none < rope", "measure": SCALE}


def by_size(run: PlannedRun, sd: float = 0.004) -> dict[str, Any]:
    """Losses on straight lines in log10 of the depth, with noise of each run."""
    decades = np.log10(run.spec["model"]["depth"] / 8)
    value = 3 - 0.3 * decades + GAPS.get(run.arm, 0.0) + SLOPES.get(run.arm, 0.0) * decades
    return {"status": "finished", "value": float(value + seeded(run.id).normal(0, sd))}


def judged(results: Results) -> tuple[Scale, ...]:
    return judge_scale(results, judge_results(results))


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("experiments") / "sized"
    claims = [
        {**C17, "published": {"effect": -0.058, "source": "Haviv et al. 2022"}},
        {"id": "L", "predicate": "learned ~ rope within 0.02", "measure": SCALE},
        {"id": "C16", "predicate": "rope < none"},
    ]
    return folder, world(folder, by_size, arms=ARMS, seeds=6, sizes=SIZES, claims=claims)


# ------------------------------------------------------------------------------------------ numbers


def test_the_slope_is_that_of_the_line() -> None:
    decades = np.log10([5e4, 2e5, 8e5])
    assert slope(decades, 2 - 0.07 * decades) == pytest.approx(-0.07)
    bent = np.array([0.0, 0.03, 0.0])
    assert slope(decades, bent) == pytest.approx(np.polyfit(decades, bent, 1)[0])


@pytest.mark.parametrize(
    ("noise", "shared", "bend"),
    [((0.02, 0.02, 0.02), 0.0, 0.0), ((0.03, 0.02, 0.005), 0.0, 0.0), ((0.02, 0.02, 0.02), 0.6, 0.03)],
)
def test_the_interval_covers_the_slope(noise: tuple[float, ...], shared: float, bend: float) -> None:
    """Equal noise or not, sizes that share it or not, a straight line or not: 95 % of the intervals of five
    seeds hold the slope of the true gaps."""
    decades = np.log10([5e4, 2e5, 8e5])
    gaps = 0.1 - 0.05 * (decades - decades[1]) + np.array([0, bend, 0])
    truth = np.polyfit(decades, gaps, 1)[0]
    covariance = np.outer(noise, noise) * (shared + (1 - shared) * np.eye(3))
    studies = np.random.default_rng(3).multivariate_normal(gaps, covariance, size=(600, 5))
    held = 0
    for seeds in studies:
        found = np.array([slope(decades, each) for each in seeds])
        interval = paired(found, np.zeros(5), 0.05)
        held += interval.low <= truth <= interval.high
        assert interval.df == 4
    assert 0.93 <= held / len(studies) <= 0.97


# ------------------------------------------------------------------------------------------ verdicts


def test_gaps_shrink_grow_and_stay(sized: tuple[Path, Results]) -> None:
    (scale,) = judged(sized[1])
    assert [size.name for size in scale.sizes] == ["small", "middle", "large"]
    assert [size.parameters for size in scale.sizes] == sorted(size.parameters for size in scale.sizes)
    trends = {trend.arm: trend for trend in scale.trends}
    assert {arm: trend.word for arm, trend in trends.items()} == {
        "alibi": "grows", "learned": "undecided", "none": "shrinks", "placebo": "undecided",
    }  # fmt: skip
    for arm, true in SLOPES.items():
        trend = trends[arm]
        assert trend.slope is not None and trend.low is not None and trend.high is not None
        assert trend.low < true < trend.high and (trend.n, trend.df) == (6, 5)
        assert trend.bend is not None and trend.bend < 0.01
        assert trend.line is not None and trend.line[0] == pytest.approx(GAPS[arm] - true * 0.6, abs=0.02)


def test_the_slope_of_a_gap_is_the_least_squares_line_through_the_mean_gaps(
    sized: tuple[Path, Results],
) -> None:
    (scale,) = judged(sized[1])
    decades = np.log10([size.parameters for size in scale.sizes])
    for trend in scale.trends:
        gaps = [size.gap(trend.arm).difference for size in scale.sizes]  # type: ignore[union-attr]
        assert trend.slope == pytest.approx(np.polyfit(decades, gaps, 1)[0])  # type: ignore[arg-type]


def test_a_gap_that_changes_its_sign_turns(tmp_path: Path) -> None:
    def outcome(run: PlannedRun) -> dict[str, Any]:
        said = by_size(run)
        decades = np.log10(run.spec["model"]["depth"] / 8)
        return said | {"value": said["value"] + (0.3 * decades - 0.1 if run.arm == "learned" else 0.0)}

    (scale,) = judged(world(tmp_path, outcome, arms=ARMS, seeds=6, sizes=SIZES))
    assert next(t.word for t in scale.trends if t.arm == "learned") == "turns"


def test_a_missing_run_waits_and_a_diverged_one_is_left_out(tmp_path: Path) -> None:
    def outcome(run: PlannedRun) -> dict[str, Any] | None:
        if (run.arm, run.seed, run.corpus) == ("none", 2, "large"):
            return None
        if (run.arm, run.seed, run.corpus) == ("alibi", 3, "small"):
            return {"status": "diverged", "reason": "loss is not finite"}
        return by_size(run)

    results = world(tmp_path, outcome, arms=ARMS, seeds=6, sizes=SIZES)
    (scale,) = judged(results)
    trends = {trend.arm: trend for trend in scale.trends}
    assert trends["none"].word == "waiting" and "none seeds 2 (not run yet)" in trends["none"].reason
    assert (trends["alibi"].word, trends["alibi"].n, trends["alibi"].df) == ("grows", 5, 4)
    assert scale.comparison is not None and scale.comparison.verdict("alibi").conditional
    assert (
        "the seeds that finished at every size"
        in scale_tables.scale_tables(scale, "heldout/loss", 0.05)[0].note
    )
    by_pair = {(rank.first, rank.second): rank for rank in scale.ranks}
    assert by_pair["small", "middle"].arms == ("rope", "learned", "none")
    assert by_pair["middle", "large"].arms == ("rope", "alibi", "learned")
    assert by_pair["small", "large"].tau is None and "fewer than 3 arms" in by_pair["small", "large"].reason


def test_looks_are_kept(tmp_path: Path) -> None:
    def outcome(run: PlannedRun) -> dict[str, Any] | None:
        return by_size(run) if run.seed < 3 or run.corpus != "large" else None

    (scale,) = judged(world(tmp_path, outcome, arms=ARMS, seeds=6, interim_seeds=[3, 6], sizes=SIZES))
    assert scale.comparison is not None
    assert (scale.comparison.look, scale.comparison.alpha_spent) == (3, pytest.approx(0.05 / 4 / 2))
    assert all(trend.n == 3 for trend in scale.trends)


def test_the_pooled_model_judges_slopes_too(tmp_path: Path) -> None:
    (scale,) = judged(world(tmp_path, by_size, arms=ARMS, seeds=6, sizes=SIZES, interval="pooled"))
    trends = {trend.arm: trend for trend in scale.trends}
    assert (trends["none"].word, trends["alibi"].word) == ("shrinks", "grows")
    assert trends["none"].df is None


def test_while_rates_are_tuned_there_is_no_slope(tmp_path: Path) -> None:
    results = world(
        tmp_path, lambda run: None, sizes=SIZES, tune={"optim.lr": [1e-3 * 2**n for n in range(5)]}
    )
    (scale,) = judged(results)
    assert scale.comparison is None and "still being tuned" in scale.reason
    report(tmp_path)
    assert "no slope: no test run is planned yet" in (tmp_path / "report.md").read_text()


# ------------------------------------------------------------------------------------------ ranks


def test_ranks_are_compared_at_each_pair_of_sizes(sized: tuple[Path, Results]) -> None:
    (scale,) = judged(sized[1])
    assert [(rank.first, rank.second) for rank in scale.ranks] == [
        ("small", "middle"), ("small", "large"), ("middle", "large"),
    ]  # fmt: skip
    for rank in scale.ranks:  # alibi, rope, learned, none; at the large size learned and none lie near
        assert rank.arms == ("rope", "alibi", "learned", "none") and rank.n == 6
        assert rank.tau == pytest.approx(1) and rank.p == pytest.approx(2 / 24)
        assert rank.low is not None and rank.high == pytest.approx(1) and rank.low > 0.3


def test_reversed_ranks_have_tau_minus_one(tmp_path: Path) -> None:
    def outcome(run: PlannedRun) -> dict[str, Any]:
        effect = GAPS.get(run.arm, 0.0) * (1 if run.corpus == "small" else -1)
        return {"status": "finished", "value": 3 + effect + seeded(run.id).normal(0, 0.004)}

    sizes = {name: SIZES[name] for name in ("small", "large")}
    (scale,) = judged(world(tmp_path, outcome, arms=ARMS, seeds=4, sizes=sizes))
    (rank,) = scale.ranks
    assert (rank.tau, rank.low, rank.high) == pytest.approx((-1, -1, -1))
    assert all(trend.bend is None for trend in scale.trends)


# ------------------------------------------------------------------------------------------ claims


def test_claims_on_the_slope_are_judged_once(sized: tuple[Path, Results]) -> None:
    folder, results = sized
    blocks = judge_results(results)
    (scale,) = judge_scale(results, blocks)
    assert {judgement.claim: judgement.word for judgement in scale.claims} == {"C17": "pass", "L": "pass"}
    table = claim_tables.claim_table([*blocks, scale])
    assert table is not None and table.columns[1] == "size" and "headline" not in table.columns
    rows = [(row[0], row[1], row[3]) for row in table.rows]
    passed = "pass, rates not tuned"
    assert rows == [
        ("C16", "small", passed), ("C16", "middle", passed), ("C16", "large", passed),
        ("C17", "all sizes", passed), ("L", "all sizes", passed),
    ]  # fmt: skip
    judgement = judge_study(results)
    page = "\n".join(paragraphs(judgement))
    assert answer(judgement) in page.replace("\\", "") and "| C17 | all sizes |" in page
    assert list(findings_of(folder, judgement_of(folder))) == []  # not frozen: no evidence
    (folder / PLAN).touch()
    found = {(said.claim, said.corpus) for said in findings_of(folder, judgement_of(folder))}
    assert ("C17", "all sizes") in found and ("C16", "large") in found


def test_two_sizes_are_no_headline_and_two_corpora_are(tmp_path: Path) -> None:
    both = {"stdlib": ["data=stdlib"], "english": ["data=english"]}
    claims = [C17, {"id": "C16", "predicate": "rope < none"}]
    results = world(tmp_path / "one", by_size, arms=ARMS, seeds=4, sizes=SIZES, claims=claims)
    blocks = judge_results(results)
    assert {block.text for block in blocks} == {HOME}
    assert not any(headlines([*blocks, *judge_scale(results, blocks)]).values())
    results = world(tmp_path / "two", by_size, arms=ARMS, seeds=4, sizes=SIZES, corpora=both, claims=claims)
    blocks = judge_results(results)
    assert [block.corpus for block in blocks][:2] == ["stdlib at small", "stdlib at middle"]
    scales = judge_scale(results, blocks)
    assert [scale.corpus for scale in scales] == ["stdlib", "english"]
    assert headlines([*blocks, *scales]) == {"C17": True, "C16": True}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sizes": {"small": []}}, "one size has no slope"),
        ({"sizes": ["model.depth=2", "model.width=2"]}, "a name stands twice: 2, 2"),
        ({"claims": [C17]}, "claims.C17: scale/slope needs sizes"),
        ({"claims": [C17], "sizes": SIZES, "metric": "skill/solved"}, "counts runs, which have no slope"),
        ({"claims": [{**C17, "predicate": "none < 0"}], "sizes": SIZES}, "cannot be of the kind level"),
        ({"measures": [SCALE], "sizes": SIZES}, "it can only be claimed on"),
    ],
)
def test_what_has_no_slope_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        study(**changes)


def test_two_sizes_of_one_number_of_parameters_are_refused() -> None:
    with pytest.raises(StudyError, match="sizes: small and other both have"):
        planned(sizes={"small": ["model.depth=2"], "other": ["model.depth=2", "optim.lr=1e-3"]})


def test_the_plan_says_what_slope_it_can_detect() -> None:
    claims = [{**C17, "predicted": -0.01}]
    made = planned(arms=ARMS, seeds=6, sizes=SIZES, claims=claims, placebo=True)
    warnings = outlook(made, noise=0.01)["warnings"]
    (line,) = [line for line in warnings if "C17" in line]
    at_one_size = outlook(made, noise=0.01)["power"][0]["detectable"]
    decades = np.log10([arm.facts.parameters["non_embedding"] for arm in made.arms if arm.name == "rope"])
    detectable = at_one_size / np.sqrt(((decades - decades.mean()) ** 2).sum())
    assert f"is {detectable:.4g};" in line


# ------------------------------------------------------------------------------------------ the report


def test_the_report_has_a_section_on_scale(sized: tuple[Path, Results]) -> None:
    folder, results = sized
    report(folder)
    text = (folder / "report.md").read_text()
    assert "## Scale" in text and "figures/scale.svg" in text
    assert "the gap to rope shrinks for none (" in text and "nats per decade of parameters)" in text
    assert "the gap to rope grows for alibi" in text
    assert "the gap to rope shows no significant trend for learned" in text
    assert "at each of 3 sizes (small, middle, large)" in text and "n − 1 degrees of freedom" in text
    assert (folder / "figures/scale.pdf").read_bytes()[:4] == b"%PDF"
    assert "Gap against size" in (folder / "report.html").read_text()
    sheet = pd.read_csv(folder / "tables/scale.csv").set_index("arm")
    (scale,) = judged(results)
    for trend in scale.trends:
        assert sheet.loc[trend.arm, "slope"] == pytest.approx(trend.slope)
        assert sheet.loc[trend.arm, "df"] == 5
    assert len(pd.read_csv(folder / "tables/ranks.csv")) == 3


def test_the_table_shows_the_intervals_of_the_verdicts(sized: tuple[Path, Results]) -> None:
    results = sized[1]
    (scale,) = judged(results)
    gaps, order = scale_tables.scale_tables(scale, "heldout/loss", 0.05)
    assert gaps.columns[:6] == ("arm", "the gap", "slope", "interval", "seeds", "df")
    assert gaps.columns[6].startswith("at small (") and gaps.columns[-1] == "off the line"
    rows = {row[0]: row for row in gaps.rows}
    for n, size in enumerate(scale.sizes):
        board = tables.verdict_table(size.judged)
        assert board is not None
        (row,) = [row for row in board.rows if row[0] == "none"]
        assert rows["none"][6 + n] == f"{row[2]} {row[3]}"
    assert [row[0] for row in order.rows] == ["small, middle", "small, large", "middle, large"]


def test_a_study_without_sizes_has_no_such_section(tmp_path: Path) -> None:
    results = world(tmp_path, finished, arms=ARMS, seeds=3)
    assert judged(results) == () and with_size((), "heldout/loss", None) == ""
    report(tmp_path)
    assert "## Scale" not in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "figures/scale.svg").exists() and not (tmp_path / "tables/scale.csv").exists()


def test_each_size_is_tuned_for_itself(tmp_path: Path) -> None:
    """The best rate is four times as high at the small size."""

    def outcome(run: PlannedRun) -> dict[str, Any]:
        best = {2: 4e-3, 8: 2e-3, 32: 1e-3}[run.spec["model"]["depth"]]
        said = by_size(run)
        return said | {"value": said["value"] + 0.2 * np.log2((run.rate or best) / best) ** 2}

    tune = {"optim.lr": [2.5e-4 * 2**n for n in range(7)]}
    results = world(tmp_path, outcome, arms=ARMS, seeds=3, sizes=SIZES, tune=tune)
    rates = results.runs[(results.runs["role"] == "test") & (results.runs["arm"] == "rope")]
    found = rates.groupby("corpus")["rate"].first()
    assert found["small"] > 1.5 * found["middle"] > 2 * found["large"]
    (scale,) = judged(results)
    assert {trend.arm: trend.word for trend in scale.trends}["none"] == "shrinks"
