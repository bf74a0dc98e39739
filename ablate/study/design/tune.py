"""How the rate of every arm is chosen, as study.yaml says it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from ablate.spec import Strict
from ablate.study.design.fields import Path_
from ablate.study.stats.rounds import Search, Wanted, tune_by_rounds
from ablate.study.stats.tuning import Tuning, check_grid, tune

if TYPE_CHECKING:
    import pandas as pd

MOST_STUDY_SEEDS = 10_000  # more is a slip
TUNING_SEEDS = 1000  # the first seed for tuning, far from those for testing
TUNE_OPTIONS = ("search", "nested", "fixed_rate_table", "seeds", "metric", "better")


def count_seeds(node: Any, first: int) -> Any:
    """A number of seeds is that many, from `first` on."""
    if isinstance(node, int) and node > MOST_STUDY_SEEDS:
        raise ValueError(f"{node} seeds; at most {MOST_STUDY_SEEDS}")
    return tuple(range(first, first + node)) if isinstance(node, int) and not isinstance(node, bool) else node


class Tune(Strict):
    """One tuned path with the same grid for every arm: `tune: {optim.lr: [...], seeds: 2, nested: false}`."""

    path: Path_
    rates: tuple[float, ...]
    search: Literal["grid", "rounds"] = "grid"  # the whole grid for every arm, or around the baseline's best
    nested: bool = False  # each test seed trains at the best rate and its better neighbour
    fixed_rate_table: bool = False  # every arm is trained at the baseline's rate, too
    seeds: tuple[int, ...] = (TUNING_SEEDS, TUNING_SEEDS + 1)
    metric: str = Field("validation/loss", pattern="^validation/")
    better: Literal["lower", "higher"] = "lower"

    @property
    def of_loss(self) -> bool:
        """Whether its runs are compared by their loss."""
        return self.metric == "validation/loss" and self.better == "lower"

    @property
    def tells_sensitivity(self) -> bool:
        """Whether its runs tell the sensitivity: that of a loss, over a grid that every arm has."""
        return self.of_loss and self.search == "grid"

    @property
    def rounds(self) -> Search:
        """What all arms search alike by, where they are tuned by rounds."""
        return Search(self.rates, self.seeds)

    def choose(
        self, frame: "pd.DataFrame", arms: Sequence[str], level: float | None = None
    ) -> tuple[Tuning, tuple[Wanted, ...]]:
        """Choose the rates of all arms of one corpus, the baseline first, from the tuning runs in `frame`.

        `level` is the loss of single tokens, where it is known. Returns the choices, and for `rounds` all
        runs that are wanted so far. Raises ValueError as `tune` does.
        """
        level = level if self.of_loss else None
        if self.search == "rounds":
            return tune_by_rounds(frame, self.rounds, arms, self.metric, self.better, self.nested, level)
        return tune(frame, self.metric, self.better, self.nested, level), ()

    @model_validator(mode="after")
    def _seeds_of_rounds(self) -> "Tune":
        if self.search == "rounds" and len(self.seeds) < 2:
            raise ValueError("search: rounds needs two tuning seeds or more; say seeds: 2")
        return self

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
