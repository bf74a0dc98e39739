"""The judge on whole simulated studies, tuning included: what share of them does it decide?

    python tests/study/test_judge_simulation.py 20000     prints the rates that docs/statistics.md quotes

A run's loss is a parabola in log rate plus the noise of its seed; validation and held-out share the model
and differ by a little noise of their own. Every simulated study goes through `tune`, `keep_better` and
`compare`, as a real one does.
"""

import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from ablate.study.design.claim import Claim
from ablate.study.design.level import table_alpha, true_level
from ablate.study.design.runs import WIDENINGS
from ablate.study.design.study import Study, parse_study
from ablate.study.judge.claims import judge
from ablate.study.judge.compare import Comparison, compare
from ablate.study.stats.intervals import Variance
from ablate.study.stats.power import Setting, detectable, power_of_equivalence, seeds_for_equivalence
from ablate.study.stats.tuning import keep_better, tune

SD = 0.02  # of the differences between two arms by seed
RUN = SD / 2**0.5  # of one run
TEXT = 0.2 * RUN  # by which validation and held-out differ
GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
OFF = 4 * RUN  # what half a decade away from the best rate costs
HELDOUT, VALIDATION = "heldout/loss", "validation/loss"
PLATEAU, PLATEAU_SD = 3.091, 0.001  # where runs of `experiments/llama` end whose rate is too high (english)
MEANS = {3e-4: 2.671, 1e-3: 2.354, 3e-3: 2.113, 1e-2: 2.0625}  # of post+rope+relu there, by rate
CLIFFS = (0.0063, 0.01, 0.0126)  # rates at which half of the runs end on the plateau
CLIFF_WIDTH = 0.1  # decades, of the logistic curve


class Simulation:
    """A source of studies with `effects` of the arms against the baseline `base`."""

    def __init__(
        self,
        effects: tuple[float, ...] = (0.0, 0.0, 0.0),
        seeds: int = 6,
        tuning: str = "fixed",
        off: float = OFF,
        generator: int = 0,
        cliff: float | None = None,
    ) -> None:
        self.arms = {"base": 0.0} | {f"arm{i}": effect for i, effect in enumerate(effects)}
        self.seeds = seeds
        self.tuning = tuning
        self.off = off
        self.cliff = cliff  # the rate at which half of the runs end on a plateau; None: none does
        self.rng = np.random.default_rng(generator)

    def runs(self, arms: list[str], rates: np.ndarray, seeds: np.ndarray, role: str) -> pd.DataFrame:
        """One row for each given (arm, rate, seed), finished."""
        effects = np.array([self.arms[arm] for arm in arms])
        curve = self.off * (np.log10(rates / self.best) / 0.5) ** 2
        model = 3 + effects + curve + self.rng.normal(0, RUN, len(arms))
        if self.cliff:
            model = effects + mean_loss(rates) + self.rng.normal(0, RUN, len(arms))
            chance = special.expit(np.log10(rates / self.cliff) / CLIFF_WIDTH)
            lost = self.rng.random(len(arms)) < chance
            model = np.where(lost, PLATEAU + self.rng.normal(0, PLATEAU_SD, len(arms)), model)
        return pd.DataFrame(
            {
                "arm": arms,
                "seed": seeds,
                "status": "finished",
                "role": role,
                "rate": rates,
                VALIDATION: model + self.rng.normal(0, TEXT, len(arms)),
                HELDOUT: model,
            }
        )

    def study(self) -> pd.DataFrame:
        """The frame of one study; the best rate lies anywhere between the second and fourth of the grid."""
        self.best = 10 ** self.rng.uniform(np.log10(GRID[1]), np.log10(GRID[3]))
        if self.tuning == "fixed":
            return self.test(dict.fromkeys(self.arms, (self.best,)))
        tuning_seeds = (100,) if self.tuning == "pick one seed" else (100, 101)
        tuning = self.tuned(GRID, tuning_seeds)
        if self.tuning == "pick one seed":  # what the rules forbid
            best = tuning.loc[tuning.groupby("arm")[VALIDATION].idxmin()].set_index("arm")["rate"]
            return self.test({arm: (best[arm],) for arm in self.arms})
        nested = self.tuning == "nested"
        for _ in range(WIDENINGS):
            choices = tune(tuning, VALIDATION, nested=nested)
            if not choices.extend:
                break
            if not self.cliff:  # the grid would be extended: begin the study again
                return self.study()
            tuning = pd.concat([tuning, self.tuned(choices.extend, tuning_seeds)], ignore_index=True)
        base = choices.choice("base")
        rates = {c.arm: c.rates(nested) or base.rates(nested) or (GRID[2],) for c in choices.choices}
        return keep_better(self.test(rates), VALIDATION)[0]

    def tuned(self, grid: tuple[float, ...], seeds: tuple[int, ...]) -> pd.DataFrame:
        arms, rates, at = zip(*[(a, r, s) for a in self.arms for r in grid for s in seeds], strict=True)
        return self.runs(list(arms), np.array(rates), np.array(at), "tuning")

    def test(self, rates: dict[str, tuple[float, ...]]) -> pd.DataFrame:
        rows = [(a, r, s) for a, of in rates.items() for r in of for s in range(self.seeds)]
        arms, at, seeds = zip(*rows, strict=True)
        return self.runs(list(arms), np.array(at), np.array(seeds), "test")


