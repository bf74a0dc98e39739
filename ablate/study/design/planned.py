"""What a plan consists of: the facts of a specification, the arms on each corpus, and the plan itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ablate.study.design.differences import Difference, fetch
from ablate.study.design.match import Matched
from ablate.study.design.study import Study

Spec = dict[str, Any]
LOSSES = ("loss", "perplexity", "bits_per_byte")  # the last words of their names
SHARES = ("data.source.weights", "data.source.most_epochs")  # of a mixture: its losses are of the same text
TARGETS = ("data.documents", "data.prefix")  # options that decide which tokens have a loss


@dataclass(frozen=True)
class Facts:
    """What a build on the meta device and one small forward pass tell of a specification.

    `tree` maps the name of each parameter to a hash of its shape. `output` is a hash of what training sees
    on fixed tokens of a whole context (a window must get its chance to act) from the common start (seed 0,
    `seed.redraw` heeded): the logits and the whole training loss, with auxiliary losses and with dropout
    drawn from the seed. `kernel` is the one that would serve; `kernels` are all that could, best first.
    Where `refusals` says anything, the rest is not read.
    """

    id: str = ""  # content id of the specification
    parameters: Mapping[str, float] = field(default_factory=dict)  # total, non_embedding, active
    flops_per_token: float = 0.0  # of training (forward and backward), active experts only
    kv_bytes_per_token: float = 0.0
    memory_bytes: float = 0.0  # of training, estimated
    kernel: str = ""
    kernels: tuple[str, ...] = ()
    tree: Mapping[str, str] = field(default_factory=dict)
    output: str = ""
    reference: Mapping[str, float] = field(default_factory=dict)  # n-gram losses of its text, on validation
    refusals: tuple[str, ...] = ()


# Raises an exception with a list `mistakes` (as ablate.compose.ConfigError) where the arm is wrong.
Compose = Callable[[list[str]], Spec]
Check = Callable[[Spec], Facts]


@dataclass(frozen=True)
class PlannedArm:
    """One arm on one corpus, ready to run: its specification lacks only the seed and the tuned value."""

    name: str
    corpus: str
    overrides: tuple[str, ...]  # what a person would type to train.py, but for the seed and the tuned value
    factors: Mapping[str, str]
    spec: Spec
    facts: Facts
    differs: tuple[Difference, ...] = ()  # from the baseline
    matched: Matched | None = None
    redraw: tuple[str, ...] = ()  # the placebo's patterns
    note: str = ""  # why the placebo redraws these, why an arm acts, what it stands beside


@dataclass(frozen=True)
class Plan:
    """A study whose arms are composed, checked and matched: ready to be run."""

    study: Study
    arms: tuple[PlannedArm, ...]  # by corpus, the baseline first
    warnings: tuple[str, ...] = ()

    @property
    def baseline(self) -> str:
        return self.arms[0].name

    @property
    def corpora(self) -> tuple[str, ...]:
        return tuple(self.study.places)

    @property
    def family(self) -> tuple[str, ...]:
        """The arms that are compared with the baseline; the placebo is one of them."""
        return tuple(arm.name for arm in self.on(self.corpora[0]))[1:]

    @property
    def placebo(self) -> str | None:
        return next((arm.name for arm in self.arms if arm.redraw), None)

    def on(self, corpus: str) -> tuple[PlannedArm, ...]:
        return tuple(arm for arm in self.arms if arm.corpus == corpus)

    def arm(self, corpus: str, name: str) -> PlannedArm:
        return next(arm for arm in self.on(corpus) if arm.name == name)


def seeded(spec: Spec, seed: int, redraw: Sequence[str] = ()) -> Spec:
    """A copy of the specification with this seed."""
    return {**spec, "seed": {"init": seed, "data": seed, "dropout": seed, "redraw": list(redraw)}}


def held_amount(hold: str, spec: Spec, facts: Facts) -> float:
    """What is matched, in parameters or FLOPs."""
    if hold == "active_flops":
        return facts.flops_per_token
    if hold == "train_flops":
        tokens, batch = fetch(spec, "budget.tokens"), fetch(spec, "budget.batch_tokens")
        return float(facts.flops_per_token * (tokens // batch) * batch)
    return facts.parameters[{"non_embedding_params": "non_embedding", "total_params": "total"}[hold]]
