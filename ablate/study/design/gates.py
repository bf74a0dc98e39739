"""The gates that an arm passes before it is planned: it composes, differs where it may, acts, is matched.

One instance plans the arms on one corpus. Mistakes are gathered, so that all of them are shown at once.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import combinations
from typing import Any

from ablate import registry
from ablate.study.design.arms import EVERYTHING, LAYERS, Arm, redraw, unmatched_name
from ablate.study.design.backend import Backend
from ablate.study.design.differences import Difference, fetch, flatten, spec_differences, with_value
from ablate.study.design.fields import STEPS
from ablate.study.design.match import Matched, OutOfReach, candidates, setting, solve, turned
from ablate.study.design.planned import (
    LOSSES,
    SHARES,
    TARGETS,
    Facts,
    PlannedArm,
    Spec,
    held_amount,
    seeded,
)
from ablate.study.design.study import Study, StudyError, under


class Planning:
    """The arms on one corpus, gate by gate. An arm that fails a gate stays out of the later ones."""

    def __init__(
        self,
        study: Study,
        corpus: str,
        overrides: Sequence[str],
        arms: Sequence[Arm],
        backend: Backend,
        knobs: dict[str, int],
    ) -> None:
        self.study, self.corpus, self.overrides = study, corpus, overrides
        self.baseline, *self.others = (arm for arm in arms if not arm.placebo)
        self.placebo = next((arm for arm in arms if arm.placebo), None)
        self.compose, self.check = backend.compose, backend.check
        self.knobs = knobs  # arm -> where an earlier corpus left its knob
        self.tuned = [study.tune.path] if study.tune else []
        self.mistakes: list[str] = []
        self.warnings: list[str] = []

    def run(self) -> list[PlannedArm]:
        specs = self.composed()
        if self.baseline.name not in specs:
            return []
        self.check_paths(specs)
        specs = self.declared(specs)
        facts = {name: known for name, spec in specs.items() if (known := self.facts(name, spec))}
        if self.baseline.name not in facts:
            return []
        acting = self.acting(specs, facts)
        planned = [self.planned(self.baseline, specs, facts)]
        for arm in self.others:
            if arm.name in acting:
                planned += self.matched(self.planned(arm, specs, facts), planned[0])
        if self.placebo:
            planned += self.redrawn(self.placebo, planned[0])
        return self.on_one_kernel(planned)

    def label(self, name: str) -> str:
        return f"arm {name}" + (f" on {self.corpus}" if len(self.study.places) > 1 else "")

    def wrong(self, name: str, *lines: str) -> None:
        self.mistakes += [f"{self.label(name)}: {line}" for line in lines]

    def asked(self, name: str, ask: Callable[..., Any], *given: Any) -> Any:
        """The answer, or None where what was asked is wrong; then the mistakes are noted."""
        try:
            return ask(*given)
        except Exception as error:
            mistakes = getattr(error, "mistakes", None)
            if not isinstance(mistakes, list):  # a fault of the program, not of the study
                raise
            self.wrong(name, *mistakes)
            return None

    def composed(self) -> dict[str, Spec]:
        specs = {}
        for arm in (self.baseline, *self.others):
            spec = self.asked(arm.name, self.compose, [*self.study.base, *self.overrides, *arm.overrides])
            if spec is not None:
                specs[arm.name] = seeded(json.loads(json.dumps(spec)), 0)
        return specs

    def check_paths(self, specs: Mapping[str, Spec]) -> None:
        """The axis and the tuned path must be there."""
        paths = {path for spec in specs.values() for path in flatten(spec)}
        for axis in self.study.axis:
            if not any(under(path, axis) for path in paths):
                near = get_close_matches(axis, _prefixes(paths), n=3)
                hint = f"; did you mean {' or '.join(near)}?" if near else ""
                self.mistakes.append(f"axis: {axis} is in no arm's specification{hint}")
        for name, spec in specs.items():
            for path in self.tuned:
                try:
                    fetch(spec, path)
                except KeyError as error:
                    self.wrong(name, f"tune: {error.args[0]}")

    def knob(self, name: str) -> list[str]:
        """The path that matching may change in this arm."""
        if self.study.match is None:
            return []
        knob = self.study.match.knob(name)
        return ["budget.tokens" if knob == STEPS else knob]

    def differences(self, name: str, spec: Spec, baseline: Spec) -> list[Difference]:
        return spec_differences(baseline, spec, self.study.axis, self.knob(name), self.tuned)

    def declared(self, specs: dict[str, Spec]) -> dict[str, Spec]:
        """The arms that differ from the baseline in the axis, and nowhere that is not declared, and that are
        all different."""
        baseline = specs[self.baseline.name]
        kept = {self.baseline.name: baseline}
        axis = ", ".join(self.study.axis)
        for name, spec in specs.items():
            if name == self.baseline.name:
                continue
            differing = self.differences(name, spec, baseline)
            outside = [d for d in differing if d.reason == "undeclared"]
            self.wrong(
                name,
                *(f"{d} lies outside the axis ({axis}); set it in base, or widen the axis" for d in outside),
                *self.incomparable([d.path for d in differing], baseline.get("data", {})),
            )
            if not differing:
                self.wrong(name, "is a no-op: its specification equals the baseline's")
            elif not outside and all(d.reason in ("tuned", "matched") for d in differing):
                where = ", ".join(d.path for d in differing)
                self.wrong(
                    name, f"is a no-op: it differs from the baseline only in {where}, which is set anew"
                )
            elif not outside:
                kept[name] = spec
        return self.distinct(kept)

    def incomparable(self, paths: Sequence[str], data: Mapping[str, Any]) -> Iterator[str]:
        """Losses on different text or targets do not compare, nor those of a token where tokens differ. Those
        on sets that `data`, of the baseline, names are of the same text whatever the arms are trained on."""
        losses = [m for m in (self.study.metric, *self.study.measures) if m.rpartition("/")[2] in LOSSES]
        by_token = [m for m in losses if not m.endswith("bits_per_byte")]
        own = [m for m in losses if not (data.get("sets") and m.count("/") == 2)]  # on text of the arm's own
        trained = [p for p in paths if under(p, "data.source") and not any(under(p, s) for s in SHARES)]
        other = losses if any(under(path, "data.sets") for path in paths) else own if trained else []
        learned = trained and learns(data.get("tokenizer"))
        if other:
            yield (
                f"its text is not the baseline's, so {other[0]} does not compare; give texts under corpora, "
                "or take the loss on a set of data.sets"
            )
        elif losses and (moved := [path for path in paths if path in TARGETS]):
            yield f"{moved[0]} decides what is a target, so {losses[0]} does not compare; set it for all arms"
        elif by_token and (learned or any(under(path, "data.tokenizer") for path in paths)):
            yield f"its tokens are not the baseline's, so {by_token[0]} does not compare; take bits_per_byte"

    def distinct(self, specs: dict[str, Spec]) -> dict[str, Spec]:
        seen: dict[str, str] = {}
        kept = {}
        for name, spec in specs.items():
            set_anew = [*self.tuned, *(self.knob(name) if name != self.baseline.name else [])]
            flat = {p: v for p, v in flatten(spec).items() if not any(under(p, s) for s in set_anew)}
            first = seen.setdefault(json.dumps(flat, sort_keys=True), name)
            if first == name:
                kept[name] = spec
            else:
                self.wrong(name, f"is a duplicate of {first}: their specifications are equal")
        return kept

    def facts(self, name: str, spec: Spec) -> Facts | None:
        facts: Facts | None = self.asked(name, self.check, spec)
        if facts is not None and facts.refusals:
            self.wrong(name, *facts.refusals)
            return None
        return facts

    def acting(self, specs: Mapping[str, Spec], facts: Mapping[str, Facts]) -> set[str]:
        """The arms that change something, each unlike every other. Judged before matching, which changes
        shapes."""
        acting = set(facts)
        for first, second in combinations(facts, 2):
            if not {first, second} <= acting or second in self.study.allow_no_op:
                continue
            differing = self.differences(second, specs[second], specs[first])
            if not _same(facts[first], facts[second]) or any(not under(d.path, "model") for d in differing):
                continue  # what stands outside the model acts through training
            where = ", ".join(d.path for d in differing)
            what = "no-op" if first == self.baseline.name else "duplicate"
            self.wrong(
                second,
                f"is a {what}: parameters and outputs equal those of {first}, although {where} differ; if it "
                f"acts later in training, say why under allow_no_op: {{{second}: reason}}",
            )
            acting.discard(second)
        return acting

    def planned(self, arm: Arm, specs: Mapping[str, Spec], facts: Mapping[str, Facts]) -> PlannedArm:
        spec, baseline = specs[arm.name], specs[self.baseline.name]
        return PlannedArm(
            name=arm.name,
            corpus=self.corpus,
            overrides=(*self.study.base, *self.overrides, *arm.overrides),
            factors=arm.factors,
            spec=spec,
            facts=facts[arm.name],
            differs=tuple(self.differences(arm.name, spec, baseline)),
            note=self.study.allow_no_op.get(arm.name, ""),
        )

    def matched(self, arm: PlannedArm, baseline: PlannedArm) -> list[PlannedArm]:
        """The arm with its knob turned, and, where the study says so, the arm as it was beside it."""
        match = self.study.match
        if match is None:
            return [arm]
        knob = match.knob(arm.name)
        try:
            before = setting(arm.spec, knob)
        except KeyError as error:
            self.wrong(arm.name, f"match.by: {error.args[0]}; name the knob of this arm in match.by_arm")
            return []
        target = held_amount(match.hold, baseline.spec, baseline.facts)
        unmatched = held_amount(match.hold, arm.spec, arm.facts) / target - 1
        if abs(unmatched) <= match.tolerance:
            left = Matched(match.hold, knob, None, None, unmatched, unmatched)
            return [replace(arm, matched=left)]
        spec, facts, after = self.solved(arm, knob, target, before)
        if spec is None or facts is None or after is None:
            return []
        residual = held_amount(match.hold, spec, facts) / target - 1
        if abs(residual) > match.tolerance:
            self.wrong(
                arm.name,
                f"match: {match.hold} cannot be matched within {match.tolerance:.2%} by {knob}: the nearest, "
                f"{after}, leaves {residual:+.2%}; name another knob, multiple or tolerance",
            )
            return []
        self.knobs.setdefault(arm.name, after)
        typed = f"budget.tokens={fetch(spec, 'budget.tokens')}" if knob == STEPS else f"{knob}={after}"
        turned_arm = replace(
            arm,
            spec=spec,
            facts=facts,
            overrides=(*arm.overrides, typed),
            differs=tuple(self.differences(arm.name, spec, baseline.spec)),
            matched=Matched(match.hold, knob, before, after, unmatched, residual),
        )
        if not match.keeps_unmatched(arm.name):
            return [turned_arm]
        beside = replace(
            arm, name=unmatched_name(arm.name), note=f"{arm.name} as configured: {unmatched:+.2%}"
        )
        return [turned_arm, beside]

    def solved(
        self, arm: PlannedArm, knob: str, target: float, before: int | None
    ) -> tuple[Spec | None, Facts | None, int | None]:
        """The arm with the knob where what is held comes nearest to the target; nothing where that fails."""
        match = self.study.match
        assert match is not None
        seen: dict[int, tuple[Spec, Facts]] = {}

        def cost(value: int) -> float:
            spec = turned(arm.spec, knob, value)
            facts = self.check(spec)
            if facts.refusals:
                raise StudyError([f"match: at {knob} = {value}: {line}" for line in facts.refusals])
            seen[value] = spec, facts
            return held_amount(match.hold, spec, facts)

        values = candidates(arm.spec, knob, match.multiple)
        known = self.knobs.get(arm.name)  # the same arm on every corpus, where that will do
        try:
            if known is not None and abs(cost(known) / target - 1) <= match.tolerance:
                return *seen[known], known
            value: int | None = self.asked(arm.name, solve, cost, target, values, known or before)
        except OutOfReach as error:
            self.wrong(arm.name, f"match: {match.hold} cannot be matched by {knob}: {error}")
            return None, None, None
        return (None, None, None) if value is None else (*seen[value], value)

    def redrawn(self, arm: Arm, baseline: PlannedArm) -> list[PlannedArm]:
        """The placebo: the baseline with the axis's tensors drawn anew."""
        patterns, reason = redraw(self.study.axis, baseline.facts.tree)
        for wider in (patterns, LAYERS, EVERYTHING):
            if wider != patterns:
                reason += f"; that changes no output, so {', '.join(wider)} is drawn anew"
                patterns = wider
            spec = seeded(baseline.spec, 0, patterns)
            facts = self.asked(arm.name, self.check, spec)
            if facts is None:
                return []
            if not facts.refusals and not _same(facts, baseline.facts):  # refused: they start from constants
                break
        else:
            self.wrong(arm.name, "redrawing every parameter changes no output; say placebo: false")
            return []
        redrawn = Difference(path="seed.redraw", baseline=(), arm=patterns, reason="placebo")
        return [
            replace(
                baseline,
                name=arm.name,
                factors={},
                spec=spec,
                facts=facts,
                differs=(redrawn,),
                redraw=patterns,
                note=reason,
            )
        ]

    def on_one_kernel(self, arms: list[PlannedArm]) -> list[PlannedArm]:
        """The same kernel for all, unless kernels are what is asked about: `auto` may choose differently."""
        if len({arm.facts.kernel for arm in arms}) == 1 or any(
            under("model.kernel", axis) for axis in self.study.axis
        ):
            return arms
        each = ", ".join(f"{arm.name}: {arm.facts.kernel}" for arm in arms)
        common = [k for k in arms[0].facts.kernels if all(k in arm.facts.kernels for arm in arms)]
        if not common:
            self.mistakes.append(
                f"kernel: no kernel serves every arm ({each}); name one by model.kernel in base"
            )
            return arms
        self.warnings.append(f"kernel: {common[0]} for all arms; alone they would take {each}")
        settled = []
        for arm in arms:
            spec = with_value(arm.spec, "model.kernel", {"name": common[0]})
            facts = self.facts(arm.name, spec)
            overrides = (*arm.overrides, f"model/kernel={common[0]}")
            settled += [replace(arm, spec=spec, facts=facts, overrides=overrides)] if facts else []
        return settled


def _same(first: Facts, second: Facts) -> bool:
    return first.tree == second.tree and first.output == second.output


def learns(tokenizer: Any) -> bool:
    """Whether a tokenizer, as options, makes its tokens from the training text."""
    name = str(tokenizer.get("name") if isinstance(tokenizer, Mapping) else tokenizer)
    return name in registry.tokenizer and bool(getattr(registry.tokenizer[name].make, "learned", True))


def _prefixes(paths: Iterable[str]) -> list[str]:
    parts = [path.split(".") for path in paths]
    return sorted({".".join(words[:n]) for words in parts for n in range(1, len(words) + 1)})