def mean_loss(rates: np.ndarray) -> np.ndarray:
    """The mean loss of a run that trains, by rate: through MEANS, rising beyond as far as it last fell."""
    at, means = np.log10([*MEANS, 3e-2]), [*MEANS.values(), MEANS[3e-3]]
    return np.interp(np.log10(rates), at, means)


def share(
    simulation: Simulation,
    studies: int,
    variance: Variance,
    event: Callable[[Comparison], bool],
    margin: float = 0.02,
) -> float:
    """The share of the studies in which `event` happens."""
    hits = sum(event(compare(simulation.study(), "base", HELDOUT, margin, variance)) for _ in range(studies))
    return hits / studies


def decides(comparison: Comparison) -> bool:
    return any(verdict.word in ("better", "worse") for verdict in comparison.verdicts)


def looks_decide(simulation: Simulation, studies: int, looks: tuple[int, ...]) -> float:
    """The share of null studies that decide at any of the looks."""
    hits = 0
    for _ in range(studies):
        frame = simulation.study()
        hits += any(
            decides(compare(frame[frame["seed"] < n], "base", HELDOUT, 0.02, "paired", looks=looks))
            for n in looks
        )
    return hits / studies


def peeking(simulation: Simulation, studies: int, sizes: range) -> float:
    """The share of null studies that decide if one looks at every size, and calls each the only look."""
    hits = 0
    for _ in range(studies):
        frame = simulation.study()
        hits += any(
            decides(compare(frame[frame["seed"] < n], "base", HELDOUT, 0.02, "paired")) for n in sizes
        )
    return hits / studies


def at_most(rate: float, studies: int) -> float:
    """The share that a judge with this true rate stays below in 999 of 1000 simulations."""
    return float(stats.binom.ppf(0.999, studies, rate)) / studies


def between(rate: float, studies: int) -> tuple[float, float]:
    """The shares among which a judge with this true rate stays in 998 of 1000 simulations."""
    low, high = stats.binom.interval(0.998, studies, rate)
    return float(low) / studies, float(high) / studies


# The promise: nested tuning and a given rate 5 %, the vertex over two tuning seeds 5 to 6 %.
PROMISED = {"fixed": 0.05, "nested": 0.05, "vertex": 0.06}


