"""What a run is: the schema of a composed configuration, and its identity.

Everything here is frozen pydantic; nothing imports torch, lightning or wandb. Parts are validated by
their registries, which load the parts (and torch) only when a specification is validated.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator
from pydantic_core import PydanticCustomError

from ablate.pattern import mixers_named, names_repeated
from ablate.registry import Numbers, Options, Part, Unsaid

T = TypeVar("T")


# Beyond any model that there is: what is larger is a slip, and would be built for hours or not at all.
MOST_WIDE, _MOST_LAYERS, _MOST_TOKENS = 2**20, 10_000, 2**28
MOST_SEED = 2**63 - 1  # of a seed, and of what is counted in 64 bits


class Strict(Numbers, BaseModel):
    """Refuses unknown keys and never changes once it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Shape(NamedTuple):
    """What the model supplies to its parts. Letters: C = width, L = depth, H = heads, D = head_width."""

    width: int
    depth: int
    heads: int
    head_width: int
    context: int
    vocab: int


class LayerSpec(Strict):
    """One layer: every part of it, spelled out."""

    norm: Annotated[Options, Part("norm")]
    placement: Annotated[Options, Part("placement")]
    topology: Annotated[Options, Part("topology")]
    position: Annotated[Options, Part("position")]
    attention: Annotated[Options, Part("attention")]
    ffn: Annotated[Options, Part("ffn")]
    lookup: Annotated[Options, Part("lookup")] = Field(Unsaid("none"), validate_default=True)

    def parts(self) -> list[Options]:
        return [getattr(self, f) for f in LayerSpec.model_fields]


class EmbeddingSpec(Strict):
    """The embedding of tokens: a factor, a norm, and lookups beside it."""

    scale: Literal["sqrt_width"] | FiniteFloat = 1.0
    norm: Annotated[Options, Part("norm")]
    lookup: Annotated[Options, Part("lookup")] = Field(Unsaid("none"), validate_default=True)


class TransformSpec(Strict):
    """norm(activation(x W' + b)), which stands before the head (BERT)."""

    activation: Annotated[Options, Part("activation")]
    norm: Annotated[Options, Part("norm")]
    bias: bool = False


class HeadSpec(Strict):
    """The head: from the last layer to logits and the loss."""

    tied: bool = True
    bias: bool = False
    multiplier: FiniteFloat = Field(1.0, gt=0)
    softcap: FiniteFloat | None = Field(None, gt=0)
    z_loss: FiniteFloat = Field(0.0, ge=0)
    transform: TransformSpec | None = None


class LoopSpec(Strict):
    """Layers that run several times, one pass after the other, with the same weights: `first` to `last`, both
    counted from 0 (null: the last layer). 1 is once."""

    times: int = Field(1, ge=1, le=64)
    first: int = Field(0, ge=0)
    last: int | None = Field(None, ge=0)


