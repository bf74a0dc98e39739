"""What an export writes, and which models it takes: all of these run in transformers with our logits."""

import csv
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small
from safetensors import safe_open
from test_foreign import SILU, a_llama
from test_hf import SWIGLU, logits, ours
from test_trained import a_run

from ablate.__main__ import main
from ablate.model.decoder import Decoder
from ablate.model.generate import complete
from ablate.model.hf import FAMILIES, NEAREST_FAMILIES, ExportError, choose, export_folder
from ablate.model.hf.canonical import canonical
from ablate.spec import ModelSpec

CLOSE = 1e-5

# The families with what makes each of them of a small LLaMA with SwiGLU.
GEMMA = {
    "norm": {"name": "rmsnorm", "offset": True},
    "ffn": {"name": "glu", "width": 24, "activation": {"name": "gelu", "form": "tanh"}},
    "embedding": {"scale": "sqrt_width", "norm": "none"},
}
GPT = {
    "norm": "layernorm",
    "attention": {"name": "softmax", "bias": ["q", "k", "v", "out"]},
    "ffn": {"name": "mlp", "width": 48, "bias": ["up", "down"]},
}
QK = {"qk_norm": {"name": "rmsnorm", "eps": 1e-5}}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"attention": {"name": "softmax", "kv_heads": 2, "bias": ["q", "k", "v"]}},
    "qwen3": {"attention": {"name": "softmax", "kv_heads": 2, **QK}},
    "gemma": GEMMA,
    "gemma2": {**GEMMA, "placement": "sandwich", "head": {"softcap": 30.0}}
    | {"attention": {"name": "softmax", "kv_heads": 2, "softcap": 50.0, "scale": 8**-0.5}},
    "olmo": {"norm": {"name": "layernorm", "weight": False, "bias": False}},
    "olmo2": {"placement": "output"}
    | {"attention": {"name": "softmax", "kv_heads": 2, "qk_norm_over": "width", **QK}},
    "mixtral": {"ffn": {"name": "moe", "experts": 4, "expert": SWIGLU}},
    "gpt2": {**GPT, "position": "learned"},
    "gpt_neox": {
        **GPT,
        "topology": "parallel_two_norms",
        "position": {"name": "rope", "rotary_fraction": 0.5},
    },
    "falcon": {**GPT, "topology": "parallel", "attention": {"name": "softmax", "kv_heads": 1}}
    | {"ffn": {"name": "mlp", "width": 48}},
    "mpt": {**GPT, "norm": {"name": "layernorm", "bias": False}, "position": "alibi"}
    | {"attention": "softmax", "ffn": {"name": "mlp", "ratio": 4.0}},
    "phi": {**GPT, "topology": "parallel", "head": {"tied": False, "bias": True}}
    | {"position": {"name": "rope", "rotary_fraction": 0.5}},
}
WINDOWS: dict[str, dict[str, Any]] = {
    "none": {},
    "all": {"attention": {"window": 5}},
    "alternating": {
        "variants": {"local": {"attention": {"window": 5}}, "global": {}},
        "pattern": ["local", "global"],
    },
}


def of_family(name: str, windows: str = "none", **options: Any) -> ModelSpec:
    node = {"ffn": SWIGLU, **MODELS[name], **options}
    extra = dict(WINDOWS[windows])
    attention = node.get("attention", {"name": "softmax", "kv_heads": 2})
    attention = {"name": attention} if isinstance(attention, str) else attention
    node["attention"] = {**attention, **extra.pop("attention", {})}
    return small(**node, **extra)


def random(spec: ModelSpec) -> Decoder:
    """Every parameter random, biases and norms too."""
    decoder = Decoder(spec).init_parameters(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in decoder.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator)
    return decoder.eval()


def held_to_transformers(folder: Path, decoder: Decoder, tokens: torch.Tensor) -> None:
    """In transformers, and read back by the import."""
    from transformers import AutoModelForCausalLM

    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True
    )
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    with torch.no_grad():
        mine = decoder(tokens)
    torch.testing.assert_close(logits(model.eval(), tokens), mine, atol=CLOSE, rtol=CLOSE)
    torch.testing.assert_close(ours(folder)(tokens), mine, atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("name", MODELS)
def test_every_accepted_export_runs_in_transformers(name, windows, tokens, tmp_path):
    decoder = random(of_family(name, windows))
    try:
        export_folder(decoder, tmp_path / "out", name)
    except ExportError:
        windowed = {"mistral", "mixtral", "qwen2", "qwen3", "gemma2"}
        assert windows != "none" and (name not in windowed or windows == "alternating")
        return
    held_to_transformers(tmp_path / "out", decoder, tokens)


def test_a_window_for_no_layer_is_written_where_transformers_wants_one(tmp_path):
    export_folder(random(of_family("gemma2")), tmp_path / "out", "gemma2")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["sliding_window"], set(config["layer_types"])) == (24, {"full_attention"})


