"""Families whose latent attention chooses its keys by an indexer: DeepSeek-V3.2 and GLM-5."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ablate.model.hf.family import (
    STACKED,
    Change,
    CheckpointFormatError,
    Family,
    Option,
    Row,
    linear_rows,
    shown,
)
from ablate.model.hf.latent import (
    DEEPSEEK_V3,
    IMPLIED,
    MLA,
    MLA_COMMON,
    SELF,
    TURNED,
    latent,
    query_row,
    spelled_out,
)
from ablate.model.hf.llama import ALWAYS, EPS, LAYER, UNTIED
from ablate.model.hf.llama_kin import kin
from ablate.model.hf.mixtures import JITTER, LATER, dense_and_sparse, moe
from ablate.model.hf.scored_mixtures import BY_DEEPSEEK
from ablate.model.hf.tables import INTERLEAVED, ROPE, depth_of, listed_axis, sparse_or_dense, whole_number
from ablate.spec import Shape

DSA: dict[str, Any] = {**MLA, "name": "dsa", "index_norm": {"name": "layernorm", "eps": 1e-6}}


def stated(said: Any) -> Any:
    """A width that has no usual one in a config. Raises CheckpointFormatError for null."""
    if said is None:
        raise CheckpointFormatError("index_head_dim is null, and should be a whole number")
    return said


INDEX_OPTIONS = [
    Option("attention.top_k", "index_topk", 2048),
    Option("attention.index_width", "index_head_dim", 128, stated),
]
INDEX_ROWS = [
    *linear_rows(f"{LAYER}.attention.indexer.q", f"{SELF}.indexer.wq_b"),
    *linear_rows(f"{LAYER}.attention.indexer.k", f"{SELF}.indexer.wk"),
    *linear_rows(f"{LAYER}.attention.indexer.k_norm", f"{SELF}.indexer.k_norm"),
    *linear_rows(f"{LAYER}.attention.indexer.weight", f"{SELF}.indexer.weights_proj"),
]
DSA_ROWS = [row for row in DEEPSEEK_V3.rows if not row.theirs.endswith(".q_proj.weight")] + INDEX_ROWS


def listed_or_first_dense(n: int, config: dict[str, Any]) -> str:
    """So many dense layers, then sparse ones, where `mlp_layer_types` does not say."""
    return "dense" if n < whole_number(config, "first_k_dense_replace", 3) else "sparse"


SPARSE_LAYERS = listed_axis(
    "mlp_layer_types", {"dense": "dense", "sparse": "sparse"}, sparse_or_dense, listed_or_first_dense
)._replace(keys=("mlp_layer_types", "first_k_dense_replace"))


def indexed(config: dict[str, Any]) -> dict[str, Any]:
    """As `latent`, of layers that all choose their keys."""
    config = dict(config)
    kinds = config.pop("layer_types", None)
    if kinds is not None and kinds != ["indexed_attention"] * depth_of(config):
        raise CheckpointFormatError(f"layer_types is {shown(kinds)}; only indexed_attention can be expressed")
    if config.get("q_lora_rank") is None:
        raise CheckpointFormatError("q_lora_rank is null, and the indexer reads the compressed queries")
    return latent(config)


# ------------------------------------------------------------------------------- DeepSeek-V3.2


def to_halves(x: Tensor) -> Tensor:
    """Rows of neighbours that turn together, as a first half and a second one."""
    pairs: Tensor = x.unflatten(0, (-1, 2))
    return pairs.transpose(0, 1).flatten(0, 1)


def to_neighbours(x: Tensor) -> Tensor:
    """Back."""
    halves: Tensor = x.unflatten(0, (2, -1))
    return halves.transpose(0, 1).flatten(0, 1)


def of_turned(change: Callable[[Tensor], Tensor], x: Tensor, shape: Shape, heads: int) -> Tensor:
    """The last channels of each head, which turn, in another order."""
    by_head = x.unflatten(0, (heads, -1))
    plain, turned = by_head.split((by_head.shape[1] - shape.head_width, shape.head_width), 1)
    changed = change(turned.transpose(0, 1)).transpose(0, 1)
    return torch.cat((plain, changed), 1).flatten(0, 1)


# Its attention turns neighbours and its indexer halves; here one position turns both, by halves.
QUERY_HALVES = Change(
    lambda x, like, shape: [of_turned(to_halves, x, shape, shape.heads)],
    lambda ours, shape: of_turned(to_neighbours, ours[0], shape, shape.heads),
)
KEY_HALVES = Change(
    lambda x, like, shape: STACKED.read(of_turned(to_halves, x, shape, 1), like, shape),
    lambda ours, shape: of_turned(to_neighbours, STACKED.write(ours, shape), shape, 1),
)


def by_halves(row: Row) -> Row:
    """The row of a matrix whose output turns."""
    if "kv_a_proj_with_mqa" in row.theirs:
        return row._replace(change=KEY_HALVES)
    return row._replace(change=QUERY_HALVES) if row == query_row("q_b_proj") else row


def expert_options(groups: int, top_groups: int) -> list[Option]:
    """Those of DeepSeek-V3, where a missing key means what it does in these families."""
    usual = {"n_group": groups, "topk_group": top_groups, "routed_scaling_factor": 2.5, "n_shared_experts": 1}
    return [o._replace(default=usual.get(o.theirs, o.default)) for o in BY_DEEPSEEK]


DEEPSEEK_V32 = kin(
    "deepseek_v32",
    "DeepseekV32ForCausalLM",
    always={**ALWAYS, "position": TURNED, "attention": DSA, "variants": dense_and_sparse(moe("sigmoid"))},
    options=[
        *(*MLA_COMMON, UNTIED, *expert_options(8, 4), *INDEX_OPTIONS, ROPE),
        Option("attention.index_heads", "index_n_heads", 64),
    ],
    rows=[by_halves(row) for row in DSA_ROWS],
    axes=(SPARSE_LAYERS,),
    unpack=indexed,
    pack=spelled_out,
    must={"mlp_bias": (False,)},
    harmless=(*JITTER, *LATER, *IMPLIED, "ep_size", "moe_layer_freq", "seq_aux", "aux_loss_alpha"),
)


# ---------------------------------------------------------------------------------------- GLM-5

SHARED_KEYS = ("index_topk_freq", "index_skip_topk_offset", "index_topk_pattern")


def own_or_shared(n: int, config: dict[str, Any]) -> str:
    """The kind of a layer by its period, where `indexer_types` does not say."""
    period = max(whole_number(config, "index_topk_freq", 1), 1)
    past = n - whole_number(config, "index_skip_topk_offset", 2) + 1
    return "shared" if max(past, 0) % period else "full"


INDEXERS = listed_axis(
    "indexer_types",
    {"full": "own", "shared": "sharing"},
    lambda layer: "sharing" if layer["attention"]["share_choice"] else "own",
    own_or_shared,
)._replace(keys=("indexer_types", *SHARED_KEYS))


def glm_indexed(config: dict[str, Any]) -> dict[str, Any]:
    """As `indexed`, with a pattern of letters spelled out."""
    config = indexed(config)
    pattern = config.pop("index_topk_pattern", None)
    if pattern is not None and config.get("indexer_types") is None:
        words = {"F": "full", "S": "shared"}
        config["indexer_types"] = [words.get(letter, letter) for letter in pattern]
    return config


GLM_MOE_DSA = kin(
    "glm_moe_dsa",
    "GlmMoeDsaForCausalLM",
    DEEPSEEK_V32,
    always={
        **DEEPSEEK_V32.always,
        "variants": {
            **dense_and_sparse(moe("sigmoid")),
            "own": {},
            "sharing": {"attention": {"share_choice": True}},
        },
    },
    options=[
        *(EPS._replace(default=1e-5) if o == EPS else o for o in MLA_COMMON),
        *(UNTIED, *expert_options(1, 1), *INDEX_OPTIONS, INTERLEAVED),
        Option("attention.index_heads", "index_n_heads", 32),
    ],
    rows=DSA_ROWS,
    axes=(SPARSE_LAYERS, INDEXERS),
    unpack=glm_indexed,
    must={"mlp_bias": (False,), "rope_interleave": (True,), "indexer_rope_interleave": (True,)},
    harmless=DEEPSEEK_V32.harmless,
)
SPARSE_LATENT_FAMILIES: tuple[Family, ...] = (DEEPSEEK_V32, GLM_MOE_DSA)
