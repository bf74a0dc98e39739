"""A step on a GPU as one CUDA graph. The kernels of a small model take less time than it takes to launch them
one by one; a graph is launched as a whole.

A graph reads and writes the same memory each time: the parameters, the state of the optimizer, the rates,
and inputs into which those of each step are copied. Nothing that it does may depend on numbers that the host
would have to wait for. The first steps are made without one: optimizers make their state in them, and
libraries and the compiler choose their kernels.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from ablate.model.decoder import Decoder
from ablate.model.measure import count_costs, is_routed
from ablate.spec import RunSpec
from ablate.train.settings import Settings, devices

log = logging.getLogger("ablate.train")

Found = tuple[Tensor, ...]
T = TypeVar("T")

NO_GRAPHS = "there are CUDA graphs only on a GPU"
ON = "cuda"  # the type of device that has graphs
WARM = 3  # steps before the capture
PROOFS = 2  # steps by the graph that are proved: from one to the next batch and rate change
SETTLED = WARM + PROOFS + 1  # steps until one costs what all others will
CLOSE = 0.05  # of the change that a step makes: so far off may the graph's be
_SMALL = 2e12  # FLOPs of a step, above which kernels outlast their launches


def wanted(spec: RunSpec, settings: Settings, decoder: Decoder, optimizers: Sequence[Optimizer]) -> bool:
    """Whether the steps of a run are captured. Raises ValueError where they must be and cannot: that is the
    machine's, and no outcome of the run."""
    if not settings.cuda_graph:
        return False
    reason = capture_refusal(spec, settings, decoder, optimizers)
    if settings.cuda_graph == "auto":
        return reason is None and count_costs(decoder).training_flops * spec.budget.batch_tokens < _SMALL
    if reason is not None:
        raise ValueError(f"trainer.cuda_graph=true: {reason}")
    return True


def capture_refusal(
    spec: RunSpec, settings: Settings, decoder: Decoder, optimizers: Sequence[Optimizer]
) -> str | None:
    """Why the steps of a run cannot be captured; None if nothing speaks against it."""
    if decoder.embedding.weight.device.type != ON:
        return NO_GRAPHS
    if devices(settings) * settings.nodes > 1:
        return "it takes several devices"
    if settings.micro_batch_size is not None and settings.micro_batch_size < spec.rows:
        return "a step has several passes (trainer.micro_batch_size)"
    if settings.activation_checkpointing:
        return "activations are computed again (trainer.activation_checkpointing)"
    if any(is_routed(module) for module in decoder.modules()):
        return "how many tokens an expert gets depends on the data"
    if any(has_dropout(module) for module in decoder.modules()):
        return "dropout is drawn anew in each step"
    if not all(isinstance(o, AdamW) for o in optimizers):
        return f"only adamw reads its rate from the GPU, and not {spec.optim.name}"
    return None


def has_dropout(module: nn.Module) -> bool:
    """Whether it drops, as a module of torch's or as a part with a rate of its own."""
    rate = module.p if isinstance(module, nn.Dropout) else getattr(module, "dropout", 0.0)
    return isinstance(rate, float) and rate > 0


class Captured:
    """`work` of tensors, always of the same shapes (or None), that returns tensors and changes what `state`
    gives.

    The first steps by the graph are made without it, too, and must change the state alike. Where they do not,
    or a part of the model waits for the GPU and cannot be captured, that is an error if the steps must be
    captured (`must`), and else they are made without.
    """

    def __init__(self, work: Callable[..., Found], state: Callable[[], list[Tensor]], must: bool):
        self.work, self.state, self.must, self.done = work, state, must, 0
        self.replay: Callable[[], None] | None = None
        self.stream = torch.cuda.Stream() if torch.cuda.is_available() else None

    def __call__(self, *given: Tensor | None) -> Found:
        self.done += 1
        if self.done == WARM + 1:
            self.begin(*given)
        if self.replay is None:
            return self.plainly(*given)
        if self.done <= WARM + PROOFS:
            return self.proved(*given)
        return self.replayed(*given)

    def begin(self, *given: Tensor | None) -> None:
        try:
            self.replay = self.capture(*given)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self.give_up(next(iter(str(error).splitlines()), ""))

    def give_up(self, reason: str) -> None:
        if self.must:
            raise ValueError(f"trainer.cuda_graph=true: {reason}")
        log.warning("steps are not captured as a CUDA graph: %s", reason)
        self.replay = None

    def plainly(self, *given: Tensor | None) -> Found:
        """On the stream of the capture, as libraries prepare for each."""
        return side_by_side([lambda: self.work(*given)], [self.stream])[0]

    def capture(self, *given: Tensor | None) -> Callable[[], None]:
        """Computes nothing; gives what does."""
        self.places = [None if x is None else x.clone() for x in given]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            self.found = self.work(*self.places)
        replay: Callable[[], None] = graph.replay
        return replay

    def replayed(self, *given: Tensor | None) -> Found:
        for place, x in zip(self.places, given, strict=True):
            if place is not None and x is not None:
                place.copy_(x, non_blocking=True)
        assert self.replay is not None
        self.replay()
        return tuple(x.clone() for x in self.found)

    @torch.no_grad()
    def proved(self, *given: Tensor | None) -> Found:
        """The step, both ways; what remains is that without the graph."""
        before = [x.clone() for x in self.state()]
        with torch.enable_grad():
            plain = self.plainly(*given)
        after = [x.clone() for x in self.state()]
        copy_state(self.state(), before)
        found = self.replayed(*given)
        off = distance([*self.state(), *flat(found)], [*after, *flat(plain)])
        copy_state(self.state(), after)
        if not off <= CLOSE * distance(after, before):
            self.give_up("a step by the graph is not the step without it")
        return plain


def side_by_side(calls: Sequence[Callable[[], T]], streams: Sequence[torch.cuda.Stream | None]) -> list[T]:
    """What they give, each on its stream. What comes after waits for all, and they for what came before."""
    branches = [stream for stream in streams if stream is not None]
    for branch in branches:
        branch.wait_stream(torch.cuda.current_stream())
    found = []
    for call, stream in zip(calls, streams, strict=True):
        with torch.cuda.stream(stream):
            found.append(call())
    for branch in branches:
        torch.cuda.current_stream().wait_stream(branch)
    return found


def copy_state(state: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into the tensors of a captured graph."""
    for x, value in zip(state, values, strict=True):
        x.copy_(value)


def flat(found: Found) -> list[Tensor]:
    """The tensors as vectors."""
    return [x.reshape(-1) for x in found]


def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The norm of the difference of all but counters."""
    each = [(x.double() - y.double()).norm() for x, y in zip(a, b, strict=True) if x.ndim]
    return float(torch.stack(each).norm())


def changed(decoder: nn.Module, optimizers: Sequence[Optimizer]) -> list[Tensor]:
    """What a step changes: parameters, and what the optimizers keep of each."""
    kept = [x for o in optimizers for state in o.state.values() for x in state.values()]
    return [*decoder.parameters(), *(x for x in kept if isinstance(x, Tensor))]


def places(optimizer: Optimizer, captured: bool) -> list[Tensor | None]:
    """Where the rate of each group lies on the GPU, for a graph to read; None: with the group itself."""
    return [
        torch.zeros((), device=group["params"][0].device) if captured else None
        for group in optimizer.param_groups
    ]


def set_rate(group: dict[str, Any], rate: float, place: Tensor | None) -> None:
    """A checkpoint may have brought another place, and other options."""
    group["lr"] = rate if place is None else place.fill_(rate)
    if place is not None:
        group["capturable"] = True
