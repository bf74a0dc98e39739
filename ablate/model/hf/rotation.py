"""RoPE in their configs: `rope_parameters`, or `rope_theta` and `rope_scaling` in older ones."""

import math
from typing import Any

from ablate.model.hf.family import CheckpointFormatError, shown
from ablate.spec import ModelSpec

# Their names of each scaling's options.
SCALINGS: dict[str, dict[str, str]] = {
    "default": {},
    "proportional": {},  # Gemma 4's: no scaling, but which pairs turn
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
        "attention_factor": "attention_factor",
        "truncate": "truncate",
    },
    "longrope": {
        "factor": "factor",
        "trained": "original_max_position_embeddings",
        "short": "short_factor",
        "long": "long_factor",
        "attention_factor": "attention_factor",
    },
}
OPTIONAL = (
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "truncate",
)  # transformers has defaults of these alone
THETA, FRACTION = ("rope_theta", "rotary_emb_base"), ("partial_rotary_factor", "rotary_pct")
OLD = ("rope_scaling", *THETA, *FRACTION)


def gather(
    config: dict[str, Any],
    theta: float,
    rotary_fraction: float,
    names: tuple[str, str] = (THETA[0], FRACTION[0]),
) -> dict[str, Any]:
    """The config with RoPE in `rope_parameters` alone, as transformers reads it.

    `theta` and `fraction` are the family's own; `names` are those it had for them outside of
    `rope_parameters`. Raises CheckpointFormatError where two places disagree.
    """
    config = dict(config)
    old = {key: config.pop(key) for key in OLD if config.get(key) is not None}
    new, scaling = config.pop("rope_parameters", None) or {}, old.get("rope_scaling") or {}
    for key, value in (("rope_parameters", new), ("rope_scaling", scaling)):
        if not isinstance(value, dict):
            raise CheckpointFormatError(f"{key} is {shown(value)}, and should be an object")
    usual = {
        "rope_theta": old.get(names[0], theta),
        "partial_rotary_factor": old.get(names[1], rotary_fraction),
    }
    parameters = _whole(scaling or new, usual)
    if scaling and new:
        _refuse_disagreement(_whole(new, usual), parameters)
    for key, aliases in (("rope_theta", THETA), ("partial_rotary_factor", FRACTION)):
        for alias in aliases:
            if alias in old and old[alias] != parameters[key]:
                raise CheckpointFormatError(
                    f"{alias} is {shown(old[alias])}, but transformers reads {shown(parameters[key])} as "
                    f"{key}; take {alias} out, or write it into rope_parameters"
                )
    trained = config.pop("original_max_position_embeddings", None)
    if parameters["rope_type"] in ("llama3", "yarn", "longrope"):
        if trained is None:
            trained = parameters.get(
                "original_max_position_embeddings", config.get("max_position_embeddings")
            )
        parameters["original_max_position_embeddings"] = trained
        if parameters["rope_type"] == "longrope":
            _refuse_unused_divisors(config.get("max_position_embeddings"), trained)
            if parameters.get("factor") is None:
                parameters["factor"] = ratio(config.get("max_position_embeddings"), trained)
    return {**{k: v for k, v in config.items() if k not in OLD}, "rope_parameters": parameters}


def _refuse_unused_divisors(context: Any, trained: Any) -> None:
    """LongRoPE within its trained context: transformers would still take `long_factor` beyond it."""
    if ratio(context, trained) == 1.0:
        raise CheckpointFormatError(
            f"rope_type longrope: max_position_embeddings, {context}, is not above the trained {trained}"
        )


def plain_turns_whole(rope: dict[str, Any]) -> dict[str, Any]:
    """RoPE of a family that turns the whole head where there is no scaling, whatever fraction is said."""
    plain = rope.get("rope_type", rope.get("type", "default")) == "default"
    return {**rope, "partial_rotary_factor": 1.0} if plain else rope


def ratio(context: Any, trained: Any) -> float:
    """Of a context to the trained one, at least 1. Raises CheckpointFormatError."""
    for value in (context, trained):
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise CheckpointFormatError(f"a context is {shown(value)}, and should be a number above 0")
    return max(1.0, float(context / trained))


