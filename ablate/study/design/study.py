"""What a study.yaml says: the question, the arms, and how they will be judged. Read before anything is run.

The rules across fields that need no composed configuration stand here; those on the arms' names in
`ablate.study.design.arms`, and those on the arms themselves in `ablate.study.design.plan`.
"""

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BeforeValidator,
    Field,
    FiniteFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from ablate.errors import AblateError
from ablate.explain import explain
from ablate.spec import Strict
from ablate.study.design.claim import OF_SEVERAL, SCALE, TIMING, Claim, counts, declared, kinds
from ablate.study.design.fields import STEPS, Knob, Name, Overrides, Path_, alone
from ablate.study.design.tune import Tune, count_seeds
from ablate.study.design.yaml_file import read_yaml

PLACEBO = "placebo"  # the name of the arm
HOME = "base"  # the name of the only corpus, where none is declared
MOST_ARMS, MOST_KNOB = 1000, 1 << 24  # more is a slip, and would never end
WITH_EFFECTS = ("factorial", "add_one_in", "leave_one_out")  # designs whose factors have effects to judge
_Kind = Literal["arms", "one_at_a_time", "leave_one_out", "add_one_in", "factorial"]
Held = Literal["non_embedding_params", "total_params", "active_flops", "train_flops"]


class StudyError(AblateError, ValueError):
    """A study that is wrong: every mistake, one a line."""

    def __init__(self, mistakes: Iterable[str]):
        self.mistakes = list(dict.fromkeys(mistakes))
        super().__init__("\n".join(self.mistakes))


class Design(Strict):
    """How arms come about. `factors` maps a factor to its levels, and a level to its overrides.

    arms            those that are listed
    one_at_a_time   the first level of every factor is the baseline; each arm changes one factor
    add_one_in      `from` is the baseline; each arm takes one factor's level from `to`
    leave_one_out   `to` is the baseline; each arm puts one factor's level back to that of `from`
    factorial       every combination of levels
    """

    kind: _Kind = "arms"
    factors: dict[Name, dict[Name, Overrides]] = Field({})
    start: dict[str, str] = Field({}, alias="from")  # factor -> level
    end: dict[str, str] = Field({}, alias="to")

    @model_validator(mode="after")
    def _consistent(self) -> "Design":
        wrong = list(self._mistakes())
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def _mistakes(self) -> Iterator[str]:
        if self.kind == "arms":
            if self.factors or self.start or self.end:
                yield "kind arms takes neither factors nor from and to; list the arms under arms:"
            return
        if not self.factors:
            yield f"kind {self.kind} needs factors: {{name: {{level: [overrides], ...}}, ...}}"
        for name, levels in self.factors.items():
            if len(levels) < 2:
                yield f"factors.{name}: a factor needs two levels or more; it has {len(levels)}"
        if self.kind == "factorial" and (cells := prod(map(len, self.factors.values()))) > MOST_ARMS:
            yield f"factors: every combination makes {cells} arms; at most {MOST_ARMS}"
        if self.kind in ("one_at_a_time", "factorial"):
            if self.start or self.end:
                yield f"kind {self.kind} takes no from and to"
            return
        for word, cell in (("from", self.start), ("to", self.end)):
            yield from self._cell_mistakes(word, cell)
        if self.start and self.start == self.end:
            yield "from and to are the same: no factor changes"

    def _cell_mistakes(self, word: str, cell: Mapping[str, str]) -> Iterator[str]:
        for factor in sorted({*self.factors} - {*cell}):
            yield f"{word}: no level is given for {factor}"
        for factor, level in cell.items():
            if factor not in self.factors:
                yield f"{word}.{factor}: no such factor; there are {', '.join(self.factors) or 'none'}"
            elif level not in self.factors[factor]:
                yield f"{word}.{factor}: no level {level!r}; there are {', '.join(self.factors[factor])}"


def _listed() -> Design:
    return Design.model_validate({})


class Match(Strict):
    """What every arm has in common with the baseline, and the knob that is turned until it has."""

    hold: Held
    by: Knob
    by_arm: dict[str, Knob] = Field({})  # where an arm has another knob, such as model.ffn.expert.width
    tolerance: float = Field(0.005, gt=0, lt=1)  # relative
    multiple: int = Field(1, ge=1, le=MOST_KNOB)  # the knob takes multiples of this, for the hardware's sake
    also_unmatched: bool | tuple[str, ...] = False  # keep the unmatched arm beside the matched one

    def knob(self, arm: str) -> str:
        return self.by_arm.get(arm, self.by)

    def keeps_unmatched(self, arm: str) -> bool:
        return self.also_unmatched is True or (
            isinstance(self.also_unmatched, tuple) and arm in self.also_unmatched
        )


