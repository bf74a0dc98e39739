"""The table of models in docs/models.md, generated: `python -m ablate.cli.models_table` writes it."""

from functools import cache
from pathlib import Path

from ablate.model.measure import Costs, measure_model
from ablate.spec import ModelSpec

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "models.md"
BORDERS = ("<!-- table: python -m ablate.cli.models_table -->", "<!-- end of table -->")
_COLUMNS = [
    "`model=`",
    "width",
    "depth",
    "heads / kv / width",
    "context",
    "vocabulary",
    "parameters",
    "non-embedding",
    "active",
    "FLOPs per token: training",
    "decoding at full context",
    "KV bytes per token",
    "cache at full context",
]


def presets() -> list[str]:
    """The names of the models that give their own vocabulary: the published ones."""
    names = sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml"))
    return [name for name in names if name != "started" and composed(name).vocab]


@cache
def composed(name: str, *overrides: str) -> ModelSpec:
    """A model of conf/, without the rest of a run."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = compose(f"model/{name}", list(overrides))
    return ModelSpec.model_validate(OmegaConf.to_container(config.model, resolve=True))


@cache
def costs(name: str) -> Costs:
    """The costs of a committed model by its name under `conf/model`."""
    return measure_model(composed(name))


def table() -> str:
    """One line for each published model, by size. Bytes are those of bf16."""
    ordered = sorted(presets(), key=lambda name: (costs(name).parameters, name))
    head = [f"| {' | '.join(_COLUMNS)} |", "|---|" + "--:|" * (len(_COLUMNS) - 1)]
    return "\n".join([*head, *(_line(name, composed(name), costs(name)) for name in ordered)])


def _line(name: str, spec: ModelSpec, cost: Costs) -> str:
    shape = spec.shape()
    kv_heads = {layer.attention.model_dump().get("kv_heads") or shape.heads for layer in spec.layers()}
    cells = [
        f"`{name}`",
        str(shape.width),
        str(shape.depth),
        f"{shape.heads} / {', '.join(map(str, sorted(kv_heads)))} / {shape.head_width}",
        f"{shape.context:,}",
        f"{shape.vocab:,}",
        f"{cost.parameters:,}",
        f"{cost.non_embedding:,}",
        f"{cost.active:,}" if cost.active != cost.parameters else "all",
        f"{cost.training_flops:.4g}",
        f"{cost.decoding_flops:.4g}",
        f"{cost.kv_bytes:,}",
        f"{cost.cache_bytes / 2**20:,.0f} MiB",
    ]
    return f"| {' | '.join(cells)} |"


def renewed(page: str) -> str:
    """The page with the table of today."""
    before, _, rest = page.partition(BORDERS[0])
    _, _, after = rest.partition(BORDERS[1])
    return f"{before}{BORDERS[0]}\n{table()}\n{BORDERS[1]}{after}"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
