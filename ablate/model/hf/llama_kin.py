"""Dense families whose layers are LLaMA's but for an option or two."""

from dataclasses import replace
from typing import Any

from ablate.model.hf.family import (
    SAME,
    STACKED,
    Change,
    Family,
    Option,
    Row,
    linear_rows,
)
from ablate.model.hf.llama import (
    ACTIVATION,
    ALWAYS,
    ATTENTION,
    ATTENTION_BIAS,
    ENDS,
    EPS,
    FEED_FORWARD,
    HEAD_WIDTH,
    LAYER,
    LLAMA,
    PRE,
    QK_NORM,
    QK_NORMS,
    THEIRS,
    TIED,
    UNTIED,
    WIDTH,
    norms,
)
from ablate.model.hf.tables import (
    INTERLEAVED,
    KV_HEADS,
    LESS_ONE,
    ROPE,
    layer_rows,
    size_options,
)
from ablate.model.hf.words import flag

MLP_BIAS = Option("ffn.bias", "mlp_bias", False, *flag("up", "down"))
GLU_BIAS = Option("ffn.bias", "mlp_bias", False, *flag("gate", "up", "down"))
QKV_PARTS = ("q", "k", "v")
QKV_NAMES = tuple(f"{LAYER}.attention.{name}" for name in QKV_PARTS)
GATE_UP = (f"{LAYER}.ffn.gate", f"{LAYER}.ffn.up")
OUT = linear_rows(f"{LAYER}.attention.out", f"{THEIRS}.self_attn.o_proj")
HEAD_NORMS: dict[str, Any] = {"name": "softmax", "qk_norm": {"name": "rmsnorm"}, "qk_norm_over": "head"}
PLAIN_MLP = {"name": "mlp"}
MLP_ROWS = layer_rows({"ffn.up": "mlp.up_proj", "ffn.down": "mlp.down_proj"})
LAYERNORM_ENDS = [*ENDS, Row(("final_norm.bias",), "model.norm.bias", SAME)]
LAYERNORM_PRE = layer_rows(
    {
        "attention_residual.input_norm": "input_layernorm",
        "ffn_residual.input_norm": "post_attention_layernorm",
    }
)
LLAMA_SIZES = [*size_options(), KV_HEADS]
COMMON = [*LLAMA_SIZES, ROPE, HEAD_WIDTH, WIDTH, ACTIVATION, EPS]
WINDOW = Option("variants.local.attention.window", "sliding_window", None)
LOCAL_AND_GLOBAL: dict[str, Any] = {"local": {}, "global": {}}
NOPE_GLOBAL: dict[str, Any] = {
    "local": {"position": {"name": "rope"}},
    "global": {"position": {"name": "none"}},
}


def kin(name: str, architecture: str, base: Family = LLAMA, **changes: Any) -> Family:
    """A family that differs from another in what is given."""
    changes.setdefault("harmless", ())
    changes.setdefault("whole_heads", False)
    return replace(base, name=name, architecture=architecture, **changes)


# ------------------------------------------------------------------------- LLaMA in all but a name

INTERNLM3 = kin("internlm3", "LlamaForCausalLM")
IQUESTCODER = kin("iquestcoder", "LlamaForCausalLM")
EXAONE_NAMES = {
    "model.embed_tokens": "transformer.wte",
    "model.norm": "transformer.ln_f",
    "model.layers": "transformer.h",
    "self_attn": "attn.attention",
    "o_proj": "out_proj",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "mlp.gate_proj": "mlp.c_fc_0",
    "mlp.up_proj": "mlp.c_fc_1",
    "mlp.down_proj": "mlp.c_proj",
}


def renamed(rows: list[Row], names: dict[str, str]) -> list[Row]:
    """The rows with parts of their names exchanged."""
    found = []
    for row in rows:
        theirs = row.theirs
        for old, new in names.items():
            theirs = theirs.replace(old, new)
        found.append(row._replace(theirs=theirs))
    return found


EXAONE = kin(
    "exaone",
    "LlamaForCausalLM",
    rows=renamed(LLAMA.rows, EXAONE_NAMES),
    prefix="transformer.",
    theta=500_000.0,
)

# --------------------------------------------------------------------------------- feed-forwards

