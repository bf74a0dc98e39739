"""Results of a study: collected from its records, written into files, read again."""

from ablate.study.results.collect import collect
from ablate.study.results.curves import POINTS
from ablate.study.results.files import (
    FOLDER,
    Results,
    read_results,
    write_references,
    write_results,
    write_samples,
    write_timings,
)
from ablate.study.results.manifest import Manifest, PlanRecord, study_as_yaml

__all__ = [
    "FOLDER",
    "POINTS",
    "Manifest",
    "PlanRecord",
    "Results",
    "collect",
    "read_results",
    "study_as_yaml",
    "write_references",
    "write_results",
    "write_samples",
    "write_timings",
]
