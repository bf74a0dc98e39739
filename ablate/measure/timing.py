"""What models cost, timed in turn in one process: ratios hold while the speed of the machine wanders."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from ablate.measure.length import reach_of
from ablate.model.decoder import Decoder
from ablate.model.generate import generate
from ablate.parts.base import DTYPES, ForwardContext
from ablate.registry import optimizer
from ablate.spec import RunSpec

TRAINING = "training step"
_STEPS = 2  # of training in one lap
ROUNDS = 9


class Timing(NamedTuple):
    """One timing. `what` is `training step`, or `first token` or `next token` with `rows x context`; a next
    token is one for all rows together."""

    arm: str
    what: str
    round: int
    seconds: float


def time_in_turn(
    specs: Mapping[str, RunSpec],
    *,
    device: str = "cpu",
    rounds: int = ROUNDS,
    contexts: Sequence[int] = (64, 512),
    batches: Sequence[int] = (1, 8),
    new: int = 16,
) -> Iterator[list[Timing]]:
    """Time each model at each thing, round by round. Before the first comes a round that is not counted.

    The weights are drawn, not trained, and the tokens are random: neither matters to dense models, and
    experts are routed evenly at the start. On the CPU it is the time of the process, so that other work on
    the machine counts for little (the caller sets one thread); on a GPU the wall clock. What a position
    cannot name has no lap.
    """
    clock = _clock(device)
    runners = {arm: _Runner(spec, device) for arm, spec in specs.items()}
    for n in range(-1, rounds):
        laps = [
            Timing(arm, what, n, seconds)
            for arm, runner in runners.items()
            for what, seconds in runner.lap(clock, contexts, batches, new)
        ]
        if n >= 0:
            yield laps


def _clock(device: str) -> Callable[[], float]:
    if device == "cpu":
        return time.process_time

    def now() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return now


class _Runner:
    """A model that can be asked to train a step or to decode."""

    def __init__(self, spec: RunSpec, device: str):
        self.spec = spec
        documents = spec.data.documents == "masked"
        dtype = DTYPES[spec.precision]
        self.decoder = Decoder(spec.model, device, documents=documents, dtype=dtype)
        self.decoder.init_parameters(spec.seed.init).to(device)
        self.optimizers = optimizer.build(spec.optim, list(self.decoder.named_parameters()))
        generator = torch.Generator().manual_seed(0)
        shape = (spec.rows, spec.model.context + 1)
        self.tokens = torch.randint(self.decoder.shape.vocab, shape, generator=generator).to(device)
        self.document = torch.zeros_like(self.tokens[:, :-1]) if documents else None
        half = torch.full((spec.rows,), spec.model.context // 2, device=device)
        self.prefix = half if spec.data.prefix else None
        self.reader = Decoder(spec.model, device, training=False).to(device).eval()  # in fp32, as `generate`
        self.reader.load_state_dict(self.decoder.state_dict())

    def lap(
        self, clock: Callable[[], float], contexts: Sequence[int], batches: Sequence[int], new: int
    ) -> Iterator[tuple[str, float]]:
        begin = clock()
        for _ in range(_STEPS):
            self.train()
        yield TRAINING, (clock() - begin) / _STEPS
        reach = reach_of(self.reader)
        for context in contexts:
            if reach is not None and context + new - 1 > reach:
                continue
            for batch in batches:
                prompts = self.tokens.flatten().repeat(-(-batch * context // self.tokens.numel()))
                begin = clock()
                steps = generate(self.reader, prompts[: batch * context].view(batch, context).tolist(), new)
                next(steps)
                first = clock()
                yield f"first token, {batch}x{context}", first - begin
                for _ in steps:
                    pass
                yield f"next token, {batch}x{context}", (clock() - first) / (new - 1)

    def train(self) -> None:
        """One step of the optimizer on the rows of a whole batch."""
        tokens, targets = self.tokens[:, :-1], self.tokens[:, 1:].contiguous()
        at = torch.arange(tokens.shape[1], device=tokens.device)[None]
        call = ForwardContext(at, self.document, self.prefix, aux=self.decoder.aux())
        with torch.autocast(tokens.device.type, torch.bfloat16, self.spec.precision == "bf16"):
            found = self.decoder(tokens, call, targets=targets, summed=True)
        (found.objective / tokens.numel() + self.decoder.auxiliary(call.aux or [])).backward()
        for each in self.optimizers:
            each.step()
            each.zero_grad(set_to_none=True)
