"""The import hunt: what is done to a config.json, and the judge of an import.

An import must give transformers' logits, or refuse with a line. What is silently wrong must be nothing.
`python tests/support/import_hunt.py OUT [NAMES...]` hunts the models named, or all, and writes the counts.
"""

import copy
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import torch
from support.tiny_families import TINY
from support.tiny_families import theirs as their_own
from test_hf import CONFIGS, theirs

from ablate.model.decoder import Decoder
from ablate.model.hf import CheckpointFormatError, import_folder, import_spec
from ablate.model.hf.family import unfolded
from ablate.parts import indexer

CLOSE = 1e-5
Outcome = Literal["agrees", "refused", "only we read it", "differs", "crashed"]
SILENT: tuple[Outcome, ...] = ("differs", "crashed")
Config = dict[str, Any]
MODELS: dict[str, tuple[str, dict[str, Any]]] = {**CONFIGS, **TINY}


PERIODS = ("sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers")
PERIODS += ("full_attention_interval", "no_rope_layer_interval", "first_k_dense_replace")


class Spoiled(NamedTuple):
    """A config.json, and in words what was done to it."""

    what: str
    config: Config


# ---------------------------------------------------------------------------------------- what is tried

DELETED = object()
COMMON = {  # what every config of transformers has, spoiled in the models of `test_hf` alone
    *("_name_or_path", "architectures", "chunk_size_feed_forward", "dtype", "id2label", "label2id"),
    *("problem_type", "return_dict", "transformers_version", "output_attentions", "output_hidden_states"),
    *("use_cache", "is_encoder_decoder"),
}


