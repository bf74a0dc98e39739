"""Every pair of choices, in as few models as a greedy search finds; and the pairs that are refused.

A factor is a thing to choose, a choice a small change of the baseline. What the registries hold is
covered by being registered. `python tests/support/covering.py > docs/compatibility.md` writes the table.
"""

from collections.abc import Iterator
from functools import cache
from itertools import combinations
from typing import Any

from conftest import SMALL
from pydantic import ValidationError

from ablate.explain import explain
from ablate.model.decoder import Decoder
from ablate.parts.base import IncompatibleParts
from ablate.registry import registries
from ablate.spec import ModelSpec, override

Choice = tuple[str, str]  # a factor, and what is chosen
Row = dict[str, str]  # a choice for each factor

EXPERT = {"width": 24}
FEED_FORWARDS: dict[str, dict[str, Any]] = {
    "mlp": {"width": 40},
    "glu": {"width": 40},
    "canon": {"width": 40},
    "moe": {"experts": 4, "expert": {"name": "glu", **EXPERT}},
}


SINGLE = (("topology", "single"), ("ffn", "none"))
APART: dict[str, Any] = {  # layers of one branch are chosen as a pattern
    "variants": {
        "mixer": {"topology": {"name": "single"}, "ffn": {"name": "none"}},
        "feed_forward": {
            "topology": {"name": "single"},
            "attention": {"name": "none"},
            "position": {"name": "none"},
        },
    },
    "pattern": ["mixer", "feed_forward"],
}


def by_name(kind: str) -> dict[str, dict[str, Any]]:
    return {name: {kind: {"name": name}} for name in registries[kind] if (kind, name) not in SINGLE}


def recurrent() -> list[str]:
    """Token mixers that take no position, without the absent one."""
    found = registries["attention"]
    return [name for name in found if not found[name].make.takes_position and name != "none"]


def factors() -> dict[str, dict[str, dict[str, Any]]]:
    """For each factor its choices."""
    scalings = {
        f"rope {name}": {"position": {"name": "rope", "scaling": {"name": name}}}
        for name in registries["scaling"]
        if name != "none"
    }
    everywhere = ["q", "k", "v", "out"]
    return {
        "norm": {
            **by_name("norm"),
            "layernorm plain": {"norm": {"name": "layernorm", "weight": False, "bias": False}},
            "rmsnorm offset": {"norm": {"name": "rmsnorm", "offset": True}},
        },
        "placement": by_name("placement"),
        "topology": by_name("topology"),
        "stream": {
            **by_name("stream"),
            "hyper dynamic": {"stream": {"name": "hyper", "dynamic": True}},
            "mhc identity": {"stream": {"name": "mhc", "mixing": "identity"}},
            "attention_residual block": {"stream": {"name": "attention_residual", "block": 2}},
        },
        "lookup": {
            **by_name("lookup"),
            "input ngram": {"embedding": {"lookup": {"name": "ngram", "n": 3}}},
        },
        "position": {
            **by_name("position"),
            **scalings,
            "rope in part": {"position": {"name": "rope", "rotary_fraction": 0.5, "interleaved": True}},
        },
        "heads": {
            "mha": {},
            "gqa": {"attention": {"kv_heads": 2}},
            "mqa": {"attention": {"kv_heads": 1}},
            "wide": {"head_width": 12},
            "biases": {"attention": {"bias": everywhere}},
        },
        "qk_norm": {
            "none": {},
            "head": {"attention": {"qk_norm": {"name": "rmsnorm"}}},
            "width": {"attention": {"qk_norm": {"name": "layernorm"}, "qk_norm_over": "width"}},
        },
        "sight": {
            "causal": {},
            "window": {"attention": {"window": 5}},
            "window and first keys": {"attention": {"window": 5, "sink_tokens": 2}},
            "prefix": {"attention": {"mask": "prefix"}},
            "prefix and window": {"attention": {"mask": "prefix", "window": 5}},
        },
        "scores": {
            "plain": {},
            "softcap": {"attention": {"softcap": 5.0}},
            "sink": {"attention": {"sink_logit": True}},
            "scale": {"attention": {"scale": 0.5}},
        },
        "ffn": {
            **{name: {"ffn": {"name": name, **FEED_FORWARDS.get(name, {})}} for name in by_name("ffn")},
            "biases": {"ffn": {"name": "glu", "width": 40, "bias": ["gate", "up", "down"]}},
            "moe before": {
                "ffn": {"name": "moe", **FEED_FORWARDS["moe"], "top_k": 1, "normalisation": "all"}
            },
            "moe capacity": {
                "ffn": {
                    "name": "moe",
                    **FEED_FORWARDS["moe"],
                    "capacity_factor": 1.0,
                    "router_z_loss_weight": 0.1,
                }
            },
            "moe sigmoid": {
                "ffn": {
                    "name": "moe",
                    **FEED_FORWARDS["moe"],
                    "normalisation": "sigmoid",
                    "shared": 1,
                    "bias_update_rate": 0.1,
                }
            },
        },
        "activation": {name: {"activation": {"name": name}} for name in registries["activation"]},
        "kernel": by_name("kernel"),
        "init": by_name("init"),
        "head": {
            "tied": {},
            "untied": {"head": {"tied": False, "bias": True}},
            "softcap": {"head": {"softcap": 10.0}},
            "z-loss": {"head": {"z_loss": 0.001}},
        },
        "embedding": {
            "plain": {},
            "scaled": {"embedding": {"scale": "sqrt_width"}},
            "norm": {"embedding": {"norm": {"name": "rmsnorm"}}},
        },
        "documents": {"joined": {}, "masked": {"documents": True}},
        "dropout": {"none": {}, "some": {"dropout": 0.1}, "attention": {"attention": {"dropout": 0.1}}},
        "pattern": {
            "uniform": {},
            "local and global": {
                "variants": {"local": {"attention": {"window": 5, "mask": "causal"}}, "global": {}},
                "pattern": ["local", "global"],
            },
            "two positions": {
                "variants": {"near": {}, "far": {"position": {"name": "none"}}},
                "pattern": ["near", "far"],
            },
            "branches apart": APART,
            **{f"{name} and softmax": {"pattern": [name, "softmax"]} for name in recurrent()},
        },
    }


