"""Rotary position embedding."""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Gt, Le
from torch import Tensor

from ablate.parts.base import Position
from ablate.parts.position.sincos import cos_sin
from ablate.registry import Factory, Part, position, use
from ablate.spec import LayerSpec, ModelSpec, Shape


@position("rope", paper="arXiv:2104.09864")
class Rope(Position):
    """Turns pairs of channels by an angle that grows with the position, so that q.k depends on i - j.

    Pair n of width D turns by at * base^(-2n/D) (Su et al. 2021, eq. 15). `fraction` of the head's
    channels turn (GPT-NeoX: 0.25); `interleaved` pairs neighbours (the paper, GPT-J), otherwise a channel
    of the first half with one of the second (GPT-NeoX, LLaMA in transformers): the same up to the order
    of channels. `proportional` turns the same number of pairs, but those of the whole head: each by its
    angle there (Gemma 4). `scaling` changes the frequencies for longer contexts. `head_width` is that of the
    heads of its layers, where it is not the model's.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        base: Annotated[float, Gt(1)] = 10_000.0,
        rotary_fraction: Annotated[float, Gt(0), Le(1)] = 1.0,
        interleaved: bool = False,
        proportional: bool = False,
        scaling: Annotated[Factory, Part("scaling")] = use("none"),
        head_width: Annotated[int, Gt(0)] | None = None,
    ):
        super().__init__(shape)
        self.base, self.interleaved = base, interleaved
        self.width = head_width or shape.head_width
        self.rotary_dim = int(self.width * rotary_fraction)
        self.paired = self.width if proportional else self.rotary_dim  # channels that stand in pairs
        self.scaling = scaling(shape, self.rotary_dim, base)

    def locate(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The cosine and the signed sine that each channel is multiplied with, both (1|B, 1, T, turned)."""
        frequency, attention_factor = self.scaled(positions.device)
        angle = positions[:, None, :, None] * frequency  # (1|B, 1, T, turned/2)
        cos, sin = (wave * attention_factor for wave in cos_sin(angle))
        return self.spread(cos, cos), self.spread(-sin, sin)

    def spread(self, u: Tensor, v: Tensor) -> Tensor:
        """A number for each channel, from one for the first of each pair and one for the second."""
        return torch.stack((u, v), -1).flatten(-2) if self.interleaved else torch.cat((u, v), -1)

    def scaled(self, device: torch.device) -> tuple[Tensor, float]:
        """What a position turns each pair by, and the gain of the turned, after the scaling."""
        scaled: tuple[Tensor, float] = self.scaling(self.frequencies(device))
        return scaled

    def frequencies(self, device: torch.device) -> Tensor:
        n = torch.arange(0, self.rotary_dim, 2, device=device, dtype=torch.float32)
        return F.pad(self.base ** (-n / self.paired), (0, (self.paired - self.rotary_dim) // 2))

    def rotate(self, x: Tensor, where: tuple[Tensor, Tensor]) -> Tensor:
        """(u, v) -> (u cos - v sin, v cos + u sin)."""
        cos, sin = where[0].to(x.dtype), where[1].to(x.dtype)
        if self.paired == x.shape[-1]:
            return x * cos + self.swap(x) * sin
        x, rest = x.split((self.paired, x.shape[-1] - self.paired), -1)
        return torch.cat((x * cos + self.swap(x) * sin, rest), -1)

    def swap(self, x: Tensor) -> Tensor:
        """The other channel of each pair."""
        if self.interleaved:
            pairs: Tensor = x.unflatten(-1, (-1, 2))
            return pairs.flip(-1).flatten(-2)
        u, v = x.chunk(2, -1)
        return torch.cat((v, u), -1)  # the compiler makes slow code of `roll`

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        width = options.head_width or model.shape().head_width
        rotary_dim = int(width * options.rotary_fraction)
        mixer: Any = layer.attention
        there = getattr(mixer, "head_width", None) or model.shape().head_width
        if width != there and mixer.entry.make.takes_position:
            return [f"turns heads of {width}, and those of attention {layer.attention.name} have {there}"]
        if rotary_dim < 2 or rotary_dim % 2:
            return [
                f"turns pairs, but {rotary_dim} channels of each head are to turn (head width x fraction)"
            ]
        return super().check(options, layer, model)

    @classmethod
    def canonical(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> dict[str, Any]:
        width = options.head_width
        return {"head_width": None if width == model.shape().head_width else width}
