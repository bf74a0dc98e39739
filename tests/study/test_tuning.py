"""The choice of a learning rate from tuning runs."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from ablate.study.stats.plateau import plateau_level
from ablate.study.stats.tuning import Tuning, check_grid, keep_better, tune, vertex

GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
METRIC = "validation/loss"


def curve(best: float, grid: tuple[float, ...] = GRID) -> list[float]:
    """A parabola in log rate."""
    return [3 + 0.1 * np.log10(rate / best) ** 2 for rate in grid]


def runs(arms: dict[str, list[float]], seeds: tuple[int, ...] = (100, 101), grid: Any = GRID) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "arm": arm,
                "seed": s,
                "rate": r,
                "role": "tuning",
                "status": "finished",
                METRIC: loss + 0.01 * (s - 100),
            }
            for arm, losses in arms.items()
            for r, loss in zip(grid, losses, strict=True)
            for s in seeds
        ]
    )


def change(data: pd.DataFrame, arm: str, rate: float, seed: int, status: str | None) -> pd.DataFrame:
    row = (data["arm"] == arm) & (data["rate"] == rate) & (data["seed"] == seed)
    assert row.sum() == 1
    return data.assign(
        status=data["status"].where(~row, status), **{METRIC: data[METRIC].where(~row, np.nan)}
    )


@pytest.mark.parametrize("best", [8e-4, 2e-3, 3e-3, 7e-3])
def test_the_vertex_of_an_exact_parabola_is_found(best: float) -> None:
    choice = tune(runs({"a": curve(best)})).choice("a")
    assert choice.kind == "vertex" and choice.rate == pytest.approx(best, rel=5e-3)


def test_the_vertex_is_taken_in_log_rate_over_the_mean_of_the_seeds() -> None:
    assert vertex([(1e-3, 1.0), (1e-2, 0.0), (1e-1, 1.0)]) == pytest.approx(1e-2)
    tilted = runs({"a": curve(3e-3)})
    slope = np.log10(tilted["rate"]) * 0.02
    tilted[METRIC] += np.where(tilted["seed"] == 100, slope, -slope)  # cancels in the mean
    assert tune(tilted).choice("a").rate == pytest.approx(3e-3, rel=5e-3)


def test_three_equal_losses_keep_the_grid_point() -> None:
    assert vertex([(1e-3, 1.0), (1e-2, 1.0), (1e-1, 1.0)]) == 1e-2


@pytest.mark.parametrize(("best", "extend"), [(1e-4, (3e-4 * 0.3**2, 3e-4 * 0.3)), (0.1, (0.09, 0.27))])
def test_a_winner_at_the_edge_extends_the_grid_of_every_arm(best: float, extend: tuple[float, ...]) -> None:
    found = tune(runs({"a": curve(best), "b": curve(3e-3)}))
    choice = found.choice("a")
    assert choice.kind == "edge" and choice.rate is None
    assert "extend the grid" in choice.reason
    assert found.extend == pytest.approx(extend)
    assert found.choice("b").kind == "vertex"


def test_a_rate_at_which_a_run_failed_is_not_eligible() -> None:
    data = change(runs({"a": curve(1e-2)}), "a", 1e-2, 101, "diverged")
    choice = tune(data).choice("a")
    assert choice.failed == (1e-2,) and 1e-2 not in choice.means
    assert choice.rate in (3e-3, None) and choice.rate != 1e-2


def test_beside_a_failed_rate_the_best_point_itself_is_taken() -> None:
    data = runs({"a": curve(3e-3)})
    for rate in (1e-2, 3e-2):
        data = change(data, "a", rate, 100, "out_of_memory" if rate == 3e-2 else "diverged")
    assert tune(data).choice("a").kind == "refine"
    assert tune(data).extend == pytest.approx((5.48e-3,))
    data = pd.concat([data, runs({"a": curve(3e-3, (5.48e-3,))}, grid=(5.48e-3,))])
    choice = tune(change(data, "a", 5.48e-3, 101, "diverged")).choice("a")
    assert (choice.kind, choice.rate, choice.nested) == ("boundary", 3e-3, (3e-3, 1e-3))
    assert choice.rates(nested=False) == (3e-3,)


PLATEAU = 3.09


def beside_a_plateau() -> pd.DataFrame:
    """The tuning runs of `experiments/llama` on cppdocs: at 0.01 one seed of `b` ends on the plateau."""
    data = runs({"a": [3.2, 2.7, 2.35, 2.14, PLATEAU], "b": [3.2, 2.75, 2.44, 2.31, PLATEAU]})
    lost = (data["arm"] == "b") & (data["rate"] == 1e-2) & (data["seed"] == 100)
    return data.assign(**{METRIC: data[METRIC].where(~lost, PLATEAU)})


def test_a_run_on_a_plateau_chooses_no_rate() -> None:
    tuning = tune(beside_a_plateau())
    assert tuning.choice("b").failed == (1e-2, 3e-2) and tuning.choice("a").failed == (3e-2,)
    assert tuning.choice("b").kind == "refine" and tuning.extend == pytest.approx((5.48e-3, 0.0173))
    assert "b at 0.01 (3.09), 0.03 (3.09, 3.1)" in tuning.warnings[0]
    assert tuning.level is not None and tuning.level < PLATEAU


def test_arms_beside_a_plateau_are_tested_at_the_rates_of_all() -> None:
    more = runs({"a": [2.2, 2.13], "b": [2.36, PLATEAU]}, grid=(5.48e-3, 0.0173))
    tuning = tune(pd.concat([beside_a_plateau(), more]))
    assert not tuning.extend
    assert {choice.rates(nested=False) for choice in tuning.choices} == {(5.48e-3, 0.0173)}


def test_an_arm_that_learns_slowly_is_on_no_plateau() -> None:
    """Its loss at the lowest rates is that of single tokens, and falls."""
    data = runs({"a": [3.2, 3.1, 2.6, 2.2, 2.4]})
    assert tune(data, level=3.05).choice("a").failed == ()
    assert tune(data, level=2.3).choice("a").failed == (3e-2,)


def test_without_noise_no_spread_is_a_plateau() -> None:
    data = runs({"a": curve(3e-3)}).assign(**{METRIC: lambda rows: rows[METRIC].round(1)})
    assert not tune(data).plateaus


def test_the_level_of_single_tokens_lies_just_below_the_unigram() -> None:
    assert plateau_level({"unigram": 3.0, "bigram": 2.4}) == pytest.approx(2.94)
    assert plateau_level({}) is None


def test_when_every_rate_fails_there_is_none() -> None:
    data = runs({"a": curve(3e-3)}).assign(status="diverged")
    assert tune(data).choice("a").kind == "none"


@pytest.mark.parametrize("status", ["crashed", "interrupted", None])
def test_a_missing_tuning_run_waits(status: str | None) -> None:
    found = tune(change(runs({"a": curve(3e-3), "b": curve(3e-3)}), "a", 1e-2, 101, status))
    assert found.choice("a").kind == "waiting" and "0.01 seed 101" in found.choice("a").reason
    assert found.choice("b").kind == "vertex"


def test_every_arm_is_held_to_the_same_grid() -> None:
    data = runs({"a": curve(3e-3), "b": curve(3e-3)})
    short = data[~((data["arm"] == "b") & (data["rate"] == 3e-2))]
    assert tune(short).choice("b").kind == "waiting"


def test_nested_takes_the_best_rate_and_its_better_neighbour() -> None:
    assert tune(runs({"a": curve(4e-3)})).choice("a").nested == (3e-3, 1e-2)
    assert tune(runs({"a": curve(2.5e-3)})).choice("a").nested == (3e-3, 1e-3)


def test_one_tuning_seed_is_warned_of() -> None:
    assert "one tuning seed" in tune(runs({"a": curve(3e-3)}, seeds=(100,))).warnings[0]
    assert not tune(runs({"a": curve(3e-3)})).warnings


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ((1e-3, 3e-3, 1e-2, 3e-2), "needs 5 rates"),
        (
            (1e-4, 1e-3, 3e-3, 1e-2, 3e-2),
            "more than half a decade apart; add a rate between them, such as 0.000316",
        ),
        ((1e-3, 1e-3, 2e-3, 3e-3, 4e-3), "ascend and differ"),
        ((-1e-3, 1e-3, 2e-3, 3e-3, 4e-3), "positive"),
    ],
)
def test_a_poor_grid_is_refused(rates: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_grid(rates)


@pytest.mark.parametrize("grid", [(1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (3e-4, 6e-4, 1e-3, 2e-3, 3e-3)])
def test_usual_grids_are_accepted(grid: tuple[float, ...]) -> None:
    check_grid(grid)
    assert tune(runs({"a": curve(1e-3, grid)}, grid=grid)).choice("a").rate == pytest.approx(1e-3, rel=5e-3)


def test_rates_are_never_chosen_on_held_out() -> None:
    data = runs({"a": curve(3e-3)}).rename(columns={METRIC: "heldout/loss"})
    with pytest.raises(ValueError, match="chosen on validation"):
        tune(data, "heldout/loss")
    with pytest.raises(ValueError, match="chosen on validation"):
        keep_better(data, "heldout/loss")


def test_tuning_seeds_are_no_test_seeds() -> None:
    data = runs({"a": curve(3e-3)})
    with pytest.raises(ValueError, match="seeds 100 are used for tuning and for testing"):
        tune(pd.concat([data, data[data["seed"] == 100].iloc[:1].assign(role="test")]))


def test_a_duplicated_tuning_run_is_refused() -> None:
    data = runs({"a": curve(3e-3)})
    with pytest.raises(ValueError, match=r"arm 'a', seed 100, role 'tuning', rate 0\.0003"):
        tune(pd.concat([data, data.iloc[:1]]))


def test_a_tuning_survives_json() -> None:
    found = tune(runs({"a": curve(3e-3), "b": curve(0.1)}))
    assert Tuning.model_validate_json(found.model_dump_json()) == found


def nested(*rows: tuple[int, float, str | None, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["seed", "rate", "status", METRIC]).assign(arm="a", role="test")


def test_keep_better_keeps_the_better_on_validation_at_every_seed() -> None:
    data = nested(
        (0, 1e-3, "finished", 3.0),
        (0, 3e-3, "finished", 2.9),
        (1, 1e-3, "finished", 2.8),
        (1, 3e-3, "finished", 3.1),
    )
    data = pd.concat([data, runs({"a": curve(3e-3)})])
    kept, aside = keep_better(data)
    test = kept[kept["role"] == "test"].sort_values("seed")
    assert list(test["rate"]) == [3e-3, 1e-3] and list(aside["rate"]) == [1e-3, 3e-3]
    assert (kept["role"] == "tuning").sum() == 10


def test_keep_better_waits_for_a_missing_run_and_prefers_a_finished_one() -> None:
    data = nested(
        (0, 1e-3, "finished", 3.0),
        (0, 3e-3, "crashed", np.nan),
        (1, 1e-3, "diverged", np.nan),
        (1, 3e-3, "finished", 3.1),
        (2, 1e-3, "diverged", np.nan),
        (2, 3e-3, "diverged", np.nan),
        (3, 1e-3, "finished", 3.0),
        (3, 3e-3, None, np.nan),
    )
    kept, aside = keep_better(data)
    said = kept.sort_values("seed")["status"].tolist()
    assert said[:3] == ["crashed", "finished", "diverged"] and pd.isna(said[3])
    assert len(aside) == 4
    with pytest.raises(ValueError, match="duplicated record"):
        keep_better(pd.concat([data, data.iloc[:1]]))
