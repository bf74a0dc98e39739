"""A step on a GPU as one CUDA graph. The kernels of a small model take less time than it takes to launch them
one by one; a graph is launched as a whole.

A graph reads and writes the same memory each time: the parameters, the state of the optimizer, the rates,
and inputs into which those of each step are copied. Nothing that it does may depend on numbers that the host
would have to wait for. The first steps are made without one: optimizers make their state in them, and
libraries and the compiler choose their kernels.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from ablate.model.decoder import Decoder
from ablate.model.measure import Routed, count
from ablate.parts.base import Refused
from ablate.spec import RunSpec
from ablate.train.settings import Settings, devices

log = logging.getLogger("ablate.train")

WARM = 3  # steps before the capture
SMALL = 2e12  # FLOPs of a step, above which kernels outlast their launches


def wanted(spec: RunSpec, settings: Settings, decoder: Decoder, optimizers: Sequence[Optimizer]) -> bool:
    """Whether the steps of a run are captured. Raises Refused where they must be and cannot."""
    reason = refusal(spec, settings, decoder, optimizers)
    if settings.capture == "auto":
        small = count(decoder).training_flops * spec.budget.batch_tokens < SMALL
        return reason is None and small
    if settings.capture and reason is not None:
        raise Refused(f"trainer.capture=true: {reason}")
    return settings.capture


def refusal(
    spec: RunSpec, settings: Settings, decoder: Decoder, optimizers: Sequence[Optimizer]
) -> str | None:
    """Why the steps of a run cannot be captured; None if nothing speaks against it."""
    if decoder.embedding.weight.device.type != "cuda":
        return "there are CUDA graphs only on a GPU"
    if devices(settings) * settings.nodes > 1:
        return "it takes several devices"
    if settings.micro_rows is not None and settings.micro_rows < spec.rows:
        return "a step has several passes (trainer.micro_rows)"
    if settings.recompute:
        return "activations are computed again (trainer.recompute)"
    if any(isinstance(module, Routed) for module in decoder.modules()):
        return "how many tokens an expert gets depends on the data"
    if any(drawn(module) for module in decoder.modules()):
        return "dropout is drawn anew in each step"
    if not all(isinstance(o, AdamW) for o in optimizers):
        return f"only adamw reads its rate from the GPU, and not {spec.optim.name}"
    return None


def drawn(module: nn.Module) -> bool:
    """Whether it drops, as a module of torch's or as a part with a rate of its own."""
    rate = module.p if isinstance(module, nn.Dropout) else getattr(module, "dropout", 0.0)
    return isinstance(rate, float) and rate > 0


class Captured:
    """`work` of tensors, always of the same shapes (or None), that returns a tensor. What cannot be captured
    after all, since a part waits for the GPU, is an error where it must be (`must`), else done without."""

    def __init__(self, work: Callable[..., Tensor], must: bool):
        self.work, self.must, self.done = work, must, 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream()

    def __call__(self, *given: Tensor | None) -> Tensor:
        self.done += 1
        if self.done == WARM + 1:
            self.try_capture(*given)
        if self.graph is None:
            return self.warm(*given)
        for place, x in zip(self.places, given, strict=True):
            if place is not None and x is not None:
                place.copy_(x, non_blocking=True)
        self.graph.replay()
        return self.found.clone()

    def try_capture(self, *given: Tensor | None) -> None:
        try:
            self.graph = self.capture(*given)
        except RuntimeError as error:
            if self.must or isinstance(error, torch.OutOfMemoryError):
                raise
            log.warning("steps are not captured as a CUDA graph: %s", next(iter(str(error).splitlines()), ""))

    def warm(self, *given: Tensor | None) -> Tensor:
        """On a stream of its own, as a capture is."""
        here = torch.cuda.current_stream()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            found = self.work(*given)
        here.wait_stream(self.stream)
        return found

    def capture(self, *given: Tensor | None) -> torch.cuda.CUDAGraph:
        """Computes nothing."""
        self.places = [None if x is None else x.clone() for x in given]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            self.found = self.work(*self.places)
        return graph


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