class ModelSpec(LayerSpec):
    """A decoder. The parts named here make the common layer; `variants` are small overrides of it
    and `pattern` is cycled over the depth (an empty pattern is the common layer everywhere)."""

    width: int = Field(gt=0, le=MOST_WIDE)
    depth: int = Field(gt=0, le=_MOST_LAYERS)
    heads: int = Field(gt=0, le=MOST_WIDE)
    head_width: int | None = Field(None, gt=0, le=MOST_WIDE)  # null: width / heads
    context: int = Field(gt=0, le=_MOST_TOKENS)
    vocab: int | None = Field(None, gt=0, le=_MOST_TOKENS)  # null: as many as the tokenizer has
    embedding: EmbeddingSpec
    stream: Annotated[Options, Part("stream")] = Field(Unsaid("plain"), validate_default=True)
    future: Annotated[Options, Part("future")] = Field(Unsaid("none"), validate_default=True)
    loop: LoopSpec = LoopSpec(times=1, first=0, last=None)
    head: HeadSpec
    init: Annotated[Options, Part("init")]
    kernel: Annotated[Options, Part("kernel")]
    dropout: float = Field(0.0, ge=0, lt=1)
    variants: dict[str, LayerSpec] = {}
    pattern: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, node: Any) -> Any:
        """Each variant becomes a whole layer, so errors read `variants.local.attention.window`. A name of the
        pattern that is no variant, but a token mixer, is the common layer with that mixer."""
        if not isinstance(node, Mapping) or not isinstance(node.get("variants", {}), Mapping):
            return node
        node = {**node, "pattern": names_repeated(node.get("pattern", ()))}
        common = {f: node[f] for f in LayerSpec.model_fields if f in node}
        patches = {**mixers_named(node), **node.get("variants", {})}
        whole = {name: override(common, patch or {}) for name, patch in patches.items()}
        return {**node, "variants": whole}

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSpec":
        mistakes = list(self._mistakes())
        if mistakes:
            raise ValueError("\n".join(mistakes))
        return self

    def _mistakes(self) -> Iterator[str]:
        if self.head_width is None and self.width % self.heads:
            yield f"width {self.width} is not a multiple of heads {self.heads} (or give head_width)"
        unknown = sorted({v for v in self.pattern if v not in self.variants})
        if unknown:
            there = ", ".join(self.variants) or "none"
            yield f"pattern: no variant is called {', '.join(unknown)}; there are {there}"
            return
        unused = sorted(set(self.variants) - set(self.pattern))
        if unused:
            yield f"variants: {', '.join(unused)} never stands in the pattern"
        if len(self.pattern) > self.depth:
            yield f"pattern: {len(self.pattern)} entries for a depth of {self.depth}"
        last = self.depth - 1 if self.loop.last is None else self.loop.last
        if not self.loop.first <= last < self.depth:
            yield f"loop: there are no layers {self.loop.first} to {last} in a depth of {self.depth}"
        if self.loop.times == 1 and self.loop != LoopSpec(times=1, first=0, last=None):
            yield "loop: times is 1, so first and last do nothing"
        whole = [self.init, self.kernel, self.embedding.norm, self.embedding.lookup, self.stream, self.future]
        said: set[str] = set()
        for layer in self.distinct_layers():
            for part in [*layer.parts(), *whole]:
                for mistake in check(part, layer, self):
                    if mistake not in said:
                        said.add(mistake)
                        yield mistake

    def canonical(self) -> "ModelSpec":
        """The same model as it is written when nothing is said that needs no saying."""
        common = LayerSpec.model_construct(**{f: getattr(self, f) for f in LayerSpec.model_fields})
        update: dict[str, Any] = {
            f: canonical_options(getattr(self, f), common, self)
            for f in (*LayerSpec.model_fields, "init", "kernel", "stream", "future")
        }
        update["variants"] = {
            name: layer.model_copy(
                update={f: canonical_options(getattr(layer, f), layer, self) for f in LayerSpec.model_fields}
            )
            for name, layer in self.variants.items()
        }
        if self.head_width is not None and self.head_width * self.heads == self.width:
            update["head_width"] = None
        if self.embedding.scale == self.width**0.5 != 1.0:
            update["embedding"] = self.embedding.model_copy(update={"scale": "sqrt_width"})
        plain = self.model_copy(update=update)
        if plain.layers() == [plain.model_copy(update={"pattern": ()}).layers()[0]] * self.depth:
            plain = plain.model_copy(update={"variants": {}, "pattern": ()})
        return plain

    def shape(self) -> Shape:
        head_width = self.head_width or self.width // self.heads
        return Shape(self.width, self.depth, self.heads, head_width, self.context, self.vocab or 256)

    def layers(self) -> list[LayerSpec]:
        """The layer at each depth."""
        common = LayerSpec.model_construct(**{f: getattr(self, f) for f in LayerSpec.model_fields})
        if not self.pattern:
            return [common] * self.depth
        return [self.variants[self.pattern[n % len(self.pattern)]] for n in range(self.depth)]

    def path(self) -> list[tuple[int, int]]:
        """The way through the layers: (layer, which pass of the loop; 0 outside)."""
        return looped(self.depth, self.loop.times, self.loop.first, self.loop.last)

    def distinct_positions(self) -> list[Options]:
        return distinct(layer.position for layer in self.layers())

    def distinct_layers(self) -> list[LayerSpec]:
        return distinct(self.layers())


