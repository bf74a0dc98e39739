"""What a campaign.yaml says: the baseline that many changes are tried against, and the rules of judging.

The rules are fixed by the first try: its journal keeps them, and a later edit is refused.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, FiniteFloat, ValidationError, field_validator, model_validator

from ablate.errors import AblateError
from ablate.explain import explain
from ablate.spec import Strict
from ablate.study.design.fields import Overrides, Path_
from ablate.study.design.yaml_file import read_yaml

RULES_FILE = "campaign.yaml"
MOST_TRIES = 100_000
FRESH = 1000  # seeds of each baseline: more than a try may have
OWN_PARTS = "parts"  # the override that names files of one's own
BoundedCost = Literal[
    "total", "non_embedding", "active", "flops_per_token", "kv_bytes_per_token", "memory_bytes"
]


class CampaignError(AblateError, ValueError):
    """A campaign, or a change, that cannot be taken as it is: every mistake, one a line."""

    def __init__(self, mistakes: Sequence[str]):
        self.mistakes = list(dict.fromkeys(mistakes))
        super().__init__("\n".join(self.mistakes))


class FailFast(Strict):
    """Stop a run whose training loss lies far above that of the baseline's run with the same seed."""

    above: FiniteFloat = Field(gt=0)  # nats per token
    after: float = Field(0.25, gt=0, lt=1)  # the share of the steps at which this is first asked


class Campaign(Strict):
    """A campaign.yaml, whole and frozen. docs/campaigns.md shows one with every field."""

    question: str = Field(min_length=1)
    base: Overrides
    axis: tuple[Path_, ...] = ("model", "optim", "schedule", "clip")  # where a change may change anything
    metric: str = "heldout/loss"
    better: Literal["lower", "higher"] = "lower"
    margin: FiniteFloat = Field(gt=0)  # the least gain that matters, in the unit of the metric
    tries: int = Field(200, gt=0, le=MOST_TRIES)  # planned: alpha is shared out over them
    seeds: int = Field(8, ge=2, lt=FRESH)  # pairs of a try, after which it is called undecided
    alpha: float = Field(0.05, gt=0, lt=1)
    miss: float = Field(0.1, gt=0, lt=1)  # the share of gains as large as the margin that are given up
    noise: Literal["pooled", "own"] = "pooled"  # one for all arms, or that of each try alone
    cost: dict[BoundedCost, float] = Field({})  # the most that a change may cost, times the first baseline
    seconds: float | None = Field(None, gt=0)  # the most that training a run may take
    fail_fast: FailFast | None = None
    notes: str = ""

    @field_validator("cost")
    @classmethod
    def _positive(cls, cost: dict[BoundedCost, float]) -> dict[BoundedCost, float]:
        wrong = [f"{name}: a factor above 0, not {most}" for name, most in cost.items() if not most > 0]
        if wrong:
            raise ValueError("\n".join(wrong))
        return cost

    @model_validator(mode="after")
    def _consistent(self) -> "Campaign":
        wrong = list(self._mistakes())
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def _mistakes(self) -> Iterator[str]:
        for path in self.axis:
            if path.split(".")[0] in ("budget", "evaluation", "seed", "parent"):
                yield f"axis: {path} is the same for every run of a campaign; leave it out"

    @property
    def sign(self) -> int:
        """What a difference baseline - arm is multiplied with to be a gain."""
        return 1 if self.better == "lower" else -1

    def plain(self) -> dict[str, Any]:
        """The rules as plain data, every field written out."""
        return self.model_dump(mode="json")


def load_campaign(folder: Path) -> Campaign:
    """The campaign in `folder`. Raises CampaignError with every mistake, FileNotFoundError."""
    node = read_yaml(folder / RULES_FILE)
    try:
        return Campaign.model_validate(node)
    except ValidationError as error:
        raise CampaignError([f"{folder / RULES_FILE}: {line}" for line in explain(error)]) from None


def merged(base: Sequence[str], change: Sequence[str]) -> tuple[str, ...]:
    """The overrides of `base` with those of a change in place of what they set anew; the files of one's own
    that either names come first, as one list."""
    files: list[str] = []
    rest: dict[str, str] = {}
    for override in (*base, *change):
        key = override.partition("=")[0].lstrip("+~")
        if key == OWN_PARTS:
            files += [file.strip().strip("'\"") for file in override.partition("=")[2].strip("[]").split(",")]
        else:
            rest.pop(key, None)
            rest[key] = override
    named = dict.fromkeys(filter(None, files))
    quoted = ", ".join("'" + file.replace("'", "\\'") + "'" for file in named)
    return (*([f"{OWN_PARTS}=[{quoted}]"] if named else []), *rest.values())
