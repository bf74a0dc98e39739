"""A user's own parts, loaded before the configuration that names them is composed."""

from contextlib import suppress

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from ablate.registry import load_parts


def load_named_parts(overrides: list[str]) -> None:
    """Load the files that `parts=[...]` names, so that `model/ffn=NAME` finds a part of one's own.

    What cannot be loaded is reported when the configuration is checked.
    """
    named = [override for override in overrides if override.lstrip("+").startswith("parts=")]
    if not named:
        return
    with suppress(HydraException, ImportError):
        for override in OverridesParser.create().parse_overrides(named):
            places = override.value()
            if isinstance(places, list):
                load_parts(places)
