"""How alpha is spread over a study, and what is said of it."""

from typing import Any

import pytest

from ablate.study.design.freeze import Frozen, Version
from ablate.study.design.level import other_families, table_alpha, true_level
from ablate.study.design.study import Study, parse_study


def study(**changes: Any) -> Study:
    node = {
        "question": "?", "axis": ["model.norm"], "baseline": "a", "arms": {"a": [], "b": [], "c": []},
        "tune": "fixed",
    }  # fmt: skip
    return parse_study({**node, **changes})


FACTORS = {"kind": "factorial", "factors": {"x": {"0": [], "1": ["a=1"]}, "y": {"0": [], "1": ["b=1"]}}}


def test_alpha_is_split_over_corpora_sizes_and_declared_tables() -> None:
    assert table_alpha(study()) == 0.05
    two = {"english": ["data=stdlib"], "code": ["data=hub"]}
    assert table_alpha(study(corpora=two)) == 0.025
    sizes = {"s": ["model/size=0.05M"], "m": ["model/size=0.2M"]}
    assert table_alpha(study(sizes=sizes)) == pytest.approx(0.05 / 3)  # the slopes are a table, too
    effects = study(corpora=two, arms={}, baseline=None, design=FACTORS)
    assert table_alpha(effects) == 0.0125


def test_amendments_spend_alpha_that_is_not_taken_back() -> None:
    assert table_alpha(study(), judged_before=1) == 0.025
    assert true_level(study(), "a", 1) == pytest.approx(0.05 + 0.025 + 0.025)  # the last for stability


def test_what_has_a_level_of_its_own_is_named() -> None:
    claims = [
        {"id": "A", "predicate": "b < a"},
        {"id": "B", "predicate": "b < c"},
        {"id": "C", "predicate": "b < a", "measure": "curve/area"},
        {"id": "D", "predicate": "b/a == 2", "measure": "cost/bytes"},
    ]
    asked = study(claims=claims, measures=["curve/area", "cost/bytes"])
    assert other_families(asked, "a") == [
        "stability",
        "claims that are not on a verdict",
        "claims on curve/area",
    ]
    assert true_level(asked, "a") == pytest.approx(0.2)
    assert other_families(study(claims=claims[:1]), "a") == ["stability"]


def version(seeds: int, test_runs: int, looks: tuple[int, ...] = ()) -> Version:
    kept = {"seeds": [*range(seeds)], "interim_seeds": [*looks]}
    return Version(date="", file="", study=kept, arms={}, test_runs=test_runs, hash="")


def test_only_other_seeds_after_test_runs_spend_alpha() -> None:
    assert Frozen(versions=(version(6, 0), version(8, 0))).judged_before == 0  # nothing had been judged
    assert Frozen(versions=(version(6, 0), version(6, 9))).judged_before == 0
    assert Frozen(versions=(version(6, 0), version(8, 9), version(10, 20))).judged_before == 2
    assert Frozen(versions=(version(6, 0), version(6, 9, (3, 6)))).judged_before == 1