def others(value: Any) -> list[Any]:
    """Other values of the same type, and of none."""
    if isinstance(value, bool):
        return [not value, str(value).lower(), None]
    if isinstance(value, int):
        return [2 * value, value // 2, value + 1, value + 5, 0, -1, float(value), str(value), None]
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


def layered_ropes(config: Config) -> Iterator[Spoiled]:
    """Where each kind of layer has a RoPE of its own: every kind of scaling in each, and the older keys."""
    rope = config["rope_parameters"]
    kinds_of_layers = [key for key, inside in rope.items() if isinstance(inside, dict)]
    for layers in kinds_of_layers:
        for kind, options in KINDS.items():
            for theta in ({"rope_theta": 500.0}, {}):
                inside = {"rope_type": kind.split()[0], **options, **theta}
                spoiled = config | {"rope_parameters": {**rope, layers: inside}}
                yield Spoiled(f"rope of {layers} {kind}, theta {'inside' if theta else 'nowhere'}", spoiled)
        for part in (0.5, 0.25):
            for kind in ("default", "proportional"):
                inside = {"rope_type": kind, "rope_theta": 500.0, "partial_rotary_factor": part}
                spoiled = config | {"rope_parameters": {**rope, layers: inside}}
                yield Spoiled(f"rope of {layers} {kind}, {part} of a head turns", spoiled)
    bare = {key: value for key, value in config.items() if key not in ROPE}
    for key, value in {
        "rope_theta": 500.0,
        "rope_local_base_freq": 700.0,
        "global_rope_theta": 500.0,
        "local_rope_theta": 700.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    }.items():
        if kinds_of_layers:
            yield Spoiled(f"{key} beside the ropes of layers", config | {key: value})
            yield Spoiled(f"{key} in place of the ropes of layers", bare | {key: value})


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


class Hunted:
    """A tiny model of transformers in a folder, its config.json with every key, and the judge of others."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder = name, folder
        model = (theirs if name in CONFIGS else their_own)(name)
        model.save_pretrained(folder)
        written = json.loads((folder / "config.json").read_text())
        self.config: Config = {**json.loads(model.config.to_json_string(use_diff=False)), **written}
        self.state = model.state_dict()
        self.tokens = torch.randint(50, (2, 20), generator=torch.Generator().manual_seed(0))
        self.known: dict[str, torch.Tensor] = {}  # our logits, by specification and what weights take in

    def judge(self, config: Config) -> Outcome:
        """An import of the folder with another config.json, beside what transformers makes of it."""
        (self.folder / "config.json").write_text(json.dumps(config))
        try:
            ours = self.ours(config)
        except CheckpointFormatError:
            return "refused"
        except Exception:  # any other is a traceback to the user
            return "crashed"
        expected = self.built()
        if expected is not None and close(ours, expected):
            return "agrees"
        expected = self.loaded(torch.float32)
        if expected is None:
            return "only we read it"
        if close(ours, expected):
            return "agrees"
        finer = self.loaded(torch.float64)  # a true difference stays where rounding goes
        if finer is not None and close(self.computed(torch.float64), finer.double()):
            return "agrees"
        settled = self.before_ties()
        return "agrees" if settled.any() and close(ours[settled], expected[settled]) else "differs"

    def ours(self, config: Config) -> torch.Tensor:
        family, spec = import_spec(self.folder)
        held = spec.model_dump_json() + ("" if family.fold is unfolded else json.dumps(config))
        if held not in self.known:
            self.known[held] = self.computed(torch.float32)
        return self.known[held]

    def computed(self, dtype: torch.dtype) -> torch.Tensor:
        spec, state = import_folder(self.folder)
        decoder = Decoder(spec)
        decoder.load_state_dict(state)
        with torch.no_grad():
            logits: torch.Tensor = decoder.to(dtype).eval()(self.tokens)
        return logits

    def before_ties(self) -> torch.Tensor:
        """The places (B, T) of each row before an indexer of any layer has two scores so near to each other
        that rounding decides which key it takes; none where nothing is chosen."""
        settled, chosen = torch.ones(self.tokens.shape, dtype=torch.bool), []

        def watched(score: torch.Tensor, seen: torch.Tensor, k: int) -> torch.Tensor:
            chosen.append(k)
            if k < score.shape[-1]:
                best = score.masked_fill(~seen, -torch.inf).topk(k + 1, -1).values
                near = (best[..., -2] - best[..., -1] < CLOSE * best[..., -2].abs()) | (best[..., -2] == 0)
                settled.logical_and_((near & best[..., -1].isfinite()).reshape(settled.shape).cumsum(-1) == 0)
            return best_keys(score, seen, k)

        best_keys = indexer.best
        with patch.object(indexer, "best", watched):
            self.computed(torch.float32)
        return settled if chosen else torch.zeros_like(settled)

    def built(self) -> torch.Tensor | None:
        """transformers' logits, by its class and the tensors in memory; None where they do not fit."""
        from transformers import AutoConfig, AutoModelForCausalLM

        try:
            config = AutoConfig.from_pretrained(self.folder)
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
            model.load_state_dict(self.state)
            with torch.no_grad():
                logits: torch.Tensor = model.eval()(self.tokens, use_cache=False).logits
        except Exception:  # whatever transformers says of a spoiled config
            return None
        return logits

    def loaded(self, dtype: torch.dtype) -> torch.Tensor | None:
        """transformers' logits, as a user gets them; None where it does not read the folder, or draws
        tensors anew."""
        from transformers import AutoModelForCausalLM

        try:
            how = {
                "attn_implementation": "eager",
                "experts_implementation": "eager",
            }  # others know no float64
            model, loading = AutoModelForCausalLM.from_pretrained(
                self.folder, output_loading_info=True, dtype=dtype, **how
            )
            if any(loading.get(key) for key in ("missing_keys", "mismatched_keys", "error_msgs")):
                return None
            with torch.no_grad():
                logits: torch.Tensor = model.eval()(self.tokens, use_cache=False).logits
        except Exception:  # whatever transformers says of a spoiled config
            return None
        return logits


def close(ours: torch.Tensor, expected: torch.Tensor) -> bool:
    """To 1e-5 of the largest logit, and of 1 where that is less."""
    return torch.allclose(
        ours, expected, atol=CLOSE * max(1.0, expected.abs().max().item()), rtol=0, equal_nan=True
    )


def unlisted(config: Config) -> Iterator[Spoiled]:
    """A list of one word a layer left out, and then each whole number scaled: some say it in its place."""
    depth = next((config[key] for key in ("num_hidden_layers", "n_layer", "num_layers") if key in config), 0)
    for key in [key for key, value in config.items() if isinstance(value, list) and len(value) == depth]:
        rest = {name: value for name, value in config.items() if name != key}
        for name in PERIODS:
            for period in (2, 3):
                yield Spoiled(f"{key} deleted, {name} {period} added", rest | {name: period})
        for name, value in rest.items():
            if isinstance(value, int) and not isinstance(value, bool) and not name.endswith("_id"):
                for other in (2, value + 1):
                    yield Spoiled(f"{key} deleted, {name} {other}", rest | {name: other})


def spoilings(name: str, config: Config) -> list[Spoiled]:
    """All that is tried of a model. RoPE in every style is tried of the first model of each family."""
    first = next(n for n, (kind, _) in MODELS.items() if kind == MODELS[name][0]) == name
    rope = config.get("rope_parameters")
    styles: list[Spoiled] = []
    if isinstance(rope, dict) and (first or name in CONFIGS):
        styles = [*rope_styles(config), *fractions(config), *layered_ropes(config)]
    keys = [each for each in one_key(config) if name in CONFIGS or key_of(each) not in COMMON]
    return [*keys, *added(config), *unlisted(config), *styles]


def key_of(spoiled: Spoiled) -> str:
    """The first key that was spoiled."""
    return spoiled.what.split()[0].split(".")[0]


def verdicts(name: str, folder: Path, some: int | None = None) -> dict[str, Outcome]:
    """The outcome of each spoiled config; of a few of them, drawn at random, if `some` says how many."""
    hunted = Hunted(name, folder)
    assert hunted.judge(hunted.config) == "agrees", name
    tried = spoilings(name, hunted.config)
    if some is not None:
        tried = random.Random(name).sample(tried, some)
    return {spoiled.what: hunted.judge(spoiled.config) for spoiled in tried}


def hunt(out: Path, names: list[str]) -> None:
    """One line of `out` a model; models that have one already are left out."""
    done = {json.loads(line)["name"] for line in out.read_text().splitlines()} if out.exists() else set()
    for name in [name for name in names or MODELS if name not in done]:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = verdicts(name, Path(folder))
        line = {"name": name, "family": MODELS[name][0], "seconds": round(time.monotonic() - begun)}
        line |= {"counts": Counter(found.values())}
        line |= {"silent": {what: outcome for what, outcome in found.items() if outcome in SILENT}}
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    hunt(Path(sys.argv[1]), sys.argv[2:])
