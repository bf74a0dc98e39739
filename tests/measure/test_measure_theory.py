"""The start of pre- and post-norm models, and the committed results of experiments/theory."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from initialisation import batch, norms, spec, start

from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext

FOLDER = Path(__file__).parents[2] / "experiments" / "theory"
TINY = {"width": 16, "vocab": 20, "context": 6}


@pytest.fixture(scope="module")
def run():
    """experiments/theory/run.py, which is a script."""
    found = importlib.util.spec_from_file_location("theory_run", FOLDER / "run.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results() -> dict:
    return json.loads((FOLDER / "results.json").read_text())


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_gradients_are_those_of_the_batch_and_of_each_token_alone(placement):
    model = spec(placement, 3, **TINY)
    found = start(model, 5, rows=2)
    decoder = Decoder(model).init_parameters(5)
    tokens, targets = batch(model, 5, 2)
    weight = decoder.layers[-1].ffn.down.weight
    nll = decoder(tokens, targets=targets).nll
    (whole,) = torch.autograd.grad(nll.mean(), weight, retain_graph=True)
    each = [torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in nll.flatten()]
    assert found.gradient == pytest.approx(float(whole.norm()), rel=1e-5)
    assert found.token_gradient == pytest.approx(float(torch.stack(each).mean()), rel=1e-5)
    assert norms(model, 5, rows=2) == pytest.approx(found.norms, rel=1e-5)


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_norms_are_those_of_a_pass_written_out(placement):
    model = spec(placement, 3, **TINY)
    decoder = Decoder(model).init_parameters(1)
    tokens, _ = batch(model, 1, 2)
    expected = []
    with torch.no_grad():
        x = decoder.embedding(tokens) * model.width**0.5
        view = decoder.views(ForwardContext.of(tokens), x.dtype)[0]
        for n, layer in enumerate(decoder.layers):
            attend, feed = layer.attention_residual, layer.ffn_residual
            x = attend.residual_norm(x + layer.attention(attend.input_norm(x), view, n))
            total = x + layer.ffn(feed.input_norm(x), {})
            x = feed.residual_norm(total)
            expected.append(float(total.square().sum(-1).mean()) / model.width)
    assert norms(model, 1, rows=2) == pytest.approx(expected, rel=1e-5)


def test_the_committed_report_is_that_of_the_committed_results(run, results):
    assert (FOLDER / "report.md").read_text() == run.report(results)


def test_the_committed_results_are_whole_and_of_these_settings(run, results):
    assert results["settings"] == run.SETTINGS
    starts = {(s["placement"], s["depth"], s["seed"]) for s in results["starts"]}
    settings = results["settings"]
    assert len(starts) == len(results["starts"]) == 2 * len(settings["depths"]) * len(settings["seeds"])
    assert all(len(s["norms"]) == s["depth"] for s in results["starts"])
    assert not set(settings["seeds"]) & set(settings["fresh_seeds"])
    for placement in ("pre", "post"):
        seeds = [s["seed"] for s in results["fresh"] if s["placement"] == placement]
        assert seeds == settings["fresh_seeds"]


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_a_committed_row_comes_out_again(run, results, placement):
    kept = next(s for s in results["starts"] if (s["placement"], s["depth"], s["seed"]) == (placement, 4, 7))
    sizes = {name: run.SETTINGS[name] for name in ("width", "vocab", "context")}
    again = start(spec(placement, 4, **sizes), 7, rows=run.SETTINGS["rows"])
    assert again.gradient == pytest.approx(kept["gradient"], rel=1e-3)
    assert again.token_gradient == pytest.approx(kept["token_gradient"], rel=1e-3)
    assert again.norms == pytest.approx(kept["norms"], rel=1e-3)


def test_verdicts_are_read_from_intervals(run):
    def word(low: float, mean: float, high: float) -> str:
        return run.Interval(mean, low, high).against(0, 1)

    assert word(0.1, 0.5, 0.9) == "pass"
    assert word(1.1, 1.5, 1.9) == "fail"
    assert word(-0.9, -0.5, -0.1) == "fail"
    assert word(0.5, 0.9, 1.3) == "undecided (sign as claimed)"
    assert word(0.9, 1.2, 1.5) == "undecided"
    assert run.together(["pass", "undecided (sign as claimed)", "pass"]) == "undecided (sign as claimed)"
    assert run.together(["pass", "undecided", "fail"]) == "fail"


def test_a_slope_is_that_of_a_power_of_depth(run):
    depths, seeds = [4, 8, 32], [0, 1]
    starts = [
        {"placement": "pre", "depth": d, "seed": s, "gradient": (2 + s) * d ** (-0.5 - 0.1 * s)}
        for s in seeds
        for d in depths
    ]
    found = run.slopes({"settings": {"depths": depths, "seeds": seeds}, "starts": starts}, "pre", "gradient")
    assert found == pytest.approx([-0.5, -0.6])
