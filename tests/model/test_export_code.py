"""Models of any parts, exported with their code: where ablate cannot be imported they are what they were."""

import ast
import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small
from covering import FACTORS, Row, build, refusal, rows
from safetensors.torch import load_file
from test_trained import a_run

from ablate.__main__ import main
from ablate.model.decoder import Decoder
from ablate.model.generate import complete
from ablate.model.hf import ExportError
from ablate.model.hf.code import MODULE, export_code, plain_model, source_of
from ablate.model.hf.code.sources import REPLACED_BY, STAND_INS
from ablate.registry import load_parts, norm

CLOSE = 1e-5
PROMPTS = [[7, 3, 9, 11, 2, 5, 30, 41, 8, 12], [4, 19, 22, 6]]  # of different lengths
NEW = 8  # tokens
# What a reader does with folders, in a process where ablate cannot be imported.
READER = """
import importlib.abc, json, sys
import torch

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ablate":
            raise ImportError("ablate is not here")

sys.meta_path.insert(0, Absent())
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
torch.set_grad_enabled(False)
given = json.load(sys.stdin)
prompts = given["prompts"]
longest = max(map(len, prompts))
padded = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
for folder in given["folders"]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    logits = model(torch.tensor(given["tokens"])).logits
    options = {"max_new_tokens": given["new"], "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    new = model.generate(padded, attention_mask=mask, **options)
    torch.save((logits, new[:, longest:]), folder + "/read.pt")
model.save_pretrained(folder + "/again")
again = AutoModelForCausalLM.from_pretrained(folder + "/again", trust_remote_code=True)
assert torch.equal(again(torch.tensor(given["tokens"])).logits, logits)
assert not any(name.split(".")[0] == "ablate" for name in sys.modules)
"""


