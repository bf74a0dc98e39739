"""Training steps on a GPU: against the peers, of the parts against each other, and memory against rows.

    python benchmarks/gpu.py [--rounds 5] [--sections peers parts kernels memory] [--sizes 125M 350M]

LLaMA-shaped models in bf16 (autocast, parameters in fp32), compiled; forward, backward and fused AdamW of
16,384 tokens. Every rival has a process of its own: those of one size are compiled at the same time and then
take turns, so that no two compute at once.
"""

import os
import statistics
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
from clock import arguments, kernels_of, ratios
from record import Cell, Table, save
from rivals import MAKERS, Size, installed, spec, step
from torch.nn.attention import SDPBackend, sdpa_kernel

from ablate.model.measure import blueprint, measure
from ablate.parts.base import ForwardContext, KernelRequirements, Mask, NoCache, Scores
from ablate.registry import kernel, position
from ablate.spec import Shape

PEAK = 989e12  # FLOP/s of an H100 or H200 (SXM) in bf16, by its datasheet
TOKENS = 16_384  # of a step
CONTEXTS = (1024, 4096)
CLOCK = "wall-clock, the device waited for"
STEPS = 8  # of one turn, or as many as take a second
PATIENCE = 60  # seconds, in which a process whose memory others hold tries again
COMPILERS = "3"  # processes of each
WINDOW = {1024: 256, 4096: 1024}
SHAPES = {"125M": (25_600, 768, 12, 12, 2048), "350M": (25_600, 1024, 24, 16, 2736)}
PARTS = {
    "rope": {"kernel": "sdpa"},
    "alibi, flex": {"position": "alibi", "kernel": "flex"},
    "alibi, flash": {"position": "alibi", "kernel": "flash"},
    "window, flex": {"kernel": "flex"},
    "window, flash": {"kernel": "flash"},
    "t5, sdpa": {"position": "t5", "kernel": "sdpa"},
}


class Case(NamedTuple):
    rival: str
    size: str
    context: int
    part: str = "rope"

    @property
    def shape(self) -> Size:
        return Size(self.size, *SHAPES[self.size], self.context, TOKENS // self.context)

    @property
    def changes(self) -> dict[str, Any]:
        """Of the specification."""
        window = WINDOW[self.context] if self.part.startswith("window") else None
        return {"attention": {"name": "softmax", "window": window}, **PARTS[self.part]}


# ------------------------------------------------------------------------------------------ a rival


def serve(case: Case, pipe: Connection, profile: bool) -> None:
    """Compile, say what it took; then answer each call with the seconds of a step and the peak of memory."""
    try:
        begin = time.perf_counter()
        once = patiently(lambda: built(case))
        for _ in range(3):
            patiently(once)
        pipe.send(time.perf_counter() - begin)
        while pipe.recv():
            torch.cuda.reset_peak_memory_stats()
            first = lap(once, 1)
            times = max(1, min(STEPS, int(1 / first)))
            pipe.send((lap(once, times), torch.cuda.max_memory_allocated()))
            torch.cuda.empty_cache()
        if profile:
            print(case, kernels_of(once), flush=True)
    except Exception:
        pipe.send(traceback.format_exc())


def patiently(call: Callable[[], Any]) -> Any:
    """All processes are compiled at the same time, and not always is there room for the steps of all."""
    end = time.perf_counter() + PATIENCE
    while True:
        try:
            found = call()
            finish()
            torch.cuda.empty_cache()
            return found
        except RuntimeError as error:
            full = isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error)
            if not full or time.perf_counter() > end:
                raise
        torch.cuda.empty_cache()
        time.sleep(1)


def built(case: Case) -> Callable[[], None]:
    torch.manual_seed(0)
    return stepping(case.rival, case.shape, case.changes, compiled=True)


def stepping(
    rival: str, size: Size, changes: dict[str, Any] | None = None, compiled: bool = False
) -> Callable[[], None]:
    model, loss = MAKERS["ablate"](size, "cuda", changes) if rival == "ablate" else MAKERS[rival](size)
    model.to("cuda")
    if compiled:
        model.compile()
    return step(model, loss, size, bf16=True, device="cuda")


def lap(call: Callable[[], object], times: int) -> float:
    """Seconds of one call."""
    finish()
    begin = time.perf_counter()
    for _ in range(times):
        call()
    finish()
    return (time.perf_counter() - begin) / times


def finish() -> None:
    torch.cuda.synchronize()


