"""Training steps on a GPU: against the peers, of the parts against each other, and memory against rows.

    python benchmarks/gpu [--rounds 5] [--sections peers parts kernels memory] [--sizes 125M 350M]

LLaMA-shaped models in bf16 (autocast, parameters in fp32), compiled; forward, backward and fused AdamW of
16,384 tokens. Every rival has a process of its own: those of one size are compiled at the same time and then
take turns, so that no two compute at once.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks are scripts that import each other

import torch
from clock import arguments
from record import save
from rivals import MAKERS

from gpu.kernels import kernels
from gpu.memory import limits, memory
from gpu.peers import Named, parts, peers
from gpu.processes import CONTEXTS, SHAPES

CLOCK = "wall-clock, the device waited for"
COMPILERS = "3"  # processes of each


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=list(SECTIONS))
    parser.add_argument("--sizes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--contexts", nargs="+", type=int, default=list(CONTEXTS), choices=CONTEXTS)
    parser.add_argument(
        "--rivals", nargs="+", default=list(MAKERS), choices=list(MAKERS), help="beside ablate"
    )
    parser.add_argument(
        "--profile", default="", help="parts of ablate's whose kernels are printed, as rope+t5"
    )
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("there is no GPU here")
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = COMPILERS
    rate, bandwidth = limits()
    print(f"{rate / 1e12:.0f} TFLOP/s, {bandwidth / 1e12:.2f} TB/s", flush=True)
    for section in given.sections:
        for name, tables in SECTIONS[section](given, rate):
            save(f"gpu_{name}", tables, clock=CLOCK)


SECTIONS: dict[str, Callable[[Namespace, float], Named]] = {
    "peers": peers,
    "parts": parts,
    "kernels": lambda given, rate: iter([("kernels", [kernels()])]),
    "memory": lambda given, rate: iter([("memory", [memory()])]),
}


if __name__ == "__main__":
    main()
