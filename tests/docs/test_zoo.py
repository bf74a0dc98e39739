"""docs/zoo.md says of each family of transformers' causal mapping what is so."""

import pytest
from support.tiny_families import TINY

from ablate.cli.zoo_lacks import ALIASES, LACKS, OTHER_KINDS, RECURRENT
from ablate.cli.zoo_table import PAGE, counts, expressible, options, table
from ablate.model.hf import FAMILIES


def test_the_page_is_that_of_today():
    assert PAGE.read_text() == table(), "python -m ablate.cli.zoo_table writes it anew"


def test_a_family_has_a_table_or_lacks_something():
    assert set(expressible()) & set(LACKS) == set()
    assert {*expressible(), *LACKS} >= RECURRENT
    assert all(options(name) for name in FAMILIES)


def test_fewer_families_than_were_expressible_are_a_loss():
    """Raised where more are; never lowered."""
    assert counts()["attention"][0] >= 88
    assert counts()["recurrent"][0] >= 8


@pytest.mark.slow
def test_each_entry_of_the_mapping_is_on_the_page():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as MAPPING

    others = {name for names in OTHER_KINDS.values() for name in names}
    known = {*expressible(), *LACKS, *others}
    assert sorted(set(MAPPING) - known) == []
    assert sorted(known - set(MAPPING)) == []


@pytest.mark.slow
def test_each_family_that_is_said_to_be_expressible_is_proven():
    """By a tiny model here or in test_hf.py; the tests of both fail where the logits differ."""
    from model.test_hf import CONFIGS

    proven = {kind for kind, _ in (*TINY.values(), *CONFIGS.values())}
    assert sorted(set(expressible()) - proven - set(ALIASES)) == []
