"""What ending tuning runs early would save, by replay of committed records, and how near the target it comes.

    python benchmarks/early.py [--draws 60]

A tuning run that is clearly behind the arm's best rate at a declared point would end there, in the manner of
successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943; Li et al. 2018, arXiv:1603.06560). Three
questions, each from what is committed:

- Which rate would have been chosen? Replayed on validation curves of tuning runs, which only the packed
  records hold. An arm's tuning runs meet each point together; never ended are the rate that leads there and
  its neighbours.
- How much could be saved at most? From the final losses of every study that was tuned on a grid, as if each
  rate but the chosen one and its neighbours had been known to lose.
- What would the verdicts of `llama` then cost? `verdicts.py`, with tuning, shared rates and seeds each at
  the least that they could be.
"""

import argparse
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from record import Cell, Table, save
from verdicts import LOOKS, METRIC, ROOT, TARGET, Replayed, after, before, last_look, seeds_by_arm

from ablate.engine.store import Store
from ablate.record import RunRecord
from ablate.study.results import Results, read_results
from ablate.study.results.curves import curve_rows
from ablate.study.results.packed import unpack_records
from ablate.study.stats.intervals import planned_critical_value
from ablate.study.stats.tuning import vertex

EXPERIMENTS = ROOT / "experiments"
PACKED = ("rope_4m", "rope_4m_cppdocs")  # the first holds the runs of `llama_4m`, too
ON_A_GRID = ("llama", "ffn", "norm", "llama_4m", "rope_4m")
POINTS = (0.25, 0.5)  # of the run
TUNING_SEEDS = 1000  # the first of them
FEWEST_RATES = 5  # an arm whose search had only begun is left out


# ------------------------------------------------------------------------------------ which rate is chosen


@dataclass(frozen=True)
class Rule:
    """Which runs end at which points. `margin` is in nats behind the rate that leads there."""

    points: tuple[float, ...]
    margin: float = 0.0
    above: bool = True  # also rates above the one that leads
    returns: bool = False  # a run that ended goes on where its rate turns out to stand beside the best
    all_end: bool = False  # every run ends at the point, and the rate is chosen there

    def __str__(self) -> str:
        at = " and ".join(f"{point:g}" for point in self.points)
        if self.all_end:
            return f"all runs end at {at}"
        which = "" if self.above else ", lower rates only"
        return f"{self.margin:g} behind at {at}{which}{', and may return' if self.returns else ''}"


RULES = (
    *(Rule(points, margin) for points in ((0.25,), (0.5,), POINTS) for margin in (0.05, 0.1, 0.2)),
    *(Rule((0.25,), margin, above=False) for margin in (0.05, 0.1)),
    Rule((0.25,), returns=True),
    *(Rule((point,), all_end=True) for point in (0.25, 0.5, 0.75)),
)


@dataclass(frozen=True)
class ArmCurves:
    """The validation curves of one arm's tuning runs: (rate, seed) -> shares of the run, losses."""

    name: str
    curves: Mapping[tuple[float, int], tuple[np.ndarray, np.ndarray]]

    @property
    def rates(self) -> list[float]:
        return sorted({rate for rate, _ in self.curves})

    def loss(self, rate: float, share: float) -> float:
        """The mean over seeds at a share of the run."""
        return float(
            np.mean([np.interp(share, *curve) for (at, _), curve in self.curves.items() if at == rate])
        )

    def beside(self, rate: float) -> list[float]:
        """The rate and its neighbours on the grid."""
        at = self.rates.index(rate)
        return self.rates[max(0, at - 1) : at + 2]

    def ended(self, rule: Rule) -> dict[float, float]:
        """By rate the share of the run that is made."""
        if rule.all_end:
            return dict.fromkeys(self.rates, rule.points[-1])
        reached = dict.fromkeys(self.rates, 1.0)
        for point in rule.points:
            losses = {rate: self.loss(rate, point) for rate in self.rates if reached[rate] == 1}
            leads = min(losses, key=losses.__getitem__)
            for rate in losses.keys() - {*self.beside(leads)}:
                behind = losses[rate] > losses[leads] + rule.margin
                if behind and (rule.above or rate < leads):
                    reached[rate] = point
        if rule.returns:
            while again := [rate for rate in self.beside(self.best(reached)) if reached[rate] < 1]:
                reached |= dict.fromkeys(again, 1.0)
        return reached

    def best(self, reached: Mapping[float, float]) -> float:
        """The rate that leads among those whose runs came furthest."""
        furthest = max(reached.values())
        losses = {rate: self.loss(rate, furthest) for rate, share in reached.items() if share == furthest}
        return min(losses, key=losses.__getitem__)

    def chosen(self, reached: Mapping[float, float]) -> float:
        """The vertex around the best rate; that rate itself where a neighbour is missing or has ended."""
        best, furthest = self.best(reached), max(reached.values())
        around = [rate for rate in self.beside(best) if reached[rate] == furthest]
        return vertex([(rate, self.loss(rate, furthest)) for rate in around]) if len(around) == 3 else best

    def final(self, rate: float) -> float:
        """The loss of a whole run at any rate: a parabola in log rate through the best three, straight lines
        beyond."""
        around = self.beside(self.best(dict.fromkeys(self.rates, 1.0)))
        near = around if around[0] <= rate <= around[-1] and len(around) == 3 else self.rates
        x, losses = np.log(near), [self.loss(at, 1.0) for at in near]
        if len(near) == 3:
            return float(np.polyval(np.polyfit(x, losses, 2), np.log(rate)))
        return float(np.interp(np.log(rate), x, losses))


