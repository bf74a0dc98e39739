"""A gated feed-forward with a Canon layer inside."""

from typing import Annotated, Any, ClassVar

from annotated_types import Gt
from torch import Tensor

from ablate.parts.canon import Canon
from ablate.parts.ffn.glu import GLU
from ablate.registry import ffn
from ablate.spec import Shape


@ffn("canon", paper="https://ssrn.com/abstract=5240330")
class CanonGLU(GLU):
    """A gated feed-forward with h <- h + conv(h) on what goes into the activation and on what is multiplied
    with it (Canon-D; Allen-Zhu 2025, section 4.1).

    conv reads the last `kernel_size` tokens of each channel. The other options are those of `glu`. It stands
    in a layer, and not among experts, to which tokens come without those before them.
    """

    reads_earlier_tokens: ClassVar[bool] = True

    def __init__(self, shape: Shape, *, kernel_size: Annotated[int, Gt(1)] = 4, **options: Any):
        super().__init__(shape, **options)
        hidden = self.gate.out_features
        self.gate_canon = Canon(hidden, kernel_size, "canon_gate")
        self.up_canon = Canon(hidden, kernel_size, "canon_up")

    def forward(self, x: Tensor, aux: Any) -> Tensor:
        """x (B,T,C) -> (B,T,C); `aux` is the report of its layer."""
        gate = self.gate_canon(self.gate(x), aux.states, aux.n)
        up = self.up_canon(self.up(x), aux.states, aux.n)
        gate, up = self.clamped(gate, up)
        y: Tensor = self.down(self.inner_norm(self.activation(gate) * up))
        return y if self.output_scale is None else y * self.output_scale
