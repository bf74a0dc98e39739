"""Every YAML of the model's groups composes, validates, and writes out every option of its part."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import small
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ablate.registry import Options, registries
from ablate.spec import ModelSpec
from ablate.train.settings import Settings

CONF = Path(__file__).parents[2] / "conf"
FOLDERS = {
    **{kind: f"model/{kind}" for kind in ("norm", "activation", "ffn", "position", "attention", "kernel")},
    **{kind: f"model/{kind}" for kind in ("placement", "topology", "stream", "lookup", "future", "init")},
    "scaling": "model/position/scaling",
}
FILES = [(kind, path) for kind, folder in FOLDERS.items() for path in sorted((CONF / folder).glob("*.yaml"))]
each = pytest.mark.parametrize(("kind", "path"), FILES, ids=[f"{k}={p.stem}" for k, p in FILES])
PATTERNS = sorted(path.stem for path in (CONF / "model/layers").glob("*.yaml"))


def composed(name: str, *overrides: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose(name, list(overrides)), resolve=True)


@cache
def node_of(kind: str, path: Path) -> Any:
    node = composed(f"{FOLDERS[kind]}/{path.stem}")
    for word in FOLDERS[kind].split("/"):
        node = node[word]
    return node


def unnamed(options: Options, node: Any, at: str = "") -> list[str]:
    """The options that the node leaves to their default, parts inside parts included."""
    left = []
    for field in type(options).model_fields:
        if field not in node:
            left.append(at + field)
        elif isinstance(value := getattr(options, field), Options):
            left += unnamed(value, node[field], f"{at}{field}.")
    return left


@each
def test_it_names_every_option_of_its_part(kind, path):
    node = node_of(kind, path)
    assert unnamed(registries[kind].parse(node), node) == []


@each
def test_it_says_what_it_is(kind, path):
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 3


@pytest.mark.parametrize("kind", FOLDERS)
def test_every_part_has_the_yaml_of_its_name_and_its_defaults(kind):
    for name in registries[kind]:
        written = registries[kind].parse(node_of(kind, CONF / FOLDERS[kind] / f"{name}.yaml"))
        if kind == "kernel" and written.name != name:
            pytest.fail(f"{name}.yaml names {written.name}")
        assert written == registries[kind].parse(name), (
            f"{kind}/{name}.yaml: not the defaults of the signature"
        )


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "trainer").glob("*.yaml")))
def test_every_trainer_is_accepted(name):
    node = composed(f"trainer/{name}")["trainer"]
    assert Settings.model_validate(node).model_dump(exclude={"logger"}).items() >= node.items()


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_composes_into_a_model(name):
    node = composed("model/llama", f"model/layers={name}", "model.vocab=50", "model.depth=12")["model"]
    layers = ModelSpec(**node).layers()
    assert len(layers) == 12
    assert len(set(layers)) == len(set(node["pattern"]) or {"the common layer"})


def test_the_glu_presets_are_what_their_names_say():
    gate = {
        p.stem: node_of("ffn", p)["activation"]
        for k, p in FILES
        if k == "ffn" and "activation" in node_of(k, p)
    }
    assert gate["glu"] == {"name": "sigmoid"}
    assert gate["reglu"] == gate["relu"] == {"name": "relu"}
    assert gate["geglu"] == gate["gelu"] == {"name": "gelu", "form": "exact"}
    assert gate["geglu_tanh"] == gate["gelu_tanh"] == {"name": "gelu", "form": "tanh"}
    assert gate["swiglu"] == {"name": "silu"}
    assert gate["bilinear"] == {"name": "identity"}


def test_fine_grained_experts_cost_what_two_of_eight_cost():
    """Active rows of the hidden layer: k of the routed, and the shared."""

    def active(name: str) -> float:
        node = node_of("ffn", CONF / f"model/ffn/{name}.yaml")
        return (node["top_k"] + node["shared"]) * node["expert"]["ratio"]

    assert active("deepseek") == pytest.approx(active("mixtral"))


@each
def test_it_is_accepted_in_a_model(kind, path):
    """Or refused with a reason that names another option to change."""
    node = node_of(kind, path)
    inside = {
        "activation": {"ffn": {"name": "mlp", "activation": node}},
        "scaling": {"position": {"name": "rope", "scaling": node}},
    }
    options = inside.get(kind, {kind: node})
    if kind == "attention" and not registries[kind][node["name"]].make.takes_position:
        options |= {"position": "none"}
    if kind in ("ffn", "attention") and node["name"] == "none":
        options |= {"topology": "single"}
    if getattr(registries[kind][node["name"]].make, "one_branch", False):
        options |= {"ffn": "none"}
    if node["name"] == "shared_keys":  # it needs an earlier layer with keys of its own
        options = {
            "attention": "softmax",
            "variants": {"own": {}, "shared": options},
            "pattern": ["own", "shared"],
        }
    assert small(**options).model_dump()


@pytest.mark.parametrize("given", [(), ("preset=nanogpt_shakespeare", "data.source.files=[x]")])
def test_a_fast_run_is_cut_short_whatever_else_is_chosen(given):
    fast, off = OmegaConf.load(CONF / "debug/fast.yaml"), composed("train", *given)
    cut = composed("train", *given, "debug=fast")
    assert {key for key in off if cut[key] != off[key]} == {*fast}
    assert all(cut[key] == fast[key] for key in fast)