ARCEE = kin(
    "arcee",
    "ArceeForCausalLM",
    always={**ALWAYS, "ffn": PLAIN_MLP},
    options=[*COMMON, ATTENTION_BIAS, UNTIED, MLP_BIAS],
    rows=[*ENDS, *PRE, *ATTENTION, *MLP_ROWS],
)
LAYERNORM_EPS = Option("norm.eps", "layer_norm_eps", 1e-5)
JAIS2 = kin(
    "jais2",
    "Jais2ForCausalLM",
    always={**ALWAYS, "norm": {"name": "layernorm"}, "ffn": PLAIN_MLP},
    options=[
        *(*LLAMA_SIZES, ROPE, HEAD_WIDTH, WIDTH, UNTIED, MLP_BIAS, LAYERNORM_EPS),
        ACTIVATION._replace(default="relu2"),
        ATTENTION_BIAS._replace(default=True),
    ],
    rows=[*LAYERNORM_ENDS, *LAYERNORM_PRE, *ATTENTION, *MLP_ROWS],
)
NEMOTRON = kin(
    "nemotron",
    "NemotronForCausalLM",
    always={**ALWAYS, "norm": {"name": "layernorm"}, "position": {"name": "rope"}, "ffn": PLAIN_MLP},
    options=[
        *(*LLAMA_SIZES, ROPE, HEAD_WIDTH, WIDTH, UNTIED, MLP_BIAS, ATTENTION_BIAS),
        LAYERNORM_EPS._replace(theirs="norm_eps"),
        ACTIVATION._replace(default="relu2"),
    ],
    rows=[
        row._replace(change=LESS_ONE) if row.theirs.endswith("norm.weight") else row
        for row in [*LAYERNORM_ENDS, *LAYERNORM_PRE, *ATTENTION, *MLP_ROWS]
    ],
    rotary_fraction=0.5,
)
STARCODER2 = kin(
    "starcoder2",
    "Starcoder2ForCausalLM",
    always={**ALWAYS, "norm": {"name": "layernorm"}, "ffn": PLAIN_MLP},
    options=[
        *(*LLAMA_SIZES, ROPE, WIDTH, TIED, LAYERNORM_EPS._replace(theirs="norm_epsilon")),
        ACTIVATION._replace(default="gelu_pytorch_tanh"),
        ATTENTION_BIAS._replace(theirs="use_bias", default=True),
        MLP_BIAS._replace(theirs="use_bias", default=True),
        Option("attention.window", "sliding_window", None),
    ],
    rows=[
        *(*LAYERNORM_ENDS, *LAYERNORM_PRE, *ATTENTION),
        *layer_rows({"ffn.up": "mlp.c_fc", "ffn.down": "mlp.c_proj"}),
    ],
    harmless=("residual_dropout", "embedding_dropout"),
)
STABLELM = kin(
    "stablelm",
    "StableLmForCausalLM",
    always={
        "norm": {"name": "layernorm"},
        "placement": "pre",
        "position": {"name": "rope"},
        "attention": {"name": "softmax"},
        "ffn": {"name": "glu"},
    },
    options=[
        *(*LLAMA_SIZES, ROPE, WIDTH, UNTIED, LAYERNORM_EPS, ACTIVATION),
        Option("attention.bias", "use_qkv_bias", False, *flag(*QKV_PARTS)),
        Option(
            "topology",
            "use_parallel_residual",
            False,
            read=lambda parallel: {"name": "parallel" if parallel else "serial"},
            write=lambda topology: topology["name"] == "parallel",
        ),
    ],
    rows=[*LAYERNORM_ENDS, *LAYERNORM_PRE, *ATTENTION, *FEED_FORWARD],
    must={"qk_layernorm": (False,)},
    harmless=("hidden_dropout",),
    rotary_fraction=0.25,
)
APERTUS_ROWS = [
    *ENDS,
    *norms(attention_input_norm="attention_layernorm", ffn_input_norm="feedforward_layernorm"),
    *(*ATTENTION, *QK_NORMS, *MLP_ROWS),
    Row((f"{LAYER}.ffn.activation.positive",), f"{THEIRS}.mlp.act_fn.alpha_p", SAME),
    Row((f"{LAYER}.ffn.activation.negative",), f"{THEIRS}.mlp.act_fn.alpha_n", SAME),
]
APERTUS = kin(
    "apertus",
    "ApertusForCausalLM",
    always={**ALWAYS, "attention": HEAD_NORMS, "ffn": {"name": "mlp", "activation": {"name": "xielu"}}},
    options=[
        *(*LLAMA_SIZES, ROPE, HEAD_WIDTH, WIDTH, UNTIED, ATTENTION_BIAS),
        *(EPS._replace(default=1e-5), QK_NORM._replace(default=1e-5)),
    ],
    rows=APERTUS_ROWS,
    constants={f"{THEIRS}.mlp.act_fn.beta": 0.5, f"{THEIRS}.mlp.act_fn.eps": -1e-6},
    must={"hidden_act": ("xielu",)},
    theta=12_000_000.0,
)
APERTUS1P5 = kin(
    "apertus1p5_text",
    "Apertus1p5TextForCausalLM",
    APERTUS,
    must={"hidden_act": ("xielu",), "output_vocab_size": (None,)},
)
SUB_NORM = {"name": "rmsnorm"}
BITNET = kin(
    "bitnet",
    "BitNetForCausalLM",
    always={
        **ALWAYS,
        "attention": {"name": "softmax", "inner_norm": SUB_NORM},
        "ffn": {"name": "glu", "inner_norm": SUB_NORM},
    },
    options=[
        *(*LLAMA_SIZES, ROPE, HEAD_WIDTH, WIDTH, UNTIED, ATTENTION_BIAS, EPS),
        ACTIVATION._replace(default="relu2"),
        Option("attention.inner_norm.eps", "rms_norm_eps", 1e-6),
        Option("ffn.inner_norm.eps", "rms_norm_eps", 1e-6),
    ],
    rows=[
        *(*ENDS, *PRE, *ATTENTION, *FEED_FORWARD),
        Row((f"{LAYER}.attention.inner_norm.weight",), f"{THEIRS}.self_attn.attn_sub_norm.weight", SAME),
        Row((f"{LAYER}.ffn.inner_norm.weight",), f"{THEIRS}.mlp.ffn_sub_norm.weight", SAME),
    ],
    theta=500_000.0,
)

