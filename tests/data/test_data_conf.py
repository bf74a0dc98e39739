"""Every choice of conf/data is composed as a person would type it, and is a valid specification."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic import ValidationError

from ablate import registry
from ablate.registry import Options
from ablate.spec import DataSpec

CONF = Path(__file__).parents[2] / "conf"
CHOICES = sorted(path.stem for path in (CONF / "data").glob("*.yaml"))
TOKENIZERS = sorted(path.stem for path in (CONF / "data" / "tokenizer").glob("*.yaml"))
NEEDED = {
    "text": ["data.source.files=[a.txt]"],
    "shakespeare_char": ["data.source.files=[a.txt]"],
    "tokens": ["data.source.files=[a.bin]"],
    "mixture": ["data.source.sources={a: {name: text, files: [a.txt]}, b: {name: stdlib}}"],
    "hub": ["data.source.path=some/thing"],
    "saved": ["data.tokenizer.path=some/folder"],
}


@pytest.fixture
def composed(tmp_path: Path) -> Any:
    """The data node under a primary configuration of its own."""
    (tmp_path / "primary.yaml").write_text(
        f"defaults: [{{data: stdlib}}, _self_]\nhydra: {{searchpath: ['file://{CONF.as_posix()}']}}\n"
    )

    def take(*overrides: str) -> Any:
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            found = compose("primary", overrides=list(overrides))
        return OmegaConf.to_container(found.data, resolve=True, throw_on_missing=True)

    return take


def assert_complete(options: Options, node: dict[str, Any]) -> None:
    assert set(node) == set(type(options).model_fields), (
        f"{options.kind} {options.name}: write every option out"
    )


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("tokenizer", [None, *TOKENIZERS])
def test_every_choice_with_every_tokenizer(composed: Any, choice: str, tokenizer: str | None) -> None:
    chosen = [f"data/tokenizer={tokenizer}"] if tokenizer else []
    node = composed(f"data={choice}", *chosen, *NEEDED.get(choice, []), *NEEDED.get(tokenizer or "", []))
    spec = DataSpec.model_validate(node)
    assert set(node) == set(DataSpec.model_fields)
    assert_complete(spec.source, node["source"])
    assert_complete(spec.tokenizer, node["tokenizer"])


def test_defaults_in_yaml_are_the_defaults_in_code(composed: Any) -> None:
    plain = {
        "source": ["stdlib", "text", "hub", "tokens", "mixture"],
        "tokenizer": ["bytes", "characters", "bpe", "saved"],
    }
    for name in plain["source"]:
        source = DataSpec.model_validate(composed(f"data={name}", *NEEDED.get(name, []))).source
        assert source.model_dump(exclude_defaults=True).keys() <= {
            *("name", "files", "path", "tokens", "sources")
        }
    for name in plain["tokenizer"]:
        node = composed(f"data/tokenizer={name}", *NEEDED.get(name, []))
        assert DataSpec.model_validate(node).tokenizer.model_dump(exclude_defaults=True).keys() <= {
            "name",
            "path",
        }


def test_every_part_has_its_yaml() -> None:
    assert set(registry.tokenizer) <= set(TOKENIZERS)
    assert {"stdlib", "text", "hub"} <= set(CHOICES)


def test_options_need_no_plus(composed: Any) -> None:
    node = composed(
        "data=text", "data.source.files=[a.txt,b.jsonl]", "data.source.split=tail", "data/tokenizer=bytes"
    )
    spec = DataSpec.model_validate(node)
    assert spec.tokenizer.name == "bytes"
    assert node["source"]["files"] == ["a.txt", "b.jsonl"]
    assert (
        DataSpec.model_validate(composed("data.tokenizer.vocab=512", "data.documents=masked")).documents
        == "masked"
    )


def test_unknown_options_are_refused(composed: Any) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        DataSpec.model_validate(composed("+data.source.shuffle=true"))


def test_the_nanogpt_choice_is_nanogpts(composed: Any) -> None:
    node = composed("data=shakespeare_char", *NEEDED["shakespeare_char"])
    assert node["tokenizer"] == {"name": "characters", "end": False}
    assert (node["source"]["split"], node["source"]["validation"], node["source"]["heldout"]) == (
        "tail",
        0.1,
        0.0,
    )
