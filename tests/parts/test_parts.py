"""Single parts against their formulas, written out, and against published implementations."""

import math

import pytest
import torch
from conftest import small
from torch import Tensor

from ablate.model.decoder import Decoder
from ablate.model.residual import Placement, Residual
from ablate.parts.connection import Connection
from ablate.parts.ffn.width import hidden_width
from ablate.registry import activation, ffn, norm, position, scaling
from ablate.spec import Shape

SHAPE = Shape(width=32, depth=3, heads=4, head_width=8, context=64, vocab=50)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved(part: torch.nn.Module) -> torch.nn.Module:
    """Every parameter off its start, in double precision. Matrices are drawn by the decoder, so here they
    hold nothing yet."""
    part = part.double()
    with torch.no_grad():
        for n, p in enumerate(part.parameters()):
            drawn = 0.3 * numbers(*p.shape, seed=n + 1)
            p.copy_(drawn if p.dim() > 1 else p + drawn)
    return part


# ------------------------------------------------------------------------------------------- norms


def centred(x: Tensor, eps: float) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + eps).sqrt()


def squared(x: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


NORMS = {
    "layernorm": ({"name": "layernorm", "eps": 0.1}, lambda m, x: m.weight * centred(x, 0.1) + m.bias),
    "nobias": ({"name": "layernorm", "bias": False}, lambda m, x: m.weight * centred(x, 1e-5)),
    "plain": ({"name": "layernorm", "weight": False, "bias": False}, lambda m, x: centred(x, 1e-5)),
    "rmsnorm": ({"name": "rmsnorm", "eps": 0.1}, lambda m, x: m.weight * squared(x, 0.1)),
    "offset": ({"name": "rmsnorm", "offset": True}, lambda m, x: (1 + m.weight) * squared(x, 1e-5)),
    "rms_plain": ({"name": "rmsnorm", "weight": False}, lambda m, x: squared(x, 1e-5)),
    "dyt": ({"name": "dyt"}, lambda m, x: m.weight * torch.tanh(m.alpha * x) + m.bias),
    "none": ({"name": "none"}, lambda m, x: x),
}


@pytest.mark.parametrize(("options", "formula"), NORMS.values(), ids=NORMS.keys())
def test_a_norm_is_its_formula(options, formula):
    m, x = moved(norm.build(options, 32)), numbers(2, 5, 32, seed=9)
    torch.testing.assert_close(m(x), formula(m, x))


@pytest.mark.parametrize(("options", "formula"), NORMS.values(), ids=NORMS.keys())
def test_the_gradient_of_a_norm_is_that_of_its_formula(options, formula):
    m, x, dy = moved(norm.build(options, 32)), numbers(2, 5, 32, seed=9).requires_grad_(), numbers(2, 5, 32)
    given = (x, *m.parameters())
    found, expected = (torch.autograd.grad(y, given, dy) for y in (m(x), formula(m, x)))
    for mine, written_out in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, written_out)


