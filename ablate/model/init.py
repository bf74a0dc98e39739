"""The start of every parameter, drawn by name.

A parameter's values are a function of (seed, name, shape) alone: arms that differ in one part start
equal in all the others, and a sharded model starts as an unsharded one. Drawn whole on the CPU in
fp32, then cast and moved. Only matrices are drawn: what vectors and buffers start with (a norm's
ones) their part says in `constants`, by name; those called `bias` start at zero. How any other tensor starts
a part says in `starts`, by its path in the part: a function of shape and generator (`ablate.parts.starts`).
"""

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Annotated, Protocol

import torch
from annotated_types import Gt
from torch import Tensor, nn

from ablate.parts.base import IncompatibleParts
from ablate.parts.starts import Start
from ablate.registry import init
from ablate.spec import Shape

RESIDUAL = ("out", "down")  # the projections that write to the residual stream
TABLES = ("embedding", "table", "head")  # one row for each token or position


class Init(Protocol):
    """How large the initial values of each weight are."""

    def std(self, module: str, role: str, shape: tuple[int, ...]) -> float:
        """The standard deviation for a weight: `module` is its path, `role` the last word of the path."""
        ...


@init(
    "gpt2",
    paper="https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf",
)
class _GPT2:
    """Normal, of standard deviation std, and std / sqrt(2L) for what writes to the residual stream (GPT-2,
    section 2.3)."""

    def __init__(self, shape: Shape, *, std: Annotated[float, Gt(0)] = 0.02, residual_scaling: bool = True):
        self.plain = std
        self.residual = std / math.sqrt(2 * shape.depth) if residual_scaling else std

    def std(self, module: str, role: str, shape: tuple[int, ...]) -> float:
        return self.residual if role in RESIDUAL else self.plain


@init("small", paper="arXiv:1910.05895")
class Small:
    """Normal, of standard deviation sqrt(2/(5C)), and 2/(L sqrt(C)) for what writes to the residual stream
    (Nguyen & Salazar 2019 and Wang & Komatsuzaki's GPT-J; GPT-NeoX-20B, section 2.1)."""

    def __init__(self, shape: Shape):
        self.plain = math.sqrt(2 / (5 * shape.width))
        self.residual = 2 / (shape.depth * math.sqrt(shape.width))

    def std(self, module: str, role: str, shape: tuple[int, ...]) -> float:
        return self.residual if role in RESIDUAL else self.plain


@init("mup", paper="arXiv:2203.03466")
class Mup:
    """Normal, of standard deviation std for embedding, head and learned tables, and std sqrt(base_width / F)
    for matrices of fan-in F: that of `gpt2` where F is `base_width` (muP, Yang et al. 2022, table 8).

    With `residual_scaling`, 1 / sqrt(2L) of that for what writes to the residual stream. The rates by width
    are those of `optim=mup`, and the logits' factor is `model.head.multiplier` = base_width / width.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        base_width: Annotated[int, Gt(0)] = 256,
        std: Annotated[float, Gt(0)] = 0.02,
        residual_scaling: bool = True,
    ):
        self.base_width, self.plain = base_width, std
        self.residual = std / math.sqrt(2 * shape.depth) if residual_scaling else std

    def std(self, module: str, role: str, shape: tuple[int, ...]) -> float:
        if role in TABLES:
            return self.plain
        by_width = math.sqrt(self.base_width / shape[-1])
        return by_width * (self.residual if role in RESIDUAL else self.plain)


@init("xavier", paper="https://proceedings.mlr.press/v9/glorot10a.html")
class Xavier:
    """Normal, of variance 2 gain^2 / (in + out) for matrices and 1/C for the embedding and learned tables
    (Glorot & Bengio 2010, eq. 16, its normal form)."""

    def __init__(self, shape: Shape):
        self.width = shape.width

    def std(self, module: str, role: str, shape: tuple[int, ...]) -> float:
        if role in TABLES:
            std: float = self.width**-0.5
            return std
        return self.gain(role) * math.sqrt(2 / (shape[-1] + shape[-2]))

    def gain(self, role: str) -> float:
        return 1.0


@init("deepnorm", paper="arXiv:2203.00555")
class DeepNormInit(Xavier):
    """Xavier, with gain beta = (8L)^(-1/4) for values, outputs and the feed-forward (DeepNet, figure 2,
    decoder only). The other half of the scheme is `placement=deepnorm`."""

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.beta = (8 * shape.depth) ** -0.25

    def gain(self, role: str) -> float:
        return self.beta if role in ("v", "out", "gate", "up", "down") else 1.0


def random_key(seed: int, name: str) -> int:
    """A seed of 63 bits for one name."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little") >> 1


