"""The installed package, in an environment and a folder of its own, away from the clone."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = [
    "model/size=mine",
    "data.tokenizer.vocab=300",
    "budget.tokens=4096",
    "budget.batch_tokens=512",
    "evaluation.every=0",
    "evaluation.tokens=512",
    "trainer=cpu",
]


@pytest.fixture(scope="module")
def bin(tmp_path_factory) -> Path:
    """The programs of an environment that holds the wheel, and finds what it depends on."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    for name in ("ablate", "conf", "hydra_plugins"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(place), str(source)], check=True)
    (wheel,) = place.glob("ablate-*.whl")
    venv.create(place / "environment", with_pip=False)
    programs = place / "environment" / ("Scripts" if os.name == "nt" else "bin")
    # Files that end with .pth are read only in the environment's own folder, so the clone stays out of it.
    (site,) = (place / "environment").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*pip, "--python", str(programs / "python"), *install], check=True)
    return programs


@pytest.fixture(scope="module")
def project(bin, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    said = ablate(bin, folder, "init")
    assert "experiments/first/study.yaml" in said and "ablate sweep experiment=first" in said
    return folder


def ablate(bin: Path, folder: Path, *words: str) -> str:
    """The output of `ablate WORDS` in a folder, which must succeed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [bin / "ablate", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_package_is_the_installed_one(bin, tmp_path):
    code = "import ablate.paths; print(ablate.paths.CONF)"
    done = subprocess.run([bin / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    conf = Path(done.stdout.strip())
    assert conf.parent.parent.name == "site-packages" and bin.parent in conf.parents
    there = {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    assert {path.relative_to(conf) for path in conf.rglob("*.yaml")} == there
    assert (conf.parent / "py.typed").is_file()


def test_a_model_is_trained_and_used(bin, project):
    own = ["parts=[parts/gated_tanh.py]", "model/ffn=gated_tanh", "sample.tokens=0"]
    trained = ablate(bin, project, "train", *own, *TINY)
    (run,) = (project / "runs").iterdir()
    assert "finished" in trained and run.name in trained
    parts = ["--parts", "parts/gated_tanh.py"]
    text = ablate(bin, project, "generate", str(run), "--prompt", "def ", "--tokens", "4", *parts)
    assert text.startswith("def ")
    assert "heldout/loss" in ablate(bin, project, "evaluate", str(run), "heldout", *parts)
    assert "gated_tanh" in ablate(bin, project, "parts", *parts)


def test_weights_go_out_and_in(bin, project):
    ablate(bin, project, "train", *TINY, "sample.tokens=0", "runs=plain")
    (run,) = (project / "plain").iterdir()
    ablate(bin, project, "export", str(run), "exported")
    assert "parameters" in ablate(bin, project, "import", "exported", "imported")


def test_a_study_is_planned(bin, project):
    planned = ablate(bin, project, "sweep", "experiment=first", "plan=true")
    assert "gated_tanh" in planned and "placebo" in planned


@pytest.mark.slow
def test_a_study_is_run_to_its_report(bin, project):
    ablate(bin, project, "sweep", "experiment=first")
    assert (project / "experiments/first/report.html").is_file()


def test_a_project_is_not_written_over(bin, project):
    before = (project / "README.md").read_bytes()
    done = subprocess.run([bin / "ablate", "init"], cwd=project, capture_output=True, text=True)
    assert done.returncode == 2 and "is there already; choose another folder" in done.stderr
    assert (project / "README.md").read_bytes() == before
