"""From a study to its arms: the designs spelled out, and the placebo's patterns."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from itertools import product

from ablate.study.design.study import PLACEBO, Study, StudyError, under

REFERENCE = "baseline"  # the name of a design's reference cell, where the study gives none
LAYERS = ("layers.*",)
EVERYTHING = ("*",)

# Which parameters an axis owns, as patterns over their names. What is not listed (norms, placements, widths,
# data, optimizers) owns no drawn tensor.
OWNED: dict[str, tuple[str, ...]] = {
    "model.position": ("positions.*",),
    "model.attention": ("layers.*.attention.*",),
    "model.ffn": ("layers.*.ffn.*",),
    "model.embedding": ("embedding.*", "input_lookup.*"),
    "model.lookup": ("before.*", "after.*"),
    "model.head": ("head.*",),
    "model.init": EVERYTHING,
    "model": EVERYTHING,
}


@dataclass(frozen=True)
class Arm:
    """A name, the overrides that a person would type after those of `base`, and the level of each factor."""

    name: str
    overrides: tuple[str, ...]
    factors: Mapping[str, str] = field(default_factory=dict)
    placebo: bool = False


def expand(study: Study) -> list[Arm]:
    """The arms of a study, the baseline first, the placebo last, without those excluded.

    Raises StudyError for names that clash or that no arm has.
    """
    designed = _designed(study)
    listed = [Arm(name, overrides) for name, overrides in study.arms.items()]
    arms = [*designed, *listed]
    names = [arm.name for arm in arms]
    mistakes = [
        f"arms: {name!r} comes about twice; rename a level or an arm"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    baseline = study.baseline or arms[0].name
    if baseline not in names:
        mistakes.append(f"baseline: {baseline!r} is no arm; the arms are {', '.join(names)}")
    if study.placebo and PLACEBO in names:
        mistakes.append(
            f"arms: {PLACEBO!r} is the name of the placebo; rename the arm, or say placebo: false"
        )
    mistakes += _excluded(study, baseline, names)
    kept = [name for name in names if name not in study.exclude] + [PLACEBO] * study.placebo
    mistakes += _unknown(study, kept)
    if mistakes:
        raise StudyError(mistakes)
    first = next(arm for arm in arms if arm.name == baseline)
    rest = [arm for arm in arms if arm is not first and arm.name not in study.exclude]
    if not rest:
        raise StudyError([f"arms: there is nothing to compare with the baseline {baseline!r}"])
    placebo = [Arm(PLACEBO, first.overrides, placebo=True)] if study.placebo else []
    return [first, *rest, *placebo]


def _excluded(study: Study, baseline: str, names: list[str]) -> list[str]:
    if baseline in study.exclude:
        return [f"exclude.{baseline}: the baseline cannot be excluded"]
    return [
        f"exclude.{name}: there is no such arm; the arms are {', '.join(names)}"
        for name in study.exclude
        if name not in names
    ]


def _unknown(study: Study, kept: list[str]) -> list[str]:
    """Arms that are named somewhere and are none."""
    named = {f"allow_no_op.{name}": name for name in study.allow_no_op}
    unmatched: Collection[str] = ()
    if study.match:
        named |= {f"match.by_arm.{name}": name for name in study.match.by_arm}
        if isinstance(study.match.also_unmatched, tuple):
            unmatched = study.match.also_unmatched
            named |= {f"match.also_unmatched.{name}": name for name in unmatched}
        else:
            unmatched = kept if study.match.also_unmatched else ()
    claimable = {*kept, *(unmatched_name(name) for name in unmatched)}
    wrong = [
        f"{place}: there is no such arm; the arms are {', '.join(kept)}"
        for place, name in named.items()
        if name not in kept
    ]
    for claim in study.claims:
        for name in claim.parsed.arms:
            if name not in claimable:
                why = f" (excluded: {study.exclude[name]})" if name in study.exclude else ""
                wrong.append(
                    f"claims.{claim.id}: {name!r} is no arm{why}; the arms are {', '.join(sorted(claimable))}"
                )
    return wrong


def unmatched_name(arm: str) -> str:
    """The name of the arm that is kept beside the matched one."""
    return f"{arm}-unmatched"


def _designed(study: Study) -> list[Arm]:
    """The arms that come from factors; the reference cell first."""
    design = study.design
    name = study.baseline or REFERENCE
    if design.kind == "arms":
        return []
    if design.kind == "factorial":
        cells = [
            dict(zip(design.factors, levels, strict=True)) for levels in product(*design.factors.values())
        ]
        return [_cell(study, "+".join(cell.values()), cell) for cell in cells]
    if design.kind == "one_at_a_time":
        reference = {factor: next(iter(levels)) for factor, levels in design.factors.items()}
        changes = [
            (f"{factor}-{level}", {**reference, factor: level})
            for factor, levels in design.factors.items()
            for level in levels
            if level != reference[factor]
        ]
    else:
        adds = design.kind == "add_one_in"
        reference, other = (design.start, design.end) if adds else (design.end, design.start)
        sign = "+" if adds else "-"
        changes = [
            (f"{name}{sign}{factor}", {**reference, factor: other[factor]})
            for factor in design.factors
            if reference[factor] != other[factor]
        ]
    return [_cell(study, name, reference), *(_cell(study, arm, cell) for arm, cell in changes)]


def _cell(study: Study, name: str, cell: Mapping[str, str]) -> Arm:
    """One combination of levels, the overrides in the order of the factors."""
    factors = study.design.factors
    overrides = tuple(o for factor in factors for o in factors[factor][cell[factor]])
    return Arm(name, overrides, {factor: cell[factor] for factor in factors})


def redraw(axis: Collection[str], parameters: Collection[str]) -> tuple[tuple[str, ...], str]:
    """The patterns of the placebo, and why these: what the axis owns in the baseline, drawn anew.

    `parameters` are the names of the baseline's. Where a path of the axis owns none of them (RoPE, a norm),
    all layers are drawn anew: more noise than the axis's own, so the null is on the careful side.
    """
    patterns: list[str] = []
    reasons = []
    for path in axis:
        owned = _owned(path)
        there = tuple(p for p in owned if any(fnmatch(name, p) for name in parameters))
        if there:
            reasons.append(f"{path} owns {', '.join(there)}")
        else:
            reasons.append(f"{path} owns no tensor of the baseline that is drawn, so all layers are")
        patterns += there or LAYERS
    return tuple(dict.fromkeys(patterns)), "; ".join(reasons)


def _owned(path: str) -> tuple[str, ...]:
    """The patterns of the longest listed path above this one. `model` is listed for itself alone."""
    above = [place for place in OWNED if under(path, place) and (place != "model" or path == "model")]
    return OWNED[max(above, key=len)] if above else ()
