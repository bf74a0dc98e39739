"""`ablate try`: a real campaign of tiny models, from its YAML to its report."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from training import write_text

import ablate
from ablate.__main__ import main
from ablate.campaign.journal import JOURNAL, Journal
from ablate.campaign.limits import losses_of
from ablate.campaign.rules import Campaign, CampaignError, load_campaign, merged
from ablate.campaign.withheld import withhold
from ablate.cli.campaign_command import try_words
from ablate.cli.campaign_server import checked_change, make_server
from ablate.data.prepare import prepare
from ablate.engine.launch import EngineError, Event
from ablate.engine.store import Store
from ablate.engine.worker import perform_job
from ablate.measure.score import score
from ablate.spec import DataSpec, RunSpec
from ablate.train.fit import train_work

SMALL_BASE = [
    "model=llama", "model.width=16", "model.depth=1", "model.heads=2", "model.context=16", "data=text",
    "data/tokenizer=bytes", "budget.tokens=4096", "budget.batch_tokens=128", "evaluation.every=0",
    "evaluation.tokens=256", "optim.lr=1e-4",
]  # fmt: skip
BETTER, WORSE, WILD = ["optim.lr=1e-2"], ["optim.lr=2e-3"], ["optim.lr=30", "clip=null"]


def in_this_process(
    jobs: list[Any], slots: Any, work_name: str, heard: Any, *, store: Store, retries: int
) -> None:
    """What `launch` does, without the seconds that a worker takes to begin."""
    for job in jobs:
        assert job.payload["measures"] == [], "a run scores nothing"
        report = perform_job(store, job, train_work)
        heard(Event("ended", job.id, report.status, report.reason))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("campaign")


def new_campaign(place: Path, name: str, **rules: Any) -> Path:
    text = place / "text.jsonl" if (place / "text.jsonl").is_file() else write_text(place)
    folder = place / "experiments" / name
    folder.mkdir(parents=True)
    base = [*SMALL_BASE, f"data.source.files=[{text}]"]
    node = {"question": "Which rate?", "base": base, "margin": 0.05, "tries": 5, "seeds": 4, **rules}
    (folder / "campaign.yaml").write_text(yaml.safe_dump(node))
    return folder


@pytest.fixture(scope="module")
def campaign(place: Path) -> Iterator[tuple[Path, dict[str, Any], list[Any]]]:
    """A campaign of three changes: the folder, its options, and the answers."""
    folder = new_campaign(place, "rates", fail_fast={"above": 2.5, "after": 0.25}, cost={"total": 1.05})
    options = {"runs": place / "runs", "cache": place / "cache"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ablate.cli.campaign_runs.launch", in_this_process)
        yield folder, options, [ablate.try_change(folder, c, **options) for c in (BETTER, WORSE, WILD)]


def test_a_gain_is_kept_a_loss_discarded_and_a_wild_run_stopped(campaign):
    folder, _, (better, worse, wild) = campaign
    assert (better.word, worse.word, wild.word) == ("keep", "discard", "discard")
    assert better.difference < -0.05 and 2 <= better.pairs <= 4 and better.e_value_log >= better.log_threshold
    assert worse.difference > 0 and worse.baseline == 1 and worse.tries_left == 3
    assert "fail-fast" in wild.reason and wild.pairs == 0
    # Half of the level for the first keep: the second has twice its alpha.
    assert worse.log_threshold == pytest.approx(better.log_threshold - 0.6931, abs=1e-3)
    assert Journal(folder).read(load_campaign(folder)).runs == sum(a.runs for a in (better, worse, wild)) - 1


def test_the_new_baseline_is_measured_on_seeds_of_its_own(campaign):
    folder, _, _ = campaign
    state = Journal(folder).read()
    first, second = state.baselines
    assert set(first.values) == set(state.tries[1].values) == set(range(len(first.values)))
    assert {1000, 1001} <= set(second.values) and not set(second.values) & set(first.values)
    assert "optim.lr=1e-2" in second.overrides and "optim.lr=1e-4" not in second.overrides


def test_a_stopped_run_has_no_outcome_that_a_study_would_count(campaign):
    _, options, _ = campaign
    records = list(Store(options["runs"]).records())
    stopped = [record for record in records if record.spec["optim"]["lr"] == 30]
    assert [record.status for record in stopped] == ["interrupted"]
    assert all(record.status == "finished" for record in records if record not in stopped)


def test_what_was_decided_is_not_run_again(campaign):
    folder, options, (_, worse, _) = campaign
    again = ablate.try_change(folder, WORSE, **options)
    assert (again.word, again.number, again.runs, again.tries_left) == ("discard", worse.number, 0, 3 - 1)


def test_runs_get_a_text_without_its_held_out_split_and_are_the_same_runs(campaign):
    _, options, _ = campaign
    for record in Store(options["runs"]).records():
        data = DataSpec.model_validate(record.spec["data"])
        whole, withheld = prepare(data, options["cache"]), prepare(data, options["cache"] / "withheld")
        assert len(whole.splits["heldout"].tokens) > 0 and len(withheld.splits["heldout"].tokens) == 0
        assert withheld.fingerprint == whole.fingerprint == record.fingerprint
        assert record.id == RunSpec.model_validate(record.spec).id(whole.fingerprint)
        for name in ("train", "validation"):
            assert (withheld.splits[name].tokens == whole.splits[name].tokens).all()
    assert withhold(whole, options["cache"] / "withheld") == options["cache"] / "withheld"  # it is there


def test_scores_are_those_of_the_whole_text(campaign):
    folder, options, _ = campaign
    value = Journal(folder).read().baselines[0].values[0]
    (record,) = [
        record
        for record in Store(options["runs"]).records()
        if record.spec["optim"]["lr"] == 1e-4 and record.spec["seed"]["data"] == 0
    ]
    again = score(options["runs"] / record.id, options["cache"], ["heldout"])
    assert again.metrics["heldout/loss"] == value and again.heldout_reads == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["budget.tokens=8192"], "outside the axis"),
        (["optim.lr=1e-2"], "no-op"),
        (["model.width=64"], "cost.total"),
        (["model/norm=nothing"], "nothing"),
        (["nowhere.py", "model/norm=rmsnorm"], "there is no such file"),
    ],
)
def test_a_change_that_cannot_be_judged_is_refused_and_costs_nothing(campaign, change, reason):
    folder, options, _ = campaign
    before = (folder / JOURNAL).read_bytes()
    with pytest.raises(ablate.AblateError, match=reason):
        ablate.try_change(folder, change, **options)
    assert (folder / JOURNAL).read_bytes() == before


def test_the_report_and_the_commands_say_what_happened(campaign, capsys):
    folder, _, _ = campaign
    assert main(["campaign", "report", "rates", "--experiments", str(folder.parent)]) == 0
    printed = capsys.readouterr().out
    assert "1 kept, 2 discarded" in printed and "campaign.html" in printed
    page, markdown = (folder / "campaign.html").read_text(), (folder / "campaign.md").read_text()
    assert "<svg" in page and "Xu and Ramdas" in page
    assert "optim.lr=1e-2" in markdown and "wealth left: 0.02" in markdown
    assert main(["campaign", "status", "rates", "--experiments", str(folder.parent), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert [each["word"] for each in status["tries"]] == ["keep", "discard", "discard"]
    assert status["alpha_left"] == pytest.approx(0.02)


def test_the_command_answers_with_json_and_refuses_with_a_line(campaign, capsys):
    folder, options, _ = campaign
    places = [f"{key}={value}" for key, value in options.items()]
    words = ["try", *WORSE, "campaign=rates", f"experiments={folder.parent}", *places]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["word"] == "discard"
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("discard\ntry 2 of rates: optim.lr=2e-3\n")
    assert main(["try", "optim.lr=1", "campaign=nothing", f"experiments={folder.parent}"]) == 2
    assert "campaign.yaml: there is no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["optim.lr=1"], "campaign: missing"),
        (["campaign=a"], "there is no change"),
        (["campaign=a", "optim.lr=1", "more=x"], "more: a whole number, not 'x'"),
        (["campaign=a", "optim.lr=1", "gpus=yes"], "gpus: true or false"),
    ],
)
def test_wrong_words_are_named(words, reason):
    with pytest.raises(CampaignError, match=reason):
        try_words(words)


def test_a_journal_that_was_edited_is_refused(campaign, tmp_path):
    folder, _, _ = campaign
    lines = (folder / JOURNAL).read_text().splitlines()
    for wrong in (lines[:2] + lines[3:], [*lines[:-1], lines[-1].replace("discard", "keep")], ["{}"]):
        (tmp_path / JOURNAL).write_text("\n".join(wrong) + "\n")
        with pytest.raises(CampaignError, match=r"line \d+: .*restore the file"):
            Journal(tmp_path).read()


def test_rules_stay_as_the_first_try_found_them(campaign):
    folder, _, _ = campaign
    rules = load_campaign(folder)
    with pytest.raises(CampaignError, match=r"tries: was 5 at the first try and is 50"):
        Journal(folder).read(rules.model_copy(update={"tries": 50}))
    assert Journal(folder).read(rules.model_copy(update={"notes": "more to say"})) is not None


def test_an_undecided_try_asks_for_runs_and_gets_them(place, monkeypatch):
    monkeypatch.setattr("ablate.cli.campaign_runs.launch", in_this_process)
    folder = new_campaign(place, "close", seeds=2, margin=0.0001, tries=1000, noise="own")
    options = {"runs": place / "runs", "cache": place / "cache"}
    first = ablate.try_change(folder, ["optim.lr=1.1e-4"], **options)
    assert (first.word, first.pairs) == ("undecided", 2) and "would settle it" in first.reason
    assert ablate.try_change(folder, ["optim.lr=1.1e-4"], **options).pairs == 2
    more = ablate.try_change(folder, ["optim.lr=1.1e-4"], more=1, **options)
    assert more.number == 1 and (more.pairs == 3 or more.word != "undecided")


def test_a_baseline_that_cannot_be_run_is_said(place, monkeypatch):
    monkeypatch.setattr("ablate.cli.campaign_runs.launch", in_this_process)
    folder = new_campaign(place, "hasty", seconds=1e-6)
    with pytest.raises(EngineError, match=r"the baseline has no value .*the limit for a run"):
        ablate.try_change(folder, ["optim.lr=2e-4"], runs=place / "hasty", cache=place / "cache")


def test_a_campaign_without_tries_left_refuses(place, monkeypatch):
    monkeypatch.setattr("ablate.cli.campaign_runs.launch", in_this_process)
    folder = new_campaign(place, "short", tries=1, seeds=2)
    options = {"runs": place / "runs", "cache": place / "cache"}
    ablate.try_change(folder, BETTER, **options)
    with pytest.raises(CampaignError, match="has had its 1 tries"):
        ablate.try_change(folder, ["optim.lr=5e-3"], **options)


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"margin": 0}, "margin"),
        ({"axis": ["budget"]}, "axis: budget is the same for every run"),
        ({"cost": {"total": -1}}, "total: a factor above 0"),
        ({"better": "smaller"}, "better"),
    ],
)
def test_wrong_rules_are_named(tmp_path, rules, reason):
    folder = new_campaign(tmp_path, "wrong", **rules)
    with pytest.raises(CampaignError, match=reason):
        load_campaign(folder)


def test_a_metric_that_runs_could_see_is_refused(tmp_path):
    folder = new_campaign(tmp_path, "seen", metric="validation/loss")
    with pytest.raises(CampaignError, match="is not measured on held-out text"):
        ablate.try_change(folder, BETTER, runs=tmp_path / "runs", cache=tmp_path / "cache")


def test_a_change_takes_the_place_of_what_it_sets_anew():
    base = ["model=llama", "parts=['a.py']", "optim.lr=1", "model/norm=x"]
    assert merged(base, ["model/norm=y", "parts=[b.py]", "clip=2"]) == (
        "parts=['a.py', 'b.py']", "model=llama", "optim.lr=1", "model/norm=y", "clip=2",
    )  # fmt: skip


def test_a_reference_without_a_curve_stops_nothing(tmp_path):
    assert losses_of(tmp_path) == {}
    (tmp_path / "curve.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
    assert losses_of(tmp_path) == {1: 2.5}


def test_rules_have_the_defaults_that_the_page_tells():
    rules = Campaign.model_validate({"question": "q", "base": [], "margin": 0.1})
    assert (rules.tries, rules.seeds, rules.alpha, rules.miss, rules.noise) == (200, 8, 0.05, 0.1, "pooled")


@pytest.mark.slow
def test_a_campaign_on_the_embedded_text_by_the_engine(tmp_path):
    folder = tmp_path / "experiments" / "embedded"
    folder.mkdir(parents=True)
    base = ["model=llama", "model/size=tiny", "model/init=small", "data=stdlib", "data.tokenizer.vocab=1024"]
    base += ["model.context=64", "budget.tokens=16384", "budget.batch_tokens=512", "optim.lr=1e-4"]
    rules = {"question": "Which rate?", "base": base, "margin": 0.1, "tries": 5, "seeds": 3}
    (folder / "campaign.yaml").write_text(yaml.safe_dump(rules))
    options = {"runs": tmp_path / "runs", "cache": tmp_path / "cache"}
    words = [ablate.try_change(folder, [c], **options).word for c in ("optim.lr=3e-3", "optim.lr=1e-5")]
    assert words == ["keep", "discard"]
    assert ablate.report_campaign(folder)["tries_left"] == 3


def test_a_server_without_its_library_says_how_to_get_it(place, monkeypatch, capsys):
    monkeypatch.setattr("ablate.cli.campaign_server.find_spec", lambda name: None)
    assert main(["campaign", "serve", "any", "--experiments", str(place / "experiments")]) == 2
    assert "pip install -e '.[mcp]'" in capsys.readouterr().err


def test_a_change_that_a_client_sends_sets_no_option_of_the_command():
    assert checked_change(["optim.lr=1", "a.py"]) == ["optim.lr=1", "a.py"]
    for word in ("campaign=other", "runs=/", "--help"):
        with pytest.raises(CampaignError, match="is no part of a change"):
            checked_change([word])


def test_a_client_gets_the_answers_of_the_command(campaign, monkeypatch):
    mcp = pytest.importorskip("mcp")
    folder, _, _ = campaign
    monkeypatch.chdir(folder.parents[1])  # its runs and cache are there

    async def talk() -> tuple[Any, Any, Any]:
        async with mcp.Client(make_server(folder)) as client:
            status = await client.call_tool("campaign_status", {})
            again = await client.call_tool("try_change", {"change": WORSE})
            report = await client.call_tool("campaign_report", {})
            wrong = await client.call_tool("try_change", {"change": ["runs=/"]})
        assert wrong.is_error and "runs=/: is no part of a change" in wrong.content[0].text
        return status, again, report

    status, again, report = (json.loads(said.content[0].text) for said in asyncio.run(talk()))
    assert [each["word"] for each in status["tries"]] == ["keep", "discard", "discard"]
    assert (again["word"], again["number"], again["runs"]) == ("discard", 2, 0)
    assert "wealth left" in report["campaign.md"]