class Rival:
    def __init__(self, case: Case, profile: bool):
        self.case = case
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(case, theirs, profile), daemon=True)
        self.process.start()

    def hear(self) -> Any:
        """What it says. Raises RuntimeError where it failed, and EOFError where it died."""
        said = self.pipe.recv()
        if isinstance(said, str):
            raise RuntimeError(said)
        return said

    def turn(self) -> tuple[float, int]:
        self.pipe.send(True)
        found: tuple[float, int] = self.hear()
        return found

    def end(self) -> None:
        self.pipe.send(False)
        self.process.join(60)


@contextmanager
def rivals(cases: Sequence[Case], profile: str) -> Iterator[list[Rival]]:
    """Those that could be compiled."""
    started = [Rival(case, case.rival == "ablate" and case.part in profile.split("+")) for case in cases]
    ready = []
    for rival in started:
        try:
            print(rival.case, f"compiled in {rival.hear():.0f} s", flush=True)
            ready.append(rival)
        except (RuntimeError, EOFError) as error:
            print(rival.case, "failed:", error, flush=True)
    yield ready
    for rival in ready:
        rival.end()


Found = dict[Case, list[tuple[float, int]]]  # seconds of a step, and peak of memory in bytes, by round


def compete(cases: Sequence[Case], rounds: int, profile: str) -> Found:
    """Of those that made all rounds."""
    with rivals(cases, profile) as ready:
        found: Found = {rival.case: [] for rival in ready}
        for n in range(rounds):
            for rival in ready[:: -1 if n % 2 else 1]:
                try:
                    found[rival.case].append(rival.turn())
                except (RuntimeError, EOFError, OSError) as error:
                    print(rival.case, "failed:", error, flush=True)
                    ready.remove(rival)
                    del found[rival.case]
                    continue
                print(rival.case, f"{1e3 * found[rival.case][-1][0]:.1f} ms", flush=True)
    return found


# ------------------------------------------------------------------------------------------- tables


def seconds(found: Found, case: Case) -> list[float]:
    return [t for t, _ in found[case]]


def flops(case: Case) -> float:
    """Of a step, whatever the kernel."""
    return measure(spec(case.shape, {**case.changes, "kernel": "auto"})).training_flops * TOKENS


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


def limits() -> tuple[float, float]:
    """(FLOP/s of a large product in bf16, bytes/s of a copy, read and written)."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    x = torch.randn(2**29, device="cuda")
    y = torch.empty_like(x)
    return 2 * 8192**3 / timed(lambda: a @ b), 2 * x.numel() * 4 / timed(lambda: y.copy_(x))


def timed(call: Callable[[], object], times: int = 10) -> float:
    """Seconds of one call: the median of five turns."""
    for _ in range(3):
        call()
    return statistics.median(lap(call, times) for _ in range(5))


# ------------------------------------------------------------------------------------------- memory


def memory() -> Table:
    """Peaks of eager steps of 125M at context 1024, by rows. Large vocabularies make the difference."""
    rows_of_step = (4, 8, 16, 32)
    table: list[list[Cell]] = []
    for name in filter(installed, MAKERS):
        table.append([name, *(cell for rows in rows_of_step for cell in peak_and_speed(name, rows))])
        print(table[-1], flush=True)
    columns = ["rival", *(f"{what}, {rows} rows" for rows in rows_of_step for what in ("GiB", "tokens/s"))]
    return Table("Memory and speed of eager steps, by rows: 125M, context 1024", columns, table)


def peak_and_speed(rival: str, rows: int) -> list[Cell]:
    """GiB and tokens/s; nothing where there is no room."""
    torch.cuda.empty_cache()  # of the one before
    try:
        once = stepping(rival, Size("125M", *SHAPES["125M"], 1024, rows))
        once()
        torch.cuda.reset_peak_memory_stats()
        once()
        finish()
        return [round(torch.cuda.max_memory_allocated() / 2**30, 2), rows * 1024 / timed(once, 1)]
    except torch.OutOfMemoryError:
        return [None, None]


# ------------------------------------------------------------------------------------------ kernels

KERNELS = ("sdpa", "cuDNN", "flex", "flash")
NEEDS: dict[str, dict[str, Any]] = {
    "order": {},
    "window": {"window": True},
    "alibi": {"bias": "alibi"},
    "t5": {"bias": "t5"},
    "soft-cap": {"softcap": 20.0},
    "sink": {"sink": True},
    "documents": {"documents": True},
}


def kernels() -> Table:
    """Forward and backward pass of attention alone, by kernel and what acts on the scores."""
    with get_context("spawn").Pool(len(NEEDS)) as pool:
        compiled = pool.map(warm, NEEDS)
    rows = [row for name in compiled for row in timed_kernels(name)]
    columns = ["context", "acts", "kernel", "ms", "TFLOP/s"]
    note = """16,384 tokens, 12 heads of 64 channels, bf16; FLOPs are those of what is seen. Masks are made