FACTORS = factors()
BASE: dict[str, Any] = {**SMALL, "depth": 2, "attention": {"name": "softmax"}, "kernel": {"name": "auto"}}
BASELINE: Row = {factor: next(iter(choices)) for factor, choices in FACTORS.items()} | {
    "norm": "rmsnorm",
    "placement": "pre",
    "topology": "serial",
    "stream": "plain",
    "lookup": "none",
    "position": "rope",
    "ffn": "glu",
    "activation": "silu",
    "kernel": "auto",
    "init": "gpt2",
}


def node_of(row: Row) -> tuple[dict[str, Any], bool]:
    """The model's options, and whether documents are kept apart."""
    node = BASE
    for factor, choice in {**BASELINE, **row}.items():
        node = override(node, FACTORS[factor][choice])
    node = dict(node)
    documents, activation = bool(node.pop("documents", False)), node.pop("activation")
    ffn = node["ffn"]
    if "expert" in ffn:
        ffn = {**ffn, "expert": {**ffn["expert"], "activation": activation}}
    elif "activation" in registries["ffn"][ffn["name"]].options.model_fields:
        ffn = {**ffn, "activation": activation}
    return {**node, "ffn": ffn}, documents


def build(row: Row) -> Decoder:
    """Raises IncompatibleParts or ValidationError."""
    node, documents = node_of(row)
    return Decoder(ModelSpec(**node), documents=documents)


def refusal(row: Row) -> str | None:
    """Why the choices of a row, the others at the baseline, do not make a model; None if they do."""
    try:
        build(row)
    except ValidationError as error:
        return "; ".join(explain(error))
    except IncompatibleParts as refused:
        return str(refused)
    return None


def choices() -> list[Choice]:
    return [(factor, choice) for factor, there in FACTORS.items() for choice in there]


def pairs() -> Iterator[tuple[Choice, Choice]]:
    return ((a, b) for a, b in combinations(choices(), 2) if a[0] != b[0])


@cache
def refused_alone() -> dict[Choice, str]:
    """Choices that this machine cannot train with at all (a kernel of another device)."""
    return {c: reason for c in choices() if (reason := refusal(dict([c])))}


@cache
def refused_pairs() -> dict[tuple[Choice, Choice], str]:
    alone = refused_alone()
    possible = (pair for pair in pairs() if not alone.keys() & set(pair))
    return {pair: reason for pair in possible if (reason := refusal(dict(pair)))}


@cache
def rows() -> list[Row]:
    """Models that between them have every pair that is not refused."""
    alone, refused = refused_alone(), {frozenset(pair) for pair in refused_pairs()}
    missing = {
        frozenset(p): None for p in pairs() if not alone.keys() & set(p) and frozenset(p) not in refused
    }
    found = []
    while missing:
        row = dict(next(iter(missing)))
        for factor in sorted(FACTORS, key=lambda f: -len(FACTORS[f])):
            if factor not in row:
                row[factor] = _best(factor, row, missing, refused, alone)
        covered = {frozenset(pair) for pair in combinations(row.items(), 2)}
        missing = {pair: None for pair in missing if pair not in covered}
        found.append(row)
    return found


def _best(factor: str, row: Row, missing: Any, refused: Any, alone: Any) -> str:
    """The choice that goes with the row and adds most of the missing pairs."""

    def fits(choice: str) -> bool:
        mine = (factor, choice)
        return mine not in alone and not any(frozenset((mine, other)) in refused for other in row.items())

    def adds(choice: str) -> int:
        return sum(frozenset(((factor, choice), other)) in missing for other in row.items())

    return max(filter(fits, FACTORS[factor]), key=adds)


def table() -> str:
    """docs/compatibility.md: choices that do not go together, and why."""
    lines = [
        "# What goes with what",
        "",
        "Every pair of the choices below is built, trained for a step and decoded with a cache in the tests,",
        "but for the pairs of this table, which are refused before training with the reason shown.",
        "",
        "| one | other | reason |",
        "|---|---|---|",
    ]
    for (a, b), reason in refused_pairs().items():
        lines.append(f"| {a[0]}: {a[1]} | {b[0]}: {b[1]} | {reason} |")
    elsewhere = ", ".join(f"{factor} {choice}" for factor, choice in refused_alone())
    if elsewhere:
        lines += ["", f"Not for training on a CPU, and so not in this table: {elsewhere}."]
    lines += ["", "The choices:", ""]
    lines += [f"- **{factor}**: {', '.join(there)}" for factor, there in FACTORS.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
