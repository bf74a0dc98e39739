"""DiffLlama, whose attention is the difference of two maps."""

from typing import Any

from ablate.model.hf.family import SAME, Option, Row
from ablate.model.hf.llama import (
    ACTIVATION,
    ALWAYS,
    ATTENTION_BIAS,
    EPS,
    HEAD_WIDTH,
    LAYER,
    LLAMA,
    THEIRS,
    UNTIED,
    WIDTH,
    shape,
)
from ablate.model.hf.llama_kin import kin

DIFFERENTIAL: dict[str, Any] = {"name": "differential", "norm": {"name": "rmsnorm", "weight": False}}
LAMBDA_ROWS = [
    Row((f"{LAYER}.attention.{name}",), f"{THEIRS}.self_attn.{name}", SAME)
    for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
]
DIFFLLAMA = kin(
    "diffllama",
    "DiffLlamaForCausalLM",
    always={**ALWAYS, "attention": DIFFERENTIAL},
    options=[
        *(*shape(), HEAD_WIDTH, WIDTH, ACTIVATION, EPS._replace(default=1e-5), ATTENTION_BIAS, UNTIED),
        Option("attention.norm.eps", "rms_norm_eps", 1e-5),
    ],
    rows=[*LLAMA.rows, *LAMBDA_ROWS],
    harmless=("lambda_std_dev",),
)
