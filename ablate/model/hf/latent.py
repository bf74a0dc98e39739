"""Families with multi-head latent attention: DeepSeek and those that follow it."""

import math
from typing import Any

from ablate.model.hf.family import (
    SAME,
    STACKED,
    CheckpointFormatError,
    Family,
    Option,
    Row,
    linear_rows,
    shown,
)
from ablate.model.hf.llama import ALWAYS, ENDS, EPS, FEED_FORWARD, LAYER, PRE, THEIRS, TIED, UNTIED, WIDTH
from ablate.model.hf.llama_kin import kin
from ablate.model.hf.mixtures import JITTER, LATER, dense_and_sparse, moe
from ablate.model.hf.rotation import magnitude
from ablate.model.hf.scored_mixtures import BY_DEEPSEEK, DEEPSEEK_ROWS, deepseek_experts, without
from ablate.model.hf.tables import (
    INTERLEAVED,
    SPARSE_LISTED,
    activation_option,
    first_dense,
    size_options,
)

SELF = f"{THEIRS}.self_attn"
MLA: dict[str, Any] = {"name": "mla", "norm": {"name": "rmsnorm", "eps": 1e-6}}
TURNED: dict[str, Any] = {"name": "rope", "rotary_fraction": 1.0}
WIDTHS = [
    Option("head_width", "qk_rope_head_dim"),
    Option("attention.kv_rank", "kv_lora_rank"),
    Option("attention.q_rank", "q_lora_rank", None),
    Option("attention.key_width", "qk_nope_head_dim"),
    Option("attention.value_width", "v_head_dim"),
    Option("attention.bias", "biases", ()),
    Option("attention.scale", "score_scale", None),
]
MLA_ROWS = [
    *linear_rows(f"{LAYER}.attention.q_down", f"{SELF}.q_a_proj"),
    Row((f"{LAYER}.attention.q_norm.weight",), f"{SELF}.q_a_layernorm.weight", SAME),
    Row((f"{LAYER}.attention.kv_norm.weight",), f"{SELF}.kv_a_layernorm.weight", SAME),
    *linear_rows(
        (f"{LAYER}.attention.kv_down", f"{LAYER}.attention.k_turned"), f"{SELF}.kv_a_proj_with_mqa", STACKED
    ),
    Row((f"{LAYER}.attention.kv_up.weight",), f"{SELF}.kv_b_proj.weight", SAME),
    *linear_rows(f"{LAYER}.attention.out", f"{SELF}.o_proj"),
]
IMPLIED = ("qk_head_dim", "head_dim")
ROPE_WIDTH = "qk_rope_head_dim"


def query_row(theirs: str) -> Row:
    """The matrix that makes queries, whose name depends on whether they are compressed."""
    ours = {"q_b_proj": "q_up", "q_proj": "q"}[theirs]
    return Row((f"{LAYER}.attention.{ours}.weight",), f"{SELF}.{theirs}.weight", SAME)


def latent(config: dict[str, Any]) -> dict[str, Any]:
    """Biases as a list; the scale of scores with YaRN's magnitude; one key-value head for each query head."""
    config = deepseek_experts(config)
    heads, kv_heads = config.get("num_attention_heads"), config.pop("num_key_value_heads", None)
    if kv_heads not in (None, heads):
        raise CheckpointFormatError(f"num_key_value_heads is {shown(kv_heads)}, not num_attention_heads")
    biased = config.pop("attention_bias", False)
    if not isinstance(biased, bool):
        raise CheckpointFormatError(f"attention_bias is {shown(biased)}, and should be true or false")
    queries = ["q"] if config.get("q_lora_rank") is not None else []
    config["biases"] = [*queries, "kv", "out"] if biased else []
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else "default"
    above = None if kind == "default" else rope.get("mscale_all_dim")
    if above:
        numbers = (above, rope.get("factor"), config.get(ROPE_WIDTH), config.get("qk_nope_head_dim"))
        if any(isinstance(n, bool) or not isinstance(n, int | float) or n <= 0 for n in numbers):
            raise CheckpointFormatError(f"mscale_all_dim is {shown(above)} without the numbers that it needs")
        whole = config[ROPE_WIDTH] + config["qk_nope_head_dim"]
        config["score_scale"] = whole**-0.5 * magnitude(rope["factor"], above) ** 2
    return config


