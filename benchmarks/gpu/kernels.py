"""Kernels: attention alone, forward and backward."""

from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing import get_context
from typing import Any

import torch
from record import Cell, Table
from torch.nn.attention import SDPBackend, sdpa_kernel

from ablate.parts.base import ForwardContext, KernelRequirements, Mask, NoCache, Scores
from ablate.registry import kernel, position
from ablate.spec import Shape
from gpu.memory import timed
from gpu.processes import CONTEXTS, TOKENS, WINDOW, finish

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
