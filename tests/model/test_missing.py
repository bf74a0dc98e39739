"""A key that a config.json leaves out means what it means to transformers."""

from dataclasses import MISSING, fields

import pytest

from ablate.model.hf import FAMILIES
from ablate.model.hf.family import REQUIRED


@pytest.mark.parametrize("name", FAMILIES)
def test_a_missing_key_means_what_transformers_takes(name):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[name]
    names = getattr(config, "attribute_map", None) or {}
    usual = {field.name: field.default for field in fields(config) if field.default is not MISSING}
    wrong = {}
    for option in FAMILIES[name].options:
        theirs = usual.get(names.get(option.theirs, option.theirs))
        if option.default is REQUIRED or theirs is None:
            continue  # asked for, or worked out from other keys
        if option.read(theirs) != option.read(option.default):
            wrong[option.theirs] = (option.default, theirs)
    assert wrong == {}
