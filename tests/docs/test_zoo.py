"""docs/zoo.md says of each family of transformers' causal mapping what is so."""

import pytest
from support.tiny_families import TINY

from ablate.cli.zoo_lacks import ALIASES, LACKS, OTHER_KINDS, RECURRENT_FAMILIES
from ablate.cli.zoo_table import ZOO_PAGE, expressible, family_counts, options, zoo_page
from ablate.model.hf import FAMILIES


def test_the_page_is_that_of_today():
    assert ZOO_PAGE.read_text() == zoo_page(), "python -m ablate.cli.zoo_table writes it anew"


def test_a_family_has_a_table_or_lacks_something():
    assert set(expressible()) & set(LACKS) == set()
    assert {*expressible(), *LACKS} >= RECURRENT_FAMILIES
    assert all(options(name) for name in FAMILIES)


def test_fewer_families_than_were_expressible_are_a_loss():
    """Raised where more are; never lowered."""
    assert family_counts()["attention"][0] >= 114
    assert family_counts()["recurrent"][0] >= 20


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
