"""The import hunt: every key of a small config.json is spoiled in turn, and RoPE is written in every style.

An import must give transformers' logits, or refuse with a line. What is silently wrong must be nothing.
"""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch
from support.tiny_families import TINY as OF_TABLES
from test_hf import CONFIGS, theirs

from ablate.cli.zoo_lacks import ALIASES
from ablate.model.decoder import Decoder
from ablate.model.hf import FAMILIES, CheckpointFormatError, import_folder

CLOSE = 1e-5
Outcome = Literal["agrees", "refused", "only we read it", "differs", "crashed"]
Config = dict[str, Any]


class Spoiled(NamedTuple):
    """A config.json, and in words what was done to it."""

    what: str
    config: Config


# ---------------------------------------------------------------------------------------- what is tried

BASES = [
    *("gpt2", "llama", "llama3", "llama_yarn", "mistral", "mixtral", "falcon", "mpt_six_heads", "gemma"),
    *("gemma2", "olmo", "olmo2", "qwen2", "qwen2_windows", "qwen3", "gpt_neox", "phi"),
]
DELETED = object()


def others(value: Any) -> list[Any]:
    """Other values of the same type, and of none."""
    if isinstance(value, bool):
        return [not value, str(value).lower(), None]
    if isinstance(value, int):
        return [2 * value, value // 2, value + 1, 0, -1, float(value), str(value), None]
    if isinstance(value, float):
        return [2 * value, value / 2, 0.0, -1.0, str(value), None]
    if isinstance(value, str):
        return ["relu" if "elu" in value or value == "silu" else value + "x", "", 3, None]
    if isinstance(value, list):
        return [value[::-1], value[:-1], [], ["chunked_attention"] * len(value), None]
    return [True, 7, "x", []]  # of null


def one_key(config: Config, path: tuple[str, ...] = ()) -> Iterator[Spoiled]:
    """The config with one key deleted, scaled, flipped or nulled; so inside its objects."""
    inside: Any = config
    for step in path:
        inside = inside[step]
    for key, value in inside.items():
        if isinstance(value, dict):
            yield from one_key(config, (*path, key))
        for other in [DELETED, *([{}, None] if isinstance(value, dict) else others(value))]:
            spoiled = copy.deepcopy(config)
            place: Any = spoiled
            for step in path:
                place = place[step]
            if other is DELETED:
                del place[key]
            else:
                place[key] = other
            named = "deleted" if other is DELETED else json.dumps(other)
            yield Spoiled(f"{'.'.join((*path, key))} {named}", spoiled)


KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "llama3 trained": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    | {"original_max_position_embeddings": 8},
    "yarn": {"factor": 4.0},
    "yarn trained": {"factor": 4.0, "original_max_position_embeddings": 8},
    "yarn gain": {"factor": 4.0, "original_max_position_embeddings": 8, "attention_factor": 1.3},
    "yarn mscale": {"factor": 4.0, "mscale": 0.7, "mscale_all_dim": 1.4},
    "yarn untruncated": {"factor": 4.0, "original_max_position_embeddings": 8, "truncate": False},
    "yarn short": {"factor": 4.0, "original_max_position_embeddings": 1},
    "yarn factorless": {"factor": None, "original_max_position_embeddings": 8},
    "yarn ramp": {"factor": 4.0, "original_max_position_embeddings": 9, "beta_fast": 2, "beta_slow": 0.1},
    "dynamic": {"factor": 2.0},
    "longrope": {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
    "novel": {"factor": 2.0},
}
ROPE = ("rope_parameters", "rope_scaling", "rope_theta", "rotary_emb_base", "partial_rotary_factor")
PLACES: dict[str, tuple[str, ...]] = {
    "new": ("rope_parameters",),
    "old": ("rope_scaling",),
    "both": ("rope_parameters", "rope_scaling"),
    "added": ("rope_scaling", "plain rope_parameters"),
}


def rope_styles(config: Config) -> Iterator[Spoiled]:
    """Every kind of scaling, in the new place, the old one and both, with theta here, there and nowhere."""
    bare = {key: value for key, value in config.items() if key not in ROPE}
    for kind, options in KINDS.items():
        for style, places in PLACES.items():
            for theta in ("inside", "outside", "rotary_emb_base", "twice", "nowhere"):
                for named in ("rope_type", "type"):
                    rope = {named: kind.split()[0], **options}
                    if theta in ("inside", "twice"):
                        rope["rope_theta"] = 500.0
                    spoiled = bare | {place: copy.deepcopy(rope) for place in places if " " not in place}
                    if style == "added":
                        spoiled["rope_parameters"] = {"rope_type": "default", "rope_theta": 500.0}
                    if theta in ("outside", "twice"):
                        spoiled["rope_theta"] = 500.0 if theta == "outside" else 900.0
                    if theta == "rotary_emb_base":
                        spoiled["rotary_emb_base"] = 500
                    yield Spoiled(f"rope {style} {kind}, theta {theta}, {named}", spoiled)


def fractions(config: Config) -> Iterator[Spoiled]:
    """How much of a head turns, by each of its names."""
    for name in ("partial_rotary_factor", "rotary_pct"):
        for rotary_fraction in (1.0, 0.5, 0.25, 0.3):
            yield Spoiled(f"{name} {rotary_fraction}", config | {name: rotary_fraction})
            rope = {**(config.get("rope_parameters") or {}), name: rotary_fraction}
            yield Spoiled(f"{name} {rotary_fraction} inside", config | {"rope_parameters": rope})


def added(config: Config) -> Iterator[Spoiled]:
    """Keys that this family has not, or that say a thing again."""
    for key, value in {
        "hidden_activation": "relu",
        "hidden_act": "relu",
        "activation_function": "relu",
        "head_dim": 16,
        "attention_bias": True,
        "sliding_window": 3,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "original_max_position_embeddings": 6,
        "clip_qkv": 0.1,
        "n_embed": 16,
        "hidden_size": 16,
        "n_inner": 16,
        "alibi": True,
        "qk_layernorm": True,
        "novelty": 1,
        "num_experts": 2,
        "is_decoder": True,
        "quantization_config": {"quant_method": "fp8"},
    }.items():
        if key not in config or config[key] is None:
            yield Spoiled(f"{key} added", config | {key: value})


# ------------------------------------------------------------------------------------------ the judge


def their_logits(folder: Path, tokens: torch.Tensor) -> torch.Tensor | None:
    """None where transformers does not read the folder, or draws tensors anew."""
    from transformers import AutoModelForCausalLM

    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", output_loading_info=True, dtype=torch.float32
        )
        if any(loading.get(key) for key in ("missing_keys", "mismatched_keys", "error_msgs")):
            return None
        with torch.no_grad():
            logits: torch.Tensor = model.eval()(tokens, use_cache=False).logits
    except Exception:  # whatever transformers says of a spoiled config
        return None
    return logits


