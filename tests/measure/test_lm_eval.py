"""lm-eval's tasks on an exported run: a local task, whose answers our own loss gives too."""

import json
from pathlib import Path

import pytest
import torch
from test_trained import a_run

from ablate.cli.scoring import lacks_library
from ablate.measure.lm_eval import LMEval, numbers_of
from ablate.measure.trained import open_run
from ablate.parts.base import ForwardContext

SWIGLU = {"name": "glu", "activation": {"name": "silu"}}
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


@pytest.mark.slow
def test_a_local_task_gives_the_accuracy_of_our_own_forward_pass(tmp_path: Path, monkeypatch):
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    run = open_run(a_run(tmp_path / "runs" / "abc", ffn=SWIGLU))
    texts = [f"def f{n}" for n in range(12)]
    ids = [[run.tokenizer.encode([choice])[0] for choice in "ab"] for _ in texts]
    assert all(len(choice) == 1 for row in ids for choice in row)
    likelier = []
    with torch.no_grad():
        for text in texts:
            tokens = torch.tensor(run.tokenizer.encode([text]))
            positions = torch.arange(tokens.shape[1])[None]
            last = run.decoder(tokens, ForwardContext(positions))[0, -1]
            likelier.append(int(last[ids[0][1][0]] > last[ids[0][0][0]]))
    answers = [n % 2 for n in range(12)]
    rows = [{"question": text, "answer": answer} for text, answer in zip(texts, answers, strict=True)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "choose.yaml").write_text(TASK.format(file=tmp_path / "rows.jsonl"))
    ours = sum(a == b for a, b in zip(answers, likelier, strict=True)) / 12
    measured = LMEval(tasks=["choose"], include_path=str(tmp_path / "tasks"))(run, None)  # type: ignore[arg-type]
    assert measured.metrics["lm_eval/choose/acc"] == pytest.approx(ours)