def spelled_out(config: dict[str, Any]) -> dict[str, Any]:
    """Back: what makes the scale of scores out of the parameters of RoPE."""
    config = dict(config)
    config["attention_bias"] = bool(config.pop("biases"))
    config["num_key_value_heads"] = config["num_attention_heads"]
    scale, rope = config.pop("score_scale"), dict(config["rope_parameters"])
    if scale is not None and rope["rope_type"] == "yarn" and rope["factor"] > 1:
        length = math.sqrt(scale * math.sqrt(config[ROPE_WIDTH] + config["qk_nope_head_dim"]))
        if not math.isclose(length, 1.0, rel_tol=1e-9):
            rope["mscale_all_dim"] = (length - 1) / (0.1 * math.log(rope["factor"]))
            config["rope_scaling"] = rope
    return {**config, "rope_parameters": rope}


def interleaving(options: list[Option]) -> list[Option]:
    """`rope_interleave` beside the other options of the position."""
    return [*options, Option("position.interleaved", "rope_interleave", True)]


MLA_COMMON = [*size_options(), *WIDTHS, EPS]
DEEPSEEK_V3 = kin(
    "deepseek_v3",
    "DeepseekV3ForCausalLM",
    always={**ALWAYS, "position": TURNED, "attention": MLA, "variants": dense_and_sparse(moe("sigmoid"))},
    options=interleaving([*MLA_COMMON, UNTIED, INTERLEAVED, *BY_DEEPSEEK]),
    rows=[*ENDS, *PRE, *MLA_ROWS, query_row("q_b_proj"), query_row("q_proj"), *DEEPSEEK_ROWS],
    axes=(first_dense(default=3),),
    unpack=latent,
    pack=spelled_out,
    harmless=(*JITTER, *LATER, *IMPLIED, "ep_size", "moe_layer_freq", "seq_aux", "aux_loss_alpha"),
)
SARVAM_MLA = kin("sarvam_mla", "DeepseekV3ForCausalLM", DEEPSEEK_V3, harmless=DEEPSEEK_V3.harmless)
GLM4_MOE_LITE = kin(
    "glm4_moe_lite",
    "Glm4MoeLiteForCausalLM",
    DEEPSEEK_V3,
    options=interleaving([*MLA_COMMON[:-1], EPS._replace(default=1e-5), UNTIED, INTERLEAVED, *BY_DEEPSEEK]),
    axes=(SPARSE_LISTED,),
    harmless=(*JITTER, *LATER, *IMPLIED),
)


def deepseek_v2(config: dict[str, Any]) -> dict[str, Any]:
    """Groups count only where `topk_method` says so; this family's code never divides gates by their sum."""
    config = latent(config)
    method = config.pop("topk_method", "greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise CheckpointFormatError(f"topk_method is {shown(method)}; there are greedy, group_limited_greedy")
    if method == "greedy":
        config["n_group"] = config["topk_group"] = 1
    return config


def method_said(config: dict[str, Any]) -> dict[str, Any]:
    """Back: how groups are chosen."""
    grouped = config["n_group"] != 1
    return {**spelled_out(config), "topk_method": "group_limited_greedy" if grouped else "greedy"}


DEEPSEEK_V2 = kin(
    "deepseek_v2",
    "DeepseekV2ForCausalLM",
    DEEPSEEK_V3,
    always={
        **DEEPSEEK_V3.always,
        "variants": dense_and_sparse(moe("all", group_score="best")),
    },
    options=[*MLA_COMMON, UNTIED, INTERLEAVED, *without(BY_DEEPSEEK, "norm_topk_prob")],
    rows=[row for row in DEEPSEEK_V3.rows if "correction_bias" not in row.theirs],
    axes=(first_dense(),),
    unpack=deepseek_v2,
    pack=method_said,
    must={"mlp_bias": (False,), "norm_topk_prob": (False,)},
    harmless=(*DEEPSEEK_V3.harmless, "scoring_func"),
)
YOUTU = kin(
    "youtu",
    "YoutuForCausalLM",
    always={**ALWAYS, "position": TURNED, "attention": MLA},
    options=interleaving([*MLA_COMMON, TIED, INTERLEAVED, WIDTH, activation_option()]),
    rows=[*ENDS, *PRE, *MLA_ROWS, query_row("q_b_proj"), query_row("q_proj"), *FEED_FORWARD],
    unpack=latent,
    pack=spelled_out,
    harmless=(*IMPLIED, "embedding_initializer_range"),
)
LATENT_FAMILIES: tuple[Family, ...] = (DEEPSEEK_V3, SARVAM_MLA, GLM4_MOE_LITE, DEEPSEEK_V2, YOUTU)
