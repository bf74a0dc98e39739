"""xLSTM: mLSTM and a gated feed-forward."""

from typing import Any

from ablate.model.hf.family import SAME, STACKED, CheckpointFormatError, Option, Row, linear_rows, shown
from ablate.model.hf.hybrid import MIX
from ablate.model.hf.llama import ALWAYS, EPS, LAYER, UNTIED
from ablate.model.hf.llama_kin import kin
from ablate.model.hf.recurrent import UNSAID_SIZES
from ablate.model.hf.tables import whole_number

BLOCKS = "backbone.blocks.{n}"
MLSTM = f"{BLOCKS}.mlstm_layer"


def xlstm(config: dict[str, Any]) -> dict[str, Any]:
    """The widths of heads and of the feed-forward after their rules. Raises CheckpointFormatError."""
    config = dict(config)
    for key, other in (("embedding_dim", "hidden_size"), ("num_blocks", "num_hidden_layers")):
        if (said := config.pop(key, None)) is not None and config.setdefault(other, said) != said:
            raise CheckpointFormatError(f"{key} is {shown(said)}, and {other} {shown(config[other])}")
    width, heads = (whole_number(config, key, 0) for key in ("hidden_size", "num_heads"))
    grain = whole_number(config, "ffn_round_up_to_multiple_of", 64)
    usual = {"qk_dim_factor": 0.5, "v_dim_factor": 1.0, "ffn_proj_factor": 2.667}
    factors = [config.pop(key, number) for key, number in usual.items()]
    if min(width, heads, grain) < 1 or any(type(n) not in (int, float) or not 0 < n < 100 for n in factors):
        raise CheckpointFormatError(f"{', '.join(usual)} are {shown(factors)}, and should be numbers above 0")
    config.pop("ffn_round_up_to_multiple_of", None)
    keys, values = (int(width * factor) for factor in factors[:2])
    if keys % heads or values % heads:
        raise CheckpointFormatError(f"num_heads {heads} does not divide {keys} and {values}")
    inner = int((width * factors[2] + grain - 1) // grain * grain)
    return {**config, "key_width": keys // heads, "value_width": values // heads, "inner": inner}


def xlstm_back(config: dict[str, Any]) -> dict[str, Any]:
    """Back: the factors that make these widths. A half more keeps the feed-forward's from rounding down."""
    config = dict(config)
    width, heads = config["hidden_size"], config["num_heads"]
    keys, values, inner = (config.pop(key) for key in ("key_width", "value_width", "inner"))
    return {
        **config,
        "qk_dim_factor": heads * keys / width,
        "v_dim_factor": heads * values / width,
        "ffn_proj_factor": (inner + 0.5) / width,
        "ffn_round_up_to_multiple_of": 1,
    }


XLSTM = kin(
    "xlstm",
    "xLSTMForCausalLM",
    prefix="backbone.",
    always={
        **{key: value for key, value in ALWAYS.items() if key != "position"},
        "position": {"name": "none"},
        "attention": {"name": "mlstm", "norm": {"name": "layernorm", "bias": False}},
        "ffn": {"name": "glu", "activation": {"name": "silu"}},
    },
    options=[
        *(
            option._replace(theirs="num_heads") if option.ours == "heads" else option
            for option in UNSAID_SIZES
        ),
        *(EPS._replace(theirs="norm_eps"), UNTIED, Option("head.softcap", "output_logit_soft_cap", 30.0)),
        Option("ffn.width", "inner"),
        Option("attention.key_width", "key_width"),
        Option("attention.value_width", "value_width"),
        Option("attention.gate_softcap", "gate_soft_cap", 15.0),
        Option("attention.eps", "eps", 1e-6),
        Option("attention.norm.eps", "norm_eps", 1e-6),
    ],
    rows=[
        Row(("embedding.weight",), "backbone.embeddings.weight", SAME),
        Row(("final_norm.weight",), "backbone.out_norm.weight", SAME),
        Row(("head.weight",), "lm_head.weight", SAME),
        Row((f"{LAYER}.attention_residual.input_norm.weight",), f"{BLOCKS}.norm_mlstm.weight", SAME),
        Row((f"{LAYER}.ffn_residual.input_norm.weight",), f"{BLOCKS}.norm_ffn.weight", SAME),
        *(Row((f"{MIX}.{name}.weight",), f"{MLSTM}.{name}.weight", SAME) for name in ("q", "k", "v")),
        Row((f"{MIX}.gate.weight",), f"{MLSTM}.ogate_preact.weight", SAME),
        *(row for name in ("i", "f") for row in linear_rows(f"{MIX}.{name}", f"{MLSTM}.{name}gate_preact")),
        Row((f"{MIX}.norms.{{g}}.weight",), f"{MLSTM}.multihead_norm.weight", STACKED),
        Row((f"{MIX}.out.weight",), f"{MLSTM}.out_proj.weight", SAME),
        *(
            Row((f"{LAYER}.ffn.{ours}.weight",), f"{BLOCKS}.ffn.{theirs}.weight", SAME)
            for ours, theirs in (("gate", "proj_up_gate"), ("up", "proj_up"), ("down", "proj_down"))
        ),
    ],
    unpack=xlstm,
    pack=xlstm_back,
    must={"use_bias": (False,), "weight_mode": ("single",)},
    harmless=(
        *("chunkwise_kernel", "sequence_kernel", "step_kernel", "mode", "chunk_size", "return_last_states"),
        *("autocast_kernel_dtype", "inference_state_dtype", "max_inference_chunksize", "add_out_norm"),
        *("norm_reduction_force_float32", "num_attention_heads"),
    ),
)
