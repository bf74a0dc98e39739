"""Where the package keeps its configuration files, and which config group holds which kind of part."""

from pathlib import Path

PACKAGE = Path(__file__).parent
# A build copies conf/ into the package; a clone keeps it beside the package.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"

GROUPS = {
    "norm": "model/norm",
    "placement": "model/placement",
    "lookup": "model/lookup",
    "topology": "model/topology",
    "position": "model/position",
    "scaling": "model/position/scaling",
    "attention": "model/attention",
    "kernel": "model/kernel",
    "ffn": "model/ffn",
    "activation": "model/activation",
    "init": "model/init",
    "source": "data",
    "tokenizer": "data/tokenizer",
    "optimizer": "optim",
    "schedule": "schedule",
}
