"""Generation: the cache changes nothing, rows do not meet, and sampling keeps to its support."""

import math
from typing import Any

import pytest
import torch
from cases import CASES, model
from torch.utils.flop_counter import FlopCounterMode

from ablate.model.decoder import Decoder
from ablate.model.generate import Sampler, complete, generate
from ablate.parts.base import ForwardContext, IncompatibleParts
from ablate.parts.memory import RollingCache
from ablate.registry import registries

PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1], [42]]
WINDOWS: dict[str, dict[str, Any]] = {
    f"kv{kv}-window{window}-keep{keep}-sink{sink}": {
        "attention": {
            "name": "softmax",
            "kv_heads": kv,
            "window": window,
            "sink_tokens": keep,
            "sink_logit": sink,
        }
    }
    for kv, window, keep, sink in [
        (4, 1, 0, False),
        (2, 4, 0, False),
        (1, 4, 2, True),
        (2, 30, 3, False),
        (1, None, 0, True),
    ]
}
POSITIONED = {
    f"{name}-{windowed}": {"position": name, **case}
    for name in registries["position"]
    for windowed, case in WINDOWS.items()
}
WALKED = {**{name: case for name, case in CASES.items() if name.startswith("hard:")}, **POSITIONED}


def uncached(m: Decoder, prompt: list[int], tokens: int) -> list[int]:
    """Greedy, each token from a whole forward pass."""
    row = list(prompt)
    prefix = torch.tensor([len(prompt)]) if any(g.prefix for g in m.groups) else None
    with torch.no_grad():
        for _ in range(tokens):
            logits = m(torch.tensor([row]), ForwardContext(torch.arange(len(row))[None], prefix=prefix))
            row.append(int(logits[0, -1].argmax()))
    return row[len(prompt) :]


@pytest.mark.parametrize("case", WALKED.values(), ids=WALKED.keys())
def test_cached_is_uncached_and_a_row_of_a_ragged_batch_is_the_row_alone(case):
    m = model(case, noise=0.3)
    together = complete(m, PROMPTS, 10)
    for prompt, row in zip(PROMPTS, together, strict=True):
        assert row == complete(m, [prompt], 10)[0] == uncached(m, prompt, 10)


# ------------------------------------------------------------------------------------------ sampling


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return model({}, noise=0.3)


def test_rows_draw_for_themselves(decoder):
    options = {"temperature": 1.0, "top_k": 20}
    a = complete(decoder, PROMPTS, 12, seed=[5, 6, 7], **options)
    for prompt, seed, row in zip(PROMPTS, [5, 6, 7], a, strict=True):
        assert complete(decoder, [prompt], 12, seed=[seed], **options) == [row]
    b = complete(decoder, [PROMPTS[0], [8, 8], PROMPTS[2]], 12, seed=5, **options)
    c = complete(decoder, PROMPTS, 12, seed=5, **options)
    assert (b[0], b[2]) == (c[0], c[2])
    same = complete(decoder, [[1], [1]], 12, seed=5, **options)
    assert same[0] != same[1]
    assert (
        complete(decoder, PROMPTS, 12, seed=5, **options)
        == c
        != complete(decoder, PROMPTS, 12, seed=6, **options)
    )


LOGITS = torch.tensor([2.0, 0.5, 1.0, -1.0, 0.0, 3.0])
P = LOGITS.double().softmax(0)


def drawn(count: int = 4000, **options: Any) -> torch.Tensor:
    chosen = {"temperature": 1.0, "top_k": None, "top_p": None, **options}
    sampler = Sampler(**chosen, seeds=range(count))
    return torch.bincount(sampler(LOGITS.expand(count, -1)), minlength=len(LOGITS)) / count


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, P),
        ({"temperature": 2.0}, (LOGITS.double() / 2.0).softmax(0)),
        ({"top_k": 3}, P * torch.tensor([1, 0, 1, 0, 0, 1])),
        ({"top_k": 1}, P * torch.tensor([0, 0, 0, 0, 0, 1])),
        ({"top_p": float(P[5]) + 1e-6}, P * torch.tensor([1, 0, 0, 0, 0, 1])),
        ({"top_p": float(P[5]) - 1e-6}, P * torch.tensor([0, 0, 0, 0, 0, 1])),
        ({"top_p": 1.0}, P),
        ({"top_k": 3, "top_p": 0.85}, P * torch.tensor([1, 0, 0, 0, 0, 1])),  # of what top_k left
    ],
)
def test_samples_keep_to_their_support_and_distribution(options, expected):
    found = drawn(**options)
    expected = expected / expected.sum()
    assert torch.equal(found > 0, expected > 0)
    assert (found - expected).abs().max() < 5 * (0.25 / 4000) ** 0.5  # five standard errors at the widest


def test_temperature_zero_takes_the_largest():
    assert drawn(3, temperature=0.0).tolist() == [0, 0, 0, 0, 0, 1]


def test_a_tiny_temperature_takes_the_largest():
    sampler = Sampler(1e-320, None, None, [0])
    assert sampler(torch.tensor([[1.0, 3.0, 2.0]])).tolist() == [1]


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="diverged"):
        Sampler(0.0, None, None, [0])(torch.tensor([[1.0, torch.nan]]))


# --------------------------------------------------------------------------------- steps and refusals