def draw(seed: int, name: str, shape: tuple[int, ...], std: float) -> Tensor:
    """On the CPU, whatever the default device is (Lightning makes it the GPU while a model is built)."""
    return torch.empty(shape, device="cpu").normal_(0, std, generator=generator(seed, name))


def generator(seed: int, name: str) -> torch.Generator:
    """A generator on the CPU for one parameter, by its name."""
    return torch.Generator("cpu").manual_seed(random_key(seed, name))


def said(model: nn.Module) -> dict[str, float | Start]:
    """How the tensors start of which a part says it, by their names: what a part says of those inside it goes
    before what they say. Raises IncompatibleParts for a name that there is not, or a start that is none."""
    found: dict[str, float | Start] = {}
    for path, module in model.named_modules():
        before = f"{path}." if path else ""
        constants: Mapping[str, float] = getattr(module, "constants", {})
        starts: Mapping[str, Start] = getattr(module, "starts", {})
        if starts:
            there = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for name, start in starts.items():
            if name not in there:
                raise IncompatibleParts(
                    f"{before}{name}: `starts` names it, but there is no such tensor; there are "
                    f"{', '.join(there)}"
                )
            if not callable(start):
                raise IncompatibleParts(
                    f"{before}{name}: `starts` takes a function of shape and generator (as those of "
                    f"`ablate.parts.starts`), and not {start!r}"
                )
            found.setdefault(before + name, start)
        for name, number in constants.items():
            found.setdefault(before + name, number)
    return found


def initial_values(start: Start, seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """What a part's function gives. Raises IncompatibleParts where it cannot start a tensor of this shape."""
    with torch.device("cpu"):
        values = start(shape, generator(seed, name))
    if not isinstance(values, Tensor):
        raise IncompatibleParts(
            f"{name}: its function in `starts` gives {type(values).__name__}, and not a tensor"
        )
    if tuple(values.shape) != shape:
        raise IncompatibleParts(
            f"{name}: its function in `starts` gives {[*values.shape]} numbers for {[*shape]}"
        )
    if not values.isfinite().all():
        raise IncompatibleParts(f"{name}: its function in `starts` gives numbers that are not finite")
    return values


@torch.no_grad()
def fill_parameters(model: nn.Module, scheme: Init, seed: int, redraw: Sequence[str] = ()) -> None:
    """Set every parameter and buffer in place; a sharded parameter takes its shard. Names that match a
    pattern of `redraw` get other draws than the seed alone gives. Raises IncompatibleParts for one that
    matches none,
    where all that match start from constants, and for a vector or a buffer whose start is not said."""
    told = said(model)
    names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    idle = [pattern for pattern in redraw if not any(fnmatch(name, pattern) for name in names)]
    if idle:
        raise IncompatibleParts(
            f"seed.redraw: no parameter is called {', '.join(idle)}, so nothing would be redrawn"
        )
    redrawn = False
    for path, module in model.named_modules():
        tensors = [*module.named_parameters(path, recurse=False), *module.named_buffers(path, recurse=False)]
        for name, tensor in tensors:
            leaf = name.rpartition(".")[2]
            shape = tuple(tensor.shape)
            drawn = f"redrawn/{name}" if any(fnmatch(name, pattern) for pattern in redraw) else name
            start = told.get(name, 0.0 if leaf == "bias" else None)
            if callable(start):
                whole = initial_values(start, seed, drawn, shape)
                redrawn |= drawn != name and not torch.equal(whole, initial_values(start, seed, name, shape))
                tensor.copy_(_sharded(whole, tensor))
            elif start is not None:
                tensor.fill_(start)
            elif tensor.ndim < 2 or not isinstance(tensor, nn.Parameter):
                what = "vector" if isinstance(tensor, nn.Parameter) else "buffer"
                raise IncompatibleParts(
                    f"{name}: a {what} is not drawn; say in `constants` what number it starts from, in "
                    "`starts` which function makes it, or compute it in the call"
                )
            else:
                redrawn |= drawn != name
                whole = draw(seed, drawn, shape, scheme.std(path, path.rpartition(".")[2], shape))
                tensor.copy_(_sharded(whole, tensor))
    if redraw and not redrawn:
        raise IncompatibleParts(
            f"seed.redraw: what is called {', '.join(redraw)} starts from constants, which stay"
        )


def _sharded(whole: Tensor, like: Tensor) -> Tensor:
    sharding = sys.modules.get("torch.distributed.tensor")  # to import it takes half a second
    if sharding is None or not isinstance(like, sharding.DTensor):
        return whole
    sharded: Tensor = sharding.distribute_tensor(  # without a message: every rank has drawn the same
        whole.to(like.dtype), like.device_mesh, like.placements, src_data_rank=None
    )
    return sharded
