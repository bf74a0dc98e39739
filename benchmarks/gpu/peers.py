"""Tables: against the peers, and of the parts against each other."""

import statistics
from argparse import Namespace
from collections.abc import Iterator

from clock import ratios
from record import Cell, Table
from rivals import installed, spec

from ablate.model.measure import blueprint, measure_model
from gpu.processes import CONTEXTS, PARTS, SHAPES, TOKENS, WINDOW, Case, Found, compete

PEAK = 989e12  # FLOP/s of an H100 or H200 (SXM) in bf16, by its datasheet


def seconds(found: Found, case: Case) -> list[float]:
    return [t for t, _ in found[case]]


def flops(case: Case) -> float:
    """Of a step, whatever the kernel."""
    return measure_model(spec(case.shape, {**case.changes, "kernel": "auto"})).training_flops * TOKENS


def row(found: Found, case: Case, rate: float) -> list[Cell]:
    times = seconds(found, case)
    speed = [flops(case) / t for t in times]
    memory = max(peak for _, peak in found[case]) / 2**30
    return [
        [TOKENS / t for t in times],
        [100 * s / PEAK for s in speed],
        [s / rate for s in speed],
        round(memory, 2),
    ]


MEASURES = ["tokens/s", "MFU, %", "share of the products' rate", "peak, GiB"]


def of_peers(found: Found, rate: float) -> list[Table]:
    every: list[list[Cell]] = []
    best: list[list[Cell]] = []
    for size in SHAPES:
        for context in CONTEXTS:
            here = [c for c in found if (c.size, c.context, c.part) == (size, context, "rope")]
            ours = Case("ablate", size, context)
            if ours not in here:
                continue
            for case in here:
                lead = ratios(seconds(found, case), seconds(found, ours))
                every.append([f"{size}, {context}", case.rival, *row(found, case, rate), lead])
            peers = [case for case in here if case.rival != "ablate"]
            if peers:
                peer = min(peers, key=lambda c: statistics.median(seconds(found, c)))
                lead = ratios(seconds(found, peer), seconds(found, ours))
                best.append([f"{size}, {context}", peer.rival, lead])
    note = f"""MFU: FLOPs of `ablate.model.measure` (matrix products and causal attention, three times the
forward pass) over {PEAK / 1e12:.0f} TFLOP/s. The products' rate is that of 8,192-square matrices in bf16 on
this card, in this run: {rate / 1e12:.0f} TFLOP/s. A step has {TOKENS:,} tokens."""
    return [
        Table("Against the best peer on this card", ["model, context", "the best peer", "ablate / it"], best),
        Table("All", ["model, context", "rival", *MEASURES, "ablate / it"], every, note),
    ]


def of_parts(found: Found, rate: float) -> Table:
    rows: list[list[Cell]] = []
    for case in found:
        base = case._replace(part="rope")
        share = ratios(seconds(found, base), seconds(found, case)) if base in found else None
        used = blueprint(spec(case.shape, case.changes), "cuda", precision="bf16").kernel.name
        rows.append([case.context, case.part, used, *row(found, case, rate), share])
    windows = ", ".join(f"{w} of {context}" for context, w in WINDOW.items())
    return Table(
        "Parts, 125M",
        ["context", "part", "kernel", *MEASURES, "tokens/s over rope's"],
        rows,
        f"The windows are {windows}.",
    )


Named = Iterator[tuple[str, list[Table]]]  # each of which has a file of its own


def peers(given: Namespace, rate: float) -> Named:
    there = list(filter(installed, dict.fromkeys(["ablate", *given.rivals])))  # ours for the ratios
    for size in given.sizes:
        cases = [Case(rival, size, context) for context in given.contexts for rival in there]
        yield f"peers_{size}", of_peers(compete(cases, given.rounds, given.profile), rate)


def parts(given: Namespace, rate: float) -> Named:
    cases = [Case("ablate", "125M", context, part) for context in given.contexts for part in PARTS]
    yield "parts", [of_parts(compete(cases, given.rounds, given.profile), rate)]
