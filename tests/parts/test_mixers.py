"""Recurrent mixers against the code of transformers, weights copied by name."""

import math
from typing import Any

import pytest
import torch
from conftest import small
from torch import Tensor, nn

from ablate.model.decoder import Decoder
from ablate.parts.base import ForwardContext
from ablate.parts.recurrence import NoStates, RecurrentContext
from ablate.registry import registries
from ablate.spec import ModelSpec

transformers = pytest.importorskip("transformers")
SHAPE = small().shape()
C, H, D = SHAPE.width, SHAPE.heads, SHAPE.head_width
VIEW = RecurrentContext(NoStates(), None, torch.arange(70)[None], [], {})


def ours(name: str, **options: Any) -> nn.Module:
    return registries["attention"].build({"name": name, **options}, SHAPE)


def randomised(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.15 * torch.randn(p.shape, generator=generator) + (0.5 if p.ndim == 1 else 0.0))
    return module.eval()


def same(a: nn.Module, b: nn.Module, weights: dict[str, Tensor], **kwargs: Any) -> None:
    """Both give the same after `weights` went into `a`: in one chunk's length and in more than one."""
    missing, unexpected = a.load_state_dict(weights, strict=False)
    assert not missing and not unexpected
    for T in (7, 70):
        x = torch.randn(2, T, C, generator=torch.Generator().manual_seed(T))
        with torch.no_grad():
            expected = b(x, **kwargs)
            expected = expected[0] if isinstance(expected, tuple) else expected
            apart = (a.eval()(x, VIEW, 1) - expected).abs().max()
            assert apart < 1e-5 * expected.abs().max()


def split(conv: Tensor, names: tuple[str, ...], sizes: tuple[int, ...]) -> dict[str, Tensor]:
    return dict(zip((f"{name}_conv.weight" for name in names), conv.split(sizes), strict=True))


@pytest.mark.parametrize("negative", [False, True])
def test_gated_deltanet_is_that_of_olmo_hybrid(negative):
    from transformers.models.olmo_hybrid.modeling_olmo_hybrid import OlmoHybridGatedDeltaNet

    config = transformers.OlmoHybridConfig(
        hidden_size=C, num_hidden_layers=2, num_attention_heads=4, linear_num_key_heads=2,
        linear_num_value_heads=4, linear_key_head_dim=6, linear_value_head_dim=10,
        linear_conv_kernel_dim=4, linear_allow_neg_eigval=negative,
        layer_types=["full_attention", "linear_attention"],
    )  # fmt: skip
    theirs = randomised(OlmoHybridGatedDeltaNet(config, 1))
    w = theirs.state_dict()
    mixer = ours(
        "gated_deltanet", key_heads=2, value_heads=4, key_width=6, value_width=10,
        negative_eigenvalues=negative,
    )  # fmt: skip
    weights = {f"{name}.weight": w[f"{name}_proj.weight"] for name in "qkvab"}
    weights |= {"gate.weight": w["g_proj.weight"], "out.weight": w["o_proj.weight"]}
    weights |= {"norm.weight": w["o_norm.weight"], "log_rate": w["A_log"], "time_bias": w["dt_bias"]}
    same(mixer, theirs, weights | split(w["conv1d.weight"], ("q", "k", "v"), (12, 12, 40)))


def test_kda_is_that_of_kimi_linear():
    from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearDeltaAttention

    config = transformers.KimiLinearConfig(
        hidden_size=C, num_hidden_layers=2, linear_num_heads=H, linear_head_dim=D,
        linear_conv_kernel_dim=4, rms_norm_eps=1e-5, layer_types=["linear_attention"] * 2,
    )  # fmt: skip
    theirs = randomised(KimiLinearDeltaAttention(config, 1))
    w = theirs.state_dict()
    names = {
        "q": "q_proj", "k": "k_proj", "v": "v_proj", "b": "b_proj", "out": "o_proj", "norm": "o_norm",
        "forget_down": "forget_gate.f_a_proj", "forget_up": "forget_gate.f_b_proj",
        "gate_down": "g_a_proj", "gate_up": "g_b_proj",
    }  # fmt: skip
    weights = {f"{a}.weight": w[f"{b}.weight"] for a, b in names.items()}
    weights |= {
        "log_rate": w["forget_gate.A_log"].flatten(),
        "time_bias": w["forget_gate.dt_bias"],
    }
    same(ours("kda"), theirs, weights | split(w["conv1d.weight"], ("q", "k", "v"), (H * D,) * 3))


