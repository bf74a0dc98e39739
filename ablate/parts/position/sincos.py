"""The cosines and sines of the positions that turn."""

from typing import Any

import torch
from torch import Tensor


def cos_sin(angle: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine and the sine of each angle, computed once also in compiled code."""
    return _opaque(angle) if torch.compiler.is_compiling() else _cos_sin(angle)


def _cos_sin(angle: Tensor) -> tuple[Tensor, Tensor]:
    return angle.cos(), angle.sin()


# The compiler must not look inside: it would compute them again for each number that they multiply.
_opaque = torch.library.custom_op("ablate::cos_sin", _cos_sin, mutates_args=())


@_opaque.register_fake
def _(angle: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(angle), torch.empty_like(angle)


@_opaque.register_vmap
def _(info: Any, in_dims: Any, angle: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    return _opaque(angle), (in_dims[0], in_dims[0])