def looped(depth: int, times: int, first: int, last: int | None) -> list[tuple[int, int]]:
    """(layer, which pass of the loop; 0 outside), where layers `first` to `last` run so many times."""
    last = depth - 1 if last is None else last
    inside = [(n, again) for again in range(times) for n in range(first, last + 1)]
    return [*((n, 0) for n in range(first)), *inside, *((n, 0) for n in range(last + 1, depth))]


def distinct(items: Iterable[T]) -> list[T]:
    """In their order, by equality: options may hold lists, which have no hash."""
    found: list[T] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found


def check(options: Options, layer: LayerSpec, model: ModelSpec) -> list[str]:
    """Rules across fields: what a part's own `check(options, layer, model) -> list[str]` finds wrong, and
    what the parts inside it find."""
    rules = getattr(options.entry.make, "check", None)
    wrong = [f"{options.kind} {options.name}: {m}" for m in rules(options, layer, model)] if rules else []
    for field in type(options).model_fields:
        value = getattr(options, field)
        if isinstance(value, Options):
            wrong += check(value, layer, model)
    return wrong


def canonical_options(options: Options, layer: LayerSpec, model: ModelSpec) -> Options:
    """The part as it is written when nothing is said that needs no saying: what its own
    `canonical(options, layer, model) -> dict` says otherwise, and so for the parts inside it."""
    rules = getattr(options.entry.make, "canonical", None)
    update = dict(rules(options, layer, model)) if rules else {}
    for field in type(options).model_fields:
        value = getattr(options, field)
        if isinstance(value, Options):
            update[field] = canonical_options(value, layer, model)
    return options.model_copy(update=update) if update else options


def override(base: Any, patch: Any) -> Any:
    """A part of another name is replaced whole (its options are others); otherwise key by key."""
    if not (isinstance(base, Mapping) and isinstance(patch, Mapping)):
        return patch
    if patch.get("name", base.get("name")) != base.get("name"):
        return patch
    return {**base, **{k: override(base.get(k), v) for k, v in patch.items()}}


def _no_set(name: str) -> str:
    if name == MACRO:
        raise PydanticCustomError("set", "no source or set can be called macro: it is the mean over all")
    return name


MACRO = "macro"  # what the mean over all sets is called
SetName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64), AfterValidator(_no_set)
]


class DataSpec(Strict):
    """Where the text comes from, and what a token is. `masked` keeps attention inside a document and
    restarts positions there; `joined` packs documents into one stream. `sets` are sources whose validation
    and held-out splits are scored beside those of `source`; null: those of a mixture, one by one."""

    source: Annotated[Options, Part("source")]
    tokenizer: Annotated[Options, Part("tokenizer")]
    documents: Literal["joined", "masked"] = "joined"
    prefix: bool = False  # each row begins with a part that sees itself whole and is no target
    sets: dict[SetName, Annotated[Options, Part("source")]] | None = Field(None, min_length=1)


class BudgetSpec(Strict):
    """How much a run trains, in tokens."""

    tokens: int = Field(gt=0, le=MOST_SEED)  # seen in training
    batch_tokens: int = Field(gt=0, le=MOST_SEED)  # in one optimizer step, over all devices


class EvaluationSpec(Strict):
    """How often, and on how much text, a run is validated while it trains."""

    every: int = Field(0, ge=0)  # optimizer steps between looks at validation; 0: only at the end
    tokens: int | None = Field(None, gt=0)  # of validation in those looks; null: all, as in the last look


