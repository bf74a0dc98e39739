"""What a run would be and cost, from a model without storage. Nothing is trained."""

import time
from dataclasses import dataclass

import torch

from ablate.model.measure import Costs, costs_of_run, of_run
from ablate.parts.base import DTYPES
from ablate.spec import RunSpec

UTILISATION = 0.5  # of the matrix-product rate, a cautious guess for the time of a training step


@dataclass(frozen=True)
class RunDesign:
    """The costs of a run, counted, and the attention kernel that would serve it."""

    costs: Costs
    kernel: str


@dataclass(frozen=True)
class RunEstimate:
    """What a run would take on this machine."""

    memory_bytes: int  # weights, gradients, moments and activations of one forward pass
    seconds: float  # at UTILISATION of the matrix-product rate measured on the spot


def design_run(spec: RunSpec, device: str = "cpu") -> RunDesign:
    """Build the model without storage and count. Raises IncompatibleParts where the parts cannot work
    together or the named kernel cannot serve."""
    decoder = of_run(spec, device)
    return RunDesign(costs_of_run(spec, decoder), decoder.kernel.name)


def estimate_run(
    spec: RunSpec, costs: Costs, device: str, micro_batch_size: int | None = None
) -> RunEstimate:
    """Estimate the memory and the time of a run in passes of `micro_batch_size` rows (null: all).
    Measures the speed of the device for about 0.1 s."""
    rows = min(micro_batch_size or spec.rows, spec.rows)
    flops = spec.steps * spec.budget.batch_tokens * costs.training_flops
    seconds = flops / (UTILISATION * product_rate(device, spec.precision))
    return RunEstimate(costs.training_bytes(rows * spec.model.context, device), seconds)


def product_rate(device: str, precision: str, size: int = 768) -> float:
    """FLOPs per second of a matrix product, measured for about 0.1 s."""
    dtype = DTYPES[precision]
    size = size if device == "cpu" else 8 * size
    a = torch.randn(size, size, device=device, dtype=dtype)
    a @ a
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < 0.1:
        b = a @ a
        done += 1
        if device != "cpu":
            b.sum().item()  # wait for the device
    return done * 2 * size**3 / (time.perf_counter() - begin)
