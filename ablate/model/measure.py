"""What a model costs, counted from the model itself, built without storage on the meta device.

One convention for FLOPs. A multiply and an add are two FLOPs; only matrix products count (norms, softmax,
activations, rotations and lookups are left out). A score, and its part of the weighted sum, counts for
each key that a token sees: half of the square in causal attention, less with a window. A recurrent layer
counts what its state takes token by token. That is the work that must be done; `*_unmasked` counts the whole
square, which is what the kernel `reference` does and what torch's FlopCounterMode reports of it (of `sdpa` on
a CPU that counter reports no attention).
Training is three times the forward pass (the gradients of input and weight cost a forward each); recomputed
activations are not counted. Of routed experts, those count that a token meets: k of E.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, TypeGuard

import torch
from torch import Tensor, nn

from ablate.model.decoder import Decoder
from ablate.model.loss import slice_bytes
from ablate.parts.base import DTYPES
from ablate.parts.canon import canons
from ablate.spec import ModelSpec, RunSpec


@dataclass(frozen=True)
class Costs:
    """Plain numbers; those of FLOPs are means over the tokens of one context, for each token."""

    parameters: int  # a tied table once
    non_embedding: int  # without the token table, the input's position table and the head
    active: int  # those that serve one token: k of E experts
    active_non_embedding: int

    forward_flops: float
    training_flops: float
    forward_flops_unmasked: float
    training_flops_unmasked: float
    decoding_flops: float  # one more token, the last of a full context

    kv_bytes: int  # what all layers store of each token
    cache_bytes: int  # what one row of a full context takes, states of recurrent layers included
    state_bytes: int  # training: weights, gradients and Adam's two moments, all in fp32
    activation_bytes: int  # training, for each token: an estimate for fused attention, nothing recomputed
    logit_bytes: int  # training, for each token whose logits are in memory: they and their softmax, in fp32

    def training_bytes(self, tokens: int, device: str = "cpu") -> int:
        """The peak of training with so many tokens in one pass: of the logits, one slice is in memory."""
        logits = min(tokens * self.logit_bytes, 2 * slice_bytes(device))
        return self.state_bytes + tokens * self.activation_bytes + logits


class Routed(Protocol):
    """A part whose `experts` serve a token k at a time."""

    experts: nn.ModuleList
    top_k: int


def is_routed(module: nn.Module) -> TypeGuard[Routed]:
    """Not by `isinstance`: from Python 3.12 on that does not see the submodules of a module."""
    return hasattr(module, "experts") and hasattr(module, "top_k")


def blueprint(
    spec: ModelSpec,
    device: str = "cpu",
    documents: bool = False,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Decoder:
    """The decoder without storage. `device` and `precision` are those of its training: they decide the
    kernel. Raises IncompatibleParts."""
    with torch.device("meta"):
        return Decoder(spec, device, documents, dtype=DTYPES[precision])


def of_run(spec: RunSpec, device: str) -> Decoder:
    """The blueprint of what a run trains. Raises IncompatibleParts."""
    return blueprint(spec.model, device, spec.data.documents == "masked", spec.precision)


def costs_of_run(spec: RunSpec, decoder: Decoder) -> Costs:
    """Those of a run and its decoder: keys, values and activations take what its precision does."""
    return count_costs(decoder, value_bytes=DTYPES[spec.precision].itemsize)


def measure_model(
    spec: ModelSpec,
    *,
    context: int | None = None,
    value_bytes: int = 2,
    device: str = "cpu",
    documents: bool = False,
) -> Costs:
    """Count the decoder of `spec` for rows of `context` tokens (null: those of the spec), keys, values and
    activations of `value_bytes` each. Raises IncompatibleParts where it cannot be built, ValueError without a
    vocabulary."""
    return count_costs(blueprint(spec, device, documents), context=context, value_bytes=value_bytes)


def count_costs(decoder: Decoder, *, context: int | None = None, value_bytes: int = 2) -> Costs:
    """The costs of a built decoder, see `measure`."""
    if decoder.spec.vocab is None:
        raise ValueError("model.vocab is null: give the tokenizer's number of tokens before counting")
    T = context or decoder.spec.context
    mixers = [
        decoder.layers[n].attention.costs(decoder.positions[decoder.position_of[n]], T, value_bytes)
        for n, _ in decoder.path
    ]
    of_lookups = sum(module.lookup.row_bytes(value_bytes) for module in decoder.lookups())
    of_canons = sum(module.remembered for module in canons(decoder.layers)) * value_bytes
    tables = _tables(decoder)
    parameters = {name: p.numel() for name, p in decoder.named_parameters()}
    active = {name: n * _share(decoder, name) for name, n in parameters.items()}
    products = _products(decoder, active)
    forward = 2 * products + sum(2 * mixer.products for mixer in mixers)
    heads = len(getattr(decoder.future, "layers", ()))  # that predict tokens after the next
    ahead = 2 * heads * (decoder.shape.vocab * decoder.shape.width + mixers[-1].products)
    ahead += 2 * sum(
        p.numel() for name, p in decoder.named_parameters() if name.startswith("future.") and is_matrix(p)
    )
    whole = 2 * products + sum(2 * mixer.products_unmasked for mixer in mixers)
    return Costs(
        parameters=sum(parameters.values()),
        non_embedding=sum(n for name, n in parameters.items() if name not in tables),
        active=round(sum(active.values())),
        active_non_embedding=round(sum(n for name, n in active.items() if name not in tables)),
        forward_flops=forward,
        training_flops=3 * (forward + ahead),
        forward_flops_unmasked=whole,
        training_flops_unmasked=3 * (whole + ahead),
        decoding_flops=2 * products + sum(2 * mixer.last_products for mixer in mixers),
        kv_bytes=sum(mixer.token_bytes for mixer in mixers),
        cache_bytes=sum(mixer.row_bytes for mixer in mixers) + of_lookups + of_canons,
        state_bytes=16 * sum(parameters.values()),
        activation_bytes=round(_activations(decoder) * value_bytes),
        logit_bytes=8 * decoder.shape.vocab,
    )


def _tables(decoder: Decoder) -> set[str]:
    """Names of the parameters that are embeddings of tokens or positions, or the head."""
    acts_on_embedding = [
        f"positions.{n}." for n, scheme in enumerate(decoder.positions) if scheme.acts_on_embedding
    ]
    places = ("embedding.", "head.weight", "head.bias", *acts_on_embedding)
    looked_up = {path for path, module in decoder.named_modules() if isinstance(module, nn.Embedding)}
    return {
        name
        for name, _ in decoder.named_parameters()
        if name.startswith(places)
        or (name.rpartition(".")[0] in looked_up and not name.startswith("positions."))
    }


def _share(decoder: Decoder, name: str) -> float:
    """The share of the tokens that a parameter serves."""
    share, module = 1.0, decoder
    for step in name.split("."):
        if step == "experts" and is_routed(module):
            share *= module.top_k / len(module.experts)
        module = getattr(module, step)
    return share


def is_matrix(p: Tensor) -> bool:
    """Not a vector, nor one for each head, (H,1,D)."""
    return p.ndim >= 2 and min(p.shape[-2:]) > 1


def _products(decoder: Decoder, active: dict[str, float]) -> float:
    """Multiply-adds of one token with the parameters: each number of a matrix once. A tied table, too. And
    what the residual stream takes beside (`ablate.parts.connection`)."""
    looked_up = {f"{path}.weight" for path, m in decoder.named_modules() if isinstance(m, nn.Embedding)}
    trained_only = {name for name, _ in decoder.named_parameters() if name.startswith("future.")}
    idle = looked_up | trained_only
    linear = {f"{path}.weight" for path, m in decoder.named_modules() if isinstance(m, nn.Linear)}
    matrices = {
        name
        for name, p in decoder.named_parameters()
        if name not in idle and (is_matrix(p) or name in linear)
    }
    tied = decoder.embedding.weight.numel() if decoder.spec.head.tied else 0
    more = sum(
        getattr(module, "more_products", 0) * _uses(decoder, path) for path, module in decoder.named_modules()
    )
    return tied + more + sum(active[name] * _uses(decoder, name) for name in matrices)


def _uses(decoder: Decoder, name: str) -> int:
    """How often a call passes through a module or parameter of this name."""
    kind, _, rest = name.partition(".")
    of_layer = bool(rest) and kind in ("layers", "before", "after")
    return sum(n == int(rest.partition(".")[0]) for n, _ in decoder.path) if of_layer else 1


def _activations(decoder: Decoder) -> float:
    """Numbers kept for the backward pass, of each token: what every projection reads and writes."""
    total = 0.0
    for path, module in decoder.named_modules():
        if isinstance(module, nn.Linear) and not path.startswith("positions."):
            name = f"{path}.weight"
            share = _share(decoder, name) * _uses(decoder, name)
            total += share * (module.in_features + module.out_features)
    return total + sum(
        getattr(module, "more_activations", 0) * _uses(decoder, path)
        for path, module in decoder.named_modules()
    )