class Block(NamedTuple):
    """Where the whole study is run: what plans and results call its corpus, for short."""

    name: str  # the corpus, the size, or both
    corpus: str
    size: str  # empty where no sizes are declared


class Study(Strict):
    """A study.yaml, whole and frozen. docs/studies.md shows one with every field."""

    question: str = Field(min_length=1)
    base: Overrides = ()
    axis: Annotated[tuple[Path_, ...], BeforeValidator(alone)] = Field(min_length=1)
    baseline: Name | None = None
    arms: dict[Name, Overrides] = Field({})
    design: Design = Field(default_factory=_listed)
    exclude: dict[str, Annotated[str, Field(min_length=1)]] = Field({})  # arm -> why it is not run
    allow_no_op: dict[str, Annotated[str, Field(min_length=1)]] = Field(
        {}
    )  # arm -> why, though no output changes
    placebo: bool = True
    seeds: tuple[int, ...] = tuple(range(6))
    interim_seeds: tuple[int, ...] = ()  # numbers of seeds at which arms are judged, and stop where decided
    tune: Tune | None  # None is `tune: fixed`: every arm at the rate of its configuration
    match: Match | None = None
    metric: str = "heldout/loss"
    better: Literal["lower", "higher"] = "lower"
    equivalence_margin: FiniteFloat | None = Field(None, gt=0)  # the least difference that matters
    interval: Literal["paired", "pooled"] = "paired"
    alpha: float = Field(0.05, gt=0, lt=1)
    effects: bool = True  # of a design's factors: judged beside the verdicts
    effect_in_tokens: bool = False  # the baseline at half and at twice its budget, too
    budgets: tuple[float, ...] = ()  # shares of the tokens at which every arm is ended too, the last 1
    claims: tuple[Claim, ...] = ()
    measures: tuple[str, ...] = ()  # described beside the metric, never decided on
    corpora: dict[Name, Overrides] = Field({})  # the whole study is run on each
    sizes: dict[Name, Overrides] = Field({})  # and at each: matched, tuned and judged within the size
    references: dict[Name, str] = Field({})  # name -> folder of a published model, read on the same text
    notes: str = ""  # on the budget, the scale, the machine

    @field_validator("tune", mode="before")
    @classmethod
    def _fixed(cls, node: Any) -> Any:
        if node is None:
            raise ValueError("say fixed, or give a grid: {optim.lr: [3e-4, 6e-4, 1e-3, 2e-3, 3e-3]}")
        return None if node == "fixed" else node

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, node: Any) -> Any:
        return count_seeds(node, 0)

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or min(seeds) < 0 or max(seeds) >= 1 << 63 or len(set(seeds)) < len(seeds):
            raise ValueError(
                "seeds are distinct numbers from 0 to 9223372036854775807, one or more, "
                f"not {list(seeds[:9])}"
            )
        return seeds

    @field_validator("corpora", "sizes", mode="before")
    @classmethod
    def _named(cls, node: Any) -> Any:
        """A list of `data=x` is a mapping from x."""
        if not isinstance(node, list | tuple):
            return node
        if not all(isinstance(override, str) for override in node):
            raise ValueError("what has several overrides needs a name: {name: [overrides]}")
        names = [override.rpartition("=")[2] for override in node]
        if len(set(names)) < len(names):
            raise ValueError(f"a name stands twice: {', '.join(names)}")
        return {name: (override,) for name, override in zip(names, node, strict=True)}

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        wrong = list(self._mistakes())
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def _mistakes(self) -> Iterator[str]:
        if self.design.kind == "arms":
            if not self.arms:
                yield "arms: missing; list the arms, or give a design with factors"
            elif self.baseline is None:
                yield f"baseline: missing; name one of {', '.join(self.arms)}"
        looks = list(self.interim_seeds)
        if looks and (looks != sorted({*looks}) or looks[0] < 2):
            yield f"interim_seeds: ascending numbers of seeds, two or more each, not {looks}"
        elif looks and looks[-1] != len(self.seeds):
            yield f"interim_seeds: the last look is at all {len(self.seeds)} seeds, not at {looks[-1]}"
        if looks and list(self.seeds) != sorted(self.seeds):
            yield f"interim_seeds: seeds are added in ascending order; list them so, not {list(self.seeds)}"
        if self.budgets and (
            list(self.budgets) != sorted({*self.budgets}) or self.budgets[0] <= 0 or self.budgets[-1] != 1
        ):
            yield f"budgets: ascending shares of budget.tokens, the last 1, not {list(self.budgets)}"
        elif len(self.budgets) == 1:
            yield "budgets: the whole budget alone shows no gap against length; give shorter ones, too"
        if self.budgets and self.effect_in_tokens:
            yield "budgets: effect_in_tokens trains the baseline at budgets of its own; leave it out"
        if not self.effects and self.design.kind not in WITH_EFFECTS:
            yield f"effects: a design of kind {self.design.kind} has none; leave the key out"
        if declared(self.metric) and self.better == "lower":
            yield f"better: {self.metric} counts the runs that solve their task; say better: higher"
        for name in sorted(self.references.keys() & self.arms.keys()):
            yield f"references: {name} is an arm too; give the model another name"
        if len(self.sizes) == 1:
            yield "sizes: one size has no slope; give two or more, or put its overrides into base"
        if self.tune:
            shared = sorted({*self.tune.seeds} & {*self.seeds})
            if shared:
                yield f"tune.seeds: {', '.join(map(str, shared))} are test seeds too; keep the two apart"
            for axis in self.axis:
                if under(self.tune.path, axis):
                    yield f"tune: {self.tune.path} lies in the axis {axis}; what is asked about is not tuned"
        if self.match:
            by_steps = STEPS in {self.match.by, *self.match.by_arm.values()}
            if by_steps and self.match.hold != "train_flops":
                yield f"match: steps change no {self.match.hold}; hold train_flops, or name another knob"
            for knob in {self.match.by, *self.match.by_arm.values()} - {STEPS}:
                if knob in self.axis:
                    yield f"match.by: {knob} is the axis itself; what is asked about is not matched away"
        yield from self._claim_mistakes()

    def _claim_mistakes(self) -> Iterator[str]:
        ids = [claim.id for claim in self.claims]
        for id in sorted({id for id in ids if ids.count(id) > 1}):
            yield f"claims: {id} stands more than once"
        for name in {self.metric, *self.measures} & {*OF_SEVERAL}:
            yield f"{name} is a number of several runs: it can only be claimed on"
        for claim in self.claims:
            timed = (claim.measure or "").startswith(TIMING)
            if not timed and claim.measure not in (None, self.metric, *self.measures, *OF_SEVERAL):
                several = ", ".join(OF_SEVERAL)
                yield (
                    f"claims.{claim.id}: {claim.measure} is neither the metric nor one of measures, "
                    f"nor one of {several}, {TIMING}..."
                )
            measure, predicate = claim.measure or self.metric, claim.parsed
            if measure == SCALE and not self.sizes:
                yield f"claims.{claim.id}: {SCALE} needs sizes: {{name: [overrides], ...}}"
            elif measure == SCALE and counts(self.metric):
                yield f"claims.{claim.id}: {self.metric} counts runs, which have no slope"
            if measure.startswith("tuning/") and not (self.tune and self.tune.tells_sensitivity):
                yield (
                    f"claims.{claim.id}: {measure} is read off a whole grid for every arm, tuned on "
                    "validation/loss, and the study has none"
                )
            if predicate.kind not in kinds(measure):
                yield (
                    f"claims.{claim.id}: a claim on {measure} cannot be of the kind {predicate.kind}; "
                    f"allowed are {', '.join(kinds(measure))}"
                )
            elif predicate.kind == "ordered" and predicate.offset and counts(measure):
                yield f"claims.{claim.id}: counts have no offset: {claim.predicate}"

    @property
    def declared_looks(self) -> tuple[int, ...]:
        """As `compare` takes them: one look at all the seeds, where none is declared."""
        return self.interim_seeds or ((len(self.seeds),) if len(self.seeds) > 1 else ())

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Every corpus at every size: the whole study is run in each, and nothing is compared across them."""
        return tuple(
            Block(" at ".join(filter(None, (corpus if self.corpora or not size else "", size))), corpus, size)
            for corpus in (self.corpora or (HOME,))
            for size in (self.sizes or ("",))
        )

    @property
    def places(self) -> dict[str, tuple[str, ...]]:
        """The overrides of each block, by its name."""
        return {
            block.name: (*self.corpora.get(block.corpus, ()), *self.sizes.get(block.size, ()))
            for block in self.blocks
        }


def under(path: str, axis: str) -> bool:
    """Whether the path is the axis or lies below it."""
    return path == axis or path.startswith(f"{axis}.")


def parse_study(node: Any) -> Study:
    """The study in plain data. Raises StudyError with every mistake and its path."""
    try:
        return Study.model_validate(node)
    except ValidationError as error:
        raise StudyError(explain(error)) from None


def load_study(file: Path) -> Study:
    """Read a study.yaml. Raises FileNotFoundError, or StudyError: a key given twice is a mistake too."""
    return parse_study(plain_yaml(file))


def plain_yaml(file: Path) -> dict[str, Any]:
    """The YAML as plain data, with nothing resolved."""
    try:
        node = read_yaml(file)
    except ValueError as error:
        raise StudyError([str(error)]) from None
    if not isinstance(node, dict):
        raise StudyError([f"{file}: a study is a mapping of keys such as question, axis and arms"])
    return {str(key): value for key, value in node.items()}
