"""A sliding window by blocks (`chunked`) against the same window as a dense mask (`sdpa`): forward and
backward, interleaved, as ratios of medians. `python benchmarks/window.py --help`."""

import argparse
import statistics
import time

import torch

from ablate.parts.base import Call, Fresh, Kernel, Mask, Scores
from ablate.registry import kernel, position
from ablate.spec import Shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"B 2, H 8, D 32, window {options.window}, fp32, {options.threads} thread(s), CPU time")
    print(f"{'tokens':>7}{'':4}{'causal':>9}{'sdpa':>9}{'chunked':>9}   sdpa/chunked")
    for length in options.lengths:
        for what, keep, scheme in (("plain", 0, "none"), ("alibi, 4 kept", 4, "alibi")):
            masks = {
                "causal": Mask(),
                "sdpa": Mask(options.window, keep),
                "chunked": Mask(options.window, keep),
            }
            took = race(masks, length, scheme, options.rounds)
            row = "".join(f"{1000 * t:8.0f}ms"[-9:] for t in took.values())
            print(f"{length:>7}    {row}   {took['sdpa'] / took['chunked']:5.1f}x  {what}", flush=True)


def race(masks: dict[str, Mask], length: int, scheme: str, rounds: int) -> dict[str, float]:
    """Median seconds of each runner, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in masks}
    bias = position.build(scheme, Shape(256, 1, 8, 32, length, 256)).bias
    seen = Fresh().look(Call(torch.arange(length)[None])).sight
    q, k, v = (torch.randn(2, 8, length, 32, requires_grad=True) for _ in range(3))
    for n in range(rounds + 1):
        for name, mask in masks.items():
            runner: Kernel = kernel.build("chunked" if name == "chunked" else "sdpa")
            start = time.process_time()
            prepared = runner.prepare(mask, seen, None if name == "causal" else bias, 8, q.dtype)
            runner(q, k, v, prepared, Scores(32**-0.5), 0.0).sum().backward()
            if n:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(t) for name, t in times.items()}


if __name__ == "__main__":
    main()