@dataclass(frozen=True)
class Replay:
    """What a rule does to one arm."""

    chosen: float
    regret: float  # nats that the chosen rate loses in the end, against that of whole runs
    saved: float  # share of the steps of tuning
    bare: bool  # the best rate, or a neighbour of the best, had ended


def replay(arm: ArmCurves, rule: Rule) -> Replay:
    """Tune one arm by the rule."""
    whole = dict.fromkeys(arm.rates, 1.0)
    reached = arm.ended(rule)
    made = sum(reached[rate] for rate, _ in arm.curves) / len(arm.curves)
    needed = arm.beside(arm.best(whole))
    rate = arm.chosen(reached)
    regret = arm.final(rate) - arm.final(arm.chosen(whole))
    return Replay(rate, regret, 1 - made, min(reached[at] for at in needed) < max(reached.values()))


def packed_arms(studies: Sequence[str] = PACKED) -> dict[str, ArmCurves]:
    """The arms whose tuning runs are packed with their curves, at five rates or more."""
    found: dict[str, dict[tuple[float, int], tuple[np.ndarray, np.ndarray]]] = {}
    for study in studies:
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder))
            unpack_records(EXPERIMENTS / study / "records", store)
            for path in sorted(Path(folder).iterdir()):
                record = store.find(path.name)
                if record is not None and record.status == "finished":
                    spec = record.spec
                    seed = spec["seed"]["init"]
                    if seed >= TUNING_SEEDS:
                        name = f"{study}, {arm_of(spec)}"
                        found.setdefault(name, {})[spec["optim"]["lr"], seed] = validation(path, record)
    arms = {name: ArmCurves(name, curves) for name, curves in sorted(found.items())}
    return {name: arm for name, arm in arms.items() if len(arm.rates) >= FEWEST_RATES}


def arm_of(spec: Mapping[str, dict]) -> str:
    """The arm of `rope_4m` that a run is of; the records hold no names."""
    model = spec["model"]
    if model["placement"]["name"] == "pre":
        return "llama"
    return {"sinusoidal": "transformer"}.get(model["position"]["name"], model["position"]["name"])


def validation(folder: Path, record: RunRecord) -> tuple[np.ndarray, np.ndarray]:
    """The validation curve of a run: shares of its steps, losses."""
    curve = curve_rows(folder, record, ("step", "validation_loss")).to_pandas()
    steps = curve["step"].max()
    curve = curve.dropna()
    return (curve["step"] / steps).to_numpy(), curve["validation_loss"].to_numpy()


# ------------------------------------------------------------------------------------ the most it could save


@dataclass(frozen=True)
class Most:
    """Of one study and corpus: what is saved if all runs that choose nothing end at a point."""

    arms: int
    runs: int
    needed: int  # at the chosen rate of each arm, and its neighbours
    tuning: float  # core-seconds
    others: float  # of them, in runs at other rates
    whole: float  # core-seconds of the study

    def saved(self, point: float, of: float) -> float:
        return (1 - point) * self.others / of


def most(rows: pd.DataFrame) -> Most:
    """From the final losses of one corpus. A rate at which a run diverged is never the best one."""
    tuning = rows[rows["role"] == "tuning"]
    needed = pd.Series(False, index=tuning.index)
    for _, mine in tuning.groupby("arm"):
        means = mine.groupby("rate")[METRIC].apply(lambda losses: losses.mean(skipna=False)).dropna()
        rates = sorted({*mine["rate"]})
        at = rates.index(float(means.idxmin()))
        needed |= tuning.index.isin(mine.index[mine["rate"].isin(rates[max(0, at - 1) : at + 2])])
    seconds = tuning["speed/seconds"]
    whole = rows.drop_duplicates("id")["speed/seconds"].sum()
    return Most(
        tuning["arm"].nunique(),
        len(tuning),
        int(needed.sum()),
        float(seconds.sum()),
        float(seconds[~needed].sum()),
        float(whole),
    )


# ------------------------------------------------------------------------------------ how near the target


