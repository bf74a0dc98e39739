"""The smallest decoder in which every shape differs from its neighbours."""

import signal
import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import torch
from torch.utils.flop_counter import register_flop_formula

from ablate.parts.linear import ONEDNN
from ablate.registry import registries
from ablate.spec import ModelSpec

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

if ONEDNN:  # torch's counter does not know the operator

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def product_flops(x: torch.Size, weight: torch.Size, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return 2 * x.numel() * weight[0]


SMALL: dict[str, Any] = {
    "width": 32,
    "depth": 3,
    "heads": 4,
    "context": 24,
    "vocab": 50,
    "norm": "rmsnorm",
    "placement": "pre",
    "topology": "serial",
    "position": "rope",
    "attention": {"name": "softmax", "kv_heads": 2},
    "ffn": {"name": "glu", "width": 40},
    "embedding": {"norm": "none"},
    "head": {},
    "init": "gpt2",
    "kernel": "auto",
}


def small(**options: Any) -> ModelSpec:
    return ModelSpec(**{**SMALL, **options})


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(50, (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def own_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the test registers is gone after it, for other tests walk the registries; its files are loaded
    anew."""
    for registry in registries.values():
        monkeypatch.setattr(registry, "_entries", {name: registry[name] for name in registry})
    before = {*sys.modules}
    yield
    for name in {*sys.modules} - before:
        if name.startswith("ablate_parts_"):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


LONG = ("test_sweep", "test_distributed")  # begun first, so that no process waits for them at the end


def pytest_configure(config: pytest.Config) -> None:
    """Workers of pytest-xdist hear what tests send them, under nohup and behind `&` too."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if hasattr(config, "workerinput") and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONG)
