"""Losses by set: those of each text alone, their pool and their mean; a mixture that was stopped goes on."""

import math
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from training import QUIET, curve, prepared_for, run_spec

from ablate.cli.show import by_set
from ablate.measure.score import score
from ablate.record import RunRecord
from ablate.spec import RunSpec
from ablate.train import callback
from ablate.train.fit import fit

SIZES = {"large": 200, "small": 70}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for name, letters in (("large", "abcdefgh"), ("small", "0123")):
        draw = random.Random(name)
        documents = ["".join(draw.choices(letters, k=draw.randint(30, 90))) for _ in range(SIZES[name])]
        (folder / f"{name}.txt").write_text("\n\n".join(documents) + "\n")
    return folder


def source(place: Path, name: str) -> dict[str, Any]:
    return {"name": "text", "files": [str(place / f"{name}.txt")], "validation": 0.2, "heldout": 0.2}


def spec_of(place: Path, **data: Any) -> RunSpec:
    mixture = {
        "name": "mixture",
        "sources": {name: source(place, name) for name in SIZES},
        "weights": {"large": 2, "small": 1},
    }
    node = {"source": mixture, "tokenizer": "bytes", **data}
    return run_spec(place, data=node, evaluation={"every": 3, "tokens": 200}, steps=6)


@pytest.fixture(scope="module")
def mixed(place: Path) -> RunRecord:
    """A run on the mixture, scored on held-out."""
    spec = spec_of(place)
    record = fit(spec, prepared_for(spec, place), QUIET, place / "runs")
    return score(place / "runs" / record.id, place / "cache", ["heldout"])


@pytest.mark.parametrize("kind", ["validation", "heldout"])
def test_each_source_has_its_loss_and_all_have_their_pool_and_mean(kind, mixed, place):
    text = prepared_for(spec_of(place), place)
    splits = {name: each.splits[kind] for name, each in text.ingredients.items()}
    found = {name: mixed.metrics[f"{kind}/{name}/loss"] for name in SIZES}
    targets = {name: len(split.tokens) - 1 for name, split in splits.items()}
    whole = sum(found[name] * targets[name] for name in SIZES) / sum(targets.values())
    assert mixed.metrics[f"{kind}/loss"] == pytest.approx(whole, rel=1e-6)
    assert mixed.metrics[f"{kind}/macro/loss"] == sum(found.values()) / 2 != mixed.metrics[f"{kind}/loss"]
    assert mixed.metrics[f"{kind}/macro/perplexity"] == math.exp(sum(found.values()) / 2)
    bits = {}
    for name, split in splits.items():
        assert mixed.metrics[f"{kind}/{name}/perplexity"] == math.exp(found[name])
        bits[name] = found[name] / math.log(2) * len(split.tokens) / split.bytes
        assert mixed.metrics[f"{kind}/{name}/bits_per_byte"] == pytest.approx(bits[name])
    assert mixed.metrics[f"{kind}/macro/bits_per_byte"] == pytest.approx(sum(bits.values()) / 2)
    if kind == "heldout":
        assert len(mixed.vectors["heldout/by_document"]) == sum(
            len(split.document_offsets) for split in splits.values()
        )
        assert sum(mixed.vectors["heldout/document_tokens"]) == sum(targets.values())
    else:
        names = [name for name, _ in by_set(mixed.metrics)]
        assert names == ["large", "small", "macro"]


def test_a_source_s_loss_is_that_of_the_text_as_the_only_one(mixed, place):
    """The same weights, looked at with another text beside them, and alone."""
    from ablate.measure.trained import open_run
    from ablate.train.evaluate import evaluate

    text = prepared_for(run_spec(place, data={"source": source(place, "small"), "tokenizer": "bytes"}), place)
    decoder = open_run(place / "runs" / mixed.id).decoder
    context = decoder.spec.context
    alone = evaluate(decoder, text.splits["heldout"], context, "joined", 16)
    assert mixed.metrics["heldout/small/loss"] == pytest.approx(alone.loss, rel=1e-6)


def test_sets_change_no_weight_and_no_loss_of_the_source(place):
    plain = run_spec(place, data={"source": source(place, "large"), "tokenizer": "bytes"}, steps=3)
    beside = run_spec(
        place,
        data={
            "source": source(place, "large"),
            "tokenizer": "bytes",
            "sets": {"small": source(place, "small"), "own": source(place, "large")},
        },
        steps=3,
    )
    one, other = (fit(spec, prepared_for(spec, place), QUIET, place / "runs") for spec in (plain, beside))
    assert one.id != other.id and one.weights_hash == other.weights_hash
    assert set(one.metrics) == {f"validation/{number}" for number in ("loss", "perplexity", "bits_per_byte")}
    assert all(other.metrics[name] == value for name, value in one.metrics.items())
    assert other.metrics["validation/own/loss"] == one.metrics["validation/loss"]
    assert other.metrics["validation/small/loss"] > one.metrics["validation/loss"]


def test_each_set_is_a_curve_while_training(place, mixed):
    """Its end is the metric of the record. Before, it is the loss on the beginning of each set."""
    spec = run_spec(
        place,
        data={
            "source": source(place, "large"),
            "tokenizer": "bytes",
            "sets": {"small": source(place, "small"), "own": source(place, "large")},
        },
        evaluation={"every": 2, "tokens": 10**6},
        steps=6,
    )
    record = fit(spec, prepared_for(spec, place), QUIET, place / "runs")
    rows = curve(place / "runs" / record.id).set_index("step")
    losses = rows[["validation_loss", *(f"validation/{name}/loss" for name in ("small", "own", "macro"))]]
    assert losses.dropna().index.tolist() == [2, 4, 6] == losses.dropna(how="all").index.tolist()
    assert losses["validation/own/loss"].dropna().tolist() == losses["validation_loss"].dropna().tolist()
    assert (losses["validation/small/loss"] > losses["validation_loss"]).loc[[2, 4, 6]].all()
    means = losses[["validation/small/loss", "validation/own/loss"]].mean(axis=1).dropna()
    assert losses["validation/macro/loss"].dropna().tolist() == pytest.approx(means.tolist())
    for name in ("small", "own", "macro"):
        assert losses.loc[6, f"validation/{name}/loss"] == record.metrics[f"validation/{name}/loss"]

    looks = curve(place / "runs" / mixed.id).set_index("step")
    found = looks.loc[3, [f"validation/{name}/loss" for name in SIZES]]
    assert min(found) < looks.loc[3, "validation_loss"] < max(found)
    plain = run_spec(place, data={"source": source(place, "large"), "tokenizer": "bytes"}, steps=3)
    alone = fit(plain, prepared_for(plain, place), QUIET, place / "runs")
    assert not any("/" in name for name in curve(place / "runs" / alone.id))


def test_a_mixture_goes_on_as_if_it_had_not_been_stopped(mixed, place, tmp_path, monkeypatch):
    monkeypatch.setattr(callback, "OFTEN", 0.0)
    spec = spec_of(place)

    def stop(progress):
        if progress.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    text = prepared_for(spec, place)
    assert fit(spec, text, QUIET, tmp_path, on_progress=stop).status == "interrupted"
    again = fit(spec, text, QUIET, tmp_path)
    assert again.id == mixed.id and again.weights_hash == mixed.weights_hash
    assert all(mixed.metrics[name] == value for name, value in again.metrics.items())
    assert curve(tmp_path / again.id).equals(curve(place / "runs" / mixed.id))