@pytest.mark.parametrize(
    ("variance", "tuning"),
    [("paired", "fixed"), ("pooled", "fixed"), ("pooled", "vertex"), ("pooled", "nested")],
)
def test_null_studies_decide_no_more_often_than_promised(variance: Variance, tuning: str) -> None:
    studies = 250
    assert share(Simulation(tuning=tuning), studies, variance, decides) <= at_most(PROMISED[tuning], studies)


@pytest.mark.parametrize("cliff", CLIFFS)
def test_null_studies_beside_a_plateau_decide_no_more_often_than_promised(cliff: float) -> None:
    """Where a run that ended on the plateau may choose a rate, 16 to 85 % decide."""
    studies = 40
    simulation = Simulation(tuning="vertex", cliff=cliff)
    assert share(simulation, studies, "paired", decides) <= at_most(PROMISED["vertex"], studies)


@pytest.mark.slow
@pytest.mark.parametrize("cliff", CLIFFS)
@pytest.mark.parametrize("tuning", ["vertex", "nested"])
def test_many_null_studies_beside_a_plateau_decide_no_more_often_than_promised(
    cliff: float, tuning: str
) -> None:
    studies = 1500
    simulation = Simulation(tuning=tuning, cliff=cliff)
    assert share(simulation, studies, "paired", decides) <= at_most(PROMISED["vertex"], studies)


def word_share(truth: float, seeds: int, studies: int, words: tuple[str, ...]) -> float:
    """How often the claim `arm0 < base` gets one of these words, where `truth` is arm0 - base."""
    claims = [Claim(id="C", predicate="arm0 < base")]
    simulation = Simulation((truth,), seeds)
    judged = (compare(simulation.study(), "base", HELDOUT, SD, "paired") for _ in range(studies))
    return sum(judge(claims, comparison)[0].word in words for comparison in judged) / studies


@pytest.mark.parametrize("seeds", [20, 80])
def test_a_true_claim_hardly_ever_fails_however_many_seeds_there_are(seeds: int) -> None:
    """Where equivalence counts as failure, 79 % of such claims fail at 20 seeds and fewer again at 80."""
    studies = 60
    assert word_share(-0.25 * SD, seeds, studies, ("fail",)) <= at_most(0.025, studies)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [6, 10, 20, 40, 80])
def test_many_true_claims_hardly_ever_fail(seeds: int) -> None:
    studies = 2000
    assert word_share(-0.25 * SD, seeds, studies, ("fail",)) <= at_most(0.025, studies)


def corpora_decide(simulation: Simulation, studies: int, corpora: int, alpha: float) -> float:
    """The share of null studies of several corpora that decide on any of them."""
    hits = 0
    for _ in range(studies):
        each = [compare(simulation.study(), "base", HELDOUT, SD, "paired", alpha) for _ in range(corpora)]
        hits += any(decides(comparison) for comparison in each)
    return hits / studies


def two_corpora() -> Study:
    return parse_study({**PLAIN, "corpora": {"a": ["data=stdlib"], "b": ["data=hub"]}})


PLAIN = {
    "question": "?",
    "axis": ["model.norm"],
    "baseline": "a",
    "arms": {"a": [], "b": []},
    "tune": "fixed",
}


def test_null_studies_of_two_corpora_decide_no_more_often_than_promised() -> None:
    studies = 120
    rate = corpora_decide(Simulation(), studies, 2, table_alpha(two_corpora()))
    assert rate <= at_most(0.05, studies)


@pytest.mark.slow
def test_many_null_studies_of_two_corpora_decide_no_more_often_than_promised() -> None:
    studies = 4000
    assert corpora_decide(Simulation(), studies, 2, table_alpha(two_corpora())) <= at_most(0.05, studies)
    assert corpora_decide(Simulation(), studies, 2, 0.05) > at_most(0.06, studies)  # a level for each corpus


