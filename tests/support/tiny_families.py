"""A tiny model of each family of transformers that has a table of its own beside those of test_hf."""

from typing import Any

import torch

SHAPE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
BASE = {**SHAPE, **ENDS, "max_position_embeddings": 24, "intermediate_size": 40, "num_key_value_heads": 2}
L, G = "sliding_attention", "full_attention"
WINDOWS = {"sliding_window": 5, "layer_types": [L, G, L, L]}
TWO_ROPES = {
    L: {"rope_type": "default", "rope_theta": 5000.0},
    G: {"rope_type": "linear", "rope_theta": 9000.0, "factor": 2.0},
}


def without_width(sizes: dict[str, Any]) -> dict[str, Any]:
    """The sizes of a model without dense layers."""
    return {key: value for key, value in sizes.items() if key != "intermediate_size"}


TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "internlm3": ("internlm3", BASE),
    "iquestcoder": ("iquestcoder", BASE),
    "exaone": ("exaone", BASE),
    "arcee": ("arcee", {**BASE, "mlp_bias": True}),
    "jais2": ("jais2", BASE),
    "nemotron": ("nemotron", BASE),
    "starcoder2": ("starcoder2", BASE),
    "stablelm": ("stablelm", {**BASE, "partial_rotary_factor": 0.25, "use_qkv_bias": True}),
    "stablelm_parallel": ("stablelm", {**BASE, "use_parallel_residual": True}),
    "apertus": ("apertus", BASE),
    "apertus1p5_text": ("apertus1p5_text", BASE),
    "bitnet": ("bitnet", BASE),
    "ernie4_5": ("ernie4_5", {**BASE, "use_bias": True, "head_dim": 8}),
    "glm": ("glm", {**BASE, "head_dim": 8}),
    "glm4": ("glm4", {**BASE, "head_dim": 8, "attention_bias": True}),
    "helium": ("helium", {**BASE, "head_dim": 8}),
    "seed_oss": ("seed_oss", {**BASE, "head_dim": 8}),
    "phi3": ("phi3", {**BASE, "sliding_window": 5}),
    "phi3_longrope": (
        "phi3",
        {**BASE, "original_max_position_embeddings": 12}
        | {
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0, 1.0, 1.0, 1.5],
                "long_factor": [1.0, 2.0, 3.0, 4.0],
            }
        },
    ),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", {**BASE, "head_dim": 8}),
    "nanochat": ("nanochat", BASE),
    "ministral": ("ministral", {**BASE, **WINDOWS, "head_dim": 8}),
    "cwm": ("cwm", {**BASE, **WINDOWS, "head_dim": 8}),
    "smollm3": ("smollm3", {**BASE, "no_rope_layers": [1, 1, 0, 1]}),
    "olmo3": ("olmo3", {**BASE, **WINDOWS, "rope_parameters": TWO_ROPES}),
    "gemma3_text": (
        "gemma3_text",
        {**BASE, **WINDOWS, "head_dim": 16, "query_pre_attn_scalar": 24, "rope_parameters": TWO_ROPES},
    ),
    "vaultgemma": ("vaultgemma", {**BASE, **WINDOWS, "head_dim": 16, "query_pre_attn_scalar": 24}),
    "exaone4": ("exaone4", {**BASE, **WINDOWS}),
    "cohere": ("cohere", {**BASE, "logit_scale": 0.5}),
    "cohere2": ("cohere2", {**BASE, **WINDOWS, "logit_scale": 0.5}),
    "cohere_compass_text": (
        "cohere_compass_text",
        {**BASE, **WINDOWS, "rope_parameters": TWO_ROPES, "logit_scale": 0.3},
    ),
    "ministral3": (
        "ministral3",
        {**BASE, "head_dim": 8}
        | {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 5000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 6,
                "beta_fast": 2.0,
                "beta_slow": 0.1,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.3,
            }
        },
    ),
}
MOE = {"num_experts_per_tok": 2, "num_experts": 4}
NARROW = {**MOE, "moe_intermediate_size": 24}
DEEPSEEK = {
    "num_experts_per_tok": 2,
    "n_routed_experts": 6,
    "moe_intermediate_size": 24,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "n_group": 3,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
}
DENSE_SPARSE = {"mlp_layer_types": ["dense", "sparse", "sparse", "dense"]}
TINY |= {
    "qwen3_moe": (
        "qwen3_moe",
        {**BASE, **NARROW, "num_local_experts": 4, "mlp_only_layers": [1]}
        | {"norm_topk_prob": True, "head_dim": 8},
    ),
    "qwen2_moe": (
        "qwen2_moe",
        {**BASE, **NARROW, "shared_expert_intermediate_size": 28, "decoder_sparse_step": 2},
    ),
    "olmoe": ("olmoe", {**BASE, **MOE, "clip_qkv": 0.5}),
    "flex_olmo": ("flex_olmo", {**BASE, **MOE}),
    "aria_text": ("aria_text", {**BASE, "moe_num_experts": 4, "moe_topk": 2}),
    "ernie4_5_moe": (
        "ernie4_5_moe",
        {**BASE, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24, "moe_layer_end_index": 3},
    ),
    "flint": (
        "flint",
        {
            **BASE,
            **NARROW,
            **WINDOWS,
            "shared_expert_intermediate_size": 28,
            "mlp_only_layers": [0],
            "head_dim": 8,
        },
    ),
    "mellum": (
        "mellum",
        {
            **BASE,
            **NARROW,
            "num_local_experts": 4,
            **WINDOWS,
            **DENSE_SPARSE,
            "head_dim": 8,
            "rope_parameters": TWO_ROPES,
        },
    ),
    "minimax_m2": ("minimax_m2", {**BASE, **MOE, "num_local_experts": 4, "head_dim": 8}),
    "solar_open": (
        "solar_open",
        {**BASE, **DEEPSEEK, "head_dim": 8, "intermediate_size": None, "first_k_dense_replace": None},
    ),
    "glm4_moe": ("glm4_moe", {**BASE, **DEEPSEEK, "use_qk_norm": True, "attention_bias": True}),
    "glm4_moe_plain": ("glm4_moe", {**BASE, **DEEPSEEK, "norm_topk_prob": False}),
    "dots1": ("dots1", {**BASE, **DEEPSEEK, **WINDOWS}),
    "hy_v3": ("hy_v3", {**BASE, **NARROW, **DENSE_SPARSE, "head_dim": 8}),
    "exaone_moe": (
        "exaone_moe",
        {
            **BASE,
            **NARROW,
            **WINDOWS,
            **DENSE_SPARSE,
            "num_experts": 6,
            "n_group": 3,
            "topk_group": 2,
            "num_shared_experts": 2,
        },
    ),
    "cohere2_moe": (
        "cohere2_moe",
        {
            **BASE,
            **MOE,
            **WINDOWS,
            "logit_scale": 0.5,
            "num_shared_experts": 2,
            "shared_expert_combination_strategy": "sum",
            "head_dim": 8,
        },
    ),
    "cohere2_moe_sigmoid": (
        "cohere2_moe",
        {**BASE, **MOE, **WINDOWS, "logit_scale": 0.5, "expert_selection_fn": "sigmoid", "head_dim": 8},
    ),
    "hunyuan_v1_moe": ("hunyuan_v1_moe", {**BASE, **MOE, "moe_topk": 2, "head_dim": 8}),
    "gpt_oss": (
        "gpt_oss",
        {
            **BASE,
            **WINDOWS,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 8,
            "swiglu_limit": 0.5,
        },
    ),
}

