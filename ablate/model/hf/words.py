"""Values that many families write alike."""

from collections.abc import Callable
from typing import Any

from ablate.model.hf.family import CheckpointFormatError, ExportError, shown

ACTIVATIONS: dict[str, dict[str, Any]] = {
    "gelu": {"name": "gelu", "form": "exact"},
    "gelu_new": {"name": "gelu", "form": "tanh"},
    "gelu_pytorch_tanh": {"name": "gelu", "form": "tanh"},
    "gelu_fast": {"name": "gelu", "form": "tanh"},
    "gelu_accurate": {"name": "gelu", "form": "tanh"},
    "gelu_python_tanh": {"name": "gelu", "form": "tanh"},
    "gelu_python": {"name": "gelu", "form": "exact"},
    "quick_gelu": {"name": "gelu", "form": "sigmoid"},
    "silu": {"name": "silu"},
    "swish": {"name": "silu"},
    "relu": {"name": "relu"},
    "relu2": {"name": "relu2"},
}


def read_activation(name: str) -> dict[str, Any]:
    """Our activation for transformers' name. Raises CheckpointFormatError."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise CheckpointFormatError(f"activation {shown(name)} is not among ours: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def write_activation(activation: dict[str, Any]) -> str:
    """Transformers' name for our activation. Raises ExportError."""
    for theirs, ours in ACTIVATIONS.items():
        if ours == activation:
            return theirs
    raise ExportError(f"ffn.activation {activation['name']} has no name in transformers")


def flag(*projections: str) -> tuple[Callable[[bool], list[str]], Callable[[list[str]], bool]]:
    """One flag of theirs for the biases of several projections: how it is read, and written."""
    return lambda on: sorted(projections) if on else [], bool
