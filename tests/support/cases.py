"""The models that the contracts are held against: each registered part in turn, and the hard combinations."""

from typing import Any

import torch
from conftest import small

from ablate.model.decoder import Decoder
from ablate.registry import registries
from ablate.spec import ModelSpec

LAYERED = ("norm", "placement", "topology", "position", "attention", "ffn", "lookup")
SHARED = ("init", "kernel", "stream", "future")
# IncompatibleParts in training on a CPU; tests/parts/test_kernels.py holds them to the reference.
GPU_ONLY = ("flex", "flash")


def _inside(kind: str, name: str) -> dict[str, Any]:
    """Parts that stand inside another part."""
    return {
        "activation": {"ffn": {"name": "glu", "width": 40, "activation": name}},
        "scaling": {"position": {"name": "rope", "scaling": name}},
    }[kind]


def parts() -> dict[str, dict[str, Any]]:
    """One model for each registered part, at its defaults."""
    found = {f"{kind}={name}": {kind: name} for kind in (*LAYERED, *SHARED) for name in registries[kind]}
    kv = {"kv_heads": 2}
    found["attention=shared_keys"] = {
        "attention": {"name": "softmax", **kv},
        "variants": {"own": {}, "shared": {"attention": {"name": "shared_keys", "source": 1, **kv}}},
        "pattern": ["own", "own", "shared"],
    }
    alone = {"topology": "single", "ffn": "none"}
    found["topology=single"] = found["ffn=none"] = alone
    found["attention=none"] = {"topology": "single", "attention": "none", "position": "none"}
    for name in registries["attention"]:
        if not registries["attention"][name].make.takes_position:
            found[f"attention={name}"]["position"] = "none"
    for name in GPU_ONLY:
        del found[f"kernel={name}"]
    found |= {
        f"{kind}={name}": _inside(kind, name)
        for kind in ("activation", "scaling")
        for name in registries[kind]
    }
    return found


