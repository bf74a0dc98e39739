"""The training loss of every run alone, drawn small: what the losses by seed link to."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ablate.amounts import amount
from ablate.study.judge.corpus import Judged
from ablate.study.judge.study_judgement import StudyJudgement
from ablate.study.report.frames import seed_frame
from ablate.study.report.summary import means, ranked

if TYPE_CHECKING:
    import numpy as np

MOST_POINTS = 48  # of a curve; the results have at most a hundred
ACROSS, DOWN = 100, 40  # a drawing, in its own units
SHOWN = 0.9  # of all losses of a corpus lie in the drawing; those above run off at the top


@dataclass(frozen=True)
class RunCurve:
    """One run: where its curve stands on the page, and the line."""

    anchor: str
    title: str  # arm and seed
    said: str  # loss at the end of so many tokens
    points: str  # of an SVG polyline


def anchor_of(id: str) -> str:
    """The name of a run's curve on the page."""
    return f"run-{id}"


def run_ids(judged: Judged) -> dict[tuple[str, int], str]:
    """The test runs of a corpus by arm and seed."""
    tests = judged.runs[judged.runs["role"] == "test"].drop_duplicates(["arm", "seed"])
    found = zip(tests["arm"], tests["seed"], tests["id"], strict=True)
    return {(str(arm), int(seed)): str(id) for arm, seed, id in found}


def run_curves(judgement: StudyJudgement, judged: Judged) -> list[RunCurve]:
    """The runs of a corpus that verdicts rest on and whose curves are kept, in the order of the arms."""
    comparison = judged.comparison
    if comparison is None:
        return []
    curves = judgement.results.curves
    ids = run_ids(judged)
    frame = seed_frame(comparison, [arm for arm in ranked(judged) if arm in means(comparison)])
    seeds = [column for column in frame.columns if column != "arm"]
    wanted = [(arm, seed, ids.get((arm, int(seed)))) for arm in frame.get("arm", ()) for seed in seeds]
    mine = curves[curves["id"].isin([id for *_, id in wanted])]
    if mine.empty:
        return []
    top, bottom = float(mine["loss"].quantile(SHOWN)), float(mine["loss"].min())
    longest = float(mine["tokens"].max())
    by_run = dict(list(mine.groupby("id", sort=False)))
    found = []
    for arm, seed, id in wanted:
        if id is None or id not in by_run:
            continue
        rows = by_run[id]
        tokens, losses = rows["tokens"].to_numpy(float), rows["loss"].to_numpy(float)
        said = f"{losses[-1]:.3f} after {amount(tokens[-1])} tokens"
        across, down = tokens / longest, (top - losses) / max(top - bottom, 1e-12)
        found.append(RunCurve(anchor_of(id), f"{arm}, seed {seed}", said, _points(across, down)))
    return found


def _points(across: "np.ndarray", down: "np.ndarray") -> str:
    """The line in units of the drawing, from the first point that lies in it. Both run from 0 to 1."""
    import numpy as np

    at = np.unique(np.linspace(0, len(across) - 1, min(MOST_POINTS, len(across))).round().astype(int))
    inside = np.flatnonzero(np.isfinite(down[at]) & (down[at] >= 0))
    kept = at[max(0, inside[0] - 1) :] if len(inside) else at[-1:]
    x = np.clip(across[kept] * ACROSS, 0, ACROSS)
    y = np.clip(np.nan_to_num(down[kept], nan=0.0) * DOWN, 0, DOWN)
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