# ------------------------------------------------------------------------------------- attention

ERNIE4_5 = kin(
    "ernie4_5",
    "Ernie4_5ForCausalLM",
    always={**ALWAYS, "position": {"name": "rope", "rotary_fraction": 1.0, "interleaved": True}},
    options=[
        *(*LLAMA_SIZES, INTERLEAVED, HEAD_WIDTH, WIDTH, ACTIVATION, EPS._replace(default=1e-5), TIED),
        ATTENTION_BIAS._replace(theirs="use_bias"),
        GLU_BIAS._replace(theirs="use_bias"),
    ],
    theta=500_000.0,
)
GLM = kin(
    "glm",
    "GlmForCausalLM",
    always={**ALWAYS, "position": {"name": "rope", "interleaved": True}},
    options=[
        *(*LLAMA_SIZES, INTERLEAVED, HEAD_WIDTH, WIDTH, ACTIVATION, EPS._replace(default=1.5625e-7), UNTIED),
        Option("attention.bias", "attention_bias", False, *flag(*QKV_PARTS)),
    ],
    rows=[
        *(*ENDS, *PRE, *ATTENTION),
        *linear_rows(GATE_UP, f"{THEIRS}.mlp.gate_up_proj", STACKED),
        *linear_rows(f"{LAYER}.ffn.down", f"{THEIRS}.mlp.down_proj"),
    ],
    rotary_fraction=0.5,
)
GLM4 = kin(
    "glm4",
    "Glm4ForCausalLM",
    GLM,
    always={**GLM.always, "placement": "sandwich"},
    rows=[
        *(row for row in GLM.rows if row not in PRE),
        *norms(
            attention_input_norm="input_layernorm",
            attention_output_norm="post_self_attn_layernorm",
            ffn_input_norm="post_attention_layernorm",
            ffn_output_norm="post_mlp_layernorm",
        ),
    ],
)
HELIUM = kin(
    "helium",
    "HeliumForCausalLM",
    always={**ALWAYS, "position": {"name": "rope", "rotary_fraction": 1.0, "interleaved": True}},
    options=[
        *(
            *LLAMA_SIZES,
            INTERLEAVED,
            HEAD_WIDTH,
            WIDTH,
            ACTIVATION,
            EPS._replace(default=1e-8),
            UNTIED,
            GLU_BIAS,
        ),
        Option("attention.bias", "attention_bias", False, *flag(*QKV_PARTS)),
    ],
    theta=100_000.0,
)
SEED_OSS = kin(
    "seed_oss",
    "SeedOssForCausalLM",
    options=[
        *(*COMMON, UNTIED, GLU_BIAS),
        Option("attention.bias", "attention_bias", True, *flag(*QKV_PARTS)),
    ],
    must={"attention_out_bias": (False,)},
    harmless=("residual_dropout",),
)


