"""Fewer key-value heads for a trained model: each new head is the mean of those it replaces."""

from typing import Any

from torch import Tensor

from ablate.spec import ModelSpec, override

POOLED = ("attention.k.weight", "attention.k.bias", "attention.v.weight", "attention.v.bias")


def pool_heads(
    state: dict[str, Tensor], spec: ModelSpec, kv_heads: int
) -> tuple[ModelSpec, dict[str, Tensor]]:
    """The specification and state with `kv_heads` key-value heads in every layer, to be trained on for a
    while (Ainslie et al. 2023, arXiv:2305.13245, section 2.1, "mean pooling"). Heads that were equal
    already are replaced without a change of the function.

    Raises ValueError where kv_heads does not divide a layer's, or where keys are normed over the whole
    width, whose statistics the pooling would change.
    """
    state = dict(state)
    for n, layer in enumerate(spec.layers()):
        options = layer.attention.model_dump()
        if "kv_heads" not in options:
            raise ValueError(f"attention {layer.attention.name} of layer {n} has no kv_heads")
        if options["qk_norm"]["name"] != "none" and options["qk_norm_over"] == "width":
            raise ValueError("qk_norm_over is width: a norm over all keys is not that over their means")
        old = options["kv_heads"] or spec.heads
        if old % kv_heads:
            raise ValueError(f"kv_heads {kv_heads} does not divide the {old} of layer {n}")
        for leaf in POOLED:
            name = f"layers.{n}.{leaf}"
            if name in state:
                groups = state[name].unflatten(0, (kv_heads, old // kv_heads, spec.shape().head_width))
                state[name] = groups.float().mean(1).to(groups.dtype).flatten(0, 1)
    return _with_heads(spec, kv_heads), state


def _with_heads(spec: ModelSpec, kv_heads: int) -> ModelSpec:
    fewer: dict[str, Any] = {"attention": {"kv_heads": kv_heads}}
    plain = spec.model_dump()
    variants = {name: override(layer, fewer) for name, layer in plain["variants"].items()}
    return ModelSpec.model_validate({**override(plain, fewer), "variants": variants})
