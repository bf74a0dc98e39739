"""What Hydra and OmegaConf refuse, as one line with the place and a remedy."""

from difflib import get_close_matches

from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from ablate.errors import printable

GRAMMAR = (
    "no viable alternative",
    "mismatched input",
    "extraneous input",
    "token recognition",
    "missing ",
    "Lexer",
)
QUOTING = "quote what has spaces, commas or brackets twice, as in 'key=\"a, b\"', and close every bracket"


def refused(error: Exception) -> str:
    """The mistake in one line, without what cannot be printed."""
    return printable(_line(error))


def _line(error: Exception) -> str:
    if isinstance(error, MissingConfigException):
        return _no_choice(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(line for line in lines if not line.startswith(("full_key:", "object_type=", "See http")))
    place = getattr(error, "full_key", None)
    if isinstance(error, InterpolationKeyError):
        return f"{place}: {text}; write the value itself, or quote a text that holds ${{...}}"
    if isinstance(error, OmegaConfBaseException):
        return text if not place or text.startswith(place) else f"{place}: {text}"
    if text.startswith(GRAMMAR):
        return f"an override cannot be read: {text}; {QUOTING}"
    if text.startswith("Config group override must be"):
        return f"an override is no choice of a group: {text}; write GROUP=NAME, as --help lists them"
    if isinstance(error, ConfigCompositionException) and text.startswith("Could not override"):
        key = text.split("'")[1] if "'" in text else ""
        return f"{key}: {text}; --help lists the options"
    return text


def _no_choice(error: MissingConfigException) -> str:
    """A choice of a group that there is not, or a group that there is not."""
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    there = sorted(error.options or [])
    if not group or not there:
        text = " ".join(str(error).partition("Config search path")[0].split())
        return f"{text}; --help lists the groups and their choices"
    near = get_close_matches(choice, there, 1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    return f"{group}={choice}: there is no such choice{meant}; there are {', '.join(there)}"