def judge(folder: Path, config: Config, tokens: torch.Tensor) -> Outcome:
    (folder / "config.json").write_text(json.dumps(config))
    try:
        spec, state = import_folder(folder)
        decoder = Decoder(spec)
        decoder.load_state_dict(state)
        with torch.no_grad():
            ours = decoder.eval()(tokens)
    except CheckpointFormatError:
        return "refused"
    except Exception:  # any other is a traceback to the user
        return "crashed"
    expected = their_logits(folder, tokens)
    if expected is None:
        return "only we read it"
    same = torch.allclose(ours, expected, atol=CLOSE, rtol=CLOSE)
    return "agrees" if same else "differs"


def prepared(name: str, folder: Path) -> Config:
    """A model of transformers, and its config.json with every key."""
    model = theirs(name)
    model.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    whole = json.loads(model.config.to_json_string(use_diff=False))
    return {**whole, **written}


def spoilings(name: str, config: Config) -> list[Spoiled]:
    rotary = "rope_parameters" in config
    styles = [*rope_styles(config), *fractions(config)] if rotary else []
    return [*one_key(config), *added(config), *styles]


def verdicts(name: str, folder: Path, tokens: torch.Tensor, some: int | None) -> dict[str, Outcome]:
    config = prepared(name, folder)
    assert judge(folder, config, tokens) == "agrees"
    tried = spoilings(name, config)
    if some is not None:
        tried = random.Random(name).sample(tried, some)
    return {spoiled.what: judge(folder, spoiled.config, tokens) for spoiled in tried}


def test_the_hunt_knows_every_family():
    """Or `test_families` holds it, by its table, without a hunt."""
    by_table = {ALIASES.get(kind, kind) for kind, _ in OF_TABLES.values()}
    assert {CONFIGS[name][0] for name in BASES} | by_table == set(FAMILIES)


@pytest.mark.parametrize("name", BASES)
def test_nothing_is_silently_wrong(name, tokens, tmp_path):
    found = verdicts(name, tmp_path, tokens, some=6)
    assert [what for what, outcome in found.items() if outcome in ("differs", "crashed")] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
def test_nothing_is_silently_wrong_wherever_one_looks(name, tokens, tmp_path):
    found = verdicts(name, tmp_path, tokens, some=None)
    assert [what for what, outcome in found.items() if outcome in ("differs", "crashed")] == []
