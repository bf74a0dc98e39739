"""HY-V4: latent attention to chosen keys with sinks, and independent hyper-connections."""

from typing import Any

from torch import Tensor

from ablate.model.hf.family import SAME, Change, Family, Option, Row
from ablate.model.hf.latent import IMPLIED, MLA_COMMON, SELF, TURNED, spelled_out
from ablate.model.hf.llama import ALWAYS, EPS, LAYER, THEIRS, UNTIED
from ablate.model.hf.llama_kin import kin
from ablate.model.hf.mixtures import GATED_MLP, JITTER, LATER, SPARSE, dense_and_sparse, moe
from ablate.model.hf.own_mixtures import SPARSE_WORDS
from ablate.model.hf.scored_mixtures import BY_DEEPSEEK
from ablate.model.hf.sparse_latent import DSA, DSA_ROWS, INDEX_OPTIONS, indexed
from ablate.model.hf.tables import ROPE, STACKED_EXPERTS, activation_option, listed_axis, sparse_or_dense


def _rolled(mixer: Any) -> Change:
    """Their indexer turns the last channels of a head, ours the first."""

    def roll(x: Tensor, by: int) -> Tensor:
        heads: Tensor = x.unflatten(0, (-1, mixer.index_width))
        return heads.roll(by, 1).flatten(0, 1)

    return Change(
        lambda x, like, shape: [roll(x, shape.head_width)],
        lambda ours, shape: roll(ours[0], -shape.head_width),
    )


_ROWS = [row for row in DSA_ROWS if "{e}" not in row.theirs]
_ROLLED = ("indexer.wq_b", "indexer.wk", "indexer.k_norm")


def _renamed_gate(row: Row) -> Row:
    """transformers writes the gates of feed-forwards under the name that attention's gate has in its files,
    and reads both."""
    return row._replace(theirs=row.theirs.replace("gate_proj", "linear_gate"))


def _of_stream(ours: str, theirs: str) -> list[Row]:
    """The weights by which a branch reads and writes the streams."""
    leaves = {"weight": "fn", "offset": "base", "scale": "scale"}
    return [Row((f"{ours}.weighing.{leaf}",), f"{theirs}{name}", SAME) for leaf, name in leaves.items()]


_EXPERTS = [option for option in BY_DEEPSEEK if option.ours != f"{SPARSE}.expert.activation"]
_MIXTURE = {
    **moe("sigmoid", shared_expert=GATED_MLP),
    "expert": {"name": "glu", "activation": {"name": "silu"}},
}
_HY_V4 = kin(
    "hy_v4",
    "HYV4ForCausalLM",
    always={
        **ALWAYS,
        "position": TURNED,
        "attention": {**DSA, "gate": "channel", "sink_logit": True},
        "stream": {"name": "mhc", "mixing": "identity"},
        "variants": {
            **dense_and_sparse(_MIXTURE),
            "own": {},
            "sharing": {"attention": {"share_choice": True}},
        },
    },
    options=[
        *(EPS._replace(default=1e-5) if o == EPS else o for o in MLA_COMMON),
        *(UNTIED, *_EXPERTS, *INDEX_OPTIONS, ROPE),
        Option("attention.index_heads", "index_n_heads", 16),
        Option("attention.index_norm.eps", "rms_norm_eps", 1e-5),
        Option(f"{SPARSE}.expert.limit", "swiglu_limit", 10.0),
        Option(f"{SPARSE}.shared_expert.width", "moe_intermediate_size"),
        activation_option(f"{SPARSE}.shared_expert"),
        Option("stream.streams", "hc_mult", 4),
        Option("stream.write_scale", "hc_magnitude", 2.0),
        *(Option(f"stream.{name}", "hc_eps", 1e-6) for name in ("eps", "write_eps")),
        Option("stream.norm_eps", "rms_norm_eps", 1e-5),
    ],
    rows=[
        *STACKED_EXPERTS,
        *(_renamed_gate(row) for row in _ROWS if ".mlp." in row.theirs and ".gate_proj" in row.theirs),
        *(row._replace(change=_rolled) if any(x in row.theirs for x in _ROLLED) else row for row in _ROWS),
        Row((f"{LAYER}.attention.gate.weight",), f"{SELF}.linear_gate.weight", SAME),
        Row((f"{LAYER}.attention.sink",), f"{SELF}.learnable_sink_param", SAME),
        *_of_stream(f"{LAYER}.attention_residual.connection", f"{THEIRS}.hc_pre.hc_attn_layer.hc_"),
        *_of_stream(f"{LAYER}.ffn_residual.connection", f"{THEIRS}.hc_pre.hc_mlp_layer.hc_"),
        *_of_stream("exit", "model.hc_pre.hc_head.hc_head_"),
    ],
    axes=(
        listed_axis(
            "mlp_layer_types", SPARSE_WORDS, sparse_or_dense, lambda n, config: "sparse" if n else "dense"
        ),
        listed_axis(
            "indexer_types",
            {"full": "own", "shared": "sharing"},
            lambda layer: "sharing" if layer["attention"]["share_choice"] else "own",
            lambda n, config: "full" if n == 0 or (n - 1) % 4 == 0 else "shared",
        ),
    ),
    unpack=lambda config: indexed({"q_lora_rank": 1536, **config}),
    pack=spelled_out,
    harmless=(*JITTER, *LATER, *IMPLIED, "learnable_sink_init"),
)
HY_V4_FAMILIES: tuple[Family, ...] = (_HY_V4,)
