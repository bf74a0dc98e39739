"""What transformers takes for a key that a config.json leaves out, where it is not what a table says."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

from ablate.model.hf.family import Family

LEFT_OUT: dict[str, dict[str, Any]] = {
    "afmoe": {"head_dim": 128, "sliding_window": 1024, "num_shared_experts": 2},
    "arcee": {"hidden_act": "relu2", "rms_norm_eps": 1e-05},
    "aria_text": {"moe_num_shared_experts": 2},
    "axk1": {
        "q_lora_rank": 1536,
        "n_shared_experts": 1,
        "routed_scaling_factor": 2.5,
        "n_group": 8,
        "topk_group": 4,
    },
    "axk2": {"q_lora_rank": 384, "n_shared_experts": 1, "routed_scaling_factor": 2.5},
    "bailing_hybrid": {"routed_scaling_factor": 2.5},
    "bamba": {"num_key_value_heads": 8},
    "beam": {"num_key_value_heads": 8, "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5},
    "bitnet": {"num_key_value_heads": 5, "rms_norm_eps": 1e-05},
    "cohere2": {"sliding_window": 4096},
    "cohere2_moe": {"head_dim": 128, "sliding_window": 4096},
    "cohere_compass_text": {"sliding_window": 4096},
    "cwm": {"num_key_value_heads": 8, "head_dim": 128, "sliding_window": 8192},
    "deepseek_v2": {"q_lora_rank": 1536, "n_shared_experts": 2},
    "deepseek_v3": {
        "q_lora_rank": 1536,
        "n_shared_experts": 1,
        "routed_scaling_factor": 2.5,
        "n_group": 8,
        "topk_group": 4,
    },
    "deepseek_v32": {"q_lora_rank": 1536},
    "dots1": {"num_key_value_heads": 32, "sliding_window": 4096},
    "dots3_note_text": {"n_shared_experts": 1},
    "ernie4_5": {"num_key_value_heads": 2, "head_dim": 128},
    "ernie4_5_moe": {"num_key_value_heads": 4, "moe_num_shared_experts": 2},
    "exaone": {"max_position_embeddings": 4096, "num_key_value_heads": 8, "rms_norm_eps": 1e-05},
    "exaone4": {"num_key_value_heads": 32, "sliding_window": 4096},
    "exaone_moe": {
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "num_shared_experts": 1,
        "routed_scaling_factor": 2.5,
    },
    "flint": {"num_key_value_heads": 4, "head_dim": 128, "sliding_window": 513},
    "gemma3_text": {"num_key_value_heads": 4, "sliding_window": 4096},
    "gemma4_unified_text": {"sliding_window": 1024},
    "glm": {"num_key_value_heads": 2, "head_dim": 128, "attention_bias": True},
    "glm4": {"num_key_value_heads": 2, "head_dim": 128, "attention_bias": True},
    "glm4_moe": {"num_key_value_heads": 8, "n_shared_experts": 1},
    "glm4_moe_lite": {"q_lora_rank": 768, "n_shared_experts": 1, "routed_scaling_factor": 1.8},
    "glm_moe_dsa": {"q_lora_rank": 2048},
    "gpt_oss": {"num_key_value_heads": 8, "head_dim": 64, "sliding_window": 128},
    "granite_swa": {"num_key_value_heads": 4},
    "helium": {"num_key_value_heads": 20, "head_dim": 128},
    "hy_v4": {"q_lora_rank": 1536, "n_shared_experts": 1, "routed_scaling_factor": 2.827},
    "hy_v3": {
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_shared_experts": 1,
        "router_scaling_factor": 2.826,
    },
    "internlm3": {
        "max_position_embeddings": 32768,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "rms_norm_eps": 1e-05,
    },
    "iquestcoder": {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-05,
    },
    "jais2": {"mlp_bias": True},
    "inkling_text": {"n_shared_experts": 2},
    "kimi_linear": {"routed_scaling_factor": 2.446},
    "kolibri1": {"num_key_value_heads": 4, "head_dim": 128},
    "laguna": {"num_key_value_heads": 8, "head_dim": 128, "sliding_window": 512},
    "lfm2": {"num_key_value_heads": 8},
    "lfm2_moe": {"num_key_value_heads": 8},
    "lfm3": {"head_dim": 128, "sliding_window": 256, "num_key_value_heads": 4},
    "llama4_text": {"num_key_value_heads": 8, "head_dim": 128},
    "mellum": {"num_key_value_heads": 4, "head_dim": 128, "sliding_window": 1024},
    "minicpm3": {"q_lora_rank": 768},
    "minimax": {"num_key_value_heads": 8},
    "minimax_m2": {"num_key_value_heads": 8, "head_dim": 128},
    "minimax_m3_vl_text": {"num_key_value_heads": 4, "head_dim": 128},
    "ministral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "ministral3": {"num_key_value_heads": 8, "head_dim": 128},
    "nemotron_h": {"head_dim": 128, "num_key_value_heads": 8},
    "olmo3": {"sliding_window": 4096},
    "phimoe": {"num_key_value_heads": 8},
    "qwen2_moe": {"num_key_value_heads": 16},
    "qwen3_5_moe_text": {"num_key_value_heads": 2, "head_dim": 256},
    "qwen3_5_text": {"num_key_value_heads": 4, "head_dim": 256},
    "qwen3_moe": {"num_key_value_heads": 4},
    "qwen3_next": {"num_key_value_heads": 2, "head_dim": 256},
    "sarvam_mla": {"n_shared_experts": 1, "routed_scaling_factor": 2.5},
    "sarvam_moe": {
        "num_key_value_heads": 4,
        "head_dim": 64,
        "rms_norm_eps": 1e-06,
        "n_shared_experts": 1,
        "routed_scaling_factor": 2.5,
    },
    "seed_oss": {"num_key_value_heads": 8, "head_dim": 128},
    "smollm3": {"num_key_value_heads": 4},
    "solar_open": {"num_key_value_heads": 8, "head_dim": 128, "n_shared_experts": 1},
    "stablelm": {"num_key_value_heads": 32},
    "starcoder2": {"num_key_value_heads": 2},
    "vaultgemma": {"sliding_window": 4096},
    "xlstm": {"num_heads": 8},
    "youtu": {"q_lora_rank": 1536},
}


_LLAMA3 = {"rope_type": "llama3", "original_max_position_embeddings": 8192, "low_freq_factor": 1.0}
_LLAMA3 |= {"high_freq_factor": 4.0}
_APERTUS = {**_LLAMA3, "rope_theta": 12_000_000.0, "factor": 8.0}
_YARN = {"rope_type": "yarn", "beta_fast": 32.0, "beta_slow": 1.0}
# Whole values of keys that a table reads in parts. RoPE's count where `rope_scaling` is left out, too.
VALUES_LEFT_OUT: dict[str, dict[str, Any]] = {
    "apertus": {"rope_parameters": _APERTUS},
    "apertus1p5_text": {"rope_parameters": _APERTUS},
    "cwm": {"rope_parameters": {**_LLAMA3, "rope_theta": 1_000_000.0, "factor": 16.0}},
    "gpt_oss": {
        "rope_parameters": {
            **_YARN,
            "factor": 32.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        }
    },
    "laguna": {
        "rope_parameters": {
            "full_attention": {"rope_theta": 500_000.0, "partial_rotary_factor": 0.5},
            "sliding_attention": {"rope_theta": 10_000.0},
        }
    },
    "lfm3": {
        "rope_parameters": {
            "sliding_attention": {"rope_theta": 10_000.0},
            "full_attention": {
                "rope_type": "proportional",
                "rope_theta": 1_000_000.0,
                "partial_rotary_factor": 0.5,
            },
        }
    },
    "ministral3": {
        "rope_parameters": {
            **_YARN,
            "rope_theta": 1_000_000.0,
            "factor": 16.0,
            "original_max_position_embeddings": 16_384,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        }
    },
    "phi3": {"original_max_position_embeddings": 4096},
    "sarvam_moe": {"rms_norm_eps": 1e-06},
}


def completed(family: Family) -> Family:
    """The family, with these defaults."""
    usual = LEFT_OUT.get(family.name, {})
    options = [option._replace(default=usual.get(option.theirs, option.default)) for option in family.options]
    whole = VALUES_LEFT_OUT.get(family.name)
    return replace(family, options=options, unpack=_filled(family.unpack, whole) if whole else family.unpack)


def _filled(
    unpack: Callable[[dict[str, Any]], dict[str, Any]], whole: dict[str, Any]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """`unpack` of a config in which these keys are there."""

    def filled(config: dict[str, Any]) -> dict[str, Any]:
        scaled = config.get("rope_scaling") is not None
        left_out = [
            key for key in whole if config.get(key) is None and not (key == "rope_parameters" and scaled)
        ]
        return unpack({**config, **{key: deepcopy(whole[key]) for key in left_out}})

    return filled
