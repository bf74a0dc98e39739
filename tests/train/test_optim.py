"""Optimizers and schedules."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from conftest import small
from pydantic import ValidationError

from ablate.model.decoder import Decoder
from ablate.registry import optimizer, schedule
from ablate.train.schedule import factor

CONF = Path(__file__).parents[2] / "conf"
STEPS = 200


def named() -> list[tuple[str, torch.nn.Parameter]]:
    options = {
        "attention": {"name": "softmax", "bias": ["q"]},
        "position": "learned",
        "head": {"tied": False},
    }
    return list(Decoder(small(**options)).init_parameters(0).named_parameters())


@pytest.mark.parametrize("name", list(schedule))
def test_every_schedule_rises_to_its_peak_and_never_above(name):
    options = schedule.parse({"name": name, "warmup": 20})
    factors = [factor(options, step, STEPS) for step in range(STEPS)]
    assert factors[0] == pytest.approx(1 / 20 if name == "inverse_sqrt" else 1 / 21)
    assert all(a < b for a, b in pairwise(factors[:20]))
    assert max(factors) == pytest.approx(1.0, abs=1e-9)
    assert all(a >= b for a, b in pairwise(factors[20:]))


@pytest.mark.parametrize("name", list(schedule))
def test_a_share_of_warmup_is_as_many_steps(name):
    by_share = schedule.parse({"name": name, "warmup": 0.1})
    by_steps = schedule.parse({"name": name, "warmup": 20})
    for step in range(STEPS):
        assert factor(by_share, step, STEPS) == factor(by_steps, step, STEPS)


@pytest.mark.parametrize("warmup", [1.0, -1, 1.5, "many"])
def test_a_warmup_that_is_neither_steps_nor_a_share_is_refused(warmup):
    with pytest.raises(ValidationError):
        schedule.parse({"name": "cosine", "warmup": warmup})


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
def test_the_end_is_the_final_share(name):
    options = schedule.parse({"name": name, "warmup": 0, "final": 0.25})
    assert factor(options, STEPS, STEPS) == pytest.approx(0.25)


def test_known_values():
    """Half way down; sqrt(1/4) at four times the warm-up; the plateau and the middle of the decay."""
    assert factor(schedule.parse({"name": "cosine", "warmup": 0, "final": 0.0}), 100, 200) == pytest.approx(
        0.5
    )
    assert factor(schedule.parse({"name": "linear", "warmup": 0}), 150, 200) == pytest.approx(0.25)
    assert factor(schedule.parse({"name": "inverse_sqrt", "warmup": 10}), 39, 200) == pytest.approx(0.5)
    wsd = schedule.parse({"name": "wsd", "warmup": 0, "decay": 0.5})
    assert [factor(wsd, step, 200) for step in (99, 150)] == pytest.approx([1.0, 0.5])


@pytest.mark.parametrize("name", list(optimizer))
def test_only_matrices_decay(name):
    for built in optimizer.build({"name": name, "weight_decay": 0.3}, named()):
        for group in built.param_groups:
            assert all((p.ndim >= 2) == (group["weight_decay"] > 0) for p in group["params"])


def test_the_vectors_of_single_heads_do_not_decay():
    parameters = dict(Decoder(small(position="transformer_xl")).init_parameters(0).named_parameters())
    (built,) = optimizer.build({"name": "adamw", "weight_decay": 0.3}, list(parameters.items()))
    fixed = {id(p) for group in built.param_groups if not group["weight_decay"] for p in group["params"]}
    assert {"positions.0.u", "positions.0.v"} <= {n for n, p in parameters.items() if id(p) in fixed}


@pytest.mark.parametrize("name", list(optimizer))
def test_each_parameter_is_stepped_once(name):
    parameters = named()
    built = optimizer.build(name, parameters)
    stepped = [id(p) for o in built for group in o.param_groups for p in group["params"]]
    assert sorted(stepped) == sorted(id(p) for _, p in parameters)
    before = [p.detach().clone() for _, p in parameters]
    for _, p in parameters:
        p.grad = torch.ones_like(p) + torch.arange(p.numel()).view_as(p) % 3
    for o in built:
        o.step()
    assert all(not torch.equal(old, p) for old, (_, p) in zip(before, parameters, strict=True))


def test_muon_has_the_matrices_inside_the_layers():
    parameters = named()
    muon, rest = optimizer.build({"name": "muon", "rest": {"name": "adamw", "lr": 0.5}}, parameters)
    names = {id(p): name for name, p in parameters}
    first = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    second = {names[id(p)] for group in rest.param_groups for p in group["params"]}
    assert all(name.startswith("layers.") for name in first)
    assert {"embedding.weight", "head.weight", "final_norm.weight"} <= second
    assert any(name.startswith("positions.") for name in second)
    assert {group["lr"] for group in rest.param_groups} == {0.5}


def test_muon_makes_the_update_orthogonal():
    """All singular values of a step are about equal, whatever those of the gradient."""
    p = torch.nn.Parameter(torch.zeros(16, 16))
    p.grad = torch.diag(torch.logspace(-0.5, 0.5, 16))
    optimizer.build({"name": "muon", "lr": 1.0, "momentum": 0.0}, [("layers.0.q", p)])[0].step()
    values = torch.linalg.svdvals(p.detach())
    assert values.max() / values.min() < 3


def test_mup_has_rates_by_the_fan_in_of_linear_maps_alone():
    model = small(attention="gated_deltanet", position="none", pattern=["a"], variants={"a": {}})
    parameters = list(Decoder(model).init_parameters(0).named_parameters())
    (built,) = optimizer.build({"name": "mup", "base_width": 64, "lr": 0.5, "weight_decay": 0.1}, parameters)
    groups = {id(p): group for group in built.param_groups for p in group["params"]}
    assert built.param_groups[0]["lr"] == 0.5  # the one that curves show
    fans = set()
    for name, p in parameters:
        rate = groups[id(p)]["lr"]
        linear = name.endswith(".weight") and p.ndim == 2 and not name.startswith("embedding")
        assert rate == pytest.approx(0.5 * 64 / p.shape[-1] if linear else 0.5), name
        fans |= {p.shape[-1]} if linear else set()
        if decay := groups[id(p)]["weight_decay"]:
            assert rate * decay == pytest.approx(0.05)
    assert len(fans) > 1


def changes(width: int, scaled: bool) -> dict[str, float]:
    """By how much four steps change what each branch and the head give: the root of the mean square."""
    base = 32
    init = {"name": "mup", "base_width": base} if scaled else {"name": "gpt2"}
    model = small(
        width=width,
        heads=width // 16,
        vocab=64,
        attention="softmax",
        ffn={"name": "glu", "width": 2 * width},
        init={**init, "std": 0.1},
        head={"tied": False, "multiplier": base / width if scaled else 1.0},
    )
    decoder = Decoder(model).init_parameters(0)
    options = {"name": "mup", "base_width": base} if scaled else {"name": "adamw"}
    (built,) = optimizer.build({**options, "lr": 1e-2}, list(decoder.named_parameters()))
    drawn = torch.randint(64, (8, 33), generator=torch.Generator().manual_seed(0))
    seen: dict[str, torch.Tensor] = {}
    for n, layer in enumerate(decoder.layers):
        for name in ("attention", "ffn"):
            place = f"{n}.{name}"
            getattr(layer, name).register_forward_hook(
                lambda _, given, out, place=place: seen.__setitem__(place, out.detach())
            )

    def look() -> dict[str, torch.Tensor]:
        with torch.no_grad():
            logits = decoder(drawn[:, :-1])
        return {**seen, "logits": logits}

    before = look()
    for _ in range(4):
        decoder.zero_grad()
        decoder(drawn[:, :-1], targets=drawn[:, 1:]).nll.mean().backward()
        built.step()
    return {name: float((x - before[name]).square().mean().sqrt()) for name, x in look().items()}


def test_with_mup_updates_are_as_large_at_every_width_and_grow_without():
    """The coordinate check of Yang et al. 2022, appendix D.1: widths 32 to 256, heads of one width."""
    widths = (32, 64, 128, 256)
    flat, grown = ([changes(width, scaled) for width in widths] for scaled in (True, False))
    for name in flat[0]:
        of_mup = [found[name] for found in flat]
        assert max(of_mup) < 2 * min(of_mup), (name, of_mup)
        plain = [found[name] for found in grown]
        assert all(a < b for a, b in pairwise(plain)) and plain[-1] > 2.5 * plain[0], (name, plain)


def test_sgd_is_gradient_descent():
    p = torch.nn.Parameter(torch.ones(2, 2))
    p.grad = torch.full((2, 2), 3.0)
    optimizer.build({"name": "sgd", "lr": 0.5, "momentum": 0.0}, [("w", p)])[0].step()
    assert p.tolist() == [[-0.5, -0.5], [-0.5, -0.5]]


@pytest.mark.parametrize(
    ("registry", "folder"), [(optimizer, "optim"), (schedule, "schedule")], ids=["optimizer", "schedule"]
)
def test_each_has_a_file_with_every_option_at_its_default(registry, folder):
    files = {path.stem: path for path in (CONF / folder).glob("*.yaml")}
    for name in registry:
        node = yaml.safe_load(files[name].read_text())
        nested = {
            key.partition("@")[2]: choice
            for default in node.pop("defaults", [])
            if isinstance(default, dict)
            for key, choice in default.items()
        }
        options = registry[name].options
        assert set(node) | set(nested) == set(options.model_fields)
        assert registry.parse({**node, **nested}) == registry.parse(name)


def test_a_step_of_a_very_long_run_is_finite():
    options = schedule.parse({"name": "inverse_sqrt"})
    assert math.isfinite(factor(options, 10**9, 10**9 + 1))
