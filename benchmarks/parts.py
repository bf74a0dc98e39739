"""Every part against the baseline: what a step takes, beside what its arithmetic demands.

    python benchmarks/parts.py [--rounds 5] [--threads 2] [--kinds norm ffn ...]

The baseline is the 7M LLaMA shape of step.py in fp32, eager. Each choice of each group of conf/model takes
the place of the baseline's; a kind races against the baseline in one process.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from clock import arguments, clock, race, ratios
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from record import Cell, Table, save
from rivals import SIZES

from ablate.model.decoder import Decoder
from ablate.model.measure import measure_model
from ablate.parts.base import ForwardContext
from ablate.spec import ModelSpec

CONF = Path(__file__).parent.parent / "conf"
SIZE = SIZES["7M"]
BASE = [
    f"model.width={SIZE.width}",
    f"model.depth={SIZE.depth}",
    f"model.heads={SIZE.heads}",
    f"model.context={SIZE.context}",
    f"model.vocab={SIZE.vocab}",
    "model.head.tied=false",
]
BASELINE = {
    "norm": "rmsnorm",
    "placement": "pre",
    "topology": "serial",
    "position": "rope",
    "position/scaling": "none",
    "attention": "mha",
    "ffn": "swiglu",
    "layers": "uniform",
}
EXPERTS = {  # of the same FLOPs for each token, but for the router
    "switch": ["model/ffn=relu"],
    "gshard": ["model/ffn=relu", "model.ffn.ratio=8"],
    "mixtral": ["model/ffn=swiglu", "model.ffn.ratio=5.333333333333333"],
    "deepseek": ["model/ffn=swiglu", "model.ffn.ratio=5.333333333333333"],
}
ALLOWED = 1.15
NOTE = f"""`time` is the time of a step over the baseline's, paired by round; `demanded` the ratio of
the training FLOPs that `ablate.model.measure` counts (matrix products and the scores that are seen); `excess`
the quotient: above {ALLOWED} a part costs more than its arithmetic."""


class Took(NamedTuple):
    seconds: dict[str, list[float]]
    flops: dict[str, float]


def spec(overrides: list[str]) -> ModelSpec:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = compose("train", [*BASE, *overrides])
    return ModelSpec.model_validate(OmegaConf.to_container(node.model, resolve=True))


def choices(kind: str) -> list[str]:
    names = sorted(path.stem for path in (CONF / "model" / kind).glob("*.yaml"))
    return [BASELINE[kind], *(name for name in names if name != BASELINE[kind])]


def override(kind: str, name: str) -> str:
    return f"model/{kind}={name}"


def step(made: ModelSpec) -> Callable[[], None]:
    """Forward with all losses of the parts, backward, and fused AdamW."""
    model = Decoder(made).init_parameters(0).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    drawn = torch.randint(
        SIZE.vocab, (SIZE.rows, SIZE.context + 1), generator=torch.Generator().manual_seed(0)
    )
    tokens, targets = drawn[:, :-1].contiguous(), drawn[:, 1:].contiguous()
    at = torch.arange(SIZE.context)[None]

    def once() -> None:
        call = ForwardContext(at, aux=model.aux())
        loss = model(tokens, call, targets).nll.mean()
        if any(call.aux):
            loss = loss + model.auxiliary(call.aux)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return once


def run(arms: dict[str, list[str]], rounds: int, threads: int) -> Took:
    """In a process of its own."""
    time = clock(threads)
    specs = {name: spec(overrides) for name, overrides in arms.items()}
    steps = {name: step(made) for name, made in specs.items()}
    flops = {name: measure_model(made).training_flops for name, made in specs.items()}
    return Took(race(steps, rounds, 1, time), flops)


def rows(took: Took, base: str) -> list[list[Cell]]:
    found: list[list[Cell]] = []
    for name, seconds in took.seconds.items():
        if name == base:
            continue
        time, demanded = ratios(seconds, took.seconds[base]), took.flops[name] / took.flops[base]
        found.append([name, time, demanded, [t / demanded for t in time]])
    return found


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--kinds", nargs="+", choices=[*BASELINE, "experts"], default=[*BASELINE, "experts"])
    given = parser.parse_args()

    def fresh(arms: dict[str, list[str]]) -> Took:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(run, arms, given.rounds, given.threads).result()

    tables = []
    for kind in given.kinds:
        if kind == "experts":
            body = []
            for name, dense in EXPERTS.items():
                body += rows(fresh({"dense": dense, name: [f"model/ffn={name}"]}), "dense")
            title = "Experts against the dense feed-forward of equal active FLOPs"
        else:
            body = rows(fresh({name: [override(kind, name)] for name in choices(kind)}), BASELINE[kind])
            title = f"{kind}, against {BASELINE[kind]}"
        for row in body:
            print(row[0], row[2], sorted(row[3])[len(row[3]) // 2], flush=True)
        tables.append(Table(title, ["part", "time", "demanded", "excess"], body, NOTE if not tables else ""))
    save("parts", tables, clock=clock(given.threads).name)


if __name__ == "__main__":
    main()
