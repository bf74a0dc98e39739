"""What a family of checkpoints is: two lists, each read in both directions.

`options` says which key of their config.json is which option of ours, `rows` which of their tensors is
which of ours. An import reads the lists one way, an export the other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ablate.errors import AblateError, printable
from ablate.spec import Shape

REQUIRED = object()


def shown(value: Any) -> str:
    """A value from a file, for a message: its beginning, in Python's notation."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class CheckpointFormatError(AblateError, ValueError):
    """A checkpoint that options cannot express, or that is not whole; with the reason."""

    def __init__(self, reason: str):
        super().__init__(printable(reason))  # it may quote what the files say


class ExportError(AblateError, ValueError):
    """A model that a family has no words for; names the options in the way."""


def same(value: Any) -> Any:
    """The identity, for keys whose value is ours as it stands."""
    return value


class Option(NamedTuple):
    """One option of ours and their key. `default` is what a missing key means to transformers."""

    ours: str  # a path such as attention.kv_heads
    theirs: str
    default: Any = REQUIRED
    read: Callable[[Any], Any] = same
    write: Callable[[Any], Any] = same


class Change(NamedTuple):
    """How one tensor of theirs becomes some of ours, and back."""

    read: Callable[[Tensor, list[torch.Size], Shape], list[Tensor]]
    write: Callable[[list[Tensor], Shape], Tensor]


class Row(NamedTuple):
    """A tensor of theirs and those of ours that it holds. `{n}` is the layer, `{e}` the expert, `{m}` the
    layer after n, `{last}` the last one."""

    ours: tuple[str, ...]
    theirs: str
    change: Change | Callable[[Any], Change]  # or what makes it of the options of the layer's mixer
    kind: str | None = None  # the mixer whose layers alone have it; None: any


class Placed(NamedTuple):
    """A row of one model, its letters replaced."""

    ours: tuple[str, ...]
    theirs: str
    change: Change


SAME = Change(lambda x, like, shape: [x], lambda ours, shape: ours[0])
TRANSPOSED = Change(lambda x, like, shape: [x.t()], lambda ours, shape: ours[0].t())
STACKED = Change(  # q, then k, then v
    lambda x, like, shape: list(x.split([size[0] for size in like])),
    lambda ours, shape: torch.cat(ours),
)
STACKED_TRANSPOSED = Change(
    lambda x, like, shape: list(x.t().split([size[0] for size in like])),
    lambda ours, shape: torch.cat(ours).t(),
)
BY_HEAD = Change(  # q, k and v of the first head, then of the second, ...
    lambda x, like, shape: [
        part.flatten(0, 1) for part in x.unflatten(0, (shape.heads, 3, shape.head_width)).unbind(1)
    ],
    lambda ours, shape: torch.stack(
        [part.unflatten(0, (shape.heads, shape.head_width)) for part in ours], 1
    ).flatten(0, 2),
)


def linear_rows(ours: str | tuple[str, ...], theirs: str, change: Change = SAME) -> list[Row]:
    """Weight and bias. A bias that a model does not have is left out."""
    names = (ours,) if isinstance(ours, str) else ours
    return [
        Row(tuple(f"{name}.{leaf}" for name in names), f"{theirs}.{leaf}", change)
        for leaf in ("weight", "bias")
    ]


class Axis(NamedTuple):
    """One way in which the layers of a model differ; its kinds are names of `Family.always["variants"]`."""

    keys: tuple[str, ...]  # of their config, which say it
    read: Callable[[dict[str, Any]], list[str]]  # the kind of each layer, of their config
    write: Callable[[list[str]], dict[str, Any]]  # and back
    kind: Callable[[dict[str, Any]], str]  # that of a canonical layer


def unfolded(config: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Nothing in a config stands for numbers of the weights."""


@dataclass(frozen=True)
class Family:
    """A `model_type` of transformers, of which `architecture` is the class."""

    name: str
    architecture: str
    always: Mapping[str, Any]  # our options that every model of the family has
    options: list[Option]
    rows: list[Row]
    constants: Mapping[str, float] = field(default_factory=dict)  # their tensors that hold one number
    prefix: str = ""  # of their tensors; files that leave it out are read too
    must: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # their keys that have one meaning here
    harmless: tuple[str, ...] = ()  # their keys that change nothing in evaluation
    unpack: Callable[[dict[str, Any]], dict[str, Any]] = same  # their config, made flat
    pack: Callable[[dict[str, Any]], dict[str, Any]] = same
    theta: float = 10_000.0  # of RoPE, where the config does not say
    rotary_fraction: float = 1.0  # likewise
    old_rope: tuple[str, str] = ("rope_theta", "partial_rotary_factor")  # their names before transformers 5
    windows: Callable[[dict[str, Any]], list[int | None]] | None = None  # by layer, where layers differ
    axes: tuple[Axis, ...] = ()  # other ways in which they differ
    fold: Callable[[dict[str, Any], dict[str, Tensor]], None] = (
        unfolded  # their multipliers, into our weights
    )
    nested: tuple[str, ...] = ()  # their objects that `unpack` makes flat
    whole_heads: bool = False  # transformers wants a width that is a multiple of the heads
    grain: int = 1  # transformers' kernels take only widths that are multiples of it

    def expanded(self, mixers: Sequence[Any], counts: Mapping[str, int]) -> Iterator[Placed]:
        """The rows of a model whose layers have mixers of these options. `counts` says how many there are of
        what a letter numbers: experts `e`, shared experts `s`, groups `g`, lookups `l` (one in each layer).
        Where ours alone names one, the tensor holds those of all."""
        depth = len(mixers)
        for row in self.rows:
            layers = range(depth) if "{n}" in "".join((row.theirs, *row.ours)) else [0]
            numbers = range(counts["e"]) if "{e}" in row.theirs else [0]
            for n in layers:
                if (row.kind or mixers[n].name) != mixers[n].name or ("{m}" in row.theirs and n + 1 == depth):
                    continue
                place = {"n": n, "m": n + 1, "last": depth - 1}
                for e in numbers:
                    ours = tuple(
                        name.format(**place, **dict.fromkeys("sgel", held) | _number(row, e))
                        for name in row.ours
                        for held in range(_held(name, row.theirs, counts))
                    )
                    change = row.change if isinstance(row.change, Change) else row.change(mixers[n])
                    yield Placed(ours, row.theirs.format(**place, e=e), change)


def _number(row: Row, e: int) -> dict[str, int]:
    """The expert that their tensor is of, where it is of one."""
    return {"e": e} if "{e}" in row.theirs else {}


def _held(ours: str, theirs: str, counts: Mapping[str, int]) -> int:
    """How many of ours one tensor of theirs holds."""
    letters = [x for x in counts if f"{{{x}}}" in ours and f"{{{x}}}" not in theirs]
    return counts[letters[0]] if letters else 1
