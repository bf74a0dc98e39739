"""RoPE in their configs: `rope_parameters`, or `rope_theta` and `rope_scaling` in older ones."""

from typing import Any

from ablate.model.hf.family import Unreadable

# Their names of each scaling's options.
SCALINGS: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low": "low_freq_factor",
        "high": "high_freq_factor",
        "trained": "original_max_position_embeddings",
    },
    "yarn": {
        "factor": "factor",
        "trained": "original_max_position_embeddings",
        "fast": "beta_fast",
        "slow": "beta_slow",
        "gain": "attention_factor",
    },
}
OLD = ("rope_theta", "rotary_emb_base", "rope_scaling", "partial_rotary_factor", "rotary_pct")


def gather(config: dict[str, Any], theta: float, rotary_fraction: float) -> dict[str, Any]:
    """The config with RoPE in `rope_parameters` alone; `theta` and `fraction` are the family's own."""
    config = dict(config)
    old = {key: config.pop(key) for key in OLD if config.get(key) is not None}
    parameters = dict(config.pop("rope_parameters", None) or old.get("rope_scaling") or {})
    parameters.setdefault("rope_type", parameters.pop("type", "default"))
    parameters.setdefault("rope_theta", old.get("rope_theta", old.get("rotary_emb_base", theta)))
    parameters.setdefault(
        "partial_rotary_factor", old.get("partial_rotary_factor", old.get("rotary_pct", rotary_fraction))
    )
    trained = config.pop("original_max_position_embeddings", None)
    if parameters["rope_type"] in ("llama3", "yarn"):
        trained = trained or parameters.get("original_max_position_embeddings")
        parameters["original_max_position_embeddings"] = trained or config.get("max_position_embeddings")
    return {**{k: v for k, v in config.items() if k not in OLD}, "rope_parameters": parameters}


def read(parameters: dict[str, Any]) -> dict[str, Any]:
    """Our position. Raises Unreadable for a scaling that is not among ours."""
    rest = dict(parameters)
    kind = rest.pop("rope_type")
    rest.pop("type", None)
    position = {
        "name": "rope",
        "base": rest.pop("rope_theta"),
        "rotary_fraction": rest.pop("partial_rotary_factor"),
    }
    if kind not in SCALINGS:
        raise Unreadable(f"rope_type {kind!r} is not among ours: {', '.join(SCALINGS)}")
    scaling: dict[str, Any] = {"name": "none" if kind == "default" else kind}
    for ours, theirs in SCALINGS[kind].items():
        value = rest.pop(theirs, None)
        if value is not None:
            scaling[ours] = value
    left = {key for key, value in rest.items() if value is not None and (key, value) != ("truncate", True)}
    if left and kind != "default":
        raise Unreadable(f"rope_type {kind}: no option of ours means {', '.join(sorted(left))}")
    return {**position, "scaling": scaling}


def write(position: dict[str, Any]) -> dict[str, Any]:
    """Their `rope_parameters`; a scaling that they lack is left out, which reading it back shows."""
    if position["name"] != "rope":
        return {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0}
    scaling = position["scaling"]
    kind = scaling["name"] if scaling["name"] in SCALINGS else "default"
    values = {theirs: scaling[ours] for ours, theirs in SCALINGS[kind].items()}
    if "original_max_position_embeddings" in values:  # whole in their configs; reading back shows a fraction
        values["original_max_position_embeddings"] = int(values["original_max_position_embeddings"])
    rotary_fraction = {"partial_rotary_factor": position["rotary_fraction"]}
    return {"rope_type": kind, "rope_theta": position["base"], **rotary_fraction, **values}


def for_older_readers(parameters: dict[str, Any], usual: float, names: tuple[str, str]) -> dict[str, Any]:
    """The same also as transformers 4 has it, which would otherwise take its defaults. A `usual` fraction
    is left out where it is the whole head."""
    parameters = dict(parameters)
    rotary_fraction = parameters.pop("partial_rotary_factor")
    if (rotary_fraction, usual) != (1.0, 1.0):
        parameters["partial_rotary_factor"] = rotary_fraction
    scaled = parameters["rope_type"] != "default"
    old = {names[0]: parameters["rope_theta"], "rope_scaling": parameters if scaled else None}
    if "partial_rotary_factor" in parameters:
        old[names[1]] = rotary_fraction
    return {"rope_parameters": parameters, **old}