def ties_decide(studies: int, seeds: int, items: int, metric: str) -> float:
    """The share of A/A studies of four arms that decide on an accuracy over few items."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(studies):
        rows = pd.DataFrame({"arm": np.repeat(["base", "a", "b", "c"], seeds), "seed": [*range(seeds)] * 4})
        rows[metric] = rng.binomial(items, 0.5, len(rows)) / items
        rows = rows.assign(status="finished", role="test")
        hits += decides(compare(rows, "base", metric, None, "paired", better="higher"))
    return hits / studies


def test_ties_decide_nothing() -> None:
    studies = 60
    assert ties_decide(studies, 2, 10, "skill/accuracy") <= at_most(0.05, studies)
    assert ties_decide(studies, 2, 10, "counts/accuracy") > at_most(0.1, studies)  # as if it were exact


@pytest.mark.slow
@pytest.mark.parametrize("items", [10, 100])
def test_many_ties_decide_nothing(items: int) -> None:
    assert ties_decide(2000, 2, items, "skill/accuracy") <= at_most(0.05, 2000)


def amendments_decide(studies: int, sizes: tuple[int, ...], halved: bool) -> float:
    """The share of null studies that decide at some time, where seeds are added after each judgement."""
    simulation, hits = Simulation((0.0, 0.0, 0.0), seeds=max(sizes)), 0
    levels = [table_alpha(parse_study(PLAIN), halved * times) for times in range(len(sizes))]
    for _ in range(studies):
        frame = simulation.study()
        hits += any(
            decides(
                compare(
                    frame[frame["seed"] < n],
                    "base",
                    HELDOUT,
                    SD,
                    "paired",
                    levels[times],
                )
            )
            for times, n in enumerate(sizes)
        )
    return hits / studies


@pytest.mark.slow
def test_seeds_that_are_added_later_stay_below_the_level_that_is_printed() -> None:
    studies = 2000
    rate = amendments_decide(studies, (6, 8, 10), halved=True)
    assert rate <= at_most(true_level(parse_study(PLAIN), "a", 2), studies)
    assert rate < amendments_decide(studies, (6, 8, 10), halved=False)


@pytest.mark.slow
@pytest.mark.parametrize("variance", ["paired", "pooled"])
@pytest.mark.parametrize("tuning", list(PROMISED))
def test_many_null_studies_decide_no_more_often_than_promised(variance: Variance, tuning: str) -> None:
    studies = 10_000
    assert share(Simulation(tuning=tuning), studies, variance, decides) <= at_most(PROMISED[tuning], studies)


def test_the_simulation_catches_a_judge_that_tunes_on_one_seed() -> None:
    studies = 150
    simulation = Simulation(tuning="pick one seed")
    assert share(simulation, studies, "pooled", decides) > at_most(PROMISED["vertex"], studies)


def test_declared_looks_keep_the_promise() -> None:
    studies = 100
    assert looks_decide(Simulation((0.0,), seeds=16), studies, (6, 10, 16)) <= at_most(0.05, studies)


@pytest.mark.slow
def test_the_simulation_catches_looking_at_every_seed() -> None:
    studies = 200
    assert peeking(Simulation((0.0,), seeds=16), studies, range(3, 17)) > at_most(0.05, studies)


@pytest.mark.parametrize("variance", ["paired", "pooled"])
def test_planted_effects_are_found_at_the_promised_power(variance: Variance) -> None:
    studies = 100
    effect = detectable(6, Setting(3, SD, variance))
    found = share(
        Simulation((-effect, 0.0, 0.0)), studies, variance, lambda c: c.verdict("arm0").word == "better"
    )
    low, high = between(0.8, studies)
    assert low <= found <= high


@pytest.mark.parametrize("variance", ["paired", "pooled"])
def test_equivalence_is_decided_at_the_promised_power(variance: Variance) -> None:
    studies = 100
    seeds = 12
    promised = power_of_equivalence(0.02, seeds, Setting(2, SD, variance))
    found = share(
        Simulation((0.0, 0.0), seeds), studies, variance, lambda c: c.verdict("arm1").word == "equivalent"
    )
    low, high = between(promised, studies)
    assert low <= found <= high


@pytest.mark.slow
@pytest.mark.parametrize("variance", ["paired", "pooled"])
def test_an_effect_as_large_as_the_margin_is_hardly_called_equivalent(variance: Variance) -> None:
    studies = 1000
    simulation = Simulation((0.02, 0.0), seeds=16)
    wrong = share(simulation, studies, variance, lambda c: c.verdict("arm0").word == "equivalent")
    assert wrong <= at_most(0.025, studies)


def report(studies: int) -> None:
    """Print the measured rates, with their Monte Carlo errors."""

    def line(name: str, rate: float, promised: str, of: int) -> None:
        error = (rate * (1 - rate) / of) ** 0.5
        print(f"{name:62} {100 * rate:6.2f} % +- {100 * error:.2f}   promised {promised}", flush=True)

    for variance in ("paired", "pooled"):
        for tuning, offs in {
            "fixed": (4,),
            "vertex": (2, 8),
            "nested": (2, 8),
            "pick one seed": (4,),
        }.items():
            for off in offs:
                rate = share(Simulation(tuning=tuning, off=off * RUN), studies, variance, decides)
                promised = (
                    "nothing: forbidden" if tuning == "pick one seed" else f"{100 * PROMISED[tuning]:g} %"
                )
                line(
                    f"null, {variance}, {tuning}, half a decade off costs {off} sd of a run",
                    rate,
                    promised,
                    studies,
                )
        effect = detectable(6, Setting(3, SD, variance))
        rate = share(
            Simulation((-effect, 0, 0)), studies, variance, lambda c: c.verdict("arm0").word == "better"
        )
        line(f"power, {variance}, effect {effect:.4f}, 6 seeds, 3 arms", rate, "80.00 %", studies)
        seeds = seeds_for_equivalence(0.02, Setting(3, SD, variance)) or 0
        power = power_of_equivalence(0.02, seeds, Setting(3, SD, variance))
        rate = share(
            Simulation(seeds=seeds), studies, variance, lambda c: c.verdict("arm0").word == "equivalent"
        )
        line(
            f"equivalence within .02, {variance}, {seeds} seeds, 3 arms",
            rate,
            f"{100 * power:.2f} %",
            studies,
        )
    for tuning in ("vertex", "nested"):
        for cliff in CLIFFS:
            rate = share(Simulation(tuning=tuning, cliff=cliff), studies, "paired", decides)
            line(f"null, paired, {tuning}, half end on a plateau at {cliff:g}", rate, "6 %", studies)
    for seeds in (6, 20, 80):
        rate = word_share(-0.25 * SD, seeds, studies, ("fail",))
        line(f"a true claim of a quarter of the margin fails, {seeds} seeds", rate, "2.5 %", studies)
    rate = corpora_decide(Simulation(), studies, 2, table_alpha(two_corpora()))
    line("null, two corpora, alpha split over them", rate, "5 %", studies)
    line("null, two corpora, 5 % each", corpora_decide(Simulation(), studies, 2, 0.05), "nothing", studies)
    for metric in ("skill/accuracy", "counts/accuracy"):
        rate = ties_decide(studies, 2, 10, metric)
        line(f"null, accuracy of 10 items at two seeds, as {metric}", rate, "5 %", studies)
    for halved in (True, False):
        how = "halved each time" if halved else "spent anew"
        rate = amendments_decide(studies, (6, 8, 10), halved)
        line(f"null, judged at 6, then 8, then 10 seeds, alpha {how}", rate, "8.75 %", studies)
    few = max(1, studies // 5)
    line("null, looks at 6, 10, 16", looks_decide(Simulation((0.0,), 16), few, (6, 10, 16)), "5 %", few)
    line(
        "null, a look at every n from 3 to 16",
        peeking(Simulation((0.0,), 16), few, range(3, 17)),
        "nothing: forbidden",
        few,
    )


if __name__ == "__main__":
    report(int(sys.argv[1]))
