"""A shorter run that branches off a longer one is bit for bit the run that it would be alone."""

from pathlib import Path

import pytest
from training import QUIET, curve, prepared_for, run_spec, write_text

from ablate.spec import RunSpec
from ablate.train.fit import fit
from ablate.train.state.branch import shared_steps

LONG = 24


def of_steps(file: Path, steps: int, **options: object) -> RunSpec:
    schedule = {"name": "wsd", "warmup": 3, "decay": 0.25}
    return run_spec(file, steps=steps, **{"schedule": schedule, **options})


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize("log_every", [None, 5])
@pytest.mark.parametrize("model", [{}, {"dropout": 0.1}])
def test_a_branch_is_the_run_that_it_would_be_alone(
    text: Path, tmp_path: Path, log_every: int | None, model: dict[str, float]
) -> None:
    long, shorter = of_steps(text, LONG, model=model), [of_steps(text, n, model=model) for n in (8, 12)]
    prepared = prepared_for(long, tmp_path)
    settings = QUIET.model_copy(update={"log_every": log_every})
    branches = [shared_steps(short, long) for short in shorter]
    assert branches == [7, 10]  # the rate is at its peak in the first step of the decay, too
    stem = fit(long, prepared, settings, tmp_path / "runs", branches=branches)
    plain = fit(long, prepared, settings, tmp_path / "alone")
    assert stem.weights_hash == plain.weights_hash  # leaving branches changes nothing
    for short in shorter:
        branch = fit(short, prepared, settings, tmp_path / "runs", stem=tmp_path / "runs" / stem.id)
        alone = fit(short, prepared, settings, tmp_path / "alone")
        assert branch.id == alone.id and branch.metrics == alone.metrics
        assert branch.weights_hash == alone.weights_hash != stem.weights_hash
        folders = [tmp_path / name / branch.id for name in ("runs", "alone")]
        assert curve(folders[0]).equals(curve(folders[1]))


def test_runs_that_differ_in_more_than_tokens_share_nothing(text: Path) -> None:
    long = of_steps(text, LONG)
    assert shared_steps(of_steps(text, 12, seed=1), long) == 0
    assert shared_steps(of_steps(text, LONG), of_steps(text, 12)) == 0
    cosine = {"schedule": "cosine"}
    assert shared_steps(of_steps(text, 12, **cosine), of_steps(text, LONG, **cosine)) <= 1


def test_without_a_state_of_the_stem_a_branch_is_trained_from_its_first_step(
    text: Path, tmp_path: Path
) -> None:
    long, short = of_steps(text, LONG), of_steps(text, 12)
    prepared = prepared_for(long, tmp_path)
    stem = fit(long, prepared, QUIET, tmp_path / "runs")
    branch = fit(short, prepared, QUIET, tmp_path / "runs", stem=tmp_path / "runs" / stem.id)
    alone = fit(short, prepared, QUIET, tmp_path / "alone")
    assert branch.weights_hash == alone.weights_hash
