"""Any records become a comparison: what differs names the arms, and nothing is called declared."""

import io

import pytest
from rich.console import Console

from ablate.cli.show import print_verdicts
from ablate.record import RunRecord
from ablate.study.judge.adhoc import gather_arms
from ablate.study.judge.compare import compare


def record(norm: str, eps: float, seed: int, loss: float, redraw: tuple[str, ...] = ()) -> RunRecord:
    said = {"init": seed, "data": seed, "dropout": seed, "redraw": list(redraw)}
    return RunRecord(
        id=f"{norm}{eps}{seed}{len(redraw)}",
        status="finished",
        source_hash="c",
        spec={"model": {"norm": {"name": norm, "eps": eps}, "width": 16}, "precision": "fp32", "seed": said},
        fingerprint={},
        metrics={"validation/loss": loss},
        kernel="sdpa",
    )


def test_parts_name_the_arms_and_options_only_where_they_must():
    records = [record("rms", 1e-5, s, 3.0 + s / 100) for s in range(3)]
    records += [record("layer", 1e-6, s, 3.5 + s / 100) for s in range(2)]
    found = gather_arms(records)
    assert set(found.frame["arm"]) == {"norm.name=rms", "norm.name=layer"}
    assert found.baseline == "norm.name=rms"  # the arm with the most runs
    assert found.axes == ("model.norm.eps", "model.norm.name")
    both = gather_arms([*records, record("layer", 1e-3, 0, 3.6)])
    assert "norm.eps=0.001, norm.name=layer" in set(both.frame["arm"])


def test_a_placebo_is_an_arm_of_its_own():
    found = gather_arms(
        [
            record("rms", 1e-5, s, 3.0 + s / 7 + s * len(r) / 1e6, r)
            for s in range(4)
            for r in ((), ("layers.*",))
        ]
    )
    assert found.axes == ("seed.redraw",)
    verdicts = compare(found.frame, found.baseline, found.metric, None, "paired").verdicts
    assert [v.difference for v in verdicts] == [pytest.approx(-1.5e-6)]


def test_a_refused_arm_and_seeds_that_do_not_act_are_told():
    records = [record(norm, 1e-5, s, 3.0) for norm in ("rms", "layer", "none") for s in range(2)]
    records[4:] = [one.model_copy(update={"status": "refused", "metrics": {}}) for one in records[4:]]
    found = gather_arms(records)
    console = Console(width=200, record=True, file=io.StringIO())
    print_verdicts(console, compare(found.frame, found.baseline, found.metric, None, "paired"))
    said = console.export_text()
    assert "! norm.name=none: refused before training" in said
    assert "! norm.name=rms: validation/loss is the same at every seed" in said


def test_what_should_be_equal_and_is_not_is_said():
    records = [
        record("rms", 1e-5, 0, 3.0),
        record("rms", 1e-5, 1, 3.0).model_copy(update={"source_hash": "other"}),
    ]
    assert gather_arms(records).mixed == ("2 sources of one arm: c, other",)
    apart = [
        record("rms", 1e-5, 0, 3.0),
        record("layer", 1e-5, 0, 3.0).model_copy(update={"source_hash": "other"}),
    ]
    assert not gather_arms(apart).mixed, "parts of their own have sources of their own"
    with pytest.raises(ValueError, match="no records"):
        gather_arms([])


def test_texts_are_not_compared_and_tokenizers_only_by_the_byte():
    one, other = record("rms", 1e-5, 0, 3.0), record("layer", 1e-5, 0, 3.0)
    with pytest.raises(ValueError, match="2 texts"):
        gather_arms([one, other.model_copy(update={"fingerprint": {"source": "another"}})])
    assert gather_arms([one, other]).metric.endswith("/loss")
    apart = other.model_copy(update={"fingerprint": {**other.fingerprint, "tokenizer": "another"}})
    assert gather_arms([one, apart]).metric.endswith("/bits_per_byte")
    masked = other.model_copy(update={"spec": {**other.spec, "data": {"documents": "masked"}}})
    with pytest.raises(ValueError, match=r"differ in data\.documents"):
        gather_arms([one, masked])
