"""Where the package keeps its configuration files."""

from pathlib import Path

PACKAGE = Path(__file__).parent
# A build copies conf/ into the package; a clone keeps it beside the package.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