before, as they are for all layers of a model; but for T5, whose gradient goes through its mask."""
    return Table("Kernels: attention alone, forward and backward", columns, rows, note)


def warm(name: str) -> str:
    """Compiles what `timed_kernels` then finds in the compiler's cache."""
    timed_kernels(name, times=1)
    return name


def timed_kernels(name: str, times: int = 10) -> list[list[Cell]]:
    found: list[list[Cell]] = []
    for context in CONTEXTS:
        for which in KERNELS:
            try:
                call, work = attention(name, which, context)
                ms = 1e3 * timed(graph(call), times)
            except Exception as error:
                first = str(error).splitlines() or [""]
                print(name, which, context, type(error).__name__, first[0], flush=True)
                continue
            found.append([context, name, which, round(ms, 3), round(work / ms / 1e9, 1)])
            if times > 1:
                print(found[-1], flush=True)
    return found


def graph(call: Callable[[], None]) -> Callable[[], None]:
    """As a CUDA graph: the time of the kernels, and not of their launches."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    finish()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured, stream=side):
        call()
    replay: Callable[[], None] = captured.replay
    return replay


def attention(name: str, which: str, context: int) -> tuple[Callable[[], None], float]:
    """(forward and backward pass, their FLOPs). Raises IncompatibleParts."""
    acts, B, H, D = NEEDS[name], TOKENS // context, 12, 64
    mask = Mask(WINDOW[context] if acts.get("window") else None)
    scheme = position.build(acts.get("bias", "none"), Shape(H * D, 1, H, D, context, 256)).to("cuda")
    learned = list(scheme.parameters())
    if learned:
        torch.nn.init.normal_(learned[0])
    need = KernelRequirements(
        heads=H,
        kv_heads=H,
        key_width=D,
        value_width=D,
        mask=mask,
        bias=scheme.bias is not None,
        learned_bias=bool(learned),
        slopes=scheme.slopes is not None,
        softcap="softcap" in acts,
        sink="sink" in acts,
        documents="documents" in acts,
        device="cuda",
        dtype=torch.bfloat16,
    )
    chosen = kernel.build("sdpa" if which == "cuDNN" else which).settle([need])
    backends = [SDPBackend.CUDNN_ATTENTION] if which == "cuDNN" else None
    at, document = torch.arange(context, device="cuda")[None], None
    if "documents" in acts:
        document = (at // (context // 4)).expand(B, -1)
        at = (at % (context // 4)).expand(B, -1)
    sight = NoCache().look(ForwardContext(at, document)).sight
    sink = torch.zeros(H, device="cuda", requires_grad=True) if "sink" in acts else None
    q, k, v = (
        torch.randn(B, H, context, D, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in "qkv"
    )
    weight = torch.randn_like(q)
    leaves = [q, k, v, *learned, *([] if sink is None else [sink])]
    scores = Scores(D**-0.5, acts.get("softcap"), sink)

    def prepare() -> Any:
        return chosen.prepare(mask, sight, scheme.bias, H, torch.bfloat16)

    shared = None if learned else prepare()

    def call() -> None:
        with nullcontext() if backends is None else sdpa_kernel(backends):
            y = chosen(q, k, v, prepare() if learned else shared, scores, 0.0)
            torch.autograd.grad(y, leaves, weight)

    i = torch.arange(context)
    seen = float((mask.dense(NoCache().look(ForwardContext(i[None])).sight)).sum())
    if "documents" in acts:
        seen /= 4
    return call, 3 * 4 * seen * B * H * D


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


Named = Iterator[tuple[str, list[Table]]]  # each of which has a file of its own


def peers(given: Namespace, rate: float) -> Named:
    there = list(filter(installed, dict.fromkeys(["ablate", *given.rivals])))  # ours for the ratios
    for size in given.sizes:
        cases = [Case(rival, size, context) for context in given.contexts for rival in there]
        yield f"peers_{size}", of_peers(compete(cases, given.rounds, given.profile), rate)


def parts(given: Namespace, rate: float) -> Named:
    cases = [Case("ablate", "125M", context, part) for context in given.contexts for part in PARTS]
    yield "parts", [of_parts(compete(cases, given.rounds, given.profile), rate)]


SECTIONS: dict[str, Callable[[Namespace, float], Named]] = {
    "peers": peers,
    "parts": parts,
    "kernels": lambda given, rate: iter([("kernels", [kernels()])]),
    "memory": lambda given, rate: iter([("memory", [memory()])]),
}


if __name__ == "__main__":
    main()