@pytest.mark.parametrize(
    "scaling",
    [
        {"name": "linear", "factor": 4.0},
        {"name": "llama3", "factor": 8.0, "trained": 12},
        {"name": "yarn", "factor": 4.0, "trained": 8},
        {"name": "yarn", "factor": 4.0, "trained": 8, "attention_factor": 1.3},
        {"name": "yarn", "factor": 4.0, "trained": 1},
    ],
)
@pytest.mark.parametrize("name", ["llama", "mixtral", "qwen2", "gpt_neox", "falcon"])
def test_every_accepted_rotation_runs_in_transformers(name, scaling, tokens, tmp_path):
    rotary_fraction = {"gpt_neox": 0.5}.get(name, 1.0)
    position = {"name": "rope", "base": 500.0, "rotary_fraction": rotary_fraction, "scaling": scaling}
    decoder = random(of_family(name, position=position))
    try:
        export_folder(decoder, tmp_path / "out", name)
    except ExportError as refused:
        if scaling.get("trained") != 1 or "where the ramp lies is not defined" not in str(refused):
            raise
        return
    held_to_transformers(tmp_path / "out", decoder, tokens)


@pytest.mark.parametrize("name", MODELS)
def test_a_width_that_is_no_multiple_of_the_heads(name, tokens, tmp_path):
    """transformers refuses it for some families, whatever head_dim says."""
    try:
        decoder = random(of_family(name, width=30, head_width=8))
        export_folder(decoder, tmp_path / "out", name)
    except ExportError:
        return
    held_to_transformers(tmp_path / "out", decoder, tokens)


# ------------------------------------------------------------------------------------- zeros for biases


BARE = {"norm": {"name": "layernorm", "bias": False}, "position": "learned"} | {
    "attention": "softmax",
    "ffn": {"name": "mlp", "width": 48, "activation": {"name": "gelu", "form": "exact"}},
}


@pytest.mark.parametrize(
    ("options", "family"),
    [
        (BARE, "gpt2"),  # nanoGPT's with bias=False
        ({"attention": {"name": "softmax", "bias": ["q"]}}, "llama"),
        ({"position": {"name": "rope", "rotary_fraction": 0.5}, "topology": "parallel"}
         | {"head": {"tied": False}}
         | {"norm": "layernorm", "ffn": {"name": "mlp", "width": 48}}, "phi"),
        ({"norm": {"name": "layernorm", "weight": False, "bias": False}, "position": "learned"}
         | {"ffn": {"name": "mlp", "width": 48}}, "gpt2"),
    ],
)  # fmt: skip
def test_zeros_stand_for_biases_that_a_family_always_has(options, family, tokens, tmp_path):
    decoder = random(small(**{"ffn": SWIGLU, "attention": "softmax", **options}))
    assert export_folder(decoder, tmp_path / "out") == family
    held_to_transformers(tmp_path / "out", decoder, tokens)


def test_a_model_that_is_expressed_as_it_is_gets_no_zeros():
    spec = of_family("llama")
    assert choose(spec) == (FAMILIES["llama"], spec)
    assert canonical(choose(small(**{"ffn": SWIGLU, **BARE})).spec) != canonical(small(**BARE))


# -------------------------------------------------------------------------------------------- obstacles


def test_all_obstacles_are_named_the_nearest_family_first():
    spec = of_family("gemma2", "alternating", position="t5", norm="rmsnorm", head={"softcap": 7.0})
    with pytest.raises(ExportError) as refused:
        choose(spec)
    first, *lines = str(refused.value).splitlines()
    assert "the nearest family first" in first
    assert len(lines) == NEAREST_FAMILIES
    assert any("position is 't5'" in line for line in lines)
    counts = [line.count("; ") for line in lines]
    assert counts == sorted(counts)


def test_local_and_global_layers_with_a_softcap_are_told_what_lacks():
    spec = of_family("llama", "alternating")
    tree = spec.model_dump(mode="json")
    for layer in (tree, *tree["variants"].values()):
        layer["attention"]["softcap"] = 20.0
    with pytest.raises(ExportError) as refused:
        choose(ModelSpec.model_validate(tree))
    said = {line.split(": ")[0]: line for line in str(refused.value).splitlines()}
    assert "attention.softcap is 20.0" in said["qwen2"] and "bias" not in said["qwen2"]


# ---------------------------------------------------------------------------------------- the folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return a_llama(tmp_path_factory.mktemp("runs") / "abc")


def test_a_folder_has_all_that_others_read(run, tmp_path, capsys):
    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: llama\n"
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        *("config.json", "generation_config.json", "model.safetensors", "README.md"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 256, "eos_token_id": 256}
    page = (tmp_path / "out" / "README.md").read_text()
    assert page.startswith("---\nlibrary_name: transformers\n") and "| Run | `abc` |" in page
    assert "Verdict" not in page


def test_files_have_the_usual_modes(run, tmp_path):
    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    usual = os.umask(0)
    os.umask(usual)
    for path in (tmp_path / "out", *(tmp_path / "out").iterdir()):
        whole = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == whole & ~usual