def test_a_row_ends_behind_its_stop_token_and_the_others_go_on(decoder):
    free = complete(decoder, PROMPTS, 12)
    stop = free[0][3]
    assert stop not in free[0][:3]
    stopped = complete(decoder, PROMPTS, 12, stop={stop})
    assert stopped[0] == free[0][:4]
    for row, whole in zip(stopped, free, strict=True):
        assert row == whole[: whole.index(stop) + 1 if stop in whole else 12]


def test_tokens_come_one_step_at_a_time_and_the_mode_is_left_as_it_was(decoder):
    decoder.train()
    steps = generate(decoder, PROMPTS, 5)
    first = next(steps)
    assert len(first) == 3 and not decoder.training
    steps.close()
    assert decoder.training
    decoder.eval()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompts": []}, "no prompt"),
        ({"prompts": [[1], []]}, "prompt 1 is empty"),
        ({"prompts": [[50]]}, "no token 50; they are 0 to 49"),
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"temperature": math.inf}, "temperature inf"),
        ({"temperature": 1.0, "top_k": 0}, "top_k 0"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p 1.5"),
        ({"seed": [1, 2]}, "2 seeds for 1 prompts"),
        ({"restart": True}, "none"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_first_step(decoder, given, said):
    with pytest.raises(ValueError, match=said):
        generate(decoder, **{"prompts": [[1]], "max_tokens": 3, **given})


def test_what_restarts_counts_no_position_into_the_embedding():
    m = model({"position": "sinusoidal", "attention": {"name": "softmax", "window": 6, "sink_tokens": 2}})
    with pytest.raises(IncompatibleParts, match="act on the embedding"):
        generate(m, [[1] * 20], 60, restart=True)


def test_a_table_of_positions_ends_where_it_ends():
    m = model({"position": "learned"})  # context 24
    assert len(complete(m, [[1] * 20], 5)[0]) == 5  # the last one is not read
    with pytest.raises(IncompatibleParts, match=r"names 24 positions.* take 25"):
        generate(m, [[1] * 20], 6)


# ------------------------------------------------------------------------------------------- windows

WINDOWED = {"attention": {"name": "softmax", "kv_heads": 2, "window": 6}}


def test_a_restarting_window_goes_beyond_the_context_and_relative_positions_do_not_notice():
    m = model(WINDOWED, noise=0.3)
    prompts = [list(range(30)), [7, 8]]
    assert complete(m, prompts, 40, restart=True) == complete(m, prompts, 40)


def test_a_restarting_window_with_kept_keys_is_the_kept_and_the_last_tokens_at_places_from_zero():
    """One layer, whose keys know nothing but their own token: what it remembers can be written down."""
    case = {"depth": 1, "attention": {"name": "softmax", "kv_heads": 2, "window": 6, "sink_tokens": 2}}
    m = model(case, noise=0.3)
    prompt = [3, 1, 4, 1, 5]
    row = prompt + complete(m, [prompt], 40, restart=True)[0]
    with torch.no_grad():
        for n in range(len(prompt), len(row)):
            seen = row[:n] if n <= 8 else row[:2] + row[n - 6 : n]
            assert row[n] == int(m(torch.tensor([seen]))[0, -1].argmax())


def test_decoding_costs_the_same_whatever_a_window_has_dropped():
    def cost(m: Decoder, before: int) -> int:
        memories = m.memories(before + 1)
        with torch.no_grad():
            m(
                torch.ones(1, before, dtype=torch.long),
                ForwardContext(torch.arange(before)[None], memories=memories),
            )
            with FlopCounterMode(display=False) as counter:
                m(torch.tensor([[1]]), ForwardContext(torch.tensor([[before]]), memories=memories))
        sizes = [x.shape[2] for memory in memories for pair in memory.stored.values() for x in pair]
        if all(isinstance(memory, RollingCache) for memory in memories):
            assert set(sizes) == {8}
        return counter.get_total_flops()

    kept = {
        "attention": {"name": "softmax", "kv_heads": 2, "window": 6, "sink_tokens": 2},
        "kernel": "reference",
    }
    windowed = model(kept)
    assert cost(windowed, 20) == cost(windowed, 300)
    assert cost(model({"kernel": "reference"}), 300) > cost(model({"kernel": "reference"}), 20)


# -------------------------------------------------------------------------------------- transformers


def test_greedy_is_that_of_transformers():
    from transformers import LlamaConfig, LlamaForCausalLM

    ours = model({"ffn": {"name": "glu", "width": 40, "activation": "silu"}}, torch.float32, noise=0.1)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    theirs = LlamaForCausalLM(config).eval()
    renamed = {
        "embedding.weight": "model.embed_tokens.weight",
        "final_norm.weight": "model.norm.weight",
        ".attention.out.": ".self_attn.o_proj.",
        ".attention.": ".self_attn.",
        "attention_residual.input_norm": "input_layernorm",
        "ffn_residual.input_norm": "post_attention_layernorm",
        ".ffn.": ".mlp.",
        "layers.": "model.layers.",
    }
    weights = {}
    for name, tensor in ours.state_dict().items():
        for a, b in renamed.items():
            if a in name:
                name = name.replace(a, b)
        for part in ("q", "k", "v", "gate", "up", "down"):
            name = name.replace(f".self_attn.{part}.", f".self_attn.{part}_proj.")
            name = name.replace(f".mlp.{part}.", f".mlp.{part}_proj.")
        weights[name] = tensor
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected
    prompt = [3, 1, 4, 1, 5]
    expected = theirs.generate(torch.tensor([prompt]), max_new_tokens=30, do_sample=False)[0, 5:].tolist()
    assert complete(ours, [prompt], 30)[0] == expected
