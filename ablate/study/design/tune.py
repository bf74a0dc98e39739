"""How the rate of every arm is chosen, as study.yaml says it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from ablate.spec import RunSpec, Strict
from ablate.study.stats.tuning import check_grid

TUNING_SEEDS = 1000  # the first seed for tuning, far from those for testing
TUNE_OPTIONS = ("nested", "fixed_rate_table", "seeds", "metric", "better")


def path_in_run(path: str) -> str:
    """A dotted path into RunSpec; only its first word can be checked before the arms are composed."""
    first = path.split(".")[0]
    if first not in RunSpec.model_fields:
        raise ValueError(f"{path!r} is no part of a run; paths start with {', '.join(RunSpec.model_fields)}")
    return path


def count_seeds(node: Any, first: int) -> Any:
    """A number of seeds is that many, from `first` on."""
    return tuple(range(first, first + node)) if isinstance(node, int) and not isinstance(node, bool) else node


Path_ = Annotated[str, AfterValidator(path_in_run)]


class Tune(Strict):
    """One tuned path with the same grid for every arm: `tune: {optim.lr: [...], seeds: 2, nested: false}`."""

    path: Path_
    rates: tuple[float, ...]
    nested: bool = False  # each test seed trains at the best rate and its better neighbour
    fixed_rate_table: bool = False  # every arm is trained at the baseline's rate, too
    seeds: tuple[int, ...] = (TUNING_SEEDS, TUNING_SEEDS + 1)
    metric: str = Field("validation/loss", pattern="^validation/")
    better: Literal["lower", "higher"] = "lower"

    @property
    def of_loss(self) -> bool:
        """Whether its runs tell the sensitivity, which is one of a loss."""
        return self.metric == "validation/loss" and self.better == "lower"

    @model_validator(mode="before")
    @classmethod
    def _read(cls, node: Any) -> Any:
        if not isinstance(node, Mapping):
            raise ValueError("say fixed, or give a grid: {optim.lr: [3e-4, 6e-4, 1e-3, 2e-3, 3e-3]}")
        options = {key: node[key] for key in node if key in TUNE_OPTIONS}
        paths = [key for key in node if key not in options]
        if len(paths) != 1 or not isinstance(paths[0], str):
            raise ValueError(
                f"exactly one path is tuned, such as optim.lr; beside {', '.join(TUNE_OPTIONS)} "
                f"there are {', '.join(map(str, paths)) or 'none'}"
            )
        return {"path": paths[0], "rates": node[paths[0]], **options}

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, node: Any) -> Any:
        return count_seeds(node, TUNING_SEEDS)

    @field_validator("rates")
    @classmethod
    def _grid(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        try:
            check_grid(rates)
        except ValueError as error:
            raise ValueError(str(error).removeprefix("tune: ")) from None
        return rates
