"""What a study asks of the machine that trains: one seam, so that a study knows no torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ablate.spec import RunSpec

if TYPE_CHECKING:
    import pandas

    from ablate.study.design.compile_policy import CompileGain
    from ablate.study.design.planned import Facts
    from ablate.study.design.runs import PlannedRun


class Backend(Protocol):
    """Answers what only the code that builds and trains models can tell."""

    @property
    def device(self) -> str:
        """The device of the runs: cpu or cuda."""

    def compose(self, overrides: list[str]) -> dict[str, Any]:
        """The specification that these overrides of train.py give. Raises an exception with a list
        `mistakes` where they are wrong."""

    def check(self, spec: dict[str, Any]) -> "Facts":
        """The facts of a specification: its costs, its parameters, its outputs, or why it is refused."""

    def identify(self, spec: dict[str, Any]) -> dict[str, Any]:
        """The canonical form of a specification: what the id of a run is a hash of."""

    def outcomes(self, runs: "Sequence[PlannedRun]") -> "pandas.DataFrame":
        """The frame of runs and their records so far; its columns are those of `design.runs.tidy`."""

    def source_hash(self, run: "PlannedRun") -> str:
        """The hash of the sources that a run would use today."""

    def probe(self, spec: RunSpec) -> float:
        """The seconds that a run takes in one thread of this CPU, about."""

    def compile_gain(self, spec: dict[str, Any]) -> "CompileGain":
        """The measured times of a step as it is and compiled."""