class SeedSpec(Strict):
    """One number sets all three; they part ways only where a study asks for it. Parameters whose names match
    a pattern of `redraw` (as in `fnmatch`) start from other draws: the placebo of a study."""

    init: int = Field(ge=0, le=MOST_SEED)
    data: int = Field(ge=0, le=MOST_SEED)
    dropout: int = Field(ge=0, le=MOST_SEED)
    redraw: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _one_for_all(cls, node: Any) -> Any:
        if isinstance(node, Mapping | SeedSpec):
            return node
        if isinstance(node, bool) or not isinstance(node, int) or node < 0:
            raise PydanticCustomError(
                "seed",
                "needs a whole number, 0 or more, in digits alone and with no 0 before them, as in seed=3",
            )
        return {"init": node, "data": node, "dropout": node}


class RunSpec(Strict):
    """All that decides the numbers of a run; nothing that does not (names, folders, devices)."""

    model: ModelSpec
    data: DataSpec
    optim: Annotated[Options, Part("optimizer")]
    schedule: Annotated[Options, Part("schedule")]
    clip: FiniteFloat | None = Field(1.0, gt=0)  # norm of the gradient
    budget: BudgetSpec
    precision: Literal["fp32", "bf16"] = "fp32"
    evaluation: EvaluationSpec
    seed: SeedSpec
    parent: str | None = None  # id of the run whose weights this one starts from

    @model_validator(mode="after")
    def _consistent(self) -> "RunSpec":
        mistakes = list(self._mistakes())
        if mistakes:
            raise ValueError("\n".join(mistakes))
        return self

    def _mistakes(self) -> Iterator[str]:
        if self.budget.batch_tokens % self.model.context:
            yield (
                f"budget.batch_tokens {self.budget.batch_tokens} is not a multiple of "
                f"model.context {self.model.context}"
            )
        reading = [getattr(layer.attention, "mask", "causal") == "prefix" for layer in self.model.layers()]
        if any(reading) != self.data.prefix:
            yield (
                "attention.mask=prefix and data.prefix=true need each other: "
                "without the one a prefix is read like any text, without the other there is none"
            )
        if self.data.prefix and self.data.documents == "masked":
            yield "data.prefix=true needs data.documents=joined: a prefix is of a whole row"
        if self.steps == 0:
            yield f"budget.tokens {self.budget.tokens} is less than one batch ({self.budget.batch_tokens})"
        warmup = getattr(self.schedule, "warmup", 0)
        rises = warmup if isinstance(warmup, int) else round(warmup * self.steps)
        if rises and rises >= self.steps:
            yield (
                f"schedule.warmup {warmup} takes {rises} of the run's {self.steps} steps, so the rate never "
                "reaches its peak; give fewer steps, a smaller share, or more budget.tokens"
            )

    @property
    def rows(self) -> int:
        """Sequences in one optimizer step, over all devices."""
        return self.budget.batch_tokens // self.model.context

    @property
    def steps(self) -> int:
        return self.budget.tokens // self.budget.batch_tokens

    def canonical(self, fingerprint: Mapping[str, str]) -> dict[str, Any]:
        """What identity hashes: the model in its canonical form, options at their default left out (so that
        an option added later, whose default is what there was before, changes no id; but options that are
        parts are always named), layers spelled out, text and tokenizer by content (`fingerprint`, from
        `ablate.data`)."""
        whole = self.model.canonical()
        spec: dict[str, Any] = self.model_copy(update={"model": whole}).model_dump(
            mode="json", exclude_defaults=True
        )
        model = spec["model"]
        if model.pop("pattern", None):
            del model["variants"]
            model["layers"] = [
                layer.model_dump(mode="json", exclude_defaults=True) for layer in whole.layers()
            ]
        spec["data"] = {**spec["data"], **fingerprint}
        return spec

    def id(self, fingerprint: Mapping[str, str]) -> str:
        return digest(self.canonical(fingerprint))


def digest(value: Any) -> str:
    """The first 12 hex digits of the SHA-256 of canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