def phi3_context(config: dict[str, Any]) -> dict[str, Any]:
    """The trained context stands outside of the parameters of LongRoPE, too."""
    trained = config["rope_parameters"].get("original_max_position_embeddings")
    return config if trained is None else {**config, "original_max_position_embeddings": trained}


PHI3 = kin(
    "phi3",
    "Phi3ForCausalLM",
    always={**ALWAYS, "position": {"name": "rope"}},
    options=[
        *(*LLAMA_SIZES, ROPE, WIDTH, ACTIVATION, EPS._replace(default=1e-5), UNTIED),
        Option("attention.window", "sliding_window", None),
    ],
    rows=[
        *(*ENDS, *PRE, *OUT, *linear_rows(QKV_NAMES, f"{THEIRS}.self_attn.qkv_proj", STACKED)),
        *linear_rows(GATE_UP, f"{THEIRS}.mlp.gate_up_proj", STACKED),
        *linear_rows(f"{LAYER}.ffn.down", f"{THEIRS}.mlp.down_proj"),
    ],
    pack=phi3_context,
    harmless=("resid_pdrop", "embd_pdrop"),
)
HUNYUAN_ATTENTION = {**HEAD_NORMS, "qk_norm_at": "after"}
PLACED_NORMS = [
    Row((f"{LAYER}.attention.{ours}_placed.weight",), f"{THEIRS}.self_attn.{theirs}_layernorm.weight", SAME)
    for ours, theirs in (("q", "query"), ("k", "key"))
]
HUNYUAN = kin(
    "hunyuan_v1_dense",
    "HunYuanDenseV1ForCausalLM",
    always={**ALWAYS, "attention": HUNYUAN_ATTENTION},
    options=[
        *(*LLAMA_SIZES, ROPE, HEAD_WIDTH, WIDTH, ACTIVATION, UNTIED, ATTENTION_BIAS),
        *(EPS._replace(default=1e-5), QK_NORM._replace(default=1e-5)),
    ],
    rows=[*ENDS, *PRE, *ATTENTION, *PLACED_NORMS, *FEED_FORWARD],
    harmless=("eod_token_id",),
)
TURNED_BACK = Change(  # turned the other way round: the halves of each head in the other order
    lambda x, like, shape: [x.unflatten(0, (-1, 2, shape.head_width // 2)).flip(1).flatten(0, 2)],
    lambda ours, shape: ours[0].unflatten(0, (-1, 2, shape.head_width // 2)).flip(1).flatten(0, 2),
)
PLAIN_NORM = {"name": "rmsnorm", "weight": False}
NANOCHAT = kin(
    "nanochat",
    "NanoChatForCausalLM",
    always={
        **ALWAYS,
        "norm": PLAIN_NORM,
        "embedding": {"norm": PLAIN_NORM},
        "attention": {"name": "softmax", "qk_norm": PLAIN_NORM, "qk_norm_at": "after"},
        "ffn": PLAIN_MLP,
    },
    options=[
        *(*LLAMA_SIZES, ROPE, WIDTH, EPS, QK_NORM, ATTENTION_BIAS, UNTIED),
        Option("embedding.norm.eps", "rms_norm_eps", 1e-6),
        ACTIVATION._replace(default="relu2"),
        Option("head.softcap", "final_logit_softcapping", 15.0),
    ],
    rows=[
        *ENDS,
        *(
            row._replace(change=TURNED_BACK) if row.theirs.split(".")[-2] in ("q_proj", "k_proj") else row
            for row in ATTENTION
        ),
        *layer_rows({"ffn.up": "mlp.fc1", "ffn.down": "mlp.fc2"}),
    ],
)


LLAMA_KIN_FAMILIES = (
    *(INTERNLM3, IQUESTCODER, EXAONE, ARCEE, JAIS2, NEMOTRON, STARCODER2, STABLELM, APERTUS, APERTUS1P5),
    *(BITNET, ERNIE4_5, GLM, GLM4, HELIUM, SEED_OSS, PHI3, HUNYUAN, NANOCHAT),
)