def schedules(last: int, recorded: int) -> Iterator[tuple[int, ...]]:
    """All looks from two seeds on that end at `last`, the early ones within the seeds that are recorded."""
    early = range(2, min(last - 1, recorded) + 1)
    for looks in range(3):
        yield from ((*chosen, last) for chosen in combinations(early, looks))


def any_spending(results: Results) -> dict[str, dict[str, int]]:
    """By corpus and arm the first number of seeds at which all of alpha would decide: no plan of looks, and
    no way to spend alpha over them, stops earlier."""
    study = results.manifest.study
    looks = tuple(range(2, len(study.seeds) + 1))
    spent_anew = study.model_copy(update={"alpha": study.alpha * len(looks)})
    manifest = results.manifest.model_copy(update={"study": spent_anew})
    return seeds_by_arm(replace(results, manifest=manifest), looks)


@dataclass(frozen=True)
class Corpus:
    """The costs of one corpus in core-seconds."""

    before: float
    replayed: Replayed
    per_run: Mapping[str, float]  # the median of each arm

    def of(self, runs: float) -> float:
        """So many runs of every arm."""
        return runs * sum(self.per_run.values())

    def tests(self, seeds: Mapping[str, int]) -> float:
        return sum(n * self.per_run[arm] for arm, n in seeds.items())


def corpora(results: Results, draws: int) -> dict[str, Corpus]:
    """By name, by the protocol of today."""
    study = results.manifest.study
    last = last_look(study, len(results.manifest.on(study.blocks[0].name)) - 1)
    found = {}
    for name, seeds in seeds_by_arm(results, [math.ceil(share * last) for share in LOOKS]).items():
        rows = results.runs[results.runs["corpus"] == name]
        per_run = rows.drop_duplicates("id").groupby("arm")["speed/seconds"].median().to_dict()
        found[name] = Corpus(before(rows).seconds, after(results, name, seeds, draws), per_run)
    return found


NEEDED = 6  # whole runs of an arm: two seeds at the chosen rate and at its neighbours
OTHERS = 4  # of an arm's grid of five rates and two seeds
FEWEST_TESTS = 3  # at two, a decision takes a difference of 50 standard deviations and more


def limits(results: Results, draws: int) -> list[list[Cell]]:
    """What the ratio of `llama` would be with one thing after another at its least."""
    study = results.manifest.study
    each = corpora(results, draws)
    last = last_look(study, len(results.manifest.on(study.blocks[0].name)) - 1)
    plans = {
        looks: sum(each[name].tests(seeds) for name, seeds in seeds_by_arm(results, looks).items())
        for looks in schedules(last, len(study.seeds))
    }
    cheapest = min(plans, key=plans.__getitem__)
    each_run = sum(corpus.of(1) for corpus in each.values())
    searched = sum(corpus.replayed.searched for corpus in each.values())
    tested = sum(corpus.replayed.tested for corpus in each.values())
    shared = sum(corpus.replayed.rates * corpus.replayed.tested for corpus in each.values())
    first = math.ceil(LOOKS[0] * last) * each_run
    others = shared - tested
    six, rest = NEEDED * each_run, OTHERS / 4 * each_run
    by_corpus = zip(each.values(), any_spending(results).values(), strict=True)
    stopped = [(corpus.tests(seeds), corpus.replayed.rates) for corpus, seeds in by_corpus]
    anew, shared_anew = sum(test for test, _ in stopped), sum(test * rates for test, rates in stopped)
    three = FEWEST_TESTS * each_run
    shared_three = sum(FEWEST_TESTS * corpus.of(1) * corpus.replayed.rates for corpus in each.values())
    at = ", ".join(map(str, cheapest))
    rows = [
        ("today: tuning by rounds; best rates beside a failed one are shared", searched, shared),
        ("by rounds, all but six tuning runs an arm ended at 1/4", six + (searched - six) / 4, shared),
        ("by grid, all but six tuning runs an arm ended at 1/4", six + rest, shared),
        ("six and no others", six, shared),
        ("no tuning at all", 0.0, shared),
        ("six; all of alpha spent at every look: no plan of looks stops earlier", six, shared_anew),
        ("six; every arm decided at three seeds", six, shared_three),
        ("six; rates shared at the first look alone", six, tested + others * first / tested),
        ("six; test runs that are set aside ended at 1/4", six, tested + others / 4),
        ("no shared rates, tuning as today", searched, tested),
        ("no shared rates, by rounds, all but six ended at 1/4", six + (searched - six) / 4, tested),
        ("no shared rates, by grid, all but six ended at 1/4", six + rest, tested),
        ("no shared rates, six", six, tested),
        (f"and the cheapest looks, chosen afterwards ({at})", six, plans[cheapest]),
        ("and all of alpha spent at every look", six, anew),
        ("and every arm decided at three seeds", six, three),
        ("no shared rates, tuning as today, all of it ended at 1/2", searched / 2, tested),
        ("no shared rates, six, ended at 1/2", six / 2, tested),
    ]
    total = sum(corpus.before for corpus in each.values())
    return [
        [name, *(round(seconds / total, 3) for seconds in (tuning, test, tuning + test))]
        for name, tuning, test in rows
    ]


