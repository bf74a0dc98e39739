"""How the time scales of decaying states start (Mamba; Gated DeltaNet takes them over)."""

import math

import torch
from torch import Tensor

SHORTEST_STEP, LONGEST_STEP = 1e-3, 1e-1  # the step of a state, log-uniformly between these
HIGHEST_RATE = 16.0


def decay_rates(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """log A, A uniform up to 16 (Mamba-2, arXiv:2405.21060, its code from 1 on)."""
    return torch.empty(shape).uniform_(1e-3, HIGHEST_RATE, generator=generator).log()


def time_scales(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """The number whose softplus is a step, log-uniform in [1e-3, 1e-1] (Mamba, section 3.6)."""
    low, high = math.log(SHORTEST_STEP), math.log(LONGEST_STEP)
    step = torch.empty(shape).uniform_(low, high, generator=generator).exp()
    return step + (-torch.expm1(-step)).log()