HARD: dict[str, dict[str, Any]] = {
    "transformer_xl": {"position": "transformer_xl"},
    "t5": {"position": "t5"},
    "prefix": {"attention": {"name": "softmax", "kv_heads": 2, "mask": "prefix"}},
    "parallel": {"topology": "parallel", "norm": "rmsnorm"},
    "parallel_two_norms": {"topology": "parallel_two_norms"},
    "deepnorm": {"placement": "deepnorm", "init": "deepnorm"},
    "local_global": {
        "depth": 4,
        "variants": {
            "local": {"attention": {"window": 5}},
            "global": {"position": {"name": "none"}},
        },
        "pattern": ["local", "global"],
    },
    "moe": {
        "ffn": {
            "name": "moe",
            "experts": 4,
            "expert": {"name": "glu", "width": 24},
            "router_z_loss_weight": 0.001,
        }
    },
    "moe_capacity": {
        "ffn": {
            "name": "moe",
            "experts": 4,
            "expert": {"name": "glu", "width": 24},
            "capacity_factor": 1.25,
            "shared": 1,
        }
    },
    "sink_logit": {"attention": {"name": "softmax", "kv_heads": 2, "sink_logit": True}},
    "sink_tokens": {"attention": {"name": "softmax", "kv_heads": 2, "window": 5, "sink_tokens": 2}},
    "looped": {"loop": {"times": 3, "first": 1, "last": 1}},
    "looped_hybrid": {"depth": 2, "loop": {"times": 2}, "pattern": ["gated_deltanet", "softmax"]},
    "qk_norm_softcap": {
        "attention": {"name": "softmax", "kv_heads": 2, "qk_norm": "rmsnorm", "softcap": 5.0}
    },
    "mla": {"attention": {"name": "mla", "q_rank": 20, "kv_rank": 12, "key_width": 6, "value_width": 10}},
    "value_residual": {"attention": {"name": "value_residual", "kv_heads": 2}},
    "mla_gated": {"attention": {"name": "mla", "kv_rank": 12, "value_width": 10, "gate": "head"}},
    "mla_own_heads": {
        "attention": {"name": "mla", "q_rank": 20, "kv_rank": 12, "heads": 2, "window": 5}
        | {"turned_norm": "rmsnorm", "gate": "head", "sink_logit": True}
    },
    "dsa_raw_query": {
        "attention": {"name": "dsa", "q_rank": 20, "top_k": 4, "index_heads": 3, "index_width": 10}
        | {"raw_query": True, "gate": "channel", "gate_of": "query"}
    },
    "ffn_norm": {
        "norm": {"name": "gated", "rank": 6},
        "topology": {"name": "serial", "ffn_norm": {"name": "layernorm"}},
    },
    "relative_logits": {
        "position": "none",
        "attention": {"name": "relative_logits", "kv_heads": 2, "rank": 3, "extent": 6, "points": ["k", "v"]}
        | {"window": 9, "temperature": 0.3, "temperature_floor": 4, "temperature_form": "log_above"},
        "topology": {"name": "canon", "points": ["attention_out", "ffn_out"]},
    },
    "moe_sink": {
        "ffn": {"name": "moe", "experts": 3, "expert": {"name": "glu", "width": 24, "learned_scale": True}}
        | {"normalisation": "sigmoid", "shared": 2, "shared_sink": True, "learned_scale": True}
    },
    "moa": {
        "attention": {"name": "moa", "experts": 3, "output_bias": True, "router_z_loss_weight": 0.001},
        "ffn": {"name": "moe", "experts": 3, "expert": {"name": "glu", "width": 24}, "output_bias": True},
    },
    "branches_apart": {
        "topology": "single",
        "depth": 4,
        "variants": {
            "mixer": {"ffn": "none"},
            "recurrent": {
                "attention": {"name": "mamba", "norm": "rmsnorm"},
                "position": "none",
                "ffn": "none",
            },
            "feed_forward": {"attention": "none", "position": "none"},
        },
        "pattern": ["mixer", "feed_forward", "recurrent"],
    },
    "side_by_side": {
        "depth": 2,
        "attention": {
            "name": "side_by_side",
            "first": {"name": "softmax", "kv_heads": 2, "window": 5},
            "second": {"name": "mamba2", "head_width": 16, "groups": 2, "least_step": 0.01},
        },
    },
    "kda_bounded": {
        "position": "none",
        "attention": {"name": "kda", "gate_rank": "full", "log_decay_floor": -5.0},
    },
    "dsa": {
        "attention": {"name": "dsa", "q_rank": 20, "top_k": 4, "index_heads": 3, "index_width": 10},
        "variants": {"own": {}, "sharing": {"attention": {"share_choice": True}}},
        "pattern": ["own", "sharing"],
        "depth": 2,
    },
    "dsa_softmax": {
        "attention": {"name": "dsa_softmax", "kv_heads": 2, "top_k": 4, "index_norm": "rmsnorm"},
    },
    "block_sparse": {
        "attention": {"name": "block_sparse", "kv_heads": 2, "block": 3, "top_blocks": 3, "local_blocks": 2}
    },
    "canon": {
        "topology": "canon",
        "attention": {"name": "canon", "kv_heads": 2, "window": 5, "value_width": 12, "qk_norm": "rmsnorm"},
        "ffn": {"name": "canon", "width": 40},
    },
    "differential": {
        "attention": {
            "name": "differential",
            "kv_heads": 2,
            "window": 5,
            "value_width": 6,
            "gate": "channel",
            "start": 0.5,
        }
    },
    "forgetting": {"attention": {"name": "forgetting", "kv_heads": 2, "softcap": 5.0}, "position": "t5"},
    "chunk": {"attention": {"name": "softmax", "kv_heads": 2, "chunk": 5, "temperature": 0.3}},
    "after": {
        "attention": {
            "name": "softmax",
            "kv_heads": 2,
            "qk_norm": "rmsnorm",
            "qk_norm_at": "after",
            "clip_qkv": 0.5,
            "inner_norm": "rmsnorm",
            "gate": "head",
            "gate_activation": "softplus",
            "exclusive": True,
            "temperature": 0.3,
            "temperature_floor": 4,
        },
        "ffn": {"name": "glu", "width": 40, "limit": 0.3, "up_offset": 1.0, "inner_norm": "rmsnorm"},
        "head": {"multiplier": 0.3},
    },
    "moe_groups": {
        "ffn": {
            "name": "moe",
            "experts": 6,
            "groups": 3,
            "top_groups": 2,
            "normalisation": "sigmoid",
            "routed_scale": 2.5,
            "router_bias": True,
            "shared": 1,
            "shared_gate": True,
            "shared_expert": {"name": "glu", "width": 12},
            "expert": {"name": "glu", "width": 24},
        }
    },
    "moe_normed": {
        "ffn": {
            "name": "moe",
            "experts": 4,
            "normalisation": "sigmoid",
            "selection": "logit",
            "shared": 1,
            "output_norm": "rmsnorm",
            "expert": {"name": "glu", "width": 24},
        }
    },
    "other_values": {
        "attention": {
            "name": "softmax",
            "kv_heads": 2,
            "value_width": 6,
            "value_multiplier": 0.7,
            "inner_norm": "rmsnorm",
            "gate": "channel",
            "exclusive": True,
        }
    },
    "tempered": {
        "attention": {
            "name": "softmax",
            "kv_heads": 2,
            "gate": "channel",
            "gate_bias": True,
            "temperature": 0.1,
            "temperature_floor": 4,
            "temperature_form": "power",
        }
    },
    "dynamic_mask_window": {
        "attention": {
            "name": "dynamic_mask",
            "kv_heads": 2,
            "window": 5,
            "weight_bias": True,
            "value_width": 6,
            "qk_norm": "rmsnorm",
            "qk_norm_at": "after",
        }
    },
    "sparsemixer": {
        "ffn": {
            "name": "moe",
            "experts": 4,
            "normalisation": "sparsemixer",
            "jitter": 0.5,
            "expert": {"name": "glu", "width": 24},
        }
    },
    "transformed": {
        "variants": {"first": {"placement": "pre_ffn"}, "later": {}},
        "depth": 3,
        "pattern": ["first", "later", "later"],
        "embedding": {"norm": "layernorm"},
        "head": {"transform": {"activation": "gelu", "norm": "layernorm", "bias": True}, "bias": True},
    },
    "widths_by_layer": {
        "variants": {
            "narrow": {
                "attention": {
                    "name": "softmax",
                    "kv_heads": 2,
                    "window": 5,
                    "value_norm": {"name": "rmsnorm", "weight": False},
                }
            },
            "wide": {
                "attention": {
                    "name": "softmax",
                    "kv_heads": 1,
                    "head_width": 12,
                    "shared_values": True,
                    "value_norm": {"name": "rmsnorm", "weight": False},
                },
                "position": {"name": "rope", "head_width": 12, "rotary_fraction": 0.5, "proportional": True},
            },
            "reading": {
                "attention": {"name": "shared_keys", "kv_heads": 1, "head_width": 12, "source": 1},
                "position": {"name": "rope", "head_width": 12, "rotary_fraction": 0.5, "proportional": True},
            },
        },
        "depth": 3,
        "pattern": ["narrow", "wide", "reading"],
    },
    "bare_other_values": {"attention": {"name": "softmax", "kv_heads": 2, "value_width": 12}},
    "moe_input": {
        "ffn": {
            "name": "moe",
            "experts": 4,
            "top_k": 1,
            "normalisation": "sigmoid_all",
            "gate_on": "input",
            "expert": {"name": "glu", "width": 24},
        }
    },
    "input_ngrams": {"embedding": {"norm": "rmsnorm", "lookup": {"name": "ngram", "n": 3}}},
    "lookups_in_streams": {
        "stream": "x0",
        "variants": {
            "reading": {"lookup": {"name": "engram"}},
            "per_layer": {"lookup": {"name": "per_layer"}},
            "plain": {},
        },
        "pattern": ["reading", "per_layer", "plain"],
    },
    "hyper_dynamic": {"stream": {"name": "hyper", "dynamic": True}},
    "mhc_identity": {"stream": {"name": "mhc", "mixing": "identity"}, "topology": "parallel_two_norms"},
    "attention_residual_block": {"stream": {"name": "attention_residual", "block": 4}},
    "everything": {
        "position": "t5",
        "topology": "parallel",
        "placement": "peri",
        "attention": {
            "name": "softmax",
            "kv_heads": 1,
            "window": 6,
            "sink_tokens": 1,
            "sink_logit": True,
            "qk_norm": "rmsnorm",
            "qk_norm_over": "width",
            "bias": ["q", "k", "v", "out"],
        },
        "head": {"tied": False, "bias": True, "softcap": 10.0},
        "embedding": {"scale": "sqrt_width", "norm": "rmsnorm"},
    },
}

CASES: dict[str, dict[str, Any]] = {**parts(), **{f"hard:{name}": case for name, case in HARD.items()}}


def model(
    case: dict[str, Any], dtype: torch.dtype = torch.float64, noise: float = 0.05, **options: Any
) -> Decoder:
    """A started model whose every parameter is moved off its start, so that none hides as a zero or a one."""
    spec: ModelSpec = small(**{**case, **options})
    decoder = Decoder(spec).init_parameters(0).to(dtype).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in decoder.parameters():
            p += noise * torch.randn(p.shape, generator=generator).to(p)
    return decoder
