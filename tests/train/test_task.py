"""One optimizer step, which depends neither on how far rows are filled up nor on the number of passes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training import MOE, QUIET, run_spec, write_text

from ablate.data.split import Split
from ablate.data.stream import Stream
from ablate.parts.base import IncompatibleParts
from ablate.registry import registries
from ablate.train.speed.ensemble import Ensemble, ManualTask
from ablate.train.trainer import quiet_lightning, trainer

ROWS, TOKENS = 8, 9
EXPERTS: dict[str, Any] = {
    **MOE,
    "balance_loss_weight": 0.1,
    "router_z_loss_weight": 0.01,
    "bias_update_rate": 0.01,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


def examples() -> Split:
    """64 of 9 tokens each and fewer, whose last three are answers."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(5, TOKENS + 1, 64)
    document_offsets = np.append(0, lengths.cumsum())
    scored = np.zeros(document_offsets[-1], dtype=bool)
    for end in document_offsets[1:]:
        scored[end - 3 : end] = True
    return Split(
        "train",
        draw.integers(1, 250, document_offsets[-1]).astype(np.uint16),
        document_offsets[:-1],
        1,
        scored,
    )


def seat(text: Path, context: int, ffn: dict[str, Any], seed: int = 0, **settings: Any) -> ManualTask:
    spec = run_spec(
        text,
        {"ffn": ffn, "context": context, "depth": 2},
        budget={"tokens": 4 * ROWS * context, "batch_tokens": ROWS * context},
        seed=seed,
        clip=None,
    )
    with quiet_lightning():
        lightning = trainer(spec, QUIET, [])
    stream = Stream(examples(), context, "joined", spec.seed.data)
    return ManualTask(spec, stream, QUIET.model_copy(update=settings)).built_for(lightning)


def stepped(task: ManualTask) -> tuple[float, list[Tensor], list[list[float]], dict[str, Tensor]]:
    """The loss of a step, its gradients, loads and the biases after it."""
    gradients: list[Tensor] = []

    def noted() -> Tensor:
        gradients.extend(p.grad.clone() for p in task.decoder.parameters() if p.grad is not None)
        return torch.zeros(())

    task.update = noted  # type: ignore[method-assign]
    task.training_step(0, 0)
    assert task.total is not None and task.loads is not None
    biases = {name: b for name, b in task.decoder.named_buffers() if name.endswith("bias")}
    return float(task.total), gradients, [load.tolist() for load in task.loads], biases


@pytest.mark.parametrize("capacity_factor", [None, 0.75])
@pytest.mark.parametrize(
    ("context", "settings"),
    [
        (16, {}),
        (80, {}),
        (80, {"micro_batch_size": 3}),
        (9, {"micro_batch_size": 1}),
        (40, {"activation_checkpointing": True}),
    ],
)
def test_filling_passes_and_recomputation_change_nothing(text, context, settings, capacity_factor):
    ffn = EXPERTS | {"capacity_factor": capacity_factor}
    loss, gradients, loads, biases = stepped(seat(text, TOKENS, ffn))
    loss_filled, gradients_filled, loads_filled, biases_filled = stepped(seat(text, context, ffn, **settings))
    assert loads_filled == loads and sum(loads[0]) < 2 * ROWS * TOKENS
    assert loss_filled == pytest.approx(loss, rel=1e-5)
    assert len(gradients_filled) == len(gradients)
    for found, expected in zip(gradients_filled, gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    for name, bias in biases.items():
        assert torch.equal(biases_filled[name], bias) and bias.abs().sum() > 0


@pytest.mark.parametrize("seed", range(4))
def test_passes_do_not_decide_which_expert_is_above_the_mean(text, seed):
    """Four experts and few choices: often one has just the mean."""
    whole = stepped(seat(text, TOKENS, EXPERTS, seed))
    for rows in (1, 3, 5):
        parts = stepped(seat(text, TOKENS, EXPERTS, seed, micro_batch_size=rows))
        assert parts[2] == whole[2]
        assert all(torch.equal(parts[3][name], bias) for name, bias in whole[3].items())


def test_examples_are_stacked_with_their_filling(text):
    """Rows of several models, each with its own filling; `prove` holds the stack to a lone model."""
    dense = {"name": "glu", "width": 24}
    alone = seat(text, 16, dense, seed=1)
    stack = Ensemble([seat(text, 16, dense, seed=seed) for seed in (0, 1)])
    stack.prove()
    losses, _ = stack.gradients(*stack.passes(0))
    passes = alone.passes(0)
    loss, _, _ = alone.objective(passes[0], alone.count(passes), None)
    assert float(losses[1]) == pytest.approx(float(loss), rel=1e-5)


def test_a_load_of_shares_is_refused(text, own_parts):
    class Shares(torch.nn.Identity):
        def forward(self, x, aux):
            aux["load"] = torch.full((2,), 0.5)
            return x

        def auxiliary(self, aux):
            return aux["load"].sum()

    registries["ffn"]("shares", paper="mine")(lambda shape: Shares())
    with pytest.raises(IncompatibleParts, match=r"ffn shares: reports a load of torch.float32; .* in int64"):
        seat(text, TOKENS, {"name": "shares"}).training_step(0, 0)