def read(folders: list[Path], tokens: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The logits of the tokens and the new tokens after the prompts, of each folder."""
    given = {"folders": list(map(str, folders)), "prompts": PROMPTS, "new": NEW, "tokens": tokens.tolist()}
    environment = {"HF_MODULES_CACHE": str(folders[0].parent / "modules"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READER],
        input=json.dumps(given),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / "read.pt") for folder in folders]


def moved(decoder: Decoder) -> Decoder:
    """Every parameter off its start, so that none hides as a zero or a one."""
    decoder.init_parameters(0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in decoder.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return decoder


def faults(named: dict[str, Decoder], tokens: torch.Tensor, place: Path) -> list[str]:
    """What is wrong with exports of the decoders."""
    folders = [place / str(n) for n in range(len(named))]
    for decoder, folder in zip(named.values(), folders, strict=True):
        export_code(decoder, folder)
    wrong = []
    for (name, decoder), (logits, new) in zip(named.items(), read(folders, tokens), strict=True):
        with torch.no_grad():
            ours: Any = decoder(tokens)
        off = (logits - ours).abs().max() / max(1.0, float(ours.abs().max()))
        if not off <= CLOSE:
            wrong.append(f"{name}: logits differ by {off:.1e}")
        if new.tolist() != complete(decoder, PROMPTS, NEW):
            wrong.append(f"{name}: other tokens are chosen")
    return wrong


def every_choice() -> Iterator[Row]:
    """Models that between them have every choice that a CPU can have."""
    left = {(factor, choice) for factor, choices in FACTORS.items() for choice in choices}
    left = {pair for pair in left if refusal(dict([pair])) is None}
    while left:
        row = {}
        for factor, choice in sorted(left):
            if factor not in row and refusal({**row, factor: choice}) is None:
                row[factor] = choice
        left -= set(row.items())
        yield row


def test_models_with_every_choice_are_read_without_ablate(tokens, tmp_path):
    named = {json.dumps(row): moved(build(row)) for row in every_choice()}
    assert len(named) > 8
    assert not (wrong := faults(named, tokens, tmp_path)), "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(8))
def test_models_with_every_pair_of_choices_are_read_without_ablate(share, tokens, tmp_path):
    named = {json.dumps(row): moved(build(row)) for row in rows()[share::8]}
    assert not (wrong := faults(named, tokens, tmp_path)), "\n".join(wrong)


def loaded(folder: Path) -> Any:
    """The model of an exported folder, in this process."""
    spec = importlib.util.spec_from_file_location("exported", folder / f"{MODULE}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["exported"] = module
    spec.loader.exec_module(module)
    return module.AblateForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory) -> Any:
    decoder = moved(Decoder(small(pattern=["gated_deltanet", "softmax", "softmax"], dropout=0.1)))
    folder = tmp_path_factory.mktemp("exported") / "hybrid"
    export_code(decoder, folder)
    return loaded(folder)


def test_a_beam_goes_on_from_what_its_row_remembers(hybrid, tokens):
    options = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(tokens)
    mask[0, :5] = 0
    with_cache = hybrid.generate(tokens, attention_mask=mask, **options)
    assert (
        with_cache.tolist()
        == hybrid.generate(tokens, attention_mask=mask, use_cache=False, **options).tolist()
    )


def test_padding_changes_nothing_on_either_side(hybrid, tokens):
    short = tokens[:1, :14]
    alone = hybrid(short).logits
    for mask, there in (([0] * 6 + [1] * 14, slice(6, 20)), ([1] * 14 + [0] * 6, slice(0, 14))):
        padded = torch.zeros(2, 20, dtype=torch.long)
        padded[0, there], padded[1] = short[0], tokens[1]
        found = hybrid(padded, attention_mask=torch.tensor([mask, [1] * 20])).logits
        torch.testing.assert_close(found[0, there], alone[0], atol=CLOSE, rtol=CLOSE)
        torch.testing.assert_close(found[1], hybrid(tokens[1:]).logits[0], atol=CLOSE, rtol=CLOSE)


def test_what_the_cache_cannot_mean_is_refused(hybrid, tokens):
    right = torch.tensor([[1] * 14 + [0] * 6, [1] * 20])
    with pytest.raises(ValueError, match="pad on the left"):
        hybrid(tokens, attention_mask=right, use_cache=True)
    with pytest.raises(ValueError, match="pad on the left"):
        hybrid.generate(tokens, attention_mask=right, max_new_tokens=2, pad_token_id=0)
    holes = torch.ones_like(tokens)
    holes[:, 5] = 0
    with pytest.raises(ValueError, match="padding, which is on one side"):
        hybrid(tokens, attention_mask=holes)
    first = hybrid(tokens)
    with pytest.raises(ValueError, match="hides tokens that come after"):
        hybrid(tokens[:, :1], attention_mask=torch.tensor([[1] * 20 + [0]] * 2), cache=first.cache)
    with pytest.raises(ValueError, match="room for 24 tokens; 40 were given"):
        hybrid(tokens, cache=first.cache)
    with pytest.raises(ValueError, match="a list is no cache of this model"):
        hybrid(tokens, past_key_values=[])
    with pytest.raises(ValueError, match="continuous batching needs the attention of transformers"):
        hybrid.generate_batch(PROMPTS, max_new_tokens=2)


def test_labels_give_the_loss_of_the_next_token(hybrid, tokens):
    labels = tokens.clone()
    labels[0, :7] = -100
    found = hybrid.train()(tokens, labels=labels)
    hybrid.eval()
    assert found.cache is None
    logits = hybrid(tokens, use_cache=False).logits
    nll = -logits.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    expected = torch.cat((nll[0, 6:], nll[1])).mean()
    assert hybrid(tokens, labels=labels).loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_it_starts_from_weights_alone(hybrid):
    with pytest.raises(ValueError, match="has no weights, and this file no values to start from"):
        type(hybrid)(hybrid.config)


def test_what_has_a_stand_in_is_there_under_its_name():
    """A definition that is renamed would go into the file as it is."""
    for (module, name), stand_in in REPLACED_BY.items():
        assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"
        assert hasattr(importlib.import_module(STAND_INS), stand_in)


def test_the_file_names_all_that_it_uses_and_nothing_of_ablate(tmp_path):
    for n, spec in enumerate((small(), small(pattern=["mla", "mamba2", "kda"], head={"tied": False}))):
        text = source_of(plain_model(Decoder(spec)))
        (tmp_path / f"{n}.py").write_text(text)
        roots = {
            (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        assert roots - {*sys.stdlib_module_names} == {"torch", "transformers"}
        assert ("class Mamba2" in text) == (n == 1) and "Watched" not in text and "class Flash" not in text
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--select",
        "F,E3,E7",
        "--ignore",
        "F841",
        "--preview",
        "--quiet",
        str(tmp_path),
    ]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


OWN = """
import math
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

from ablate.parts.linear import Linear
from ablate.registry import ffn
from ablate.spec import Shape

SHIFT = math.sqrt(2)
CALLS = 0


def GLU(x: Tensor) -> Tensor:  # a name that ablate has too
    global CALLS
    CALLS += 1
    return x * torch.sigmoid(x + SHIFT)


@ffn("mine", paper="of this test")
class Mine(nn.Module):
    def __init__(self, shape: Shape, *, width: Annotated[int, Gt(0)] = 16):
        super().__init__()
        self.up, self.down = Linear(shape.width, width, bias=False), Linear(width, shape.width, bias=False)

    def forward(self, x: Tensor, aux: dict[str, Tensor]) -> Tensor:
        return self.down(GLU(self.up(x)))
"""


def test_own_parts_are_carried(tokens, tmp_path, own_parts):
    (tmp_path / "mine.py").write_text(OWN)
    load_parts([str(tmp_path / "mine.py"), "docs/examples/kerple.py"])
    kinds = {"mine": {"ffn": {"name": "mine", "width": 24}}, "ablate": {}}
    spec = small(position="kerple", variants=kinds, pattern=["ablate", "mine"])
    assert not faults({"own": moved(Decoder(spec))}, tokens, tmp_path)
    text = (tmp_path / "0" / f"{MODULE}.py").read_text()
    assert "- mine.py -" in text and "def mine_GLU(x" in text and "return self.down(mine_GLU(" in text


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (
            "import numpy\nSHIFT = numpy.sqrt(2)",
            "mine.py imports numpy, and an exported file may",
        ),
        (
            "import ablate.spec as spec\nSHIFT = spec.MOST_WIDE",
            "mine.py imports the module ablate.spec; to be",
        ),
        ("from math import *\nSHIFT = sqrt(2)", "mine.py, line 14: sqrt is defined nowhere in the module"),
        ("SHIFT = {}\nSHIFT['x'] = 1", r"mine.py, line 14: `SHIFT\['x'\] = 1` is run"),
        ("SHIFT = len(__file__)", "mine.py, line 13: __file__ is defined nowhere"),
        ("SHIFT = 1\nprint(SHIFT)", r"mine.py, line 14: `print\(SHIFT\)` is run"),
    ],
)
def test_own_parts_that_cannot_be_carried_are_refused(line, why, tmp_path, own_parts):
    (tmp_path / "mine.py").write_text(OWN.replace("SHIFT = math.sqrt(2)", line))
    load_parts([str(tmp_path / "mine.py")])
    with pytest.raises(ExportError, match=why):
        source_of(plain_model(Decoder(small(ffn="mine"))))


def test_a_part_inside_of_a_function_is_refused(own_parts):
    @norm("inside", paper="of this test")
    class Inside(torch.nn.Identity):
        def __init__(self, width: int):
            super().__init__()

    with pytest.raises(ExportError, match="norm inside: is made inside of a function"):
        source_of(plain_model(Decoder(small(norm="inside"))))


def test_a_file_that_gives_other_logits_is_not_handed_out(tmp_path, own_parts):
    (tmp_path / "mine.py").write_text(
        OWN.replace("x + SHIFT", "x + SHIFT + next(COUNT)").replace(
            "SHIFT =", "COUNT = iter(range(99))\nSHIFT ="
        )
    )
    load_parts([str(tmp_path / "mine.py")])
    with pytest.raises(ExportError, match="gives other logits with its cache: they differ by"):
        export_code(moved(Decoder(small(ffn="mine"))), tmp_path / "to")
    assert not (tmp_path / "to").exists() and [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_the_command_writes_the_folder(tmp_path, capsys):
    run = a_run(tmp_path / "run", pattern=["softmax", "retnet"], future={"name": "independent"})
    export = [
        "export",
        str(run),
        str(tmp_path / "to"),
        "--code",
        "--shard-size",
        "20KB",
        "--dtype",
        "bfloat16",
    ]
    assert main(export) == 0
    assert "trust_remote_code=True" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "to").iterdir()}
    assert names >= {f"{MODULE}.py", "config.json", "generation_config.json", "tokenizer.json", "README.md"}
    shards = [load_file(path) for path in (tmp_path / "to").glob("model-*.safetensors")]
    state = {name: tensor for shard in shards for name, tensor in shard.items()}
    assert len(shards) > 1 and {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    assert not [name for name in state if "future" in name]
    card = (tmp_path / "to" / "README.md").read_text()
    assert "`abc`" in card and "trust_remote_code=True" in card and "| Family |" not in card
    assert main(export) == 2
    assert "is not empty; name a new folder" in capsys.readouterr().err
    assert main([*export, "--family", "llama"]) == 2
    assert "--code writes the model's own code, and --family" in capsys.readouterr().err
