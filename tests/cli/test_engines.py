"""The options of a study for other machines: what they mean there, and what is refused before anything."""

import pytest
from test_sweep import options

from ablate.cli import options as module
from ablate.cli.compose import ConfigError
from ablate.cli.engines import slurm_parameters
from ablate.cli.workspace import Workspace


def test_slurm_is_told_what_the_options_say(tmp_path):
    slurm = {"partition": "gpu", "minutes": 90, "parameters": {"slurm_account": "me"}}
    chosen = options(tmp_path, engine="slurm", gpus=True, devices=2, slurm=slurm)
    assert slurm_parameters(chosen) == {
        "slurm_job_name": "ablate-small", "timeout_min": 90, "nodes": 1, "tasks_per_node": 1,
        "gpus_per_node": 2, "slurm_partition": "gpu", "slurm_signal_delay_s": 120, "slurm_account": "me",
    }  # fmt: skip
    assert Workspace(chosen).parallel == 16  # although this machine may have no GPU


def test_what_an_engine_cannot_do_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        options(tmp_path, engine="ray", ensemble="auto", logger="trackio", wandb={"mirror": True})
    said = str(error.value)
    assert "ensemble: only the local engine joins runs; engine=ray needs ensemble=off" in said
    assert "engine: ray needs ray: pip install -e '.[ray]'" in said
    assert "logger: trackio and wandb.mirror=true are two mirrors" in said
    with pytest.raises(ConfigError, match="engine: Input should be 'local', 'slurm' or 'ray'"):
        options(tmp_path, engine="dask")
