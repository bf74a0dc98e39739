"""Token mixers beside softmax attention, and their chunked form beside a loop over tokens, on one thread.

    python benchmarks/mixers.py [--rounds 5] [--mixers gated_deltanet kda]

A step is forward and backward of a model of one layer (width 256, four heads, one row). A token is decoded
after a context that is read before. Recurrences have the shapes and decays of their mixer in such a model.
"""

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from clock import Clock, arguments, clock, race, ratios
from record import Cell, Table, save
from torch import Tensor

from ablate.model.decoder import Decoder
from ablate.parts import diagonal, recurrence, scan
from ablate.parts.base import ForwardContext
from ablate.parts.recurrence import RecurrentMixer
from ablate.registry import registries
from ablate.spec import ModelSpec
from ablate.train.speed.allocator import keep_pages

WIDTH, HEADS = 256, 4
SHORT, LONG = 1024, 8192  # tokens
DECODED = 8  # tokens a round
SMALLER: dict[str, dict[str, Any]] = {
    "mamba2": {"head_width": 64, "state_width": 64}
}  # a state of the others'
LEFT_OUT = {"none": "it mixes nothing", "shared_keys": "it reads another layer's keys"}
SAME_CACHE = {  # attention that remembers 256 numbers of a token
    "GQA, 2 of 4 heads": {"name": "softmax", "kv_heads": 2},
    "MLA, rank 192": {"name": "mla", "kv_rank": 192},
}
LOOPS = {"scanned": scan.recurrent, "accumulated": diagonal.step_by_step}
CHUNKS = {"scanned": scan.chunked, "accumulated": diagonal.in_blocks}

RECURRENCE_NOTE = f"Forward and backward at {SHORT:,} tokens. Target: 10 or more."
STEP_NOTE = f"Targets for what keeps a state: at most 1.5 at {SHORT:,} tokens, below 1 at {LONG:,}."
DECODE_NOTE = (
    f"Targets: flat, at most 1.1, for what keeps a state; MLA no slower than GQA. Both of the same cache\n"
    f"remember {WIDTH} numbers of a token."
)


def mixers(named: list[str]) -> dict[str, dict[str, Any]]:
    """The options of each mixer that is measured; softmax is among them."""
    names = [name for name in registries["attention"] if name not in LEFT_OUT]
    return {name: {"name": name, **SMALLER.get(name, {})} for name in names if name in (named or names)} | {
        "softmax": {"name": "softmax"}
    }


def recurrent(attention: dict[str, Any]) -> bool:
    return issubclass(registries["attention"][attention["name"]].make, RecurrentMixer)


def model(attention: dict[str, Any], context: int) -> Decoder:
    takes = registries["attention"][attention["name"]].make.takes_position
    spec = ModelSpec(
        width=WIDTH, depth=1, heads=HEADS, context=context, vocab=256, norm="rmsnorm", placement="pre",
        topology="serial", position="rope" if takes else "none", attention=attention, ffn={"name": "glu"},
        embedding={"norm": "none"}, head={}, init="gpt2", kernel="auto",
    )  # fmt: skip
    return Decoder(spec).init_parameters(0)


def tokens(count: int) -> Tensor:
    return torch.randint(256, (1, count), generator=torch.Generator().manual_seed(0))


def training(attention: dict[str, Any], context: int) -> Callable[[], None]:
    decoder, row = model(attention, context), tokens(context)

    def step() -> None:
        decoder.zero_grad()
        decoder(row, targets=row).nll.mean().backward()

    return step


def decoding(attention: dict[str, Any], context: int, room: int) -> Callable[[], None]:
    """One more token after a context, for up to so many tokens."""
    decoder = model(attention, context + room).eval()
    memories, at = decoder.memories(context + room), 0

    @torch.inference_mode()
    def read(count: int) -> None:
        nonlocal at
        where = torch.arange(at, at + count)[None]
        decoder(tokens(count), ForwardContext(where, memories=memories, last=True))
        at += count

    while at < context:
        read(min(SHORT, context - at))
    return lambda: read(1)