GPT = {"vocab_size": 50, "n_positions": 24, "n_embd": 32, "n_layer": 3, "n_head": 4, **ENDS}
EARLY = {**SHAPE, **ENDS, "max_position_embeddings": 24}
TINY |= {
    "gptj": ("gptj", {**GPT, "rotary_dim": 4}),
    "codegen": ("codegen", {**GPT, "rotary_dim": 4}),
    "openai-gpt": ("openai-gpt", GPT),
    "gpt_bigcode": ("gpt_bigcode", {**GPT, "n_inner": 40}),
    "gpt_neo": (
        "gpt_neo",
        {"vocab_size": 50, "max_position_embeddings": 24, "hidden_size": 32, "num_layers": 3, **ENDS}
        | {"num_heads": 4, "attention_types": [[["global", "local", "local"], 1]], "window_size": 5},
    ),
    "biogpt": ("biogpt", {**EARLY, "intermediate_size": 40}),
    "opt": ("opt", {**EARLY, "ffn_dim": 40, "word_embed_proj_dim": 32}),
    "xglm": (
        "xglm",
        {"vocab_size": 50, "max_position_embeddings": 24, "d_model": 32, "num_layers": 3, **ENDS}
        | {"attention_heads": 4, "ffn_dim": 40},
    ),
    "ctrl": ("ctrl", {**GPT, "dff": 40, "layer_norm_epsilon": 1e-6}),
    "bloom": ("bloom", {"vocab_size": 50, "hidden_size": 32, "n_layer": 3, "n_head": 4, **ENDS}),
    "gpt_neox_japanese": ("gpt_neox_japanese", EARLY),
    "persimmon": ("persimmon", {**EARLY, "intermediate_size": 40}),
    "persimmon_plain": ("persimmon", {**EARLY, "intermediate_size": 40, "qk_layernorm": False}),
}

