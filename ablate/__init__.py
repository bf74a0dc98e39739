"""Architecture ablations for decoder-only language models.

The public interface: `load_study`, `plan_study` and `run_study` for studies, `try_change` and
`report_campaign` for loops that try many changes, `compare` for frames of one's own, `open_run` for a
finished run, and `Decoder`, `RunSpec`, `RunRecord`, `registries` for models. Each is imported when it is
first asked for, so `import ablate` is quick and loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.cli.api import plan_study, report_campaign, run_study, try_change
    from ablate.errors import AblateError
    from ablate.measure.trained import open_run
    from ablate.model.decoder import Decoder
    from ablate.record import RunRecord
    from ablate.registry import registries
    from ablate.spec import RunSpec
    from ablate.study.design.study import load_study
    from ablate.study.judge.compare import compare

HOMES = {
    "AblateError": "ablate.errors",
    "Decoder": "ablate.model.decoder",
    "RunRecord": "ablate.record",
    "RunSpec": "ablate.spec",
    "compare": "ablate.study.judge.compare",
    "load_study": "ablate.study.design.study",
    "open_run": "ablate.measure.trained",
    "plan_study": "ablate.cli.api",
    "registries": "ablate.registry",
    "report_campaign": "ablate.cli.api",
    "run_study": "ablate.cli.api",
    "try_change": "ablate.cli.api",
}

__all__ = [
    "AblateError",
    "Decoder",
    "RunRecord",
    "RunSpec",
    "compare",
    "load_study",
    "open_run",
    "plan_study",
    "registries",
    "report_campaign",
    "run_study",
    "try_change",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'ablate' has no attribute {name!r}; there are {', '.join(__all__)}")
    module, _, original = HOMES[name].partition(":")
    return getattr(import_module(module), original or name)
