"""A.X K2: gated norms, and queries and their gate made of one compressed vector."""

from typing import Any

import torch
from torch import Tensor

from ablate.model.hf.family import SAME, Change, CheckpointFormatError, Family, Option, Row
from ablate.model.hf.latent import IMPLIED, MLA_COMMON, SELF, TURNED, spelled_out
from ablate.model.hf.llama import ALWAYS, LAYER, PRE, THEIRS, UNTIED
from ablate.model.hf.llama_kin import kin
from ablate.model.hf.mixtures import JITTER, LATER, dense_and_sparse, moe
from ablate.model.hf.own_mixtures import SPARSE_WORDS, sparse_after
from ablate.model.hf.scored_mixtures import BY_DEEPSEEK, without
from ablate.model.hf.sparse_latent import (
    DEEPSEEK_V32,
    DSA,
    INDEX_OPTIONS,
    indexed,
    of_turned,
    to_halves,
    to_neighbours,
)
from ablate.model.hf.tables import ROPE, listed_axis, sparse_or_dense
from ablate.spec import Shape

_GATED_NORM = {"name": "gated", "norm": {"name": "rmsnorm"}}
_PLAIN_NORM = {"name": "serial", "ffn_norm": {"name": "rmsnorm"}}  # before the feed-forward of dense layers
_NORM_SLOTS = {"attention_residual": "input_layernorm", "ffn_residual": "post_attention_layernorm"}


def _by_head(x: Tensor, like: list[torch.Size], shape: Shape) -> list[Tensor]:
    """Of each head, first the query and then the gate of its values; what turns, by halves."""
    widths = [size[0] // shape.heads for size in like]
    query, gate = (part.flatten(0, 1) for part in x.unflatten(0, (shape.heads, -1)).split(widths, 1))
    return [of_turned(to_halves, query, shape, shape.heads), gate]


def _joined(ours: list[Tensor], shape: Shape) -> Tensor:
    """Back."""
    query = of_turned(to_neighbours, ours[0], shape, shape.heads)
    return torch.cat([x.unflatten(0, (shape.heads, -1)) for x in (query, ours[1])], 1).flatten(0, 1)


def _gated_norm(residual: str, theirs: str) -> list[Row]:
    """The rows of a gated norm."""
    leaves = {"norm": "norm", "down": "W_down", "up": "W_up"}
    return [
        Row((f"{LAYER}.{residual}.input_norm.{ours}.weight",), f"{THEIRS}.{theirs}.{name}.weight", SAME)
        for ours, name in leaves.items()
    ]


def _ungrouped(config: dict[str, Any]) -> dict[str, Any]:
    """As of DeepSeek-V3.2, of experts without groups: where there are some, those outside score 0 here."""
    config = indexed({"q_lora_rank": 384, **config})
    for key in ("n_group", "topk_group"):
        if config.pop(key, None) not in (None, 1):
            raise CheckpointFormatError(
                f"{key} is given: experts outside of the best groups then score 0, and are chosen where "
                "others score less, which they never are here"
            )
    return config


def _without_groups(config: dict[str, Any]) -> dict[str, Any]:
    """Back."""
    return {**spelled_out(config), "n_group": None, "topk_group": None}


_AXK2 = kin(
    "axk2",
    "AXK2ForCausalLM",
    DEEPSEEK_V32,
    always={
        **ALWAYS,
        "position": TURNED,
        "attention": {**DSA, "raw_query": True, "gate": "channel", "gate_of": "query"},
        "variants": {
            "dense": {**dense_and_sparse({})["dense"], "norm": _GATED_NORM, "topology": _PLAIN_NORM},
            "sparse": {"ffn": moe("sigmoid"), "norm": _GATED_NORM},
        },
    },
    options=[
        *(*MLA_COMMON, UNTIED, *without(BY_DEEPSEEK, "n_group", "topk_group"), *INDEX_OPTIONS, ROPE),
        Option("attention.index_heads", "index_n_heads", 16),
        *(
            option
            for kind in ("dense", "sparse")
            for option in (
                Option(f"variants.{kind}.norm.norm.eps", "rms_norm_eps", 1e-6),
                Option(f"variants.{kind}.norm.rank", "gated_norm_rank", 16),
            )
        ),
        Option("variants.dense.topology.ffn_norm.eps", "rms_norm_eps", 1e-6),
    ],
    rows=[
        *(
            row
            for row in DEEPSEEK_V32.rows
            if not row.theirs.endswith(("_layernorm.weight", ".q_b_proj.weight"))
        ),
        *(row for row in DEEPSEEK_V32.rows if row.theirs.endswith("_a_layernorm.weight")),
        *(row for residual, theirs in _NORM_SLOTS.items() for row in _gated_norm(residual, theirs)),
        *(row for row in PRE if "ffn_residual" in row.ours[0]),
        Row(
            (f"{LAYER}.attention.q_up.weight", f"{LAYER}.attention.gate.weight"),
            f"{SELF}.q_b_proj.weight",
            Change(_by_head, _joined),
        ),
    ],
    axes=(listed_axis("mlp_layer_types", SPARSE_WORDS, sparse_or_dense, sparse_after),),
    unpack=_ungrouped,
    pack=_without_groups,
    must={"mlp_bias": (False,)},
    harmless=(*JITTER, *LATER, *IMPLIED, "first_k_dense_replace", "moe_layer_freq"),
)
AXK2_FAMILIES: tuple[Family, ...] = (_AXK2,)