RANKS = {
    "kv_lora_rank": 12,
    "q_lora_rank": 20,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 6,
    "v_head_dim": 10,
}
LATENT = {**BASE, **RANKS, "num_key_value_heads": 4}
YARN = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 5000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 6,
        "beta_fast": 2.0,
        "beta_slow": 0.1,
        "mscale": 0.7,
        "mscale_all_dim": 0.9,
    }
}
INDEXED = {"index_topk": 5, "index_head_dim": 10, "index_n_heads": 8}
OWN_AND_SHARED = ["full", "shared", "full", "shared"]
BLOCKS = {
    "head_dim": 8,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "dense_intermediate_size": 36,
    "shared_intermediate_size": 20,
    "swiglu_limit": 0.7,
    "layer_types": [G, "minimax_m3_sparse", G, "minimax_m3_sparse"],
    "index_n_heads": 2,
    "index_head_dim": 10,
    "index_block_size": 3,
    "index_topk_blocks": 3,
    "index_local_blocks": 2,
}
TINY |= {
    "deepseek_v3": ("deepseek_v3", {**LATENT, **DEEPSEEK, **YARN, "attention_bias": True}),
    "deepseek_v3_short": (
        "deepseek_v3",
        {**LATENT, **DEEPSEEK, "q_lora_rank": None, "rope_interleave": False},
    ),
    "sarvam_mla": ("sarvam_mla", {**LATENT, **DEEPSEEK, "q_lora_rank": None}),
    "glm4_moe_lite": ("glm4_moe_lite", {**LATENT, **DEEPSEEK, **DENSE_SPARSE, "first_k_dense_replace": None}),
    "deepseek_v2": (
        "deepseek_v2",
        {**LATENT, **DEEPSEEK, **YARN, "topk_method": "group_limited_greedy", "norm_topk_prob": False},
    ),
    "deepseek_v2_greedy": ("deepseek_v2", {**LATENT, **DEEPSEEK, "norm_topk_prob": False}),
    "youtu": ("youtu", LATENT),
    "minimax_m3_vl_text": ("minimax_m3_vl_text", {**BASE, **DENSE_SPARSE, **BLOCKS}),
    "diffllama": ("diffllama", {**BASE, "head_dim": 10, "attention_bias": True}),
    "deepseek_v32": ("deepseek_v32", {**LATENT, **DEEPSEEK, **YARN, **INDEXED, "attention_bias": True}),
    "glm_moe_dsa": ("glm_moe_dsa", {**LATENT, **DEEPSEEK, **INDEXED, "indexer_types": OWN_AND_SHARED}),
}

