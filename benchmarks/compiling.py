"""What compiling gains by the size of a model, and what the compiler takes: first, and with its code at hand.

    python benchmarks/compiling.py [--sizes 0.05M 0.2M tiny 8M] [--rounds 5] [--threads 1]

As `sweep.py ... compile=auto` measures it: steps in turn, in a process of its own.
"""

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from clock import arguments, clock, ratios
from record import Cell, Table, save

from ablate.cli.composer import Composer
from ablate.train.request import RunRequest
from ablate.train.speed.compile_gain import Compiled, measured_compile_gain
from ablate.train.speed.ensemble_runs import opened

SIZES = {
    "0.05M": ["model/size=0.2M", "model.width=32", "model.heads=2"],
    "0.2M": ["model/size=0.2M"],
    "tiny": ["model/size=tiny"],
    "8M": ["model/size=8M"],
}
BASE = ["model.context=128", "data/tokenizer=bytes", "budget.batch_tokens=1024", "budget.tokens=102400"]
NOTE = """The compiler's seconds are wall-clock. The first time is that of an empty cache of torch; the second
that of the next process."""


def found(payload: dict[str, Any]) -> Compiled:
    return measured_compile_gain(opened(RunRequest.read(payload)))


def row(size: str, each: list[Compiled]) -> list[Cell]:
    plain, fast = [1e3 * one.eager for one in each], [1e3 * one.compiled for one in each]
    return [size, plain, fast, ratios(plain, fast), each[0].once, [one.once for one in each[1:]] or None]


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    given = parser.parse_args()
    now = clock(given.threads)
    rows: list[list[Cell]] = []
    for size in given.sizes:
        spec = Composer("cache")([*BASE, *SIZES[size]])
        settings = {"accelerator": "cpu", "threads": given.threads, "progress": False}
        payload = {"spec": spec, "settings": settings, "runs": "runs", "cache": "cache"}
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
            each = []
            for _ in range(given.rounds):
                with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                    each.append(pool.submit(found, payload).result())
        rows.append(row(size, each))
        print(*rows[-1], flush=True)
    columns = [
        "model",
        "eager, ms a step",
        "compiled",
        "eager / compiled",
        "the compiler, s",
        "the next time",
    ]
    about = __doc__.split("\n")[0] if __doc__ else ""
    save("compiling", [Table("Compiling", columns, rows, NOTE)], about, now.name)


if __name__ == "__main__":
    main()