def test_lightning_is_that_of_minimax():
    from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

    config = transformers.MiniMaxConfig(
        hidden_size=C, num_hidden_layers=SHAPE.depth, num_attention_heads=H, block_size=16,
        hidden_act="silu", layer_types=["linear_attention"] * SHAPE.depth,
    )  # fmt: skip
    theirs = randomised(MiniMaxLightningAttention(config, 1))
    w = theirs.state_dict()
    q, k, v = w["qkv_proj.weight"].view(H, 3, D, C).unbind(1)
    weights = {
        "q.weight": q.reshape(-1, C),
        "k.weight": k.reshape(-1, C),
        "v.weight": v.reshape(-1, C),
        "gate.weight": w["output_gate.weight"],
        "norm.weight": w["norm.weight"],
        "out.weight": w["out_proj.weight"],
    }
    mixer = ours("lightning", norm={"name": "rmsnorm", "eps": theirs.norm.variance_epsilon})
    same(mixer, theirs, weights, position_embeddings=None, attention_mask=None)


@pytest.mark.parametrize("bias", [False, True])
def test_the_short_convolution_is_that_of_lfm2(bias):
    from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv

    config = transformers.Lfm2Config(
        hidden_size=C, num_hidden_layers=2, conv_L_cache=3, conv_bias=bias, layer_types=["conv"] * 2
    )
    theirs = randomised(Lfm2ShortConv(config, 1))
    w = theirs.state_dict()
    weights: dict[str, Tensor] = {}
    for leaf in ("weight", "bias") if bias else ("weight",):
        weights |= {f"conv.{leaf}": w[f"conv.{leaf}"], f"out.{leaf}": w[f"out_proj.{leaf}"]}
        weights |= zip((f"{n}.{leaf}" for n in "bcu"), w["in_proj." + leaf].chunk(3), strict=True)
    same(ours("short_convolution", bias=bias), theirs, weights)


def test_mamba2_is_that_of_nemotron_h():
    from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMamba2Mixer

    config = transformers.NemotronHConfig(
        hidden_size=C, mamba_num_heads=4, mamba_head_dim=16, ssm_state_size=12, n_groups=2, conv_kernel=4,
        use_conv_bias=True, use_bias=True, chunk_size=16, layer_types=["mamba"] * 2, num_hidden_layers=2,
        layer_norm_epsilon=1e-5, time_step_min=0.0,
    )  # fmt: skip
    theirs = randomised(NemotronHMamba2Mixer(config, 1))
    w = theirs.state_dict()
    inner, shared = 64, 24
    weights = {"log_rate": w["A_log"], "time_bias": w["dt_bias"], "skip": w["D"]}
    for leaf in ("weight", "bias"):
        gate, u, key, query, step = w[f"in_proj.{leaf}"].split((inner, inner, shared, shared, 4))
        weights |= {f"gate.{leaf}": gate, f"u.{leaf}": u, f"step.{leaf}": step}
        weights |= {f"key.{leaf}": key, f"query.{leaf}": query, f"out.{leaf}": w[f"out_proj.{leaf}"]}
        convs = w[f"conv1d.{leaf}"].split((inner, shared, shared))
        weights |= zip((f"{n}_conv.{leaf}" for n in ("u", "key", "query")), convs, strict=True)
    mixer = ours("mamba2", expand=2.0, head_width=16, state_width=12, groups=2, bias=True)
    weights |= zip(("norms.0.weight", "norms.1.weight"), w["norm.weight"].chunk(2), strict=True)
    same(mixer, theirs, weights)


