"""The public interface: every name is there, `import ablate` is light, and a study runs from Python."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from training import write_text

import ablate

STUDY = """
question: Is the placebo told from the baseline?
base: [model=llama, model.width=16, model.depth=1, model.heads=2, model.context=16, data=text,
       "data.source.files=[{text}]", data/tokenizer=bytes, budget.tokens=512, budget.batch_tokens=128,
       evaluation.every=0, evaluation.tokens=256]
axis: [model.norm]
baseline: rms
arms: {{rms: [], layer: [model/norm=layernorm]}}
placebo: false
seeds: 2
tune: fixed
metric: validation/loss
equivalence_margin: 0.05
"""


def test_every_public_name_is_there():
    assert set(ablate.__all__) == set(ablate.HOMES)
    for name in ablate.__all__:
        assert getattr(ablate, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'; there are AblateError, "):
        _ = ablate.nothing


def test_what_type_checkers_see_is_what_is_there():
    tree = ast.parse(Path(ablate.__file__).read_text())
    imported = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "typing"
    ]
    seen = {
        alias.asname or alias.name: f"{node.module}" + (f":{alias.name}" if alias.asname else "")
        for node in imported
        if str(node.module).startswith("ablate")
        for alias in node.names
    }
    assert seen == ablate.HOMES


def test_importing_it_loads_no_torch():
    code = "import sys, ablate; ablate.RunRecord; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_study_is_planned_and_run(tmp_path, monkeypatch):
    text = write_text(tmp_path)
    folder = tmp_path / "experiments" / "norms"
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(STUDY.format(text=text))
    places = {"runs": tmp_path / "runs", "cache": tmp_path / "cache"}
    assert ablate.load_study(folder / "study.yaml").baseline == "rms"
    planned = ablate.plan_study(folder, **places)
    assert [arm.name for arm in planned.arms] == ["rms", "layer"]
    judgement = ablate.run_study(folder, slots=1, **places)
    (corpus,) = judgement.corpora
    assert corpus.comparison is not None and corpus.comparison.verdict("layer").n == 2
    assert (folder / "report.html").is_file()


def test_mistakes_are_one_kind_of_error(tmp_path):
    with pytest.raises(ablate.AblateError, match=r"there is no .*study\.yaml"):
        ablate.plan_study(tmp_path / "nowhere")
    with pytest.raises(ablate.AblateError, match="slots: "):
        ablate.plan_study(tmp_path, slots=0)
