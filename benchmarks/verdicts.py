"""What the verdicts of committed studies cost by the protocol of today, by replay of their records.

    python benchmarks/verdicts.py [--draws 200]      `quickstart` too, once it was run here

Cost is the core-seconds of training in the records. Before: everything that was run at d4689d3, which is the
whole grid for every arm on two seeds, every arm once more at the baseline's rate, and all seeds. After:
tuning by rounds, no runs at the baseline's rate, arms that stop. Both promise the same: the level of one
table of verdicts, and as small a detectable effect (power 0.8) at the last look, which is at more seeds.

- Tests are replayed: which arms stop at the early looks is read off the recorded seeds; an arm that goes on
  is charged all seeds of the last look. Effects of factors are left out (`effects: false`), as verdicts are
  counted.
- Tuning is simulated on the recorded curves, since no quarter decades were run: mean losses by rate are
  interpolated, runs are lost to a plateau as often as in the records, and noise is that of the records.
- Where the search ends beside a failed rate, every arm is tested at the best rates of all: its test runs are
  charged that many times, which d4689d3 did not do (and decided by chance there).
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from record import Table, save

from ablate.study.design.study import Study
from ablate.study.design.study import parse_study as read_study
from ablate.study.judge.corpus import judge_results
from ablate.study.results import Results, read_results
from ablate.study.results.manifest import study_as_yaml
from ablate.study.stats.plateau import find_plateaus, plateau_level
from ablate.study.stats.power import Setting, detectable
from ablate.study.stats.rounds import Search, tune_by_rounds

ROOT = Path(__file__).parent.parent
LOOKS = (0.4, 0.7, 1.0)  # of the seeds of the last look
METRIC = "validation/loss"
TARGET = 0.35


@dataclass(frozen=True)
class Cost:
    """Runs of one corpus, and the core-seconds of all of them."""

    tuning: float
    test: float
    fixed: float
    seconds: float
    rates: float = 1.0  # that an arm is tested at, in the mean


@dataclass(frozen=True)
class Replayed:
    """What the protocol of today needs: runs, core-seconds of tuning, and of tests at one rate an arm."""

    tuning: float
    test: float
    rates: float  # that an arm is tested at, in the mean
    searched: float
    tested: float

    @property
    def cost(self) -> Cost:
        """With the rates that arms share."""
        seconds = self.searched + self.rates * self.tested
        return Cost(self.tuning, self.rates * self.test, 0, seconds, self.rates)

    @property
    def alone(self) -> float:
        """The core-seconds if no arm were tested at the rates of others."""
        return self.searched + self.tested


def before(rows: pd.DataFrame) -> Cost:
    """What the records hold: each run counts once, though it may serve twice."""
    once = rows.drop_duplicates("id")
    counts = once["role"].value_counts()
    return Cost(
        counts.get("tuning", 0), counts.get("test", 0), counts.get("fixed", 0), once["speed/seconds"].sum()
    )


def last_look(study: Study, arms: int) -> int:
    """The least number of seeds at which three looks detect what one look at all seeds did."""
    alpha, interval = study.alpha, study.interval
    promised = detectable(len(study.seeds), Setting(arms, 1.0, interval, alpha))
    seeds = len(study.seeds)
    while detectable(seeds, Setting(arms, 1.0, interval, alpha, len(LOOKS))) > promised:
        seeds += 1
    return seeds


def seeds_by_arm(results: Results, looks: Sequence[int]) -> dict[str, dict[str, int]]:
    """By corpus and arm the number of seeds that the protocol of today would have trained."""
    study = results.manifest.study
    tables = len(study.blocks)  # the level of each is that of one table before, which was not split
    changes = {"seeds": looks[-1], "interim_seeds": list(looks), "alpha": study.alpha * tables}
    if study.design.kind in ("factorial", "add_one_in", "leave_one_out"):
        changes["effects"] = False
    tests = results.runs["role"] == "test"
    recorded = len(study.seeds)
    changed = read_study({**study_as_yaml(study), **changes})
    more = [
        results.runs[tests & (results.runs["seed"] == 0)].assign(seed=seed, status=None, id=f"later{seed}")
        for seed in range(recorded, looks[-1])
    ]
    runs = pd.concat([results.runs, *more], ignore_index=True)
    replayed = replace(results, runs=runs, manifest=results.manifest.model_copy(update={"study": changed}))
    seeds = {}
    for judged in judge_results(replayed):
        arms = {arm.name: looks[-1] for arm in judged.arms}
        arms |= {arm: stop.seeds for arm, stop in judged.stops.items()}
        baseline = results.manifest.baseline
        arms[baseline] = max(n for arm, n in arms.items() if arm != baseline)
        seeds[judged.corpus] = arms
    return seeds


class Curves:
    """The tuning runs of one corpus as a source of others: means and losses by rate, and the noise."""

    def __init__(self, rows: pd.DataFrame, level: float | None, generator: np.random.Generator) -> None:
        self.rng = generator
        losses = {
            (arm, rate, seed): loss
            for arm, rate, seed, loss in zip(
                *(rows[name].tolist() for name in ("arm", "rate", "seed", METRIC)), strict=True
            )
            if math.isfinite(loss)
        }
        plateaus = find_plateaus(losses, level)
        self.noise = plateaus.noise
        self.plateau = max((run.loss for run in plateaus.runs), default=math.inf)
        lost = {(run.arm, run.rate, run.seed) for run in plateaus.runs}
        lost |= {(a, r, s) for a, r, s in zip(rows["arm"], rows["rate"], rows["seed"], strict=True)} - {
            *losses
        }
        self.rates = np.log(sorted({*rows["rate"]}))
        self.means, self.chances = {}, {}
        for arm in rows["arm"].unique():
            mine = rows[rows["arm"] == arm].sort_values("rate")
            gone = [(arm, r, s) in lost for r, s in zip(mine["rate"], mine["seed"], strict=True)]
            mine = mine.assign(gone=gone)
            self.chances[arm] = mine.groupby("rate")["gone"].mean().to_numpy()
            good = mine[~mine["gone"]].groupby("rate")[METRIC].mean()
            self.means[arm] = np.log(good.index.to_numpy()), good.to_numpy()

    def run(self, arm: str, rate: float) -> float:
        """The loss of a run at this rate."""
        if self.rng.random() < np.interp(np.log(rate), self.rates, self.chances[arm]):
            return self.plateau
        at, means = self.means[arm]
        return float(np.interp(np.log(rate), at, means) + self.rng.normal(0, self.noise))

    def tuned(self, arms: Sequence[str], search: Search, level: float | None) -> tuple[dict[str, int], int]:
        """One study tuned by rounds: the runs of each arm, and how many rates each arm is tested at."""
        columns = ["arm", "rate", "seed", "status", "role", METRIC]
        seen: list[tuple[str, float, int, str, str, float]] = []
        while True:
            frame = pd.DataFrame(seen, columns=columns)
            tuning, wanted = tune_by_rounds(frame, search, arms, METRIC, level=level)
            there = {row[:3] for row in seen}
            new = [run for run in wanted if tuple(run) not in there]
            if not new:
                break
            seen += [(*run, "finished", "tuning", self.run(run.arm, run.rate)) for run in new]
        counts = {arm: sum(row[0] == arm for row in seen) for arm in arms}
        return counts, max(len(choice.rates(False)) for choice in tuning.choices) or 1


def after(results: Results, corpus: str, seeds: dict[str, int], draws: int) -> Replayed:
    """By the protocol of today; `seeds` are those that each arm is tested with."""
    rows = results.runs[results.runs["corpus"] == corpus]
    per_run = rows.drop_duplicates("id").groupby("arm")["speed/seconds"].median()
    arms = [arm.name for arm in results.manifest.on(corpus)]
    tuning = dict.fromkeys(arms, 0.0)
    rates = 1.0
    tune = results.manifest.study.tune
    if tune is not None:
        level = plateau_level(results.manifest.reference.get(corpus, {}))
        curves = Curves(rows[rows["role"] == "tuning"], level, np.random.default_rng(0))
        search = Search(tune.rates, tune.seeds)
        found = [curves.tuned(arms, search, level) for _ in range(draws)]
        tuning = {arm: float(np.mean([counts[arm] for counts, _ in found])) for arm in arms}
        rates = float(np.mean([rates for _, rates in found]))
    searched = float(sum(tuning[arm] * per_run[arm] for arm in arms))
    tested = float(sum(seeds[arm] * per_run[arm] for arm in arms))
    return Replayed(sum(tuning.values()), sum(seeds.values()), rates, searched, tested)


def study_rows(name: str, results: Results, draws: int) -> list[list[str | int | float | None]]:
    """A row for each corpus, and one for the study."""
    study = results.manifest.study
    last = last_look(study, len(results.manifest.on(study.blocks[0].name)) - 1)
    looks = [math.ceil(share * last) for share in LOOKS]
    rows: list[list[str | int | float | None]] = []
    totals = np.zeros(3)
    for corpus, seeds in seeds_by_arm(results, looks).items():
        old = before(results.runs[results.runs["corpus"] == corpus])
        replayed = after(results, corpus, seeds, draws)
        new = replayed.cost
        seconds = np.array([old.seconds, new.seconds, replayed.alone])
        totals += seconds
        rows.append(
            [
                f"{name}, {corpus}",
                ", ".join(map(str, looks)),
                f"{old.tuning:.0f} + {old.test:.0f} + {old.fixed:.0f}",
                f"{new.tuning:.0f} + {new.test:.0f}",
                round(new.rates, 2),
                *_ratios(seconds),
            ]
        )
    return [*rows, [f"{name}, all", "", "", "", None, *_ratios(totals)]] if len(rows) > 1 else rows


def _ratios(seconds: np.ndarray) -> list[float]:
    """Seconds before and after, their ratio, and the ratio without shared rates."""
    old, new, alone = seconds.tolist()
    return [round(old), round(new), round(new / old, 3), round(alone / old, 3)]


COLUMNS = [
    "study", "looks", "runs before (tuning + test + fixed)", "runs after (tuning + test)",
    "rates an arm is tested at", "core-seconds before", "after", "ratio", "ratio without shared rates",
]  # fmt: skip
NOTE = f"""Target: a ratio of at most {TARGET}. `before` is what the records of d4689d3 hold, `after` a
replay, at the same level of a table and with the same detectable effect at the last look. Best rates beside
a failed one are shared by all arms, so each is tested at several; d4689d3 decided by chance there."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    rows = study_rows("llama", read_results(ROOT / "experiments" / "llama"), options.draws)
    quickstart = ROOT / "experiments" / "quickstart"
    if (quickstart / "results").is_dir():
        rows += study_rows("quickstart", read_results(quickstart), options.draws)
    for row in rows:
        print(*row, sep="  ")
    about = "What the verdicts of studies cost in core-seconds by the protocol of today, by replay"
    save("verdicts", [Table("Verdicts", COLUMNS, rows, NOTE)], about)
