"""study.yaml: what it may say, the designs, and the placebo."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from study_fakes import RATES, study

from ablate.study.design.arms import expand, redraw
from ablate.study.design.study import Study, StudyError, load_study, parse_study

FACTORS = {
    "norm": {"rms": [], "layer": ["model/norm=layer"]},
    "position": {"rope": [], "alibi": ["model/position=alibi"], "none": "model/position=none"},
}


def mistakes(**changes: Any) -> list[str]:
    with pytest.raises(StudyError) as caught:
        expand(study(**changes))
    return caught.value.mistakes


def factors(kind: str, **changes: Any) -> Study:
    design = {"kind": kind, "factors": FACTORS, **changes.pop("design", {})}
    return study(
        **{
            "arms": {},
            "baseline": None,
            "axis": ["model.norm", "model.position"],
            "design": design,
            **changes,
        }
    )


def test_all_mistakes_at_once_with_their_paths() -> None:
    with pytest.raises(StudyError) as caught:
        parse_study(
            {
                "axis": ["modle.position"],
                "arms": {"a": ["no override"]},
                "alhpa": 0.1,
                "equivalence_margin": -1,
                "seeds": [],
            }
        )
    lines = caught.value.mistakes
    for path in (
        "question: missing",
        "tune: missing",
        "axis.0",
        "arms.a",
        "alhpa: unknown option",
        "equivalence_margin",
        "seeds",
    ):
        assert any(line.startswith(path) for line in lines), (path, lines)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"baseline": "rop"}, "baseline: 'rop' is no arm; the arms are rope, alibi, none"),
        ({"baseline": None}, "baseline: missing"),
        ({"arms": {}}, "arms: missing"),
        ({"arms": {"rope": []}}, "nothing to compare"),
        ({"exclude": {"alibi": "slow", "nope": "x"}}, "exclude.nope: there is no such arm"),
        ({"exclude": {"rope": "dull"}}, "the baseline cannot be excluded"),
        ({"exclude": {"alibi": ""}}, "exclude.alibi"),
        ({"interim_seeds": [6, 10], "seeds": 8}, "the last look is at all 8 seeds, not at 10"),
        ({"interim_seeds": [6, 3], "seeds": 3}, "ascending"),
        ({"metric": "skill/solved"}, "better: skill/solved counts the runs that solve their task"),
        ({"tune": {"optim.lr": [1e-3, 3e-3]}}, "tune.rates: the grid needs 5 rates"),
        ({"tune": {"optim.lr": RATES, "seeds": [0, 1]}}, "tune.seeds: 0, 1 are test seeds too"),
        ({"tune": {"optim.lr": RATES, "optim.wd": RATES}}, "exactly one path is tuned"),
        ({"tune": {"optim.lr": RATES, "metric": "heldout/loss"}}, "tune.metric"),
        ({"tune": "nested"}, "say fixed, or give a grid"),
        ({"tune": {"model.position.base": RATES}}, "lies in the axis"),
        ({"match": {"hold": "total_params", "by": "model.position"}}, "is the axis itself"),
        ({"match": {"hold": "wall_clock", "by": "depth"}}, "match.hold"),
        ({"match": {"hold": "total_params", "by": "depth", "by_arm": {"x": "depth"}}}, "match.by_arm.x"),
        ({"arms": {"rope": [], "placebo": ["a=1"]}, "placebo": True}, "'placebo' is the name of the placebo"),
        ({"arms": {"rope": [], "x": ["seed=3"]}}, "the study sets the seeds"),
        ({"claims": [{"id": "A", "predicate": "rope < nope"}]}, "claims.A: 'nope' is no arm"),
        (
            {"claims": [{"id": "A", "predicate": "rope < none"}], "exclude": {"none": "too slow"}},
            "excluded: too slow",
        ),
        (
            {"claims": [{"id": "A", "predicate": "rope < none", "measure": "x"}]},
            "neither the metric nor one of",
        ),
        ({"claims": [{"id": "A", "predicate": "rope < none"}] * 2}, "A stands more than once"),
        ({"claims": [{"id": "A", "predicate": "rope <"}]}, "claims.0.predicate"),
        ({"corpora": [["data=x"]]}, "corpora"),
        ({"equivalence_margin": float("inf")}, "equivalence_margin: Input should be a finite number"),
        (
            {"claims": [{"id": "A", "predicate": "rope < none", "predicted": float("nan")}]},
            "claims.0.predicted: Input should be a finite number",
        ),
        ({"measures": "heldout/loss"}, "measures: Input should be a list: [a, b] (got 'heldout/loss')"),
        ({"arms": ["rope", "alibi"]}, "arms: Input should be a mapping: {name: value}"),
        ({"arms": {"rope": [], True: []}}, "arms.1: YAML reads this name as True; put it in double quotes"),
        ({"allow_no_op": {"nope": "x"}}, "allow_no_op.nope"),
        ({"design": {"kind": "factorial"}}, "needs factors"),
        ({"design": {"kind": "arms", "factors": FACTORS}}, "takes neither factors"),
    ],
)
def test_mistakes_name_the_place(changes: dict[str, Any], said: str) -> None:
    assert any(said in line for line in mistakes(**changes)), mistakes(**changes)


def test_rules_across_fields_come_together() -> None:
    lines = mistakes(interim_seeds=[3, 2], tune={"optim.lr": RATES, "seeds": [0]})
    assert [line.split(":")[0] for line in lines] == ["interim_seeds", "tune.seeds"]


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("question: a\nquestion: b\n")
    with pytest.raises(StudyError, match="duplicate key question"):
        load_study(file)
    file.write_text("- a\n")
    with pytest.raises(StudyError, match="a study is a mapping"):
        load_study(file)


def test_the_example_in_the_docs_is_a_study(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/studies.md").read_text()
    yaml = page.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "study.yaml").write_text(yaml)
    found = load_study(tmp_path / "study.yaml")
    assert [arm.name for arm in expand(found)][-1] == "placebo"
    documented = {line.split(":")[0] for line in yaml.splitlines() if line[:1].isalpha()}
    assert {*Study.model_fields} - documented <= {
        "allow_no_op",
        "budgets",
        "design",
        "effects",
        "exclude",
        "sizes",
    }
    assert all(f"`{field}" in page for field in ("allow_no_op", "design", "exclude", "sizes"))


def test_listed_arms_come_in_order_the_baseline_first() -> None:
    found = expand(study(baseline="alibi", placebo=True, exclude={"none": "diverges"}))
    assert [arm.name for arm in found] == ["alibi", "rope", "placebo"]
    assert found[-1].overrides == found[0].overrides and found[-1].placebo


def test_an_arm_may_take_a_part_away() -> None:
    overrides = ("~model.position", "+model.position.name=kerple")
    assert study(arms={"rope": [], "own": list(overrides)}).arms["own"] == overrides


def test_one_at_a_time_changes_one_factor() -> None:
    first, *rest = expand(factors("one_at_a_time"))
    assert first.name == "baseline" and first.overrides == ()
    assert {arm.name: arm.overrides for arm in rest} == {
        "norm-layer": ("model/norm=layer",),
        "position-alibi": ("model/position=alibi",),
        "position-none": ("model/position=none",),
    }
    assert rest[1].factors == {"norm": "rms", "position": "alibi"}


FROM, TO = {"norm": "layer", "position": "none"}, {"norm": "rms", "position": "alibi"}


def test_add_one_in_starts_from_and_takes_one_from_to() -> None:
    first, *rest = expand(factors("add_one_in", baseline="old", design={"from": FROM, "to": TO}))
    assert (first.name, first.factors) == ("old", FROM)
    assert [arm.name for arm in rest] == ["old+norm", "old+position"]
    assert rest[1].overrides == ("model/norm=layer", "model/position=alibi")


def test_leave_one_out_starts_at_to_and_puts_one_back() -> None:
    first, *rest = expand(factors("leave_one_out", baseline="new", design={"from": FROM, "to": TO}))
    assert (first.name, first.factors) == ("new", TO)
    assert {arm.name: dict(arm.factors) for arm in rest} == {
        "new-norm": {"norm": "layer", "position": "alibi"},
        "new-position": {"norm": "rms", "position": "none"},
    }


def test_a_factor_that_does_not_change_makes_no_arm() -> None:
    found = expand(factors("add_one_in", design={"from": FROM, "to": {**FROM, "norm": "rms"}}))
    assert [arm.name for arm in found] == ["baseline", "baseline+norm"]


def test_factorial_has_every_cell_once() -> None:
    found = expand(factors("factorial"))
    assert len(found) == 6 == len({tuple(arm.factors.items()) for arm in found})
    assert found[0].name == "rms+rope"
    named = expand(factors("factorial", baseline="layer+none", exclude={"rms+alibi": "known"}))
    assert named[0].overrides == ("model/norm=layer", "model/position=none")
    assert len(named) == 5


def test_designs_say_what_is_wrong_with_from_and_to() -> None:
    with pytest.raises(StudyError) as caught:
        factors("add_one_in", design={"from": {"norm": "batch"}, "to": {**TO, "ffn": "glu"}})
    assert caught.value.mistakes == [
        "design: from: no level is given for position",
        "design: from.norm: no level 'batch'; there are rms, layer",
        "design: to.ffn: no such factor; there are norm, position",
    ]


@pytest.mark.parametrize(
    ("axis", "parameters", "patterns", "said"),
    [
        (["model.position"], ["positions.0.table"], ("positions.*",), "model.position owns positions.*"),
        (["model.position"], ["layers.0.ffn.up.weight"], ("layers.*",), "model.position owns no tensor"),
        (["model.norm"], ["layers.0.ffn.up.weight"], ("layers.*",), "model.norm owns no tensor"),
        (["model.ffn.activation"], ["layers.0.ffn.up.weight"], ("layers.*.ffn.*",), "owns layers.*.ffn.*"),
        (["model.attention"], ["layers.3.attention.q.weight"], ("layers.*.attention.*",), "attention"),
        (["model.head"], ["embedding.weight"], ("layers.*",), "owns no tensor"),
        (["model.init"], ["embedding.weight"], ("*",), "model.init owns *"),
        (["optim"], ["embedding.weight"], ("layers.*",), "owns no tensor"),
        (
            ["model.ffn", "model.norm"],
            ["layers.0.ffn.up.weight"],
            ("layers.*.ffn.*", "layers.*"),
            "model.norm owns no tensor",
        ),
    ],
)
def test_the_placebo_redraws_what_the_axis_owns(
    axis: list[str], parameters: list[str], patterns: tuple[str, ...], said: str
) -> None:
    found, reason = redraw(axis, parameters)
    assert found == patterns
    assert said in reason


def test_planning_needs_no_torch() -> None:
    code = "import sys, ablate.study.design.plan, ablate.study.design.runs\n"
    code += "import ablate.study.design.freeze, ablate.study.design.forecast; "
    done = subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"], timeout=60)
    assert done.returncode == 0
