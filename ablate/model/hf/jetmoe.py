"""JetMoE: mixtures of experts in attention and feed-forward, with a bias after each."""

from typing import Any

from ablate.model.hf.family import SAME, STACKED, Axis, Family, Option, Row
from ablate.model.hf.llama import ALWAYS, ENDS, EPS, LAYER, PRE, THEIRS, TIED
from ablate.model.hf.llama_kin import kin
from ablate.model.hf.mixtures import JITTER, moe
from ablate.model.hf.tables import (
    ONE_EACH,
    ROPE,
    STACKED_EXPERTS,
    activation_option,
    depth_of,
    size_options,
    whole_number,
)

_ATTENTION = f"{THEIRS}.self_attention"
_EXPERTS, _TOP_K, _KV_HEADS = "num_local_experts", "num_experts_per_tok", "num_key_value_heads"


def _counted(config: dict[str, Any]) -> dict[str, Any]:
    """Heads are those of all experts of a token, whatever the config says; the width of one has two names."""
    config = dict(config)
    heads = whole_number(config, _KV_HEADS, 16) * whole_number(config, _TOP_K, 2)
    config.pop(_KV_HEADS, None)
    width = config.pop("head_dim", None)
    return {**({} if width is None else {"kv_channels": width}), **config, "num_attention_heads": heads}


def _key_heads(config: dict[str, Any]) -> dict[str, Any]:
    """Back: the heads of one expert."""
    return {**config, _KV_HEADS: config["num_attention_heads"] // config[_TOP_K]}


# The norms of its layers have an eps of their own, and the last one that of the config.
_LAYERS = Axis((), lambda config: ["layer"] * depth_of(config), lambda kinds: {}, lambda layer: "layer")
_JETMOE = kin(
    "jetmoe",
    "JetMoeForCausalLM",
    always={
        **ALWAYS,
        "attention": {"name": "moa", "output_bias": True},
        "ffn": moe("selected", output_bias=True),
        "variants": {"layer": {"norm": {"name": "rmsnorm", "eps": 1e-6}}},
    },
    options=[
        *(*size_options(), EPS, TIED, ROPE),
        Option("head_width", "kv_channels", 128),
        *(Option(f"{part}.experts", _EXPERTS, 8) for part in ("attention", "ffn")),
        *(Option(f"{part}.top_k", _TOP_K, 2) for part in ("attention", "ffn")),
        Option("ffn.expert.width", "intermediate_size"),
        activation_option("ffn.expert", "activation_function"),
    ],
    rows=[
        *(*ENDS, *PRE),
        *(
            Row(
                (f"{LAYER}.attention.experts.{{e}}.{ours}.weight",),
                f"{_ATTENTION}.experts.{name}.weight",
                ONE_EACH,
            )
            for ours, name in (("q", "input_linear"), ("out", "output_linear"))
        ),
        Row((f"{LAYER}.attention.output_bias",), f"{_ATTENTION}.experts.bias", SAME),
        Row((f"{LAYER}.attention.router.weight",), f"{_ATTENTION}.experts.router.layer.weight", SAME),
        Row(
            tuple(f"{LAYER}.attention.{name}.weight" for name in "kv"),
            f"{_ATTENTION}.kv_proj.weight",
            STACKED,
        ),
        Row((f"{LAYER}.ffn.output_bias",), f"{THEIRS}.mlp.bias", SAME),
        Row((f"{LAYER}.ffn.router.weight",), f"{THEIRS}.mlp.router.layer.weight", SAME),
        *(
            row._replace(theirs=f"{THEIRS}.mlp.{name}.weight")
            for row, name in zip(STACKED_EXPERTS, ("input_linear", "output_linear"), strict=True)
        ),
    ],
    axes=(_LAYERS,),
    unpack=_counted,
    pack=_key_heads,
    harmless=(*JITTER, "aux_loss_coef", "num_attention_heads"),
)
JETMOE_FAMILIES: tuple[Family, ...] = (_JETMOE,)
