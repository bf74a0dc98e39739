"""Published models have exactly their published counts, built without storage."""

import pytest

from ablate.cli.models_table import PAGE, composed, costs, presets, renewed
from ablate.model.measure import blueprint, measure_model
from ablate.spec import ModelSpec

# Total parameters, and bytes of keys and values for each token in bf16.
PUBLISHED = {
    "gpt2": (124_439_808, 36_864),
    "gpt2_medium": (354_823_168, 98_304),
    "gpt2_large": (774_030_080, 184_320),
    "gpt2_xl": (1_557_611_200, 307_200),
    "llama1_7b": (6_738_415_616, 524_288),
    "llama1_13b": (13_015_864_320, 819_200),
    "llama1_33b": (32_528_943_616, 1_597_440),
    "llama1_65b": (65_285_660_672, 2_621_440),
    "llama2_7b": (6_738_415_616, 524_288),
    "llama2_13b": (13_015_864_320, 819_200),
    "llama2_70b": (68_976_648_192, 327_680),
    "llama3_8b": (8_030_261_248, 131_072),
    "llama3_70b": (70_553_706_496, 327_680),
    "mistral_7b": (7_241_732_096, 131_072),
    "mixtral_8x7b": (46_702_792_704, 131_072),
    "falcon_7b": (6_921_720_704, 8_192),
    "mpt_7b": (6_649_286_656, 524_288),
    "gemma_2b": (2_506_172_416, 18_432),
    "olmo_1b": (1_176_764_416, 131_072),
    "qwen2_5_0_5b": (494_032_768, 12_288),
    "pythia_160m": (162_322_944, 36_864),
}
WIDTHS = {  # of the feed-forward
    "gpt2_xl": 6400,
    "llama1_7b": 11008,
    "llama1_13b": 13824,
    "llama1_33b": 17920,
    "llama1_65b": 22016,
    "llama2_70b": 28672,
    "llama3_8b": 14336,
    "llama3_70b": 28672,
    "mistral_7b": 14336,
    "falcon_7b": 18176,
    "gemma_2b": 16384,
    "olmo_1b": 8192,
    "qwen2_5_0_5b": 4864,
}
CONTEXTS = {"gpt2": 1024, "llama1_7b": 2048, "llama2_7b": 4096, "llama3_8b": 8192, "mistral_7b": 32768}
SIZES = {"0.2M": 0.2e6, "tiny": 0.8e6, "1M": 1e6, "8M": 8e6, "25M": 25e6, "125M": 125e6}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name):
    assert (costs(name).parameters, costs(name).kv_bytes) == PUBLISHED[name]


def test_every_preset_is_held_to_a_count():
    assert set(presets()) == {*PUBLISHED, "transformer"}  # of which no decoder alone was published


@pytest.mark.parametrize("name", PUBLISHED)
def test_active_parameters(name):
    published = {"mixtral_8x7b": 12_879_925_248}
    assert costs(name).active == published.get(name, costs(name).parameters)


def test_published_counts_without_embedding():
    assert costs("pythia_160m").non_embedding == 85_056_000
    assert costs("gemma_2b").non_embedding == 1_981_884_416
    assert costs("gpt2").non_embedding == 124_439_808 - 50_257 * 768 - 1024 * 768


@pytest.mark.parametrize("name", WIDTHS)
def test_the_feed_forward_is_as_wide_as_published(name):
    decoder = blueprint(composed(name))
    assert {layer.ffn.up.out_features for layer in decoder.layers} == {WIDTHS[name]}


@pytest.mark.parametrize("name", CONTEXTS)
def test_contexts(name):
    assert composed(name).context == CONTEXTS[name]


def test_the_original_transformer_in_closed_form():
    V, C, L, F = 37_000, 512, 6, 2048
    attention, feed_forward, norms = 4 * C * C, 2 * C * F + F + C, 2 * 2 * C
    assert costs("transformer").parameters == V * C + L * (attention + feed_forward + norms)


def test_training_flops_are_six_for_each_active_parameter_and_the_scores():
    """Kaplan et al. 2020, table 1: the head's products are counted, looking up a table is not."""
    spec, cost = composed("llama2_7b"), costs("llama2_7b")
    weights = cost.parameters - spec.width * (2 * spec.depth + 1) - spec.width * 32_000  # norms, lookup
    scores = 12 * spec.depth * spec.width * (spec.context + 1) / 2
    assert cost.training_flops == 6 * weights + scores


def test_a_window_bounds_the_cache():
    assert costs("mistral_7b").cache_bytes == 4096 * 131_072
    assert costs("llama3_8b").cache_bytes == 8192 * 131_072


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_about_what_their_names_say(size):
    spec = composed("llama", f"model/size={size}").model_dump() | {"vocab": 4096}
    assert measure_model(ModelSpec(**spec)).non_embedding == pytest.approx(SIZES[size], rel=0.03)


def test_a_published_recipe_takes_another_size():
    spec = composed("gpt2", "model/size=tiny")
    assert (spec.width, spec.vocab) == (composed("llama").width, None)
    assert spec.position.name == "learned"


def test_the_page_is_current():
    page = PAGE.read_text()
    assert page == renewed(page), "run: python -m ablate.models_table"


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_transformers_counts_the_same(name):
    """Its own model, built from the config that an export of the preset would write."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ablate.model.hf import FAMILIES
    from ablate.model.hf.config import blockers, write_config

    family = next(family for family in FAMILIES.values() if not blockers(composed(name), family))
    config = write_config(composed(name), family)
    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    theirs.tie_weights()
    assert sum(p.numel() for p in theirs.parameters()) == PUBLISHED[name][0]