def test_shards_are_those_that_transformers_reads(tokens, tmp_path):
    decoder = random(of_family("llama"))
    export_folder(decoder, tmp_path / "out", shard=20_000)
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 2 and all(path.stat().st_size < 22_000 for path in shards)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in shards}
    held_to_transformers(tmp_path / "out", decoder, tokens)


def test_the_dtype_is_chosen(run, tmp_path, capsys):
    assert main(["export", str(run), str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as opened:
        assert {opened.get_tensor(name).dtype for name in opened.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    decoder = random(of_family("llama"))
    with torch.no_grad():
        decoder.embedding.weight[3, 3] = 1e6
    with pytest.raises(ExportError, match=r"embed_tokens\.weight holds numbers beyond 65504.*use bfloat16"):
        export_folder(decoder, tmp_path / "half", dtype=torch.float16)
    assert not (tmp_path / "half").exists()


def test_the_card_has_the_verdict_of_the_study(run, tmp_path):
    tables = tmp_path / "studies" / "mine" / "tables"
    tables.mkdir(parents=True)
    rows = [
        {"id": "abc", "corpus": "english", "arm": "swiglu"},
        {"id": "d", "corpus": "english", "arm": "relu"},
    ]
    said = {"corpus": "english", "arm": "swiglu", "reason": "swiglu is better than relu: -0.1 [-0.2, -0.05]"}
    said |= {"baseline": "relu", "metric": "heldout/loss"}
    for name, table in (("runs", rows), ("verdicts", [said])):
        with (tables / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    studies = ["--experiments", str(tmp_path / "studies")]
    assert main(["export", str(run), str(tmp_path / "out"), *studies]) == 0
    page = (tmp_path / "out" / "README.md").read_text()
    assert "Study `mine` on english, by heldout/loss: swiglu is better than relu: -0.1 [-0.2, -0.05]." in page


@pytest.mark.slow
def test_tokenizer_and_model_are_those_of_auto_classes_and_pipelines(run, tmp_path):
    from transformers import AutoTokenizer, pipeline

    from ablate.measure.trained import continue_texts, open_run

    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "def f(x):\n    return  'é — 日本'\n"
    opened = open_run(run)
    assert words(text)["input_ids"] == opened.tokenizer.encode([text])[0]
    assert words.decode(words(text)["input_ids"]) == text
    assert (words.eos_token_id, words.model_max_length) == (256, 24)
    said = pipeline("text-generation", model=str(tmp_path / "out"), device="cpu")
    found = said("def ", max_new_tokens=9, do_sample=False)[0]["generated_text"]
    assert found == "def " + continue_texts(opened, ["def "], 9, temperature=0.0)[0]


@pytest.mark.slow
def test_the_evaluation_harness_finds_our_bits_per_byte(run, tmp_path, monkeypatch):
    """On texts that fit the context, each after the end token."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    from ablate.measure.trained import open_run

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    texts = ["def f(x):", "a b c é 日本"]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    task = {
        "task": "ours",
        "dataset_path": "json",
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
    }
    task |= {"dataset_kwargs": {"data_files": {"test": str(tmp_path / "texts.jsonl")}}}
    task |= {"doc_to_text": "", "doc_to_target": "{{text}}", "metric_list": [{"metric": "bits_per_byte"}]}
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "ours.yaml").write_text(json.dumps(task))
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tmp_path / "out"), "device": "cpu"},
        tasks=["ours"],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
    )
    opened, bits = open_run(run), 0.0
    for text in texts:
        row = torch.tensor([256, *opened.tokenizer.encode([text])[0]])
        with torch.no_grad():
            said = opened.decoder(row[None, :-1])[0].log_softmax(-1)
        bits -= said.gather(1, row[1:, None]).sum().item() / math.log(2)
    whole = sum(len(text.encode()) for text in texts)
    assert found["results"]["ours"]["bits_per_byte,none"] == pytest.approx(bits / whole, rel=1e-5)


def test_a_run_with_another_gate_is_exported_too(tmp_path):
    """The options of a run are said in the card."""
    run = a_run(tmp_path / "abc", **{**SILU, "position": {"name": "rope", "base": 77.0}})
    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rope_parameters"]["rope_theta"] == 77.0


def test_continuous_batching_chooses_our_tokens(tmp_path):
    """Of 16 prompts of different lengths, with pages of 4 tokens that are too few for all at once."""
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    decoder = Decoder(of_family("llama")).init_parameters(0).eval()
    with torch.no_grad():
        for p in decoder.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    export_folder(decoder, tmp_path / "hub")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hub")
    lengths = [n % 13 + 2 for n in range(0, 16 * 5, 5)]
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(50, (length,), generator=generator).tolist() for length in lengths]
    found = model.generate_batch(
        prompts,
        generation_config=GenerationConfig(
            max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0
        ),
        continuous_batching_config=ContinuousBatchingConfig(page_size=4, num_blocks=24, max_batch_tokens=32),
    )
    theirs = [found[f"req_{n}"].generated_tokens for n in range(len(prompts))]
    assert theirs == complete(decoder, prompts, 8)
    assert len({tuple(new) for new in theirs}) > 8