def test_rwkv7_is_the_recurrence_of_the_paper():
    """Section 4 token by token, in double precision, with the paper's transposed state S (values by keys)."""
    m = randomised(ours("rwkv7", decay_rank=5, rate_rank=6, gate_rank=7)).double()
    p = dict(m.named_parameters())
    x = torch.randn(2, 70, C, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    S, before, outputs = x.new_zeros(2, H, D, D), torch.zeros_like(x[:, 0]), []
    for now in x.unbind(1):
        r, w, k, v, a, g = (now + (before - now) * p[f"mixes.{name}"] for name in "rwkvag")
        r, k, v = (y @ p[f"{name}.weight"].T for name, y in (("r", r), ("k", k), ("v", v)))
        w = (w @ p["decay_down.weight"].T).tanh() @ p["decay_up.weight"].T + p["decay_up.bias"]
        w = (-math.exp(-0.5) * w.sigmoid()).exp()
        a = (a @ p["rate_down.weight"].T @ p["rate_up.weight"].T + p["rate_up.bias"]).sigmoid()
        g = (g @ p["gate_down.weight"].T).sigmoid() @ p["gate_up.weight"].T
        r, w, k, v, a = (y.view(2, H, D) for y in (r, w, k, v, a))
        removal = k * p["removal"][:, 0]
        removal = removal / removal.norm(dim=-1, keepdim=True)
        k = k * (1 + (a - 1) * p["replacement"][:, 0])
        S = (
            S * w[:, :, None]
            - (S @ removal[..., None]) @ (a * removal)[:, :, None]
            + v[..., None] * k[:, :, None]
        )
        o = (S @ r[..., None])[..., 0]
        heads = torch.stack([norm(o[:, h]) for h, norm in enumerate(m.norms)], 1)
        heads = heads + (r * k * p["bonus"][:, 0]).sum(-1, keepdim=True) * v
        outputs.append((heads.flatten(1) * g) @ p["out.weight"].T)
        before = now
    with torch.no_grad():
        torch.testing.assert_close(m(x, VIEW, 0), torch.stack(outputs, 1), rtol=1e-8, atol=1e-10)


RECURRENT = [
    name
    for name in registries["attention"]
    if not registries["attention"][name].make.takes_position and name != "none"
]


@pytest.mark.parametrize("name", RECURRENT)
def test_a_state_has_the_numbers_that_are_counted(name):
    from ablate.model.measure import count_costs

    m = Decoder(small(attention=name, position="none", depth=2)).init_parameters(0)
    states = m.memories(8)
    with torch.no_grad():
        m(torch.randint(50, (1, 8)), ForwardContext(torch.arange(8)[None], memories=states))
    numbers = sum(state.numel() for state in states[0].stored.values())
    costs = count_costs(m, value_bytes=4)
    assert costs.cache_bytes == 4 * numbers and costs.kv_bytes == 0
    assert costs.cache_bytes == count_costs(m, context=1000, value_bytes=4).cache_bytes


@pytest.mark.parametrize("name", RECURRENT)
def test_a_mixer_that_takes_no_position_refuses_one(name):
    with pytest.raises(ValueError, match=f"{name}: takes no position, so rope would do nothing"):
        small(attention=name)
    small(attention=name, position="learned")  # acts on the embedding


def test_a_pattern_names_mixers():
    spec = small(depth=4, pattern=["gated_deltanet", "mamba2", "softmax"])
    layers = spec.layers()
    assert [layer.attention.name for layer in layers] == [
        "gated_deltanet", "mamba2", "softmax", "gated_deltanet",
    ]  # fmt: skip
    assert [layer.position.name for layer in layers] == ["none", "none", "rope", "none"]
    assert layers[2].attention == small().attention  # the options of the common layer
    assert ModelSpec.model_validate(spec.model_dump()) == spec
    with pytest.raises(ValueError, match="no variant is called nosuch"):
        small(pattern=["nosuch", "softmax"])
    at_input = small(depth=2, position="learned", pattern=["gated_deltanet", "softmax"])
    assert {layer.position.name for layer in at_input.layers()} == {"learned"}


def test_a_recurrent_layer_cannot_see_a_prefix_whole():
    with pytest.raises(ValueError, match="cannot see a prefix whole"):
        small(attention={"name": "softmax", "mask": "prefix"}, depth=2, pattern=["gated_deltanet", "softmax"])


def test_a_hybrid_decodes_from_states_and_keys(tokens):
    m = Decoder(small(depth=4, pattern=["gated_deltanet", "mamba2", "softmax"])).init_parameters(0).double()
    memories = m.memories(20)
    assert len(memories) == 2  # the states of all recurrent layers, and a cache
    with torch.no_grad():
        pieces = [
            m(tokens[:, a:b], ForwardContext(torch.arange(a, b)[None], memories=memories))
            for a, b in ((0, 9), (9, 10), (10, 20))
        ]
        torch.testing.assert_close(torch.cat(pieces, 1), m(tokens))


def test_layers_of_one_branch_are_said_to_be_so():
    with pytest.raises(ValueError, match="of a feed-forward alone; say topology=single"):
        small(attention="none", position="none")
    with pytest.raises(ValueError, match="of a token mixer alone; say topology=single"):
        small(ffn="none")
    for parts in ({}, {"attention": "none", "position": "none", "ffn": "none"}):
        with pytest.raises(ValueError, match="is a layer of one branch"):
            small(topology="single", **parts)
    decoder = Decoder(small(topology="single", ffn="none"))
    assert {name.split(".")[2] for name, _ in decoder.named_parameters() if name.startswith("layers.")} == {
        "attention",
        "residual",
    }
