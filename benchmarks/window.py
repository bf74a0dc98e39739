"""A sliding window by blocks (`chunked`) against the same window as a dense mask (`sdpa`), and against causal
attention without one, as the context grows: forward and backward.

    python benchmarks/window.py [--lengths 512 1024 2048 4096] [--window 128] [--rounds 5] [--threads 2]
"""

from collections.abc import Callable

import torch
from clock import arguments, clock, race, ratios
from record import Cell, Table, save

from ablate.parts.base import Bias, ForwardContext, Kernel, Mask, NoCache, Scores
from ablate.registry import kernel, position
from ablate.spec import Shape

SCHEMES = {"plain": ("none", 0), "ALiBi, 4 kept keys": ("alibi", 4)}
NOTE = "2 rows, 8 heads of 32 channels, fp32. The causal pass has neither window nor bias."


def attention(name: str, mask: Mask, length: int, bias: Bias | None) -> Callable[[], None]:
    """One pass there and back."""
    runner: Kernel = kernel.build(name)
    sight = NoCache().look(ForwardContext(torch.arange(length)[None])).sight
    q, k, v = (torch.randn(2, 8, length, 32, requires_grad=True) for _ in range(3))

    def once() -> None:
        prepared = runner.prepare(mask, sight, bias, 8, q.dtype)
        runner(q, k, v, prepared, Scores(32**-0.5), 0.0).sum().backward()

    return once


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--window", type=int, default=128)
    given = parser.parse_args()
    rows: list[list[Cell]] = []
    for what, (scheme, keep) in SCHEMES.items():
        for length in given.lengths:
            bias = position.build(scheme, Shape(256, 1, 8, 32, length, 256)).bias
            window = Mask(given.window, keep)
            rivals = {
                "causal": attention("sdpa", Mask(), length, None),
                "masked": attention("sdpa", window, length, bias),
                "chunked": attention("chunked", window, length, bias),
            }
            took = race(rivals, given.rounds, 1, clock(given.threads), warm=1)
            cells = [[1e3 * t for t in times] for times in took.values()]
            gains = [ratios(took[other], took["chunked"]) for other in ("masked", "causal")]
            rows.append([what, length, *cells, *gains])
    columns = ["scores", "tokens", "causal, ms", "masked, ms", "chunked, ms"]
    columns += ["masked / chunked", "causal / chunked"]
    table = Table(f"Window {given.window}", columns, rows, NOTE)
    save("window", [table], clock=clock(given.threads).name)


if __name__ == "__main__":
    main()
