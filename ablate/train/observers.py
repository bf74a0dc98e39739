"""A user's own Lightning callbacks and profiler: they watch a run and are no part of its identity.

They are named in the configuration that the user types, and travel in the request to train. No specification,
setting, record or checkpoint has a field for them, so nothing read from a run's folder is ever called.
"""

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ablate.errors import AblateError

Target = str | dict[str, Any]  # my_package.MyCallback, or {_target_: my_package.MyCallback, every: 10}
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
PROFILERS = ("simple", "advanced", "pytorch")  # Lightning's own


class ObserverError(AblateError, ValueError):
    """A callback or a profiler that cannot be made, with the place and the remedy."""


def target_name(target: Target) -> str:
    """The dotted name in a target. Raises ObserverError where there is none."""
    name = target if isinstance(target, str) else target.get("_target_")
    if not isinstance(name, str) or not DOTTED.fullmatch(name):
        raise ObserverError(f"{name!r} is no dotted name of a class: give package.module.Class")
    return name


def make_callbacks(targets: Sequence[Target]) -> list[Any]:
    """Lightning callbacks. Raises ObserverError for what is not importable or no callback."""
    if not targets:  # importing Lightning takes seconds, which a plan need not spend
        return []
    from lightning.pytorch import Callback

    return [_made(target, Callback, f"callbacks[{n}]") for n, target in enumerate(targets)]


def make_profiler(target: Target | None, folder: Path) -> Any:
    """A Lightning profiler, whose output goes to `folder`; None where none is asked for. Raises
    ObserverError."""
    if target is None:
        return None
    from lightning.pytorch import profilers

    if isinstance(target, str) and target in PROFILERS:
        kinds = (profilers.SimpleProfiler, profilers.AdvancedProfiler, profilers.PyTorchProfiler)
        kind = dict(zip(PROFILERS, kinds, strict=True))[target]
        return kind(dirpath=folder, filename="profile")
    return _made(target, profilers.Profiler, "profiler")


def _made(target: Target, base: type, place: str) -> Any:
    try:
        name = target_name(target)
        module, _, attribute = name.rpartition(".")
        kind = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ObserverError) as error:
        raise ObserverError(f"{place}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ObserverError(f"{place}: {name} is no class derived from lightning.pytorch's {base.__name__}")
    arguments: Mapping[str, Any] = {} if isinstance(target, str) else target
    try:
        return kind(**{key: value for key, value in arguments.items() if key != "_target_"})
    except TypeError as error:
        raise ObserverError(f"{place}: {name}: {error}") from error
