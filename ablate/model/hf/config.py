"""config.json, read and written by a family's table."""

from copy import deepcopy
from typing import Any

from pydantic import ValidationError

from ablate.model.hf import rotation
from ablate.model.hf.canonical import canonical, differences, lookup, place
from ablate.model.hf.family import REQUIRED, Family, Inexpressible, Unreadable
from ablate.spec import ModelSpec, explain

# Keys of any config that change nothing in evaluation.
HARMLESS = {
    *("_name_or_path", "architectures", "attention_dropout", "auto_map", "chunk_size_feed_forward"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype", "id2label", "label2id"),
    *("initializer_range", "is_encoder_decoder", "model_type", "output_attentions"),
    *("output_hidden_states", "problem_type", "return_dict", "transformers_version", "use_cache"),
}


def read_config(config: dict[str, Any], family: Family) -> ModelSpec:
    """Raises Unreadable for a key with a meaning that no option has, or that is not known at all."""
    given = family.unpack(config)
    turns = any(option.theirs == "rope_parameters" for option in family.options)
    if turns:
        given = rotation.gather(given, family.theta, family.rotary_fraction)
    _refuse_unknown(given, family)

    tree: dict[str, Any] = {"embedding": {"norm": "none"}, "head": {}, "init": "gpt2", "kernel": "auto"}
    for path, value in family.always.items():
        place(tree, path, deepcopy(value))
    for option in family.options:
        value = given.get(option.theirs, option.default)
        if value is REQUIRED:
            raise Unreadable(f"{family.name} config: {option.theirs} is missing")
        place(tree, option.ours, option.read(value))
    if family.windows:
        _place_windows(tree, family.windows(given))
    try:
        spec = ModelSpec.model_validate(tree)
    except ValidationError as error:
        raise Unreadable(f"{family.name} config: {'; '.join(explain(error))}") from None
    broken = _broken(canonical(spec), family)
    if broken:
        raise Unreadable(f"{family.name} config: {'; '.join(broken)}")
    return spec


def write_config(spec: ModelSpec, family: Family) -> dict[str, Any]:
    """Only `blockers` tells whether it means the same model."""
    model = canonical(spec)
    config: dict[str, Any] = {}
    for option in family.options:
        try:
            value = lookup(model, option.ours)
        except KeyError:
            continue  # a part of another name: its absence is found when the config is read back
        config[option.theirs] = option.write(value)
    if family.windows:
        windows = [layer["attention"].get("window") for layer in model["layers"]]
        kinds = ["sliding_attention" if window else "full_attention" for window in windows]
        config |= {"sliding_window": max((w for w in windows if w), default=None), "layer_types": kinds}
    if "rope_parameters" in config:
        config |= rotation.for_older_readers(
            config["rope_parameters"], family.rotary_fraction, family.old_rope
        )
    return {"model_type": family.name, "architectures": [family.architecture], **family.pack(config)}


def blockers(spec: ModelSpec, family: Family) -> list[str]:
    """The options that keep a family from expressing a model: what its config cannot give back."""
    model = canonical(spec)
    wrong = _broken(model, family)
    if wrong:
        return wrong
    try:
        back = read_config(write_config(spec, family), family)
    except (Inexpressible, Unreadable) as error:
        return [str(error)]
    return [
        f"{path} is {ours!r} ({family.name}: {theirs!r})"
        for path, ours, theirs in differences(model, canonical(back))
    ]


def _broken(model: dict[str, Any], family: Family) -> list[str]:
    """What every model of the family has, and this one does not."""
    wrong = []
    for path, value in _leaves(family.always):
        try:
            found = lookup(model, path)
        except KeyError:
            continue  # the part's name, which comes first, is said already
        if sorted(found) != sorted(value) if isinstance(value, list) else found != value:
            wrong.append(f"{path.removesuffix('.name')} is {found!r} ({family.name}: {value!r})")
    return wrong


def _leaves(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    """(path, value), the name of a part before its options; `sqrt_width` is a number elsewhere."""
    if isinstance(tree, dict) or hasattr(tree, "items"):
        return [leaf for key, value in tree.items() for leaf in _leaves(value, f"{path}.{key}".strip("."))]
    if tree == "sqrt_width":
        return []
    return [(f"{path}.name" if path in ("norm", "placement", "topology", "position") else path, tree)]


def _place_windows(tree: dict[str, Any], windows: list[int | None]) -> None:
    """One window for all layers, or the shortest pattern of layers with one and layers without."""
    if len(set(windows)) == 1:
        place(tree, "attention", {"window": windows[0]})
        return
    period = next(
        p for p in range(1, len(windows) + 1) if all(w == windows[n % p] for n, w in enumerate(windows))
    )
    tree["variants"] = {"local": {"attention": {"window": max(w for w in windows if w)}}, "global": {}}
    tree["pattern"] = ["local" if window else "global" for window in windows[:period]]


def _refuse_unknown(config: dict[str, Any], family: Family) -> None:
    for key, allowed in family.must.items():
        value = config.get(key, allowed[0])
        if value not in allowed:
            raise Unreadable(
                f"{family.name} config: {key} is {value!r}; only {allowed[0]!r} can be expressed"
            )
    known = {*HARMLESS, *family.harmless, *family.must, *(option.theirs for option in family.options)}
    if family.windows:
        known |= {"layer_types", "sliding_window"}
    unknown = sorted(key for key, value in config.items() if key not in known and value is not None)
    if unknown:
        raise Unreadable(
            f"{family.name} config: unknown {', '.join(unknown)}; take out what changes nothing in evaluation"
        )
