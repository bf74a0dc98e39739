"""lm-eval's tasks on an exported run: a local task, whose answers our own loss gives too."""

import json
from pathlib import Path

import pytest
import torch
from test_trained import a_run

from ablate.cli.exchange import send_out
from ablate.cli.scoring import lacks_library
from ablate.measure.lm_eval import LMEval, export_with_tokenizer, numbers_of
from ablate.measure.trained import Trained, open_run
from ablate.parts.base import ForwardContext

SWIGLU = {"name": "glu", "activation": {"name": "silu"}}
QUESTIONS = [f"def f{n}" for n in range(12)]
TASK = """
task: choose
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["a", "b"]
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


def test_names_are_those_of_task_and_metric():
    results = {
        "arc": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": "N/A", "acc_norm,none": 0.25, "n": 3},
        "gsm": {"exact_match,strict": 0.0, "exact_match_stderr,strict": 0.1, "word,none": float("nan")},
    }
    assert numbers_of(results, "lm_eval") == {
        "lm_eval/arc/acc": 0.5, "lm_eval/arc/acc_norm": 0.25, "lm_eval/gsm/exact_match_strict": 0.0
    }  # fmt: skip


def test_a_missing_library_is_named_before_any_run():
    class Needs:
        requires = ("no_such_module", "lm-eval")

    assert "measure mine: needs no_such_module: pip install" in str(lacks_library(Needs, "mine"))
    assert lacks_library(object, "mine") is None


@pytest.fixture
def task(tmp_path: Path, monkeypatch) -> Path:
    """A folder with the task `choose`: twelve questions, to be answered by a or b in turn."""
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    rows = [{"question": question, "answer": n % 2} for n, question in enumerate(QUESTIONS)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "choose.yaml").write_text(TASK.format(file=tmp_path / "rows.jsonl"))
    return tmp_path / "tasks"


def accuracy(run: Trained) -> float:
    """That of the likelier of the two tokens, by our own forward pass."""
    first, second = (run.tokenizer.encode([choice])[0] for choice in "ab")
    assert len(first) == len(second) == 1
    right = 0
    with torch.no_grad():
        for n, question in enumerate(QUESTIONS):
            tokens = torch.tensor(run.tokenizer.encode([question]))
            positions = torch.arange(tokens.shape[1])[None]
            last = run.decoder(tokens, ForwardContext(positions))[0, -1]
            right += int(last[second[0]] > last[first[0]]) == n % 2
    return right / len(QUESTIONS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [{"ffn": SWIGLU}, {"pattern": ["softmax", "retnet"]}], ids=["a family", "its own code"]
)
def test_a_local_task_gives_the_accuracy_of_our_own_forward_pass(task: Path, tmp_path: Path, model):
    run = open_run(a_run(tmp_path / "runs" / "abc", **model))
    assert export_with_tokenizer(run, tmp_path / "exported") == ("pattern" in model)
    measured = LMEval(tasks=["choose"], include_path=str(task))(run, None)  # type: ignore[arg-type]
    assert measured.metrics["lm_eval/choose/acc"] == pytest.approx(accuracy(run))


@pytest.mark.slow
def test_a_folder_with_code_is_measured_at_the_user_s_word_alone(task: Path, tmp_path: Path):
    """As a person measures what `ablate export --code` wrote."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    run = open_run(a_run(tmp_path / "runs" / "abc", pattern=["softmax", "retnet"]))
    folder = tmp_path / "exported"
    send_out(tmp_path / "runs" / "abc", folder, code=True)

    def measured(**word) -> float:
        found = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(folder), "dtype": "float32", **word},
            tasks=["choose"],
            task_manager=TaskManager(include_path=str(task)),
            device="cpu",
            bootstrap_iters=0,
            log_samples=False,
        )
        return found["results"]["choose"]["acc,none"]

    with pytest.raises(ValueError, match="trust_remote_code"):
        measured()
    assert measured(trust_remote_code=True) == pytest.approx(accuracy(run))