def quickstart() -> list[list[Cell]]:
    """What a first look at so many seeds would need and give, if it decided all: nothing is tuned there."""
    study = 6, 2, 0.05  # seeds, arms beside the baseline, alpha
    rows: list[list[Cell]] = []
    for seeds in (2, 3, 4):
        values = [
            planned_critical_value("paired", seeds, study[1], study[2] / looks)[0] / seeds**0.5
            for looks in (3, 1)
        ]
        rows.append([seeds, round(seeds / study[0], 3), *(round(value, 1) for value in values)])
    return rows


# ------------------------------------------------------------------------------------ tables


def tables(draws: int) -> list[Table]:
    arms = packed_arms()
    replays = {rule: [replay(arm, rule) for arm in arms.values()] for rule in RULES}
    rules: list[list[Cell]] = [
        [
            str(rule),
            round(float(np.mean([one.saved for one in found])), 3),
            sum(one.bare for one in found),
            *(f"{one.chosen:g}: {max(one.regret, 0):.4f}" for one in found),
        ]
        for rule, found in replays.items()
    ]
    catching: list[list[Cell]] = []
    for name, arm in arms.items():
        for rate in arm.rates:
            behind = [
                arm.loss(rate, share) - min(arm.loss(r, share) for r in arm.rates)
                for share in (*POINTS, 0.75, 1)
            ]
            catching.append([name, rate, *(round(nats, 3) for nats in behind)])
    bounds: list[list[Cell]] = []
    for study in ON_A_GRID:
        runs = read_results(EXPERIMENTS / study).runs
        for corpus, rows in runs.groupby("corpus"):
            found = most(rows)
            share = [found.saved(point, of) for of in (found.tuning, found.whole) for point in POINTS]
            bounds.append(
                [f"{study}, {corpus}", found.runs / found.arms, round(found.needed / found.arms, 1)]
                + [round(each, 3) for each in share]
            )
    ratio = limits(read_results(EXPERIMENTS / "llama"), draws)
    return [
        Table(
            "Rules for ending tuning runs early, replayed on curves",
            ["ends", "steps of tuning saved", "arms that lost a rate they need", *arms],
            rules,
            NOTE_RULES,
        ),
        Table(
            "How far each rate is behind the one that leads, in nats",
            ["arm", "rate", *(f"at {share:g}" for share in (*POINTS, 0.75, 1))],
            catching,
            NOTE_CATCHING,
        ),
        Table(
            "The most that ending early could save",
            [
                "study",
                "tuning runs an arm",
                "needed",
                "of tuning, ended at 1/4",
                "at 1/2",
                "of the study, at 1/4",
                "at 1/2",
            ],
            bounds,
            NOTE_MOST,
        ),
        Table(
            "The ratio of `llama` and its limits",
            ["protocol", "tuning", "tests", "ratio"],
            ratio,
            NOTE_LIMITS,
        ),
        Table(
            "`quickstart`, were all arms decided at the first look",
            [
                "seeds at that look",
                "ratio",
                "least difference that three looks decide, in standard deviations",
                "that all of alpha decides",
            ],
            quickstart(),
            NOTE_QUICKSTART,
        ),
    ]


NOTE_RULES = """A cell of an arm is the rate that it would be tested at, and what that rate loses in the end
against the rate of whole runs, in nats. The margin of these studies is 0.02. Between rates the loss is read
off a parabola through the best three."""
NOTE_CATCHING = """Means over the tuning seeds. Most rates above the one that leads come nearer as the rate
decays; those below stay behind."""
NOTE_MOST = """As if each arm's chosen rate were known from the start. `needed` are the runs at it and at its
neighbours on the grid, which never end early."""
NOTE_LIMITS = f"""Shares of the core-seconds before. Target: {TARGET}. `six` are the whole tuning runs that an
arm needs: two seeds at the chosen rate and at its neighbours. A row that begins with `and` adds to the one
above. Rows that spend all of alpha at every look, end test runs, or choose the rate from half a run, break a
promise: they are bounds."""
NOTE_QUICKSTART = """Nothing is tuned there, so its six seeds are all that it cost before; arms are taken as
equally dear. Standard deviations are those of the difference between two arms."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=60)
    options = parser.parse_args()
    found = tables(options.draws)
    for table in found:
        print(f"\n{table.title}\n", *table.columns, sep="  ")
        for row in table.rows:
            print(*row, sep="  ")
    about = "What ending tuning runs early would save, and how near verdicts come to their target, by replay"
    save("early", found, about)
