"""What `__init__` of a part sets and a model would lose.

A model is built without values and then started (`ablate.model.init`), so what a part gives a tensor while it
is built does not last. This watches the building, on any device: which code wrote into which storage. What
torch's own modules write (the start of `nn.Linear`) is nobody's wish; what a part writes is.
"""

import sys
from collections.abc import Mapping
from numbers import Number
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ablate.model.init import said
from ablate.parts.base import IncompatibleParts

TORCH = str(Path(torch.__file__).parent)
MODULES = str(Path(nn.modules.__file__).parent)
CARRIERS = ("module.py", "container.py")  # of torch's modules those that act for others: `apply`, a list
EMPTY = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}
ZERO = {"zeros", "zeros_like", "new_zeros", "zero_", "zeros_"}
FILLS = {"fill_", "constant_", "full", "full_like", "new_full"}  # with the number that is given
KEEPS = {"clone", "to", "type", "float", "double", "half", "bfloat16"}  # a copy of what they are given
RANDOM_FILLS = {"normal_", "uniform_", "trunc_normal_"}
_HARMLESS = {"requires_grad_", "share_memory_", "detach_", "rename_", "squeeze_", "unsqueeze_", "t_"}
IS_META = Tensor.is_meta.__get__  # type: ignore[attr-defined]
WRITES = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__"}

_NOTHING, NIL = "", "0"  # no value that somebody wished; zeros. Else: the place that gave the values.


class Watched(TorchFunctionMode):
    """Follows what is built inside of it. `refuse` says what would be lost."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[int, str] = {}  # storage -> what gave it its values
        self.alive: list[Tensor] = []  # a storage that is gone gives its number to another

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        caller = sys._getframe(1).f_code
        name = getattr(func, "__name__", "")
        if func == IS_META and caller.co_filename == nn.init.__file__:
            name = caller.co_name  # `orthogonal_` writes nothing where there is nothing to write
        target = kwargs.get("out", args[0] if args else kwargs.get("tensor"))
        # Without storage there is nothing to draw, and torch would import its compiler to do so.
        idle = name in RANDOM_FILLS and isinstance(target, Tensor) and IS_META(target)
        found = target if idle else func(*args, **kwargs)
        if name in WRITES or "out" in kwargs or (name.endswith("_") and not name.endswith("__")):
            if isinstance(target, Tensor) and name not in _HARMLESS:
                self.note(target, self.known(target), name, args, kwargs)
        elif isinstance(found, Tensor) and not self.has(found):
            kept = self.known(target) if name in KEEPS and isinstance(target, Tensor) else _NOTHING
            self.note(found, kept, name, args, kwargs)
        return found

    def note(
        self, tensor: Tensor, before: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """What `tensor` holds after `name` has written it."""
        place = wish()
        number: Any = next((x for x in (*reversed(args), *kwargs.values()) if isinstance(x, Number)), None)
        if name in KEEPS or name in EMPTY or place is None:
            held = before
        elif name in ZERO or (name in FILLS and number == 0):
            held = NIL
        else:
            held = place
        self.given[storage(tensor)] = held
        self.alive.append(tensor)

    def has(self, tensor: Tensor) -> bool:
        return storage(tensor) in self.given

    def known(self, tensor: Tensor) -> str:
        return self.given.get(storage(tensor), _NOTHING)

    def refuse(self, model: nn.Module) -> None:
        """Raises IncompatibleParts for a matrix that was given values, and for a bias that was given others
        than 0, where no part says how it starts."""
        told = said(model)
        for name, tensor in model.named_parameters():
            is_bias = name.rpartition(".")[2] == "bias"
            held = self.given.get(storage(tensor), "an unknown place")
            lost = held not in (_NOTHING, NIL) if is_bias else tensor.ndim > 1 and held != _NOTHING
            if name in told or not lost:
                continue
            what = "zeros" if held == NIL else f"values ({held})"
            raise IncompatibleParts(
                f"{name}: __init__ gives it {what}, which would be lost: a model is built without values. "
                "Say how it starts in `self.starts` (a function of yours, or one of `ablate.parts.starts`: "
                "zeros, eye, orthogonal), or make it with torch.empty and have it drawn"
            )


def storage(tensor: Tensor) -> int:
    """A number that tells the memory of one tensor from that of others."""
    return int(tensor.untyped_storage()._cdata)


def wish() -> str | None:
    """The line that asked for what is being done; None where one of torch's modules did, of itself."""
    frame = sys._getframe(1)
    while frame is not None and (frame.f_code.co_filename == __file__ or is_torch(frame.f_code.co_filename)):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None or frame.f_code.co_filename.startswith(MODULES):
        return None
    return f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"


def is_torch(file: str) -> bool:
    """Whether code of the file acts for another."""
    return file.startswith(TORCH) and (not file.startswith(MODULES) or file.endswith(CARRIERS))
