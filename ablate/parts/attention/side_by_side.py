"""Two token mixers side by side."""

from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

from torch import Tensor

from ablate.parts.base import AuxOutputs, ForwardContext, KernelRequirements, Position
from ablate.parts.mixer import CallSetting, Group, KeyValueMixer, Mixer, MixerCosts
from ablate.parts.recurrence import RecurrentMixer
from ablate.registry import Factory, Part, attention, use
from ablate.spec import LayerSpec, ModelSpec, Shape


class PairedContext(NamedTuple):
    """What the layers share in one call, for each of the two mixers."""

    views: tuple[Any, Any]
    aux: AuxOutputs


class PairedGroup(NamedTuple):
    """Layers whose two mixers are of these groups: a memory for each."""

    groups: tuple[Group, Group]

    @property
    def prefix(self) -> bool:
        return False

    def nothing(self) -> tuple[Any, ...]:
        return tuple(group.nothing() for group in self.groups)

    def memory(self, capacity: int) -> tuple[Any, ...]:
        return tuple(group.memory(capacity) for group in self.groups)

    def view(self, call: ForwardContext, memory: Any, setting: CallSetting) -> PairedContext:
        first, second = (
            group.view(call, part, setting) for group, part in zip(self.groups, memory, strict=True)
        )
        return PairedContext((first, second), setting.aux)


@attention("side_by_side", paper="arXiv:2507.22448")
class SideBySide(Mixer):
    """y = first(x) + second(x): two token mixers that read the same, each with a memory of its own
    (Falcon-H1, section 2.1; Hymba, arXiv:2411.13676, which has a norm on each)."""

    def __init__(
        self,
        shape: Shape,
        *,
        first: Annotated[Factory, Part("attention")] = use("softmax"),
        second: Annotated[Factory, Part("attention")] = use("mamba2"),
    ):
        super().__init__()
        self.first, self.second = first(shape), second(shape)

    def both(self) -> Iterator[Any]:
        """The two mixers."""
        yield from (self.first, self.second)

    def forward(self, x: Tensor, view: PairedContext, n: int) -> Tensor:
        """x (B,T,C) -> (B,T,C)."""
        y: Tensor = self.first(x, view.views[0], n) + self.second(x, view.views[1], n)
        return y

    def group(self, position: int) -> PairedGroup:
        return PairedGroup((self.first.group(position), self.second.group(position)))

    def needs(self, position: Position, **facts: Any) -> list[KernelRequirements]:
        return [need for mixer in self.both() for need in mixer.needs(position, **facts)]

    def costs(self, position: Position, tokens: int, value_bytes: int) -> MixerCosts:
        each = (mixer.costs(position, tokens, value_bytes) for mixer in self.both())
        return MixerCosts(*map(sum, zip(*each, strict=True)))

    @classmethod
    def check(cls, options: Any, layer: LayerSpec, model: ModelSpec) -> list[str]:
        wrong = super().check(options, layer, model)
        inside = [options.first, options.second]
        wrong += [
            f"{mixer.name} is no mixer with a memory of its own"
            for mixer in inside
            if not issubclass(mixer.entry.make, KeyValueMixer | RecurrentMixer)
        ]
        if any(getattr(mixer, "mask", "causal") == "prefix" for mixer in inside):
            wrong.append("cannot see a prefix whole; say mask=causal")
        if not any(getattr(mixer.entry.make, "takes_position", False) for mixer in inside):
            wrong.append("is of two mixers that take no position; one of them must attend")
        return wrong
