"""The parts page says what the registries hold."""

import re
from pathlib import Path

import pytest

from ablate.cli.catalogue import CONF, GROUPS, catalogue, files
from ablate.registry import registries

PAGE = Path(__file__).parents[2] / "docs/parts.md"


def test_the_page_is_current():
    assert PAGE.read_text() == catalogue(), "python -m ablate parts > docs/parts.md"


def test_a_link_goes_to_one_paper():
    assert not re.findall(r"\(https://arxiv.org/abs/(?!\d{4}\.\d{4,5}\))[^)]*\)", catalogue())


@pytest.mark.parametrize("kind", list(registries))
def test_every_part_and_option_is_on_the_page(kind):
    page = catalogue()
    for name in registries[kind]:
        section = page.partition(f"### {kind}: {name}\n")[2].partition("\n### ")[0]
        for option in registries[kind][name].options.model_fields:
            assert option == "name" or f"| `{option}` |" in section


@pytest.mark.parametrize("kind", ["norm", "ffn", "activation", "position", "scaling", "attention", "init"])
def test_every_yaml_of_a_part_is_listed_under_the_part_it_names(kind):
    listed = [file for name in registries[kind] for file in files(registries[kind][name])]
    assert sorted(listed) == sorted(path.stem for path in (CONF / GROUPS[kind]).glob("*.yaml"))
    for name in registries[kind]:
        assert name in files(registries[kind][name])
