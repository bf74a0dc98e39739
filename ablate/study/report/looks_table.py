"""The table of looks: when each arm was judged, and why it got no more seeds."""

from ablate.study.design.level import held_to_the_end
from ablate.study.design.study import Study
from ablate.study.judge.corpus import Judged
from ablate.study.judge.verdict import Verdict
from ablate.study.report.table import Table


def looks_table(study: Study, judged: Judged) -> Table | None:
    """One row for each arm beside the baseline; None where the study has one look, or nothing was judged."""
    looks = study.declared_looks
    if len(looks) < 2 or judged.comparison is None:
        return None

    def row(verdict: Verdict) -> tuple[str, ...]:
        look = verdict.look or 0
        stop = judged.stops.get(verdict.arm)
        if stop is not None:
            return verdict.arm, str(stop.seeds), f"stopped, {stop.reason}"
        if look == looks[-1]:
            held = held_to_the_end(study, judged.arms, verdict.arm)
            return verdict.arm, str(look), f"all seeds: {held}" if held else "all seeds: not decided before"
        return verdict.arm, str(look or ""), "goes on"

    note = (
        f"Looks at {', '.join(map(str, looks))} seeds, each at {100 * judged.comparison.alpha_spent:.2g} % "
        "over all arms. An arm that is decided early happened to be lucky more often than not: its interval "
        "holds, and its difference is too large on average. Differences are over the arm's own seeds."
    )
    rows = tuple(row(verdict) for verdict in judged.comparison.verdicts)
    return Table("Looks", ("arm", "seeds", "why"), rows, note, numeric=(1,))