def test_rmsnorm_is_torchs_bit_for_bit_and_keeps_fp32_under_autocast():
    m, x = moved(norm.build("rmsnorm", 32)).float(), numbers(2, 5, 32).float()
    expected = torch.nn.functional.rms_norm(x, (32,), m.weight, m.eps)
    assert torch.equal(m(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        y = m(x)
        (gradient,) = torch.autograd.grad(y.sum(), m.weight)
    assert torch.equal(y, expected)
    torch.testing.assert_close(gradient, (expected / m.weight).sum((0, 1)))


def test_under_autocast_a_branch_is_given_what_its_products_take():
    residual, x = (
        Residual(Placement(input_norm=True), lambda: norm.build("rmsnorm", 32), 0.0, Connection()),
        numbers(2, 32).float(),
    )
    seen = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            residual_norm = residual(x, lambda u: seen.append(u.dtype) or u)
        assert residual_norm.dtype == torch.float32
    assert seen == [torch.float32, torch.bfloat16]


def test_dyt_starts_at_its_alpha():
    spec = small(norm={"name": "dyt", "alpha": 0.75})
    started = Decoder(spec).init_parameters(0).state_dict()
    assert started["layers.0.attention_residual.input_norm.alpha"].tolist() == [0.75]


# ------------------------------------------------------------------------------------- activations


def xielu_below(m: torch.nn.Module, x: Tensor) -> Tensor:
    return (0.5 + m.negative.exp().log1p()) * (x.clamp(max=-1e-6).exp() - 1 - x)


NORMAL = torch.distributions.Normal(0.0, 1.0)
ACTIVATIONS = {
    "relu": ("relu", lambda m, x: x.clamp(min=0)),
    "relu2": ("relu2", lambda m, x: x.clamp(min=0) ** 2),
    "gelu": ("gelu", lambda m, x: x * NORMAL.cdf(x)),
    "gelu_tanh": (
        {"name": "gelu", "form": "tanh"},
        lambda m, x: x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "quick_gelu": ({"name": "gelu", "form": "sigmoid"}, lambda m, x: x / (1 + torch.exp(-1.702 * x))),
    "silu": ("silu", lambda m, x: x / (1 + torch.exp(-x))),
    "swish": ({"name": "swish", "beta": 2.0}, lambda m, x: x / (1 + torch.exp(-2 * x))),
    "swish_learned": ({"name": "swish", "learned": True}, lambda m, x: x / (1 + torch.exp(-m.beta * x))),
    "sigmoid": ("sigmoid", lambda m, x: 1 / (1 + torch.exp(-x))),
    "identity": ("identity", lambda m, x: x),
    "softplus": ("softplus", lambda m, x: (1 + x.exp()).log()),
    "xielu": (
        {"name": "xielu", "positive": 0.7},
        lambda m, x: x / 2 + torch.where(x > 0, m.positive.exp().log1p() * x**2, xielu_below(m, x)),
    ),
}


@pytest.mark.parametrize(("options", "formula"), ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def test_an_activation_is_its_formula(options, formula):
    m, x = moved(activation.build(options)), 3 * numbers(100)
    torch.testing.assert_close(m(x), formula(m, x))


def test_every_activation_is_held_to_a_formula():
    held = {options if isinstance(options, str) else options["name"] for options, _ in ACTIVATIONS.values()}
    assert held == set(activation)


def test_a_learned_beta_starts_where_it_is_told():
    spec = small(ffn={"name": "mlp", "activation": {"name": "swish", "beta": 1.5, "learned": True}})
    assert Decoder(spec).init_parameters(0).state_dict()["layers.1.ffn.activation.beta"].tolist() == [1.5]


# ------------------------------------------------------------------------------------ feed-forward


def test_mlp_and_glu_are_their_formulas():
    x = numbers(2, 5, 32)
    m = moved(ffn.build({"name": "mlp", "activation": "relu", "bias": ["up", "down"]}, SHAPE))
    torch.testing.assert_close(
        m(x, {}), (x @ m.up.weight.T + m.up.bias).clamp(min=0) @ m.down.weight.T + m.down.bias
    )
    m = moved(ffn.build({"name": "glu", "bias": ["gate"]}, SHAPE))
    gate = torch.sigmoid(x @ m.gate.weight.T + m.gate.bias)
    torch.testing.assert_close(m(x, {}), (gate * (x @ m.up.weight.T)) @ m.down.weight.T)


@pytest.mark.parametrize("bias", [(), ("up",), ("up", "down"), ("gate", "down")])
def test_each_projection_has_the_bias_it_is_given(bias):
    for name in ("mlp", "glu"):
        if name == "mlp" and "gate" in bias:
            continue
        m = ffn.build({"name": name, "bias": list(bias)}, SHAPE)
        assert {n.partition(".")[0] for n, _ in m.named_parameters() if n.endswith("bias")} == set(bias)


@pytest.mark.parametrize(
    ("width", "given", "ratio", "multiplier", "multiple_of", "hidden"),
    [
        (768, None, 4.0, 1.0, 1, 3072),  # GPT-2
        (4096, None, 8 / 3, 1.0, 256, 11008),  # LLaMA-7B
        (4096, None, 8 / 3, 1.3, 1024, 14336),  # Llama-3-8B
        (8192, None, 8 / 3, 1.3, 4096, 28672),  # Llama-3-70B
        (4096, 14336, 4.0, 1.0, 1, 14336),  # Mistral-7B
        (8192, None, 2.0004, 1.0, 1, 16387),  # floor(16387.2768)
    ],
)
def test_published_widths(width, given, ratio, multiplier, multiple_of, hidden):
    assert hidden_width(width, given, ratio, multiplier, multiple_of) == hidden


# --------------------------------------------------------------------------------------- positions


def test_sinusoids_are_the_papers():
    at = torch.tensor([[0, 3, 17]])
    code = position.build("sinusoidal", SHAPE).embed(torch.zeros(1, 3, 32, dtype=torch.float64), at)
    for t, pos in enumerate((0, 3, 17)):
        for n in range(16):
            angle = pos / 10_000 ** (2 * n / 32)
            assert code[0, t, 2 * n].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert code[0, t, 2 * n + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_halves_are_the_same_sinusoids_in_another_order():
    at, x = torch.arange(9)[None], torch.zeros(1, 9, 32)
    turns = position.build("sinusoidal", SHAPE).embed(x, at)
    halves = position.build({"name": "sinusoidal", "halves": True}, SHAPE).embed(x, at)
    assert torch.equal(halves, torch.cat((turns[..., 0::2], turns[..., 1::2]), -1))


@pytest.mark.parametrize("heads", range(1, 21))
def test_alibi_slopes_are_the_published_ones(heads):
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    published = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
    ours = position.build("alibi", SHAPE._replace(heads=heads)).slopes
    torch.testing.assert_close(ours, published)


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (16, 40), (8, 9)])
def test_t5_buckets_are_the_published_ones(num_buckets, max_distance):
    from transformers.models.t5.modeling_t5 import T5Attention

    m = position.build({"name": "t5", "num_buckets": num_buckets, "max_distance": max_distance}, SHAPE)
    distance = torch.arange(-3, 1000)
    published = T5Attention._relative_position_bucket(
        -distance, bidirectional=False, num_buckets=num_buckets, max_distance=max_distance
    )
    assert torch.equal(m.bucket(distance), published)


def test_t5_one_score_at_a_time_is_the_same():
    m = moved(position.build({"name": "t5", "max_distance": 20}, SHAPE))
    at = torch.arange(40)
    dense = m.bias(torch.arange(4)[None, :, None, None], at[None, None, :, None], at[None, None, None, :])
    assert dense.shape == (1, 4, 40, 40)
    for h, i, j in ((0, 0, 0), (3, 39, 0), (2, 30, 12), (1, 5, 7)):
        assert dense[0, h, i, j] == m.bias(torch.tensor(h), torch.tensor(i), torch.tensor(j))


def test_t5_gradient_is_the_sum_over_each_bucket():
    m = moved(position.build("t5", SHAPE))
    at, g = torch.arange(40), numbers(4, 40, 40)
    bias = m.bias(torch.arange(4)[None, :, None, None], at[None, None, :, None], at[None, None, None, :])
    (bias * g).sum().backward()
    bucket = m.bucket(at[:, None] - at)
    expected = torch.stack([(g * (bucket == b)).sum((1, 2)) for b in range(32)])
    torch.testing.assert_close(m.table.weight.grad, expected)


def test_transformer_xl_is_the_papers_sum():
    """(q+u).k + (q+v).W r with r written out for each pair: a (T,T,R) tensor."""
    m = moved(position.build("transformer_xl", SHAPE))
    q, k, at = numbers(2, 4, 12, 8, seed=5), numbers(2, 4, 12, 8, seed=6), torch.arange(12)
    layer, where = m.layer(1), m.locate(at[None])
    ours = layer.query(q, where) @ layer.key(k, where).mT
    frequency = 10_000.0 ** -(torch.arange(0, 8, 2) / 8)
    angle = (at[:, None] - at)[..., None] * frequency
    r = torch.cat((angle.sin(), angle.cos()), -1).double()
    naive = (q + m.u) @ k.mT + torch.einsum("bhid,hdr,ijr->bhij", q + m.v, m.projection[1], r)
    torch.testing.assert_close(ours, naive, atol=1e-5, rtol=1e-5)


def test_rope_layouts_are_the_same_up_to_the_order_of_channels():
    x, at = numbers(2, 4, 12, 8), torch.arange(12)[None]
    halves = position.build("rope", SHAPE)
    turns = position.build({"name": "rope", "interleaved": True}, SHAPE)
    order = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])  # channel n of the halves becomes a neighbour of n + 4
    a = halves.rotate(x, halves.locate(at))[..., order]
    torch.testing.assert_close(a, turns.rotate(x[..., order], turns.locate(at)))


def test_rope_turns_a_pair_by_the_papers_angle():
    m, x = position.build({"name": "rope", "base": 100.0, "rotary_fraction": 0.5}, SHAPE), numbers(1, 1, 1, 8)
    y = m.rotate(x, m.locate(torch.tensor([[7]])))
    for n in range(2):  # of 8 channels 4 turn: pairs (0, 2) and (1, 3)
        z = complex(x[..., n], x[..., n + 2]) * complex(math.cos(a := 7 * 100 ** (-2 * n / 4)), math.sin(a))
        assert (y[..., n].item(), y[..., n + 2].item()) == pytest.approx((z.real, z.imag), abs=1e-6)
    assert torch.equal(y[..., 4:], x[..., 4:])


PUBLISHED = {
    "linear": ("linear", {"factor": 4.0}, {"factor": 4.0}),
    "yarn": (
        "yarn",
        {"factor": 4.0, "trained": 512},
        {"factor": 4.0, "original_max_position_embeddings": 512},
    ),
    "yarn_given": (
        "yarn",
        {"factor": 8.0, "trained": 512, "fast": 16.0, "slow": 2.0, "attention_factor": 1.5},
        {
            "factor": 8.0,
            "original_max_position_embeddings": 512,
            "beta_fast": 16,
            "beta_slow": 2,
            "attention_factor": 1.5,
        },
    ),
    "llama3": (
        "llama3",
        {"factor": 8.0, "low": 1.0, "high": 4.0, "trained": 512},
        {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 512,
        },
    ),
}


@pytest.mark.parametrize(("name", "options", "theirs"), PUBLISHED.values(), ids=PUBLISHED.keys())
@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
def test_scalings_are_the_published_ones(name, options, theirs, base):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(
        hidden_size=256,
        num_attention_heads=4,
        head_dim=64,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": name, "rope_theta": base, **theirs},
    )
    expected, gain = ROPE_INIT_FUNCTIONS[name](config, torch.device("cpu"))
    rope = position.build(
        {"name": "rope", "base": base, "scaling": {"name": name, **options}},
        SHAPE._replace(width=256, head_width=64, context=2048),
    )
    ours, our_gain = rope.scaling(rope.frequencies(torch.device("cpu")))
    torch.testing.assert_close(ours, expected)
    assert our_gain == pytest.approx(gain)


def test_ntk_changes_the_base():
    """The published rule grows the base with the length; at `factor` times the context it is the same."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(
        hidden_size=256,
        num_attention_heads=4,
        head_dim=64,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 1.0},
    )
    expected, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, torch.device("cpu"), seq_len=4 * 512)
    rope = position.build(
        {"name": "rope", "scaling": {"name": "ntk", "factor": 4.0}}, SHAPE._replace(head_width=64)
    )
    torch.testing.assert_close(rope.scaling(rope.frequencies(torch.device("cpu")))[0], expected)


@pytest.mark.parametrize("name", [n for n in scaling if n not in ("none", "longrope")])
def test_a_scaling_squeezes_the_slow_pairs_and_no_pair_more_than_by_its_factor(name):
    rope = position.build({"name": "rope", "scaling": {"name": name, "factor": 3.0}}, SHAPE)
    frequency = rope.frequencies(torch.device("cpu"))
    scaled, _ = rope.scaling(frequency)
    shrunk = frequency / scaled
    assert shrunk[-1].item() == pytest.approx(3.0)
    assert (shrunk.diff() >= -1e-6).all()
    assert (shrunk >= 1 - 1e-6).all()


def test_a_rule_of_a_scaling_is_told_with_its_reason():
    with pytest.raises(ValueError, match="scaling ntk: divides by the turned channels less 2, and 2 turn"):
        small(position={"name": "rope", "rotary_fraction": 0.25, "scaling": "ntk"})
    with pytest.raises(ValueError, match=r"scaling llama3: low 4.0 must be less than high 4.0"):
        small(position={"name": "rope", "scaling": {"name": "llama3", "low": 4.0}})
    with pytest.raises(ValueError, match=r"scaling yarn: slow 40.0 must be less than fast 32.0"):
        small(position={"name": "rope", "scaling": {"name": "yarn", "slow": 40.0}})


# ------------------------------------------------------------------------------------------ starts


def spread(case: dict, width: int = 128, depth: int = 4) -> dict[str, float]:
    """The standard deviation of each started weight of layer 2, and of the embedding."""
    shape = {"width": width, "depth": depth, "vocab": 400, "ffn": {"name": "glu", "width": 256}}
    started = (
        Decoder(small(**{**shape, "attention": {"name": "softmax"}, **case})).init_parameters(0).state_dict()
    )
    short = {n.removeprefix("layers.2.").removesuffix(".weight"): p for n, p in started.items()}
    wanted = ["embedding", *(f"attention.{n}" for n in ("q", "v", "out")), "ffn.up", "ffn.down"]
    return {n: short[n].std().item() for n in wanted}


C, L, FFN = 128, 4, 256
RESIDUAL = ("attention.out", "ffn.down")
STARTS = {
    "gpt2": ({"init": "gpt2"}, lambda n: 0.02 / math.sqrt(2 * L) if n in RESIDUAL else 0.02),
    "gpt2_unscaled": ({"init": {"name": "gpt2", "residual_scaling": False}}, lambda n: 0.02),
    "small": (
        {"init": "small"},
        lambda n: 2 / (L * math.sqrt(C)) if n in RESIDUAL else math.sqrt(2 / (5 * C)),
    ),
    "xavier": (
        {"init": "xavier"},
        lambda n: {"embedding": C**-0.5, "ffn": math.sqrt(2 / (C + FFN))}.get(
            n.partition(".")[0], math.sqrt(2 / (2 * C))
        ),
    ),
    "mup": (
        {"init": {"name": "mup", "base_width": 2 * C}},
        lambda n: (
            0.02
            if n == "embedding"
            else 0.02
            * math.sqrt(2 * C / (FFN if n == "ffn.down" else C))
            / (math.sqrt(2 * L) if n in RESIDUAL else 1)
        ),
    ),
    "deepnorm": (
        {"init": "deepnorm", "placement": "deepnorm"},
        lambda n: {
            "embedding": C**-0.5,
            "attention.q": math.sqrt(2 / (2 * C)),
            "attention.v": (8 * L) ** -0.25 * math.sqrt(2 / (2 * C)),
            "attention.out": (8 * L) ** -0.25 * math.sqrt(2 / (2 * C)),
        }.get(n, (8 * L) ** -0.25 * math.sqrt(2 / (C + FFN))),
    ),
}


@pytest.mark.parametrize(("case", "expected"), STARTS.values(), ids=STARTS.keys())
def test_a_start_has_the_papers_spread(case, expected):
    found = spread(case)
    assert found == {
        n: pytest.approx(expected(n), rel=0.03) for n in found
    }  # 16384 draws: 3% is 5 deviations


def test_t5_on_a_gpu_looks_up_the_same_with_the_same_gradient(monkeypatch):
    """The way of a GPU, on a CPU."""
    from ablate.parts.position import t5

    monkeypatch.setattr(t5, "SCORES_SLICE", 50)
    weight = torch.randn(5, 3, dtype=torch.double).requires_grad_()
    bucket = torch.randint(5, (2, 7, 11))
    assert torch.equal(t5.looked_up(weight, bucket), weight.T[:, bucket])
    assert torch.autograd.gradcheck(lambda w: t5.looked_up(w, bucket), weight)
    stacked = torch.stack([weight, 2 * weight])
    both = torch.func.vmap(t5.looked_up, (0, None))(stacked, bucket)
    assert torch.equal(both[1], 2 * both[0])
