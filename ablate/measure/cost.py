"""What a model costs to run: counted bytes and FLOPs, and timed decoding."""

import logging
import time
from statistics import median
from typing import Annotated

import numpy as np
from annotated_types import Ge

from ablate.data.prepare import Prepared
from ablate.measure import Measured
from ablate.measure.length import reach_of
from ablate.measure.trained import Trained
from ablate.model.decoder import Decoder
from ablate.model.generate import generate
from ablate.model.measure import count_costs
from ablate.registry import measure

log = logging.getLogger("ablate.measure")


@measure("cost", paper="arXiv:1911.02150")
class _Cost:
    """Tokens per second of decoding and seconds to the first token, by batch and context; bytes of keys and
    values and FLOPs of a token (Shazeer 2019 and Pope et al. 2022, arXiv:2211.05102, time these).

    Times are medians over `repeats`, after one warm-up. They belong to the machine and its load:
    between models they compare only where both were timed in turn, as `benchmarks/` does. Contexts that the
    positions cannot name get no number.
    """

    metrics = (
        "kv_bytes_per_token",
        "cache_bytes",
        "forward_flops",
        "training_flops",
        "decoding_flops",
        "training_tokens_per_second",
        "training_seconds",
        "training_peak_*_bytes",
        "first_token_seconds/*x*",
        "decode_tokens_per_second/*x*",
    )

    def __init__(
        self,
        *,
        contexts: tuple[Annotated[int, Ge(1)], ...] = (64, 256),
        batches: tuple[Annotated[int, Ge(1)], ...] = (1, 8),
        new: Annotated[int, Ge(2)] = 32,
        repeats: Annotated[int, Ge(1)] = 3,
    ):
        """`new` tokens follow each prompt of `contexts` tokens."""
        self.contexts, self.batches, self.new, self.repeats = contexts, batches, new, repeats

    def __call__(self, trained: Trained, prepared: Prepared) -> Measured:
        decoder = trained.decoder
        weight = decoder.embedding.weight
        costs = count_costs(decoder, value_bytes=weight.element_size())
        metrics = {
            "cost/kv_bytes_per_token": float(costs.kv_bytes),
            "cost/cache_bytes": float(costs.cache_bytes),
            "cost/forward_flops": costs.forward_flops,
            "cost/training_flops": costs.training_flops,
            "cost/decoding_flops": costs.decoding_flops,
        }
        for name in ("tokens_per_second", "seconds"):
            if name in trained.record.speed:
                metrics[f"cost/training_{name}"] = trained.record.speed[name]
        for name, peak in trained.record.memory.items():
            metrics[f"cost/training_{name}"] = peak
        text = np.asarray(prepared.splits["validation"].tokens)
        reach = reach_of(decoder)
        for context in self.contexts:
            if reach is not None and context + self.new - 1 > reach:
                log.warning("cost: the positions end at %d, so a context of %d has no number", reach, context)
                continue
            for batch in self.batches:
                prompts = np.resize(text, (batch, context)).tolist()
                first, rate = timed(decoder, prompts, self.new, self.repeats)
                metrics[f"cost/first_token_seconds/{batch}x{context}"] = first
                metrics[f"cost/decode_tokens_per_second/{batch}x{context}"] = rate
        return Measured(metrics, {})


def timed(decoder: Decoder, prompts: list[list[int]], new: int, repeats: int) -> tuple[float, float]:
    """(seconds to the first token, tokens per second of all rows after it), medians over the repeats."""
    runs = [once(decoder, prompts, new) for _ in range(repeats + 1)][1:]
    return median(first for first, _ in runs), median(rate for _, rate in runs)


def once(decoder: Decoder, prompts: list[list[int]], new: int) -> tuple[float, float]:
    """A step of `generate` ends with the chosen tokens on the CPU, so its device has nothing left to do."""
    begin = time.perf_counter()
    steps = generate(decoder, prompts, new)
    next(steps)
    first = time.perf_counter()
    for _ in steps:
        pass
    end = time.perf_counter()
    return first - begin, len(prompts) * (new - 1) / (end - first)