TINY |= {
    "afmoe": (
        "afmoe",
        {**BASE, **NARROW, **WINDOWS, "head_dim": 8, "num_dense_layers": 2, "mup_enabled": True}
        | {"route_scale": 2.5},
    ),
    "laguna": (
        "laguna",
        {**BASE, **NARROW, **WINDOWS, **DENSE_SPARSE, "head_dim": 8, "rope_parameters": TWO_ROPES}
        | {"shared_expert_intermediate_size": 28, "moe_routed_scaling_factor": 1.5}
        | {"num_attention_heads_per_layer": [4, 4, 4, 4]},
    ),
    "laguna_channels": (
        "laguna",
        {**BASE, **NARROW, **WINDOWS, **DENSE_SPARSE, "head_dim": 8, "rope_parameters": TWO_ROPES}
        | {"shared_expert_intermediate_size": 28, "gating": "per-element"}
        | {"num_attention_heads_per_layer": [4, 4, 4, 4]},
    ),
    "llama4_text": (
        "llama4_text",
        {**BASE, "num_local_experts": 4, "num_experts_per_tok": 1, "head_dim": 8, "intermediate_size_mlp": 44}
        | {"interleave_moe_layer_step": 2, "no_rope_layers": [1, 0, 1, 1], "attention_chunk_size": 6}
        | {"layer_types": ["chunked_attention", G, "chunked_attention", "chunked_attention"]}
        | {"floor_scale": 4, "attn_scale": 0.3},
    ),
    "dbrx": (
        "dbrx",
        {"vocab_size": 50, "d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 24, **ENDS}
        | {"attn_config": {"kv_n_heads": 2, "clip_qkv": 0.6, "rope_theta": 10_000.0}}
        | {"ffn_config": {"ffn_hidden_size": 40, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32}},
    ),
}

DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 10,
    "layer_types": ["linear_attention", G, "linear_attention", "linear_attention"],
}
CONV = {"layer_types": ["conv", G, "conv", "conv"]}
ALIKE = {"linear_num_key_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
TINY |= {
    "qwen3_5_text": ("qwen3_5_text", {**BASE, **DELTA, "head_dim": 16}),
    "qwen3_5_moe_text": (
        "qwen3_5_moe_text",
        {**BASE, **DELTA, **NARROW, "head_dim": 16, "shared_expert_intermediate_size": 28}
        | {"intermediate_size": None},
    ),
    "olmo_hybrid": ("olmo_hybrid", {**BASE, **DELTA, **ALIKE}),
    "kimi_linear": (
        "kimi_linear",
        {**SHAPE, **ENDS, **RANKS, **DENSE_SPARSE, "num_key_value_heads": 4, "intermediate_size": 40}
        | {"layer_types": DELTA["layer_types"], "linear_num_heads": 4, "linear_head_dim": 8}
        | {"model_max_length": 24, "num_experts": 4, "num_experts_per_token": 2, "q_lora_rank": None}
        | {"moe_intermediate_size": 24},
    ),
    "minimax": (
        "minimax",
        {**BASE, "layer_types": DELTA["layer_types"], "num_local_experts": 4, "num_experts_per_tok": 2}
        | {"head_dim": 8},
    ),
    "lfm2": ("lfm2", {**BASE, **CONV, "conv_bias": True, "block_multiple_of": 8}),
    "lfm2_moe": ("lfm2_moe", {**BASE, **CONV, **NARROW, "num_dense_layers": 1}),
    "bamba": (
        "bamba",
        {**BASE, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 12, "mamba_n_groups": 2}
        | {"attn_layer_indices": [1]},
    ),
}

LLAMA4 = TINY["llama4_text"][1]
TINY |= {
    "olmo_clipped": ("olmo", {**BASE, "clip_qkv": 0.6}),
    "mpt_clipped": (
        "mpt",
        {"vocab_size": 50, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 24, **ENDS}
        | {"attn_config": {"clip_qkv": 0.6, "alibi": True}},
    ),
    "sarvam_moe": ("sarvam_moe", {**BASE, **DEEPSEEK, "head_dim": 8}),
    "lfm3": (
        "lfm3",
        {**BASE, "layer_types": ["conv", G, L, "conv"], "sliding_window": 5, "head_dim": 8}
        | {"conv_bias": True, "conv_L_cache": 3}
        | {
            "rope_parameters": {
                L: {"rope_type": "default", "rope_theta": 5000.0},
                G: {"rope_type": "proportional", "rope_theta": 9000.0, "partial_rotary_factor": 0.5},
            }
        },
    ),
    "llama4": ("llama4", {"text_config": LLAMA4}),
    "qwen3_5": ("qwen3_5", {"text_config": {**TINY["qwen3_5_text"][1], "rms_norm_eps": 0.003}}),
    "qwen3_5_moe": ("qwen3_5_moe", {"text_config": {**TINY["qwen3_5_moe_text"][1], "rms_norm_eps": 0.003}}),
}
TINY |= {
    "qwen3_next": (
        "qwen3_next",
        {**BASE, **DELTA, **NARROW, "head_dim": 16, "shared_expert_intermediate_size": 28}
        | {"mlp_only_layers": [1]},
    ),
    "lara_mini": (
        "lara_mini",
        {**without_width(BASE), **DELTA, **NARROW, "head_dim": 16, "shared_expert_intermediate_size": 28}
        | {"layer_types": ["linear_attention", L, G, "linear_attention"], "sliding_window": 5},
    ),
}
LING = {
    **BASE,
    **RANKS,
    **DENSE_SPARSE,
    "num_key_value_heads": 4,
    "q_lora_rank": None,
    "head_dim": 12,
    "layer_types": DELTA["layer_types"],
    "moe_intermediate_size": 24,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "n_group": 3,
    "topk_group": 2,
}
TINY |= {
    "bailing_hybrid": ("bailing_hybrid", LING),
    "bailing_hybrid_unbounded": ("bailing_hybrid", {**LING, "kda_safe_gate": False, "q_lora_rank": 20}),
}
GRANITE = {
    **BASE,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 12,
    "mamba_n_groups": 2,
    "layer_types": DELTA["layer_types"],
    "shared_intermediate_size": 28,
    "attention_multiplier": 0.3,
    "residual_multiplier": 0.6,
    "embedding_multiplier": 3.0,
    "logits_scaling": 0.4,
}
TINY |= {
    "granitemoehybrid": (
        "granitemoehybrid",
        {**GRANITE, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "granitemoehybrid_dense": (
        "granitemoehybrid",
        {**GRANITE, "num_local_experts": 0, "num_experts_per_tok": 0, "position_embedding_type": "rope"},
    ),
}
MAMBA = {**SHAPE, **ENDS, "state_size": 12}
NEMOTRON = {
    **BASE,
    "head_dim": 12,
    "ssm_state_size": 12,
    "mamba_num_heads": 4,
    "mamba_head_dim": 12,
    "layers_block_type": ["linear_attention", "full_attention", "mlp", "moe"],
    "n_groups": 2,
    "n_routed_experts": 6,
    "moe_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 28,
    "n_group": 3,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "time_step_min": 0.7,
}
JAMBA = {
    **BASE,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "mamba_d_state": 12,
    "mamba_dt_rank": 3,
    "attn_layer_period": 3,
    "attn_layer_offset": 1,
}
FALCON_H1 = {
    **BASE,
    "head_dim": 12,
    "mamba_d_ssm": 48,
    "mamba_n_heads": 4,
    "mamba_d_head": 12,
    "mamba_d_state": 12,
    "mamba_n_groups": 2,
    "key_multiplier": 0.4,
    "attention_in_multiplier": 1.3,
    "attention_out_multiplier": 0.7,
    "ssm_in_multiplier": 1.4,
    "ssm_out_multiplier": 0.6,
    "ssm_multipliers": [0.5, 0.6, 1.2, 1.3, 0.8],
    "mlp_multipliers": [1.5, 0.7],
    "embedding_multiplier": 3.0,
    "lm_head_multiplier": 0.4,
    "num_hidden_layers": 2,
}
TINY |= {
    "falcon_h1": ("falcon_h1", FALCON_H1),
    "falcon_h1_normed": (
        "falcon_h1",
        {**FALCON_H1, "mamba_rms_norm": True, "mamba_norm_before_gate": False, "attention_bias": True}
        | {"mamba_proj_bias": True, "projectors_bias": True, "mlp_bias": True},
    ),
    "mamba2": ("mamba2", {**MAMBA, "num_heads": 4, "head_dim": 16, "n_groups": 2}),
    "nemotron_h": ("nemotron_h", NEMOTRON),
    "mamba": ("mamba", {**MAMBA, "use_bias": True}),
    "falcon_mamba": ("falcon_mamba", {**MAMBA, "mixer_rms_eps": 0.03, "time_step_rank": 3}),
    "jamba": ("jamba", JAMBA),
    "xlstm": ("xlstm", {**SHAPE, **ENDS, "num_heads": 4, "ffn_round_up_to_multiple_of": 24}),
    "recurrent_gemma": ("recurrent_gemma", {**BASE, "lru_width": 24, "attention_window_size": 5}),
}

MUPPED = {"embedding_multiplier": 6.0, "attention_multiplier": 0.4, "residual_multiplier": 0.3}
MUPPED |= {"logits_scaling": 0.7}
GRANITE_MOE = {**BASE, **MUPPED, "num_local_experts": 4, "num_experts_per_tok": 2}
BASES = {**WINDOWS, "layer_rope_theta": [5000.0, 0, 5000.0, 0]}
TINY |= {
    "granite": ("granite", {**BASE, **MUPPED, "mlp_bias": True}),
    "granitemoe": ("granitemoe", GRANITE_MOE),
    "granitemoeshared": ("granitemoeshared", {**GRANITE_MOE, "shared_intermediate_size": 28}),
    "granitemoeshared_none": ("granitemoeshared", GRANITE_MOE),
    "granite_swa": ("granite_swa", {**BASE, **MUPPED, **BASES, "attention_bias": True}),
    "granite_swa_bases": (
        "granite_swa",
        {**BASE, **MUPPED, **WINDOWS, "layer_rope_theta": [5000.0, 9000.0, 5000.0, 0]},
    ),
    "granitemoe_swa": ("granitemoe_swa", {**GRANITE_MOE, **BASES, "shared_intermediate_size": 28}),
    "hyperclovax": ("hyperclovax", {**BASE, **MUPPED}),
    "hyperclovax_pre": ("hyperclovax", {**BASE, "use_post_norm": False, "logits_scaling": 0.5}),
    "minicpm3": ("minicpm3", {**LATENT, "scale_emb": 5, "dim_model_base": 16, "mlp_bias": True}),
    "minicpm3_short": ("minicpm3", {**LATENT, "q_lora_rank": None, "scale_depth": None, "v_head_dim": None}),
}

KOLIBRI = {k: v for k, v in BASE.items() if k != "intermediate_size"} | NARROW
KOLIBRI |= {"shared_expert_intermediate_size": 28, "head_dim": 8, **WINDOWS}
MIMO = {**BASE, **DEEPSEEK, **WINDOWS, **DENSE_SPARSE, "first_k_dense_replace": None, "head_dim": 12}
MIMO |= {"n_shared_experts": None, "v_head_dim": 6, "attention_value_scale": 0.6}
BEAMS = {**BASE, **NARROW, **WINDOWS, **DENSE_SPARSE, "num_experts": 6, "n_group": 3, "topk_group": 2}
BEAMS |= {"head_dim": 8, "final_logit_softcapping": 20.0}
TINY |= {
    "kolibri1": ("kolibri1", KOLIBRI),
    "kolibri1_divided": ("kolibri1", {**KOLIBRI, "norm_topk_prob": True}),
    "axk1": ("axk1", {**LATENT, **DEEPSEEK, **DENSE_SPARSE, **YARN, "first_k_dense_replace": None}),
    "mimo_v2_flash": ("mimo_v2_flash", {**MIMO, "rope_parameters": None}),
    "mimo_v2_flash_ropes": (
        "mimo_v2_flash",
        {**MIMO, "rope_parameters": TWO_ROPES, "attention_bias": True, "attention_value_scale": None},
    ),
    "phimoe": ("phimoe", {**BASE, "num_local_experts": 4, "router_jitter_noise": 0.4, "lm_head_bias": True}),
    "phimoe_longrope": (
        "phimoe",
        {**BASE, "num_local_experts": 4, "attention_bias": True, "sliding_window": 5}
        | {
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0, 1.0, 1.0, 1.5],
                "long_factor": [1.0, 2.0, 3.0, 4.0],
                "short_mscale": 1.2,
                "long_mscale": 1.2,
                "original_max_position_embeddings": 12,
            }
        },
    ),
    "beam": ("beam", BEAMS),
    "beam_ropes": ("beam", {**BEAMS, "rope_parameters": TWO_ROPES, "norm_topk_prob": False}),
    "modernbert-decoder": (
        "modernbert-decoder",
        {**BASE, "layer_types": [G, L, L, G], "local_attention": 10, "rope_parameters": TWO_ROPES}
        | {"norm_bias": True, "classifier_bias": True},
    ),
    "modernbert-decoder_plain": ("modernbert-decoder", {**BASE, "decoder_bias": False, "mlp_bias": True}),
    "doge": ("doge", {**BASE, "attention_bias": True}),
    "doge_window": ("doge", {**BASE, "sliding_window": 5, "tie_word_embeddings": True}),
}

GEMMA4 = {**BASE, "layer_types": [L, G, L, G], "sliding_window": 5, "head_dim": 8, "global_head_dim": 16}
GEMMA4 |= {"final_logit_softcapping": 20.0}
PER_LAYER = {"hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": 50}
TINY |= {
    "gemma4_text": (
        "gemma4_text",
        {**GEMMA4, **PER_LAYER, "num_kv_shared_layers": 2, "use_double_wide_mlp": True},
    ),
    "gemma4_text_alike": (
        "gemma4_text",
        {**GEMMA4, "hidden_size_per_layer_input": 0, "attention_k_eq_v": True, "attention_bias": True}
        | {"num_global_key_value_heads": 1, "rope_parameters": TWO_ROPES},
    ),
    "gemma4_unified_text": (
        "gemma4_unified_text",
        {**GEMMA4, "num_kv_shared_layers": 1, "layer_types": [L, G, G, G], "attention_k_eq_v": True},
    ),
}
DOTS3_TEXT = {
    **LATENT,
    **INDEXED,
    "head_dim": 14,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_experts_intermediate_size": 20,
    "n_shared_experts": 2,
    "n_group": 3,
    "topk_group": 2,
    "sliding_window": 5,
    "use_dsa": None,
    "layer_types": ["indexed_attention", L, G, L],
}
DOTS3_LOCAL = {"num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 16, "kv_lora_rank": 14}
DOTS3_LOCAL |= {"qk_rope_head_dim": 8, "qk_nope_head_dim": 4, "v_head_dim": 6, "head_dim": 12}
TINY |= {
    "dots3_note_text": (
        "dots3_note_text",
        {**DOTS3_TEXT, "per_layer_config": {1: DOTS3_LOCAL, 3: DOTS3_LOCAL}},
    ),
    "dots3_note_text_alike": (
        "dots3_note_text",
        {**DOTS3_TEXT, "per_layer_config": {}, "attention_bias": True, "routed_scaling_factor": 2.5}
        | {"layer_types": [G, L, G, L]},
    ),
    "dots3_note": (
        "dots3_note",
        {
            "text_config": {**DOTS3_TEXT, "per_layer_config": {1: DOTS3_LOCAL, 3: DOTS3_LOCAL}},
            "vision_config": {"adapter_out_dim": 32},
            "audio_config": {"adapter_out_dim": 32},
        },
    ),
}
AXK2 = {**LATENT, **INDEXED, "n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
TINY |= {
    "axk2": ("axk2", {**AXK2, **DENSE_SPARSE, **YARN, "gated_norm_rank": 6, "attention_bias": True}),
    "axk2_sparse": ("axk2", {**AXK2, "mlp_layer_types": ["sparse"] * 4, "n_shared_experts": 2}),
    "hy_v4": (
        "hy_v4",
        {**LATENT, **DENSE_SPARSE, **YARN, **INDEXED, "n_routed_experts": 6, "num_experts_per_tok": 2}
        | {"moe_intermediate_size": 24, "n_shared_experts": 2, "n_group": 3, "topk_group": 2}
        | {"indexer_types": OWN_AND_SHARED, "swiglu_limit": 0.5, "hc_mult": 3, "hc_magnitude": 1.5}
        | {"hc_eps": 0.03, "attention_bias": True},
    ),
    "inkling_text": (
        "inkling_text",
        {
            **BASE,
            "head_dim": 8,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 4,
            "swa_head_dim": 10,
        }
        | {"sliding_window_size": 5, "d_rel": 3, "rel_extent": 7, "log_scaling_n_floor": 4}
        | {"log_scaling_alpha": 0.4, "layer_types": ["hybrid_sliding", "hybrid", "hybrid_sliding", "hybrid"]}
        | {"mlp_layer_types": ["dense", "sparse", "sparse", "dense"], "moe_intermediate_size": 24}
        | {"n_routed_experts": 5, "num_experts_per_tok": 2, "route_scale": 2.5, "conv_kernel_size": 3}
        | {"logits_mup_width_multiplier": 1.5},
    ),
    "jetmoe": (
        "jetmoe",
        {**SHAPE, **ENDS, "max_position_embeddings": 24, "intermediate_size": 40, "num_key_value_heads": 2}
        | {"kv_channels": 8, "num_local_experts": 4, "num_experts_per_tok": 3},
    ),
}


EPS = ("rms_norm_eps", "layer_norm_eps", "norm_eps", "layer_norm_epsilon", "norm_epsilon")


def theirs(name: str) -> Any:
    """A small model of transformers, every parameter random: biases, norms and selection biases too."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, options = TINY[name]
    torch.manual_seed(0)
    usual = AutoConfig.for_model(kind).to_dict()
    sharp = {key: 0.003 for key in EPS if usual.get(key) is not None}
    config = AutoConfig.for_model(kind, **(sharp | options))
    m = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in m.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator)
        for buffer_name, buffer in m.named_buffers():
            if (
                "correction_bias" in buffer_name or "expert_bias" in buffer_name or "scalar" in buffer_name
            ) and buffer.is_floating_point():
                buffer += 0.2 * torch.randn(buffer.shape, generator=generator)
    return m.eval()
