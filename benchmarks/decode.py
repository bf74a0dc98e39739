"""Decoding against transformers' generate with its cache: the same weights, and the same tokens.

    python benchmarks/decode.py [--rounds 5] [--threads 1]

LLaMA-shaped, 6.9M parameters, by batch and context, for multi-head, grouped and single key-value heads and a
window. A round is a prompt and `NEW` tokens of each, one after the other.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from clock import Clock, arguments, clock, race, ratios
from record import Cell, Table, save
from rivals import SIZES, installed, spec

from ablate.model.decoder import Decoder
from ablate.model.generate import complete, generate
from ablate.model.hf import export_folder
from ablate.model.packed import Packed, packable, packed

SIZE = SIZES["7M"]
NEW = 128
CONTEXTS = (16, 256, 1024)
BATCHES = (1, 8)
ATTENTION = {
    "MHA": {},
    "GQA, 2 of 8": {"kv_heads": 2},
    "MQA": {"kv_heads": 1},
    "window of 64": {"window": 64},
}
TARGETS = "Targets: 1.75 at batch 1, 1.5 at batch 8; the first token no later (1 or more)."


def ours(attention: dict[str, int]) -> Decoder:
    options = spec(SIZE).model_dump(mode="json")
    options["context"] = max(CONTEXTS) + NEW
    options["attention"] = {"name": "softmax", **attention}
    return Decoder(type(spec(SIZE)).model_validate(options), training=False).init_parameters(0).eval()


def theirs(decoder: Decoder) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        export_folder(decoder, Path(folder) / "model", None, None)
        return AutoModelForCausalLM.from_pretrained(Path(folder) / "model", attn_implementation="sdpa").eval()


def prompts(rows: int, context: int) -> list[list[int]]:
    drawn = torch.randint(SIZE.vocab, (rows, context), generator=torch.Generator().manual_seed(0))
    return [[int(token) for token in row] for row in drawn]


def their_tokens(model: torch.nn.Module, given: list[list[int]], new: int) -> list[list[int]]:
    out = model.generate(
        torch.tensor(given), max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
    )
    return [[int(token) for token in row[len(given[0]) :]] for row in out]


def check(decoder: Decoder, model: torch.nn.Module) -> None:
    """Raise ValueError unless both say the same."""
    given = prompts(2, 24)
    mine, peers = complete(decoder, given, 40), their_tokens(model, given, 40)
    if mine != peers:
        raise ValueError("the two do not decode the same tokens, so their times do not compare")


def duel(attention: dict[str, int], rows: int, context: int, rounds: int, now: Clock) -> list[list[Cell]]:
    decoder = ours(attention)
    model = theirs(decoder)
    check(decoder, model)
    given = prompts(rows, context)

    def first() -> None:
        next(generate(decoder, given, NEW))

    contenders: dict[str, Callable[[], object]] = {
        "first": first,
        "all": lambda: complete(decoder, given, NEW),
        "their first": lambda: their_tokens(model, given, 1),
        "their all": lambda: their_tokens(model, given, NEW),
    }
    seconds = race(contenders, rounds, 1, now, warm=1)
    rate, peers = (
        [rows * (NEW - 1) / (a - b) for a, b in zip(seconds[whole], seconds[begin], strict=True)]
        for whole, begin in (("all", "first"), ("their all", "their first"))
    )
    return [[rate, peers, ratios(rate, peers), ratios(seconds["their first"], seconds["first"])]]


def limits(now: Clock, rounds: int) -> list[list[Cell]]:
    """Reading all matrices once, with one row and nothing else: the least that a token can cost."""
    decoder = ours({})
    layers = [m.weight for m in decoder.modules() if isinstance(m, torch.nn.Linear)]
    matrices = [w.detach() for w in (*layers, decoder.head.weight) if w is not None]
    rows = {w.shape[1]: torch.randn(1, w.shape[1]) for w in matrices}
    laid_out = [Packed([w], None) for w in matrices]
    whole = torch.cat([w.flatten() for w in matrices])
    given = prompts(1, 16)

    def plain() -> None:
        for w in matrices:
            torch.nn.functional.linear(rows[w.shape[1]], w)

    def packed_products() -> None:
        for w, layout in zip(matrices, laid_out, strict=True):
            layout(rows[w.shape[1]])

    with torch.inference_mode():
        seconds = race(
            {
                "the sum of all weights (memory alone)": lambda: whole.sum(),
                "products, torch's layout": plain,
                "products, laid out for reading": packed_products,
            },
            max(rounds, 20),
            5,
            now,
        )
        begin = now.now()
        assert packable(decoder)
        packed(decoder)
        once = now.now() - begin
        steps = race({"one": lambda: complete(decoder, given, NEW)}, rounds, 1, now)["one"]
    found: list[list[Cell]] = [[name, [1e3 * s for s in each]] for name, each in seconds.items()]
    found.append(
        ["a whole token, with 1/128 of the prompt and of the layout", [1e3 * s / NEW for s in steps]]
    )
    found.append(["the twin that makes it, once", [1e3 * once]])
    return found


def main() -> None:
    given = arguments(__doc__, rounds=3).parse_args()
    if not installed("transformers"):
        return
    now = clock(given.threads)
    columns = [
        "attention",
        "batch",
        "context",
        "ablate, tokens/s",
        "transformers",
        "ratio",
        "first token, ratio",
    ]
    rows: list[list[Cell]] = []
    for name, attention in ATTENTION.items():
        for batch in BATCHES:
            for context in CONTEXTS:
                (found,) = duel(attention, batch, context, given.rounds, now)
                rows.append([name, batch, context, *found])
                print(name, batch, context, found[2], flush=True)
    tables = [
        Table("Decoding", columns, rows, TARGETS),
        Table("What a token costs at least, ms", ["what", "ms"], limits(now, given.rounds)),
    ]
    save("decode", tables, __doc__.split("\n")[0], now.name)


if __name__ == "__main__":
    main()
