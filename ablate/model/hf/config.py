"""config.json, read and written by a family's table."""

from collections.abc import Collection
from typing import Any

from pydantic import ValidationError

from ablate.explain import explain
from ablate.model.hf import rotation
from ablate.model.hf.canonical import canonical, differences, place, value_at
from ablate.model.hf.family import REQUIRED, CheckpointFormatError, ExportError, Family, Option, shown
from ablate.spec import ModelSpec, override

# Keys of any config that change nothing in evaluation.
_HARMLESS = {
    *("_name_or_path", "name_or_path", "_commit_hash", "architectures", "attention_dropout", "auto_map"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    *("dtype", "torch_dtype", "id2label", "label2id", "num_labels", "problem_type", "task_specific_params"),
    *("initializer_range", "is_encoder_decoder", "model_type", "output_attentions", "is_decoder"),
    *("output_hidden_states", "return_dict", "return_dict_in_generate", "transformers_version", "use_cache"),
    *("chunk_size_feed_forward", "finetuning_task", "tokenizer_class", "prefix", "pretraining_tp"),
    *("torchscript", "use_bfloat16", "tf_legacy_loss", "tie_encoder_decoder", "_attn_implementation"),
    *(
        "_attn_implementation_autoset",
        "attn_implementation",
        "_flash_attn_2_enabled",
        "transformers.js_config",
    ),
    *("is_llama_config", "unsloth_version", "unsloth_fixed"),
    # of how text is drawn, in configs from before generation_config.json
    *("do_sample", "temperature", "top_k", "top_p", "typical_p", "num_beams", "num_beam_groups"),
    *("max_length", "min_length", "max_new_tokens", "repetition_penalty", "length_penalty", "early_stopping"),
    *("no_repeat_ngram_size", "num_return_sequences", "diversity_penalty", "output_scores"),
    *("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "remove_invalid_values"),
    *("forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty"),
    *("encoder_no_repeat_ngram_size", "cross_attention_hidden_size"),
}
# Keys of any config with the values that change nothing; with another, they would.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "rope_interleaved": (False,),
    "use_mrope": (False,),
    "use_qk_norm": (False,),
    "qk_layernorm": (False,),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({},),
    "quantization_config": ({},),
    "embedding_multiplier": (1, 1.0),
    "logits_scaling": (1, 1.0),
    "residual_multiplier": (1, 1.0),
}
MOST_NUMBER = 2**31 - 1  # no number of a config is larger
_MOST = {"depth": 100_000, "ffn.experts": 100_000}  # nor these, of which each is looked at


def read_config(config: dict[str, Any], family: Family, ignore: Collection[str] = ()) -> ModelSpec:
    """The model of a config.json, without the keys of `ignore`, which must be none that has a meaning here.

    Raises CheckpointFormatError for a key with a meaning that no option has, or that is not known at all.
    """
    try:
        return _read(_without(config, ignore, family), family)
    except CheckpointFormatError:
        raise
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise CheckpointFormatError(
            f"{family.name} config: a value is of another kind than transformers writes ({error}); compare "
            "it with the config.json that was published"
        ) from error


def _read(config: dict[str, Any], family: Family) -> ModelSpec:
    given = family.unpack(config)
    if any(option.theirs == "rope_parameters" for option in family.options):
        given = rotation.gather(given, family.theta, family.rotary_fraction, family.old_rope)
    _refuse_unknown(given, family)

    tree: dict[str, Any] = {"embedding": {"norm": "none"}, "head": {}, "init": "gpt2", "kernel": "auto"}
    for path, value in family.always.items():
        place(tree, path, _copied(value))
    for option in family.options:
        value = given.get(option.theirs, option.default)
        if value is REQUIRED:
            raise CheckpointFormatError(f"{family.name} config: {option.theirs} is missing")
        _refuse_mistyped(option, value, family)
        place(tree, option.ours, option.read(value))
    if family.windows:
        _place_windows(tree, family.windows(given))
    if family.axes:
        tree = _layered(tree, [axis.read(given) for axis in family.axes])
    try:
        spec = ModelSpec.model_validate(tree)
    except ValidationError as error:
        raise CheckpointFormatError(f"{family.name} config: {'; '.join(explain(error))}") from None
    broken = _broken(canonical(spec), family)
    if broken:
        raise CheckpointFormatError(f"{family.name} config: {'; '.join(broken)}")
    rotation.refuse_degenerate(spec)
    return spec


def _copied(tree: Any) -> Any:
    """A copy in which nothing is shared, though tables may name one mapping twice."""
    return {key: _copied(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def _without(config: dict[str, Any], ignore: Collection[str], family: Family) -> dict[str, Any]:
    for key in ignore:
        if key not in config:
            there = ", ".join(sorted(config))
            raise CheckpointFormatError(f"--ignore {key}: config.json has no such key; it has {there}")
        if key in _known(family) or key in (*rotation.OLD, *family.nested):
            raise CheckpointFormatError(
                f"--ignore {key}: this key decides what a {family.name} computes; change it instead"
            )
    return {key: value for key, value in config.items() if key not in ignore}


def _refuse_mistyped(option: Option, value: Any, family: Family) -> None:
    """By the type of the default: a flag, a text, an object or a number; null where transformers has one."""
    wanted: tuple[type, ...] = (int, float, type(None))
    if isinstance(option.default, bool | str):
        wanted = (type(option.default),)
    elif option.theirs.startswith("rope_parameters") or isinstance(option.default, dict):
        wanted = (dict,)
    elif isinstance(option.default, tuple):
        wanted = (list, tuple)
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        said = {bool: "true or false", str: "a text", dict: "an object", list: "a list"}.get(
            wanted[0], "a number"
        )
        raise CheckpointFormatError(
            f"{family.name} config: {option.theirs} is {shown(value)}, and should be {said}"
        )
    most = _MOST.get(option.ours, MOST_NUMBER)
    if isinstance(value, int | float) and not abs(value) <= most:
        raise CheckpointFormatError(
            f"{family.name} config: {option.theirs} is {shown(value)}, more than any model has ({most})"
        )


def write_config(spec: ModelSpec, family: Family) -> dict[str, Any]:
    """Only `blockers` tells whether it means the same model. Raises ExportError."""
    config, unsaid = _written(spec, family)
    if unsaid:
        raise ExportError("; ".join(unsaid))
    return config


def _written(spec: ModelSpec, family: Family) -> tuple[dict[str, Any], list[str]]:
    """The nearest config.json, and which options it has no words for."""
    model = canonical(spec)
    config: dict[str, Any] = {}
    unsaid = []
    for option in family.options:
        try:
            config[option.theirs] = option.write(_found(model, option.ours, family))
        except ExportError as error:
            unsaid.append(str(error))
        except KeyError:  # a part of another name: its absence is found when the config is read back
            if option.default is REQUIRED:
                config[option.theirs] = 1
    if family.windows:
        windows = [layer["attention"].get("window") for layer in model["layers"]]
        kinds = ["sliding_attention" if window else "full_attention" for window in windows]
        config |= {"sliding_window": max((w for w in windows if w), default=None), "layer_types": kinds}
    for number, axis in enumerate(family.axes):
        config |= axis.write(_kinds(model, family)[number])
    if isinstance(config.get("rope_parameters"), dict):
        config |= rotation.for_older_readers(
            config["rope_parameters"], family.rotary_fraction, family.old_rope
        )
    packed = family.pack(config)
    return {"model_type": family.name, "architectures": [family.architecture], **packed}, unsaid


WORDLESS = "some parts have no words in its config"


def blockers(spec: ModelSpec, family: Family) -> list[str]:
    """All options that keep a family from expressing a model: what its config cannot give back."""
    model = canonical(spec)
    try:
        config, unsaid = _written(spec, family)
    except (KeyError, TypeError, IndexError, ValueError):  # its config has no place for parts of these names
        return [*_broken(model, family), WORDLESS]
    if family.whole_heads and spec.width % spec.heads:
        unsaid.append(
            f"width {spec.width} is not a multiple of heads {spec.heads} ({family.name} in transformers)"
        )
    for name in ("width", "ffn.expert.width") if family.grain > 1 else ():
        width = _or_none(model, name)
        if width is not None and width % family.grain:
            unsaid.append(
                f"{name} {width} is not a multiple of {family.grain} ({family.name} in transformers)"
            )
    try:
        back = read_config(config, family)
    except CheckpointFormatError as error:
        return [*_broken(model, family), *unsaid, str(error)]
    lost = differences(model, canonical(back))
    said = " ".join(unsaid)
    return [
        f"{path} is {ours!r} ({family.name}: {theirs!r})" for path, ours, theirs in lost if path not in said
    ] + unsaid


def _kinds(model: dict[str, Any], family: Family) -> list[list[str]]:
    """For each axis, the kind of each layer."""
    return [[axis.kind(layer) for layer in model["layers"]] for axis in family.axes]


def _found(model: dict[str, Any], path: str, family: Family) -> Any:
    """As `lookup`; what stands in a variant is found in the first layer of that kind. Where layers have norms
    of their own, `norm` is the last one."""
    varied = any("norm" in patch for patch in family.always.get("variants", {}).values())
    if varied and path.startswith("norm."):
        return value_at(model, f"final_{path}")
    if not path.startswith("variants."):
        return value_at(model, path)
    _, kind, inside = path.split(".", 2)
    for layers in _kinds(model, family):
        if kind in layers:
            return value_at({**model, "layers": [model["layers"][layers.index(kind)]]}, inside)
    raise KeyError(path)


def _layered(tree: dict[str, Any], kinds: list[list[str]]) -> dict[str, Any]:
    """The tree with its layers: one common layer where they are alike, or the shortest pattern. The common
    norm is that after the last layer, so layers with another are a pattern of their own."""
    patches = tree.pop("variants", {})
    of_layers = list(zip(*kinds, strict=True))
    variants: dict[str, Any] = {}
    for layer in of_layers:
        patch: Any = {}
        for kind in layer:
            patch = override(patch, patches.get(kind, {}))
        variants["_".join(layer)] = patch
    alike = next(iter(variants.values()))
    if len(variants) == 1 and ("norm" not in alike or override(tree["norm"], alike["norm"]) == tree["norm"]):
        whole: dict[str, Any] = override(tree, alike)
        return whole
    names = ["_".join(layer) for layer in of_layers]
    return {**tree, "variants": variants, "pattern": names[: _period(names)]}


def _period(items: list[Any]) -> int:
    """The length of the shortest beginning that is repeated to the end."""
    return next(
        p for p in range(1, len(items) + 1) if all(item == items[n % p] for n, item in enumerate(items))
    )


def _or_none(model: dict[str, Any], path: str) -> Any:
    try:
        return value_at(model, path)
    except KeyError:
        return None


def _broken(model: dict[str, Any], family: Family) -> list[str]:
    """What every model of the family has, and this one does not."""
    wrong = []
    patches = family.always.get("variants", {}).values()
    varied = {part for patch in patches for part in patch}
    patched = {path for patch in patches for path, _ in _leaves(patch)}
    said = {option.ours for option in family.options}
    for path, value in _leaves(family.always):
        part, _, option = path.partition(".")
        if part == "variants" or path in patched or path in said:
            continue  # what stands in its place is compared when the config is read back
        holders = [model]
        if part in varied:  # an option holds in each layer that has the part
            name = family.always[part].get("name")
            layers = model["layers"] if option != "name" else []
            holders = [{**model, "layers": [layer]} for layer in layers if layer[part]["name"] == name]
        for holder in holders:
            try:
                found = value_at(holder, path)
            except KeyError:
                break  # the part's name, which comes first, is said already
            if sorted(found) != sorted(value) if isinstance(value, list) else found != value:
                wrong.append(f"{path.removesuffix('.name')} is {found!r} ({family.name}: {value!r})")
                break
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
    tree["variants"] = {"local": {"attention": {"window": max(w for w in windows if w)}}, "global": {}}
    tree["pattern"] = ["local" if window else "global" for window in windows[: _period(windows)]]


def _known(family: Family) -> set[str]:
    """The keys that decide what the family computes."""
    known = {*family.must, *(option.theirs for option in family.options)}
    known |= {key for axis in family.axes for key in axis.keys}
    return known | {"layer_types", "sliding_window"} if family.windows else known


def _refuse_unknown(config: dict[str, Any], family: Family) -> None:
    for key, allowed in family.must.items():
        value = config.get(key, allowed[0])
        if value not in allowed:
            raise CheckpointFormatError(
                f"{family.name} config: {key} is {shown(value)}; only {allowed[0]!r} can be expressed"
            )
    for key in ("initializer_range", "embedding_initializer_range"):  # transformers draws before it loads
        if isinstance(config.get(key), int | float) and config[key] < 0:
            raise CheckpointFormatError(f"{key} is {shown(config[key])}, and should be at least 0")
    known = {*_HARMLESS, *family.harmless, *_known(family)}
    unknown = sorted(
        key
        for key, value in config.items()
        if key not in known and value is not None and value not in NEUTRAL.get(key, ())
    )
    if unknown:
        raise CheckpointFormatError(
            f"{family.name} config: unknown {', '.join(unknown)}; `python -m ablate import --ignore KEY` "
            "leaves out what changes nothing in evaluation"
        )
