"""How the tensors of a part start, and that what `__init__` gives them is not lost without a word."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import small
from torch import Tensor, nn

from ablate.model.decoder import Decoder
from ablate.parts.base import IncompatibleParts
from ablate.parts.starts import eye, ones, orthogonal, zeros
from ablate.registry import registries

C = 32  # the width of the smallest decoder


def built(make: Callable[["Own"], Any], device: str = "meta") -> Decoder:
    """A decoder whose feed-forward is made by `make`."""

    class Made(Own):
        def __init__(self, shape):
            super().__init__()
            self.up, self.down = nn.Linear(C, C), nn.Linear(C, C, bias=False)
            make(self)

    registries["ffn"]("own", paper="mine")(Made)
    with torch.device(device):
        return Decoder(small(ffn="own"))


class Own(nn.Module):
    up: nn.Linear
    down: nn.Linear
    starts: dict[str, Any]

    def forward(self, x: Tensor, aux: dict[str, Tensor]) -> Tensor:
        return self.down(self.up(x))


def by_apply(own: Own) -> None:
    def start(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.3)

    own.apply(start)


def by_slice(own: Own) -> None:
    with torch.no_grad():
        own.down.weight[0] = 1.0


def by_data(own: Own) -> None:
    own.down.weight.data = torch.eye(C)


def by_product(own: Own) -> None:
    with torch.no_grad():
        own.down.weight *= 0.5


WRITTEN: dict[str, tuple[Callable[[Own], Any], str]] = {
    "zeros_": (lambda own: nn.init.zeros_(own.down.weight), "down.weight"),
    "eye_": (lambda own: nn.init.eye_(own.down.weight), "down.weight"),
    "orthogonal_": (lambda own: nn.init.orthogonal_(own.down.weight), "down.weight"),
    "sparse_": (lambda own: nn.init.sparse_(own.down.weight, 0.5), "down.weight"),
    "normal_": (lambda own: own.down.weight.data.normal_(0, 0.1), "down.weight"),
    "copy_": (lambda own: own.down.weight.data.copy_(torch.ones(C, C)), "down.weight"),
    "apply": (by_apply, "up.weight"),
    "slice": (by_slice, "down.weight"),
    "data": (by_data, "down.weight"),
    "product": (by_product, "down.weight"),
    "bias": (lambda own: nn.init.ones_(own.up.bias), "up.bias"),
    "bias constant": (lambda own: nn.init.constant_(own.up.bias, -2.0), "up.bias"),
    "eye": (lambda own: setattr(own, "mix", nn.Parameter(torch.eye(C))), "mix"),
    "table of zeros": (lambda own: setattr(own, "mix", nn.Parameter(torch.zeros(C, C))), "mix"),
    "features": (lambda own: setattr(own, "mix", nn.Parameter(torch.randn(C, C) * 0.5)), "mix"),
    "out": (lambda own: torch.randn(C, C, out=own.down.weight.data), "down.weight"),
}


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("way", WRITTEN)
def test_what_would_be_lost_is_refused_with_its_line(way, device, own_parts):
    make, name = WRITTEN[way]
    what = "zeros" if "zeros" in way else r"values \(test_lost.py, line \d+\)"
    with pytest.raises(
        IncompatibleParts, match=rf"layers.0.ffn.{name}: __init__ gives it {what}, .*self.starts"
    ):
        built(make, device)


KEPT: dict[str, Callable[[Own], Any]] = {
    "torch's own": lambda own: setattr(own, "more", nn.MultiheadAttention(C, 4, bias=False)),
    "empty": lambda own: setattr(own, "mix", nn.Parameter(torch.empty(C, C))),
    "a bias of zeros": lambda own: nn.init.zeros_(own.up.bias),
    "a copy": lambda own: setattr(own, "more", copy.deepcopy(own.down)),
    "a list": lambda own: setattr(own, "more", nn.ParameterList([torch.empty(C, C), torch.empty(C, C)])),
    "a table": lambda own: setattr(own, "more", nn.Embedding(5, C, padding_idx=0)),
    "another dtype": lambda own: own.down.to(torch.float64),
    "frozen": lambda own: own.down.weight.requires_grad_(False),
    "drawn again by torch": lambda own: own.down.reset_parameters(),
}


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("make", KEPT.values(), ids=KEPT.keys())
def test_what_nobody_wished_is_drawn(make, device, own_parts):
    built(make, device).to_empty(device="cpu").init_parameters(0)


def test_a_part_says_how_its_tensors_start(own_parts):
    def make(own: Own) -> None:
        own.mix = nn.Parameter(torch.empty(3, C, C))
        own.features = nn.Parameter(torch.empty(C, 5))
        own.register_buffer("table", torch.empty(4, C))
        nn.init.zeros_(own.down.weight)
        own.starts = {
            "down.weight": zeros,
            "up.bias": ones,
            "mix": eye,
            "features": orthogonal,
            "table": lambda shape, generator: torch.randn(shape, generator=generator),
        }

    one, again, other = (built_anew(make).to_empty(device="cpu").init_parameters(seed) for seed in (0, 0, 1))
    first, second = one.layers[0].ffn, one.layers[1].ffn
    assert first.down.weight.abs().sum() == 0 and (first.up.bias == 1).all()
    assert torch.equal(first.mix[2], torch.eye(C)) and first.up.weight.std() > 0
    torch.testing.assert_close(first.features.T @ first.features, torch.eye(5), atol=1e-5, rtol=0)
    assert not torch.equal(first.table, second.table)
    for name in ("features", "table"):
        assert torch.equal(getattr(first, name), getattr(again.layers[0].ffn, name))
        assert not torch.equal(getattr(first, name), getattr(other.layers[0].ffn, name))


def built_anew(make: Callable[[Own], None]) -> Decoder:
    registries["ffn"]._entries.pop("own", None)
    return built(make)


def test_what_holds_a_part_says_first_how_it_starts(own_parts):
    def make(own: Own) -> None:
        own.up.starts = {"weight": zeros}  # type: ignore[assignment]
        own.starts = {"up.weight": eye}

    assert torch.equal(
        built(make).to_empty(device="cpu").init_parameters(0).layers[1].ffn.up.weight, torch.eye(C)
    )


@pytest.mark.parametrize(
    ("starts", "reason"),
    [
        (
            {"dwn.weight": zeros},
            r"ffn.dwn.weight: `starts` names it, but .* there are up.weight, up.bias",
        ),
        ({"down.weight": 0.0}, "ffn.down.weight: `starts` takes a function of shape and generator"),
        ({"down.weight": lambda shape, generator: torch.eye(3)}, r"gives \[3, 3\] numbers for \[32, 32\]"),
        ({"down.weight": lambda shape, generator: 1.0}, "gives float, and not a tensor"),
        ({"down.weight": lambda shape, generator: torch.full(shape, torch.nan)}, "not finite"),
    ],
)
def test_a_start_that_is_none_is_refused(starts, reason, own_parts):
    with pytest.raises(IncompatibleParts, match=reason):
        built(lambda own: setattr(own, "starts", starts)).to_empty(device="cpu").init_parameters(0)


def test_a_start_that_no_draw_decides_cannot_be_redrawn(own_parts):
    def make(own: Own) -> None:
        own.starts = {"down.weight": zeros, "up.weight": orthogonal}

    decoder = built(make).to_empty(device="cpu")
    with pytest.raises(IncompatibleParts, match=r"layers.\*.ffn.down.weight starts from constants"):
        decoder.init_parameters(0, ["layers.*.ffn.down.weight"])
    before = decoder.init_parameters(0).layers[0].ffn.up.weight.clone()
    assert not torch.equal(
        decoder.init_parameters(0, ["layers.*.ffn.up.weight"]).layers[0].ffn.up.weight, before
    )