def magnitude(factor: float, mscale: float) -> float:
    """0.1 m ln(factor) + 1: how much longer YaRN makes what it turns (DeepSeek's `mscale` m)."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _whole(given: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    kind = given.get("rope_type", given.get("type", "default"))
    return {**usual, **{key: value for key, value in given.items() if key != "type"}, "rope_type": kind}


def _refuse_disagreement(new: dict[str, Any], scaling: dict[str, Any]) -> None:
    """`rope_scaling` wins in transformers 5, and then nothing of `rope_parameters` counts."""
    said = ("rope_theta", "partial_rotary_factor") if new["rope_type"] == "default" else tuple(new)
    lost = [key for key in said if new[key] is not None and new[key] != scaling.get(key)]
    if lost:
        key = lost[0]
        raise CheckpointFormatError(
            f"{key} is {shown(new[key])} in rope_parameters, and transformers, for which rope_scaling alone "
            f"counts, takes {shown(scaling.get(key))}; keep one of the two, with {key} in it"
        )


def read(parameters: dict[str, Any]) -> dict[str, Any]:
    """Our position. Raises CheckpointFormatError for a scaling that is not among ours."""
    rest = dict(parameters)
    if not isinstance(rest.get("truncate", True), bool):
        raise CheckpointFormatError(f"truncate is {shown(rest['truncate'])}, and should be true or false")
    kind = rest.pop("rope_type")
    position = {
        "name": "rope",
        "base": rest.pop("rope_theta"),
        "rotary_fraction": rest.pop("partial_rotary_factor"),
    }
    if not isinstance(kind, str) or kind not in SCALINGS:
        raise CheckpointFormatError(f"rope_type {shown(kind)} is not among ours: {', '.join(SCALINGS)}")
    if kind == "proportional":
        position["proportional"] = True
    scaling: dict[str, Any] = {"name": "none" if kind in ("default", "proportional") else kind}
    for ours, theirs in SCALINGS[kind].items():
        value = rest.pop(theirs, None)
        if value is None and theirs not in OPTIONAL:
            raise CheckpointFormatError(f"rope_type {kind}: {theirs} is missing")
        if value is not None:
            scaling[ours] = value
    numbers = {"rope_theta": position["base"], "partial_rotary_factor": position["rotary_fraction"]}
    _spell_magnitude(kind, scaling, rest)
    for name in ("short", "long"):
        if not isinstance(scaling.get(name, []), list):
            raise CheckpointFormatError(f"{name}_factor is {shown(scaling[name])}, and should be a list")
    listed = ("short", "long", "truncate")
    for name, value in {
        **numbers,
        **{SCALINGS[kind][k]: v for k, v in scaling.items() if k not in ("name", *listed)},
    }.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointFormatError(f"{name} is {shown(value)}, and should be a number")
    left = {key for key, value in rest.items() if value is not None}
    nested = {key for key in left if isinstance(rest[key], dict)}
    if left and (kind != "default" or nested):
        raise CheckpointFormatError(f"rope_type {kind}: no option of ours means {', '.join(sorted(left))}")
    return {**position, "scaling": scaling}


def _spell_magnitude(kind: str, scaling: dict[str, Any], rest: dict[str, Any]) -> None:
    """YaRN's `mscale` and `mscale_all_dim` as the one factor that they make together."""
    if kind != "yarn":
        return
    above, below = rest.pop("mscale", None), rest.pop("mscale_all_dim", None)
    for value in (above, below, scaling["factor"]):
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise CheckpointFormatError(f"rope_type yarn: {shown(value)} should be a number")
    if "attention_factor" not in scaling and above and below:
        factor = scaling["factor"]
        scaling["attention_factor"] = magnitude(factor, above) / magnitude(factor, below)


def refuse_degenerate(spec: ModelSpec) -> None:
    """YaRN whose slowest pair comes before the fastest, in any layer: transformers computes another ramp
    there. Raises CheckpointFormatError."""
    for position in spec.distinct_positions():
        scaling: Any = getattr(position, "scaling", None)
        if scaling is not None and scaling.name == "yarn":
            _refuse_degenerate_ramp(scaling, position, spec.shape().head_width)


def _refuse_degenerate_ramp(scaling: Any, position: Any, usual_width: int) -> None:
    """Of one position, in heads of `usual_width` channels where it names no width of its own."""
    turned = int((position.head_width or usual_width) * position.rotary_fraction)

    def pair(turns: float) -> float:
        """Which pair turns this often within the trained context."""
        return turned * math.log(scaling.trained / (turns * 2 * math.pi)) / (2 * math.log(position.base))

    if min(math.ceil(pair(scaling.slow)), turned - 1) < max(math.floor(pair(scaling.fast)), 0):
        raise CheckpointFormatError(
            f"rope_type yarn: no pair turns {scaling.slow} times in {scaling.trained} trained positions, so "
            "where the ramp lies is not defined"
        )


def write(position: dict[str, Any]) -> dict[str, Any]:
    """Their `rope_parameters`; a scaling that they lack is left out, which reading it back shows."""
    if position["name"] != "rope":
        return {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0}
    scaling = position["scaling"]
    kind = scaling["name"] if scaling["name"] in SCALINGS else "default"
    if kind == "default" and position.get("proportional"):
        kind = "proportional"
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
