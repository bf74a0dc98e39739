"""Losses by set in the tables of a report, and metrics of sets that an arm has not."""

from dataclasses import replace

import pytest
from report_world import finished, loss, planned, world

from ablate.cli.compose import ConfigError
from ablate.cli.scoring import check_sets, set_names
from ablate.study.judge.study_judgement import judge_study
from ablate.study.report.frames import sheets
from ablate.study.report.methods import methods
from ablate.study.report.set_tables import set_tables
from ablate.study.report.tables import corpus_tables

ARMS = {"rope": [], "alibi": ["model/position=alibi"]}


def by_domain(run):
    value = loss(run)
    metrics = {
        **{
            f"validation/{name}/loss": value + off
            for name, off in (("web", 0.5), ("code", -0.5), ("macro", 0))
        },
        "validation/web/perplexity": 30.0,
        "heldout/web/loss": value + 1,
    }
    return {**finished(run), "metrics": metrics}


def test_every_set_is_a_column_and_the_mean_comes_last(tmp_path):
    judgement = judge_study(world(tmp_path, by_domain, arms=ARMS, seeds=3))
    (judged,) = judgement.corpora
    tables = {table.title: table for table in set_tables(judged)}
    assert list(tables) == [
        "Loss by set, validation",
        "Perplexity by set, validation",
        "Loss by set, held-out",
    ]
    table = tables["Loss by set, validation"]
    assert table.columns == ("arm", "code", "web", "macro")
    assert [row[0] for row in table.rows] == ["alibi", "rope", "placebo"]
    for _, code, web, macro in table.rows:
        assert float(web) - float(code) == pytest.approx(1, abs=1e-3)
        assert (float(web) + float(code)) / 2 == pytest.approx(float(macro), abs=1e-3)
    assert tables["Perplexity by set, validation"].columns == ("arm", "web")
    assert set(tables) <= {table.title for table in corpus_tables(judgement, judged)}
    sheet = sheets(judgement)["sets"]
    assert len(sheet) == 3 * 4 and set(sheet["set"]) == {"code", "web", "macro"}


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("heldout/loss", "at the last step on all of the held-out split."),
        ("heldout/web/loss", "at the last step on all of the held-out split of web."),
        ("validation/macro/loss", "at the last step as the mean over the validation splits of the sets."),
        ("validation/loss", "at the last step."),
    ],
)
def test_the_methods_say_which_text_the_metric_is_of(metric, said, tmp_path):
    assert said in methods(world(tmp_path, by_domain, arms=ARMS, seeds=2, metric=metric))


def test_without_sets_there_is_no_table_and_no_sheet(tmp_path):
    judgement = judge_study(world(tmp_path, arms=ARMS, seeds=3))
    assert not list(set_tables(judgement.corpora[0])) and "sets" not in sheets(judgement)


def test_a_metric_of_a_set_that_an_arm_has_not_is_refused():
    fake = planned(arms=ARMS, seeds=2, metric="validation/code/loss")
    plain = {"source": {"name": "stdlib"}}
    made = replace(fake, arms=tuple(replace(arm, spec={**arm.spec, "data": plain}) for arm in fake.arms))
    with pytest.raises(ConfigError, match=r"validation/code/loss: arm rope has no set code; it has none"):
        check_sets(made)
    data = {"source": {"name": "mixture", "sources": {"web": {}, "code": {}}}, "sets": None}
    assert set_names(data) == ["code", "web", "macro"]
    assert set_names({**data, "sets": {"books": {}}}) == ["books", "macro"]
    arms = tuple(replace(arm, spec={**arm.spec, "data": data}) for arm in made.arms)
    check_sets(replace(made, arms=arms))
    wrong = replace(made, arms=arms, study=made.study.model_copy(update={"metric": "heldout/books/loss"}))
    with pytest.raises(ConfigError, match="no set books; its sets are code, web, macro"):
        check_sets(wrong)