def recurrences(attention: dict[str, Any], count: int = SHORT) -> list[dict[str, Callable[[], None]]]:
    """The recurrences of one forward pass of a mixer, as a loop over tokens and in chunks, with gradients."""
    calls: list[tuple[str, tuple[Any, ...]]] = []

    def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            calls.append((name, given))
            return real(*given)

        return call

    with patch.multiple(recurrence, **{name: noted(name, form) for name, form in CHUNKS.items()}):
        model(attention, count)(tokens(count))
    return [
        {
            kind: partial(differentiated, ways[name], given)
            for kind, ways in (("loop", LOOPS), ("chunks", CHUNKS))
        }
        for name, given in calls
    ]


def differentiated(form: Callable[..., tuple[Tensor, Tensor]], given: tuple[Any, ...]) -> None:
    """A form there and back."""
    leaves = [x.detach().requires_grad_() if isinstance(x, Tensor) else x for x in given]
    form(*leaves)[0].sum().backward()


def forms(measured: dict[str, dict[str, Any]], rounds: int, now: Clock) -> Table:
    rows: list[list[Cell]] = []
    for name, attention in measured.items():
        for rivals in recurrences(attention):
            took = race(rivals, rounds, 1, now, warm=1)
            ms = [[1e3 * t for t in each] for each in took.values()]
            rows.append([name, *ms, ratios(took["loop"], took["chunks"])])
    columns = ["mixer", "loop, ms", "chunks, ms", "loop / chunks"]
    return Table("The chunked form against a loop over tokens", columns, rows, RECURRENCE_NOTE)


def steps(measured: dict[str, dict[str, Any]], rounds: int, now: Clock) -> Table:
    short = {name: training(attention, SHORT) for name, attention in measured.items()}
    long = {n: training(a, LONG) for n, a in measured.items() if recurrent(a) or n == "softmax"}
    at_short, at_long = race(short, rounds, 1, now, warm=1), race(long, rounds // 2 + 1, 1, now, warm=1)
    rows: list[list[Cell]] = []
    for name in measured:
        row: list[Cell] = [name]
        for took in (at_short, at_long):
            there = name in took
            row.append([1e3 * t for t in took[name]] if there else None)
            row.append(ratios(took[name], took["softmax"]) if there else None)
        rows.append(row)
    columns = ["mixer", *(f"{kind} {at:,}" for at in (SHORT, LONG) for kind in ("ms at", "over softmax at"))]
    return Table("A training step", columns, rows, STEP_NOTE)


def decodes(measured: dict[str, dict[str, Any]], rounds: int, now: Clock) -> Table:
    measured = {**measured, **SAME_CACHE}
    room = DECODED * (rounds + 1)
    took = {
        at: race({n: decoding(a, at, room) for n, a in measured.items()}, rounds, DECODED, now, warm=DECODED)
        for at in (SHORT, LONG)
    }
    gqa = next(iter(SAME_CACHE))
    rows: list[list[Cell]] = [
        [
            name,
            *([1e3 * t for t in took[at][name]] for at in took),
            ratios(took[LONG][name], took[SHORT][name]),
            ratios(took[LONG][name], took[LONG]["softmax"]),
            ratios(took[LONG][name], took[LONG][gqa]),
        ]
        for name in measured
    ]
    columns = [
        "mixer",
        f"ms after {SHORT:,}",
        f"after {LONG:,}",
        "long / short",
        "over softmax",
        f"over {gqa}",
    ]
    return Table("Decoding a token", columns, rows, DECODE_NOTE)


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.set_defaults(threads=1)
    parser.add_argument("--mixers", nargs="+", default=[], help="these beside softmax; all, if none is named")
    given = parser.parse_args()
    keep_pages()  # as a run does
    measured, now = mixers(given.mixers), clock(given.threads)
    tables = [table(measured, given.rounds, now) for table in (forms, steps, decodes)]
    left_out = "; ".join(f"{name}: {why}" for name, why in LEFT_OUT.items())
    about = (
        f"Mixers of tokens beside softmax attention: one layer of width {WIDTH}. Not measured: {left_out}."
    )
    save("mixers", tables, about, now.name)


if __name__ == "__main__":
    main()
