"""Token mixers beside softmax attention, and their chunked form beside a loop over tokens.

    python benchmarks/mixers.py            ratios, side by side in one run, one thread

A step is forward and backward of a model of one layer (width 256, four heads, one row). All figures are
ratios of medians taken in turn.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext
from ablate.parts.scan import chunked, recurrent, unit_length
from ablate.registry import registries
from ablate.spec import ModelSpec

WIDTH, HEADS = 256, 4
SMALLER = {"mamba2": {"head_width": 64, "state_width": 64}}  # a state of the others' size


def seconds(*actions: Callable[[], object], rounds: int) -> list[float]:
    """The median of each action, all taken in turn after one of each that does not count."""
    taken: list[list[float]] = [[] for _ in actions]
    for n in range(rounds + 1):
        for kept, action in zip(taken, actions, strict=True):
            start = time.perf_counter()
            action()
            if n:
                kept.append(time.perf_counter() - start)
    return [statistics.median(each) for each in taken]


def model(name: str, context: int) -> Decoder:
    takes = registries["attention"][name].make.takes_position
    spec = ModelSpec(
        width=WIDTH, depth=1, heads=HEADS, context=context, vocab=256, norm="rmsnorm", placement="pre",
        topology="serial", position="rope" if takes else "none",
        attention={"name": name, **SMALLER.get(name, {})}, ffn={"name": "glu"}, embedding={"norm": "none"},
        head={}, init="gpt2", kernel="auto",
    )  # fmt: skip
    return Decoder(spec).init_parameters(0)


def training(name: str, context: int) -> Callable[[], None]:
    decoder, tokens = model(name, context), torch.randint(256, (1, context))

    def step() -> None:
        decoder.zero_grad()
        decoder(tokens, targets=tokens).nll.mean().backward()

    return step


def decoding(name: str, context: int) -> Callable[[], None]:
    """One more token after a context."""
    decoder = model(name, context + 64).eval()
    memories = decoder.memories(context + 64)
    at = 0

    @torch.inference_mode()
    def read(count: int) -> None:
        nonlocal at
        tokens = torch.randint(256, (1, count))
        decoder(tokens, ForwardContext(torch.arange(at, at + count)[None], memories=memories, last=True))
        at += count

    read(context)
    return lambda: read(1)


def forms(channels: int, delta: bool, tokens: int) -> list[Callable[[], None]]:
    """A loop over tokens and the chunked form, with their gradients."""
    D = WIDTH // HEADS
    q, k, v = (torch.randn(1, HEADS, tokens, D, requires_grad=True) for _ in range(3))
    log_decay = -torch.rand(1, HEADS, tokens, channels)
    beta = torch.rand(1, HEADS, tokens, 1) if delta else None

    def run(form: Callable[..., tuple[Tensor, Tensor]]) -> None:
        o, _ = form(q, unit_length(k), v, log_decay, torch.zeros(1, HEADS, D, D), None, beta)
        o.sum().backward()

    return [lambda: run(recurrent), lambda: run(chunked)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    names = list(registries["attention"])
    print("| mixer | step at 1,024 | step at 8,192 | decode after 1,024 | after 8,192 |")
    print("|---|---|---|---|---|")
    columns = [
        seconds(*(kind(name, context) for name in names), rounds=rounds)
        for kind in (training, decoding)
        for context in (1024, 8192)
    ]
    softmax = names.index("softmax")
    for n, name in enumerate(names):
        print(f"| {name} |", " | ".join(f"{column[n] / column[softmax]:.2f}" for column in columns), "|")
    print("\n| recurrence, 1,024 tokens with gradients | loop / chunked |\n|---|---|")
    for channels, delta in ((1, False), (1, True), (WIDTH // HEADS, False), (WIDTH // HEADS, True)):
        loop, chunks = seconds(*forms(channels, delta, 1024), rounds=rounds)
        decay = "a decay for each channel" if channels > 1 else "a decay for each head"
        print(f"| {'delta' if delta else 'linear'}, {decay} | {loop / chunks:.1f} |")


if __name__ == "__main__":
    main()
