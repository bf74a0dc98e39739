"""Runs of one group in one slot: each has its lease and its record, and none is lost or done twice."""

from collections import Counter

import pytest
from store_work import together
from test_launch import count, job, log, run, statuses

from ablate.engine.lease import take, taken
from ablate.engine.slots import cpu_slots
from ablate.engine.store import Store
from ablate.engine.worker import WorkerReport, perform_job, perform_together

TOGETHER = "store_work:together"


def sizes(folder) -> dict[str, int]:
    """With how many each run was done, itself counted."""
    return {id: int(what.removeprefix("together-")) for _, what, id, _ in log(folder) if "together" in what}


def test_a_group_is_done_together_and_every_slot_has_its_share(tmp_path):
    jobs = [job(tmp_path, n, group="a" if n < 8 else "") for n in range(10)]
    events = run(tmp_path, jobs, slots=2, together=TOGETHER, most=8)
    assert statuses(tmp_path) == {f"r{n}": "finished" for n in range(10)}
    assert count(tmp_path, "begin") == Counter({f"r{n}": 1 for n in range(10)})
    assert sizes(tmp_path).keys() == {f"r{n}" for n in range(8)} and sizes(tmp_path)["r0"] == 5
    assert {e.id for e in events if e.kind == "begun"} == {f"r{n}" for n in range(10)}
    assert not any(taken(tmp_path / "runs" / f"r{n}") for n in range(10))
    assert "done together with others" in (tmp_path / "runs" / "r1" / "log").read_text()


@pytest.mark.parametrize("options", [{"together": TOGETHER, "most": 1}, {}])
def test_without_leave_all_are_done_alone(tmp_path, options):
    run(tmp_path, [job(tmp_path, n, group="a") for n in range(4)], slots=1, **options)
    assert statuses(tmp_path) == {f"r{n}": "finished" for n in range(4)}
    assert not sizes(tmp_path)


@pytest.mark.parametrize("way", ["kill once", "raise once", "segfault once"])
def test_what_had_ended_stays_and_the_rest_is_tried_again_alone(tmp_path, way):
    jobs = [job(tmp_path, n, way=way if n == 1 else "", group="a") for n in range(4)]
    events = run(tmp_path, jobs, slots=1, together=TOGETHER)
    assert statuses(tmp_path) == {f"r{n}": "finished" for n in range(4)}
    assert [e.id for e in events if e.kind == "again"] == ["r1", "r2", "r3"]
    assert count(tmp_path, "begin") == Counter({"r0": 1, "r1": 2, "r2": 1, "r3": 1})
    assert sizes(tmp_path) == {"r0": 4, "r1": 4}


def test_a_run_that_always_fails_takes_none_with_it(tmp_path):
    jobs = [job(tmp_path, n, way="kill" if n == 1 else "", group="a") for n in range(3)]
    run(tmp_path, jobs, slots=1, together=TOGETHER)
    assert statuses(tmp_path) == {"r0": "finished", "r1": "crashed", "r2": "finished"}


def test_what_is_done_or_elsewhere_is_left_out(tmp_path):
    store, heard = Store(tmp_path / "runs"), []
    jobs = [job(tmp_path, n, group="a") for n in range(4)]
    from store_work import work

    perform_job(store, jobs[0], work)
    lease = take(store.folder("r1"))
    assert lease is not None
    perform_together(store, jobs, together, heard.append)
    found = {report.id: report.status for report in heard}
    assert found == {"r0": "done", "r1": "elsewhere", "r2": "finished", "r3": "finished"}
    assert sizes(tmp_path) == {"r2": 2, "r3": 2}
    assert lease.held() and not taken(store.folder("r2"))


def test_interrupted_between_two_runs(tmp_path):
    store, heard = Store(tmp_path / "runs"), []
    jobs = [job(tmp_path, n, group="a") for n in range(3)]

    def stopped(payloads, ended):
        together(payloads[:1], ended)
        raise KeyboardInterrupt("told to stop")

    perform_together(store, jobs, stopped, heard.append)
    assert statuses(tmp_path) == {"r0": "finished", "r1": "interrupted", "r2": "interrupted"}
    assert [(report.id, report.reason) for report in heard[1:]] == [
        ("r1", "told to stop"),
        ("r2", "told to stop"),
    ]
    assert not any(taken(store.folder(job.id)) for job in jobs)


def test_a_lease_that_is_lost_loses_that_record_alone(tmp_path):
    """Another process takes the second over while both are under way."""
    store, heard = Store(tmp_path / "runs"), []
    jobs = [job(tmp_path, n, group="a") for n in range(2)]

    def robbed(payloads, ended):
        claim = store.folder("r1") / "lease" / "2"
        claim.write_text("{}")
        together(payloads, ended)

    perform_together(store, jobs, robbed, heard.append)
    assert [(type(report), report.id, report.status) for report in heard] == [
        (WorkerReport, "r0", "finished"),
        (WorkerReport, "r1", "lost"),
    ]
    assert statuses(tmp_path) == {"r0": "finished"}


def test_slots_are_not_left_empty_for_the_sake_of_a_group(tmp_path):
    run(
        tmp_path,
        [job(tmp_path, n, seconds=0.3, group="a") for n in range(4)],
        slots=cpu_slots(2),
        together=TOGETHER,
    )
    assert set(sizes(tmp_path).values()) == {2}
    assert len({process for _, what, _, process in log(tmp_path) if what == "begin"}) == 2
