"""Effective speed-ups of the arms: in tokens, in FLOPs and in measured seconds, from the study's budgets."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ablate.spec import Strict
from ablate.study.design.fields import STEPS
from ablate.study.design.planned import PlannedArm
from ablate.study.design.study import Study
from ablate.study.judge.compare import Comparison
from ablate.study.judge.rates import one_rate
from ablate.study.stats.speedup import SpeedUp, speed_up

SECONDS = "speed/seconds"


class ArmSpeedUps(Strict):
    """One arm: how many times the baseline's tokens, FLOPs and seconds give its loss."""

    arm: str
    seeds: int
    tokens: SpeedUp
    flops: SpeedUp
    seconds: SpeedUp | None  # None where some run has no measured time

    @property
    def words(self) -> str:
        """What can be said at equal tokens, FLOPs and time, such as `better at equal tokens, worse at equal
        time`."""
        each = {"tokens": self.tokens, "FLOPs": self.flops, "time": self.seconds}
        said: dict[str, list[str]] = {}
        for cost, found in each.items():
            if found is not None:
                said.setdefault(found.word, []).append(cost)
        return ", ".join(f"{word} at equal {' and '.join(costs)}" for word, costs in said.items())


def arm_speed_ups(
    runs: pd.DataFrame,
    shorter: pd.DataFrame,
    comparison: Comparison,
    arms: Sequence[PlannedArm],
    study: Study,
) -> tuple[ArmSpeedUps, ...]:
    """Those of the arms that are judged, at the level of one arm's verdict.

    `runs` hold the whole budget (role `test`), `shorter` the others (role `budget`). An arm needs two seeds
    that finished at every budget, as the baseline's did. None for a metric of which more is better, or where
    arms are matched by steps, so that shares of their budgets are not those of each other's.
    """
    by_steps = study.match is not None and STEPS in {study.match.by, *study.match.by_arm.values()}
    if len(study.budgets) < 2 or study.better == "higher" or by_steps:
        return ()
    flops = {arm.name: arm.facts.flops_per_token for arm in arms}
    tables = {1.0: runs[runs["role"] == "test"]}
    tables |= {
        share: one_rate(shorter[shorter["budget"] == share].assign(role="test"), study.tune)
        for share in study.budgets[:-1]
    }
    budgets = np.array(sorted(tables))
    alpha = comparison.alpha_spent / len(comparison.verdicts)
    found = []
    for verdict in comparison.verdicts:
        if verdict.difference is None:
            continue
        names = (comparison.baseline, verdict.arm)
        columns = [
            _by_seed(tables[share], name, study.metric).rename(f"{name}/{share}")
            for name in names
            for share in budgets
        ]
        columns += [_by_seed(tables[1.0], name, SECONDS).rename(f"{name}/seconds") for name in names]
        losses = pd.concat(columns[:-2], axis=1, join="inner").dropna()
        losses = losses.loc[losses.index.isin(comparison.outcomes(verdict.arm).seeds)]
        if len(losses) < 2:
            continue
        values = losses.to_numpy(dtype=float)
        base, arm = values[:, : len(budgets)], values[:, len(budgets) :]
        times = pd.concat(columns[-2:], axis=1).reindex(losses.index).to_numpy(dtype=float)

        def multiple(
            cost: NDArray[np.float64] | float,
            base: NDArray[np.float64] = base,
            arm: NDArray[np.float64] = arm,
        ) -> SpeedUp:
            return speed_up(base, arm, budgets, cost, alpha)

        found.append(
            ArmSpeedUps(
                arm=verdict.arm,
                seeds=len(losses),
                tokens=multiple(1.0),
                flops=multiple(flops[names[0]] / flops[names[1]]),
                seconds=multiple(times[:, 0] / times[:, 1]) if np.isfinite(times).all() else None,
            )
        )
    return tuple(found)


def _by_seed(rows: pd.DataFrame, arm: str, column: str) -> pd.Series:
    """The values of an arm's finished runs, by seed."""
    mine = rows[(rows["arm"] == arm) & (rows["status"] == "finished")]
    if column not in mine.columns:
        return pd.Series(dtype=float)
    return mine.set_index("seed")[column].astype(float)
