"""A run in Trackio's own files, for `trackio show`. Trackio is an optional extra."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger


class TrackioLogger(Logger):
    """Lightning's interface over one Trackio run, which goes on where a run of this name is there.

    Raises ImportError, with the fix, where Trackio is missing.
    """

    def __init__(self, project: str, name: str, group: str | None) -> None:
        super().__init__()
        try:
            import trackio
        except ImportError as error:
            raise ImportError("logger=trackio needs Trackio: pip install 'ablate[trackio]'") from error
        self.start: dict[str, Any] = {"project": project, "name": name, "group": group, "resume": "allow"}
        self.start |= {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        self.trackio = trackio
        self.run: Any = None

    @property
    def name(self) -> str:
        return str(self.start["project"])

    @property
    def version(self) -> str:
        return str(self.start["name"])

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Begin the run: Trackio takes a configuration at the start only."""
        self.run = self.trackio.init(
            **self.start, config=dict(vars(params) if isinstance(params, Namespace) else params)
        )

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Trackio has a word `step` of its own, which is the same number."""
        self.run.log({name: value for name, value in metrics.items() if name != "step"}, step=step)

    def finalize(self, status: str) -> None:
        if self.run is not None:
            self.run.finish()
