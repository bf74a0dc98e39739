"""The example files of docs/clusters: their commands by our options, their forms by the clients of others."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from ablate.cli import options as module
from ablate.cli.options import SweepOptions
from ablate.cli.sweep import options_of

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "docs" / "clusters"

# Fields of KubeRay's ray.io/v1 that the example may use, and those that must be there.
JOB = {"entrypoint": str, "shutdownAfterJobFinishes": bool, "rayClusterSpec": dict}
CLUSTER = {"headGroupSpec": dict, "workerGroupSpecs": list}
HEAD = {"rayStartParams": dict, "template": dict}
WORKERS = {**HEAD, "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int}


def loaded(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTERS / name).read_text())


def options_in(command: str) -> SweepOptions:
    """The options of the line of a command that names sweep.py."""
    (words,) = (shlex.split(line) for line in command.splitlines() if "sweep.py" in line)
    place = next(n for n, word in enumerate(words) if word.endswith("sweep.py"))
    given = OmegaConf.from_dotlist(words[place + 1 :])
    return options_of(OmegaConf.merge(OmegaConf.load(ROOT / "conf" / "sweep.yaml"), given))


def test_their_commands_are_options_of_a_study(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: name)  # as if Ray were installed
    kubernetes = options_in(loaded("rayjob.yaml")["spec"]["entrypoint"])
    assert (kubernetes.engine, kubernetes.ray.address, kubernetes.gpus) == ("ray", "auto", True)
    sky = options_in(loaded("sky.yaml")["run"])
    assert (sky.engine, sky.gpus) == ("local", True)


def test_folders_of_the_commands_are_on_what_the_machines_share(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    job = loaded("rayjob.yaml")["spec"]
    options = options_in(job["entrypoint"])
    for group in (job["rayClusterSpec"]["headGroupSpec"], *job["rayClusterSpec"]["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        (container,) = pod["containers"]
        (mount,) = container["volumeMounts"]
        assert "persistentVolumeClaim" in volumes[mount["name"]]
        for folder in (options.runs, options.cache, options.experiments):
            assert folder.is_relative_to(mount["mountPath"])
    (bucket,) = loaded("sky.yaml")["file_mounts"]
    options = options_in(loaded("sky.yaml")["run"])
    assert options.runs.is_relative_to(bucket) and options.cache.is_relative_to(bucket)


def test_a_rayjob_has_the_fields_of_kuberay():
    job = loaded("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job.keys() == {"apiVersion", "kind", "metadata", "spec"}
    cluster = job["spec"]["rayClusterSpec"]
    groups = [(cluster["headGroupSpec"], HEAD)]
    groups += [(group, WORKERS) for group in cluster["workerGroupSpecs"]]
    for node, fields in ((job["spec"], JOB), (cluster, CLUSTER), *groups):
        assert {name: type(value) for name, value in node.items()} == fields
    for group, _ in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def as_model(client: Any, kind: str, value: Any) -> Any:
    """The value as a type of the client of Kubernetes, which refuses what lacks a required field. Raises
    KeyError for a field that the type does not have, TypeError for a plain value of another type."""
    if inner := re.fullmatch(r"list\[(.*)\]", kind):
        return [as_model(client, inner[1], item) for item in value]
    if inner := re.fullmatch(r"dict[\[(]str, (.*)[\])]", kind):
        return {key: as_model(client, inner[1], item) for key, item in value.items()}
    if not hasattr(client, kind):
        if kind in ("str", "int", "bool") and type(value).__name__ != kind:
            raise TypeError(f"{value!r} is no {kind}")
        return value
    model = getattr(client, kind)
    names = {said: name for name, said in model.attribute_map.items()}
    return model(
        **{
            names[said]: as_model(client, model.openapi_types[names[said]], item)
            for said, item in value.items()
        }
    )


@pytest.mark.slow
def test_its_pods_are_those_of_kubernetes():
    client = pytest.importorskip("kubernetes.client", reason="needs kubernetes")
    job = loaded("rayjob.yaml")
    assert as_model(client, "V1ObjectMeta", job["metadata"]).name == "ablate-study"
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = as_model(client, "V1PodTemplateSpec", group["template"])
        assert pod.spec.volumes[0].persistent_volume_claim.claim_name == "ablate"
    (container,) = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    with pytest.raises(ValueError, match="name"):
        as_model(client, "V1Container", {"image": "i"})
    with pytest.raises(KeyError, match="volumeMount"):
        as_model(client, "V1Container", {"name": "n", "volumeMount": []})


@pytest.mark.slow
def test_skypilot_reads_its_task():
    sky = pytest.importorskip("sky", reason="needs skypilot")
    task = sky.Task.from_yaml(str(CLUSTERS / "sky.yaml"))
    (resources,) = task.resources
    assert (task.name, resources.accelerators, resources.use_spot) == ("ablate-study", {"H100": 8}, True)
    bucket = task.storage_mounts["/bucket"]
    assert (bucket.name, bucket.mode.name) == ("ablate-runs", "MOUNT_CACHED")
    with pytest.raises(sky.exceptions.InvalidSkyPilotConfigError, match="did you mean 'resources'"):
        sky.Task.from_yaml_config({**loaded("sky.yaml"), "resorces": {}})
