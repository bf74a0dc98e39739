"""What a person sees of a study that runs."""

import io

from rich.console import Console

from ablate.amounts import duration
from ablate.engine.launch import Event
from ablate.engine.view import View


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def said(view: View) -> str:
    file = view.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_plain_lines_where_the_output_is_no_terminal() -> None:
    with View(4, 2, console=console(False)) as view:
        view(Event("skipped", "a", "finished"))
        view(Event("begun", "b", slot="cpu0"))
        view(Event("ended", "b", "finished", seconds=2.0))
        view(Event("begun", "c", slot="cpu0"))
        view(Event("again", "c", "crashed", "SIGKILL [red]", 1.0))
        view(Event("begun", "c", slot="cpu1"))
        view(Event("ended", "c", "diverged", "loss is NaN", 1.0))
    assert said(view) == (
        "2/4  finished  b  2.0 s\n"
        "2/4  crashed  c  1.0 s  SIGKILL [red]  (tried again)\n"
        "3/4  diverged  c  1.0 s  loss is NaN\n"
    )
    assert "1 failed" in str(view.summary())


def test_the_live_view_shows_runs_time_left_ranking_and_keeps_failures() -> None:
    asked = []

    def ranking() -> list[tuple[str, str]]:
        asked.append(1)
        return [("[b]rope", "1.234"), ("none", "1.5")]

    with View(4, 2, name=str.upper, ranking=ranking, console=console(True)) as view:
        view(Event("begun", "b", slot="cpu0"))
        assert view.left() is None
        view(Event("ended", "b", "finished", seconds=100.0))
        view(Event("begun", "c", slot="cpu1"))
        view(Event("ended", "d", "crashed", "ValueError: no", 100.0))
        left = view.left()
        assert left is not None
        assert 95 < left <= 100  # two runs of 100 s in two slots
    text = said(view)
    assert "2/4 done · 1 running · 1 failed · 2 min left" in text
    assert "[b]rope" in text
    assert "ValueError: no" in text
    assert "cpu1  C" in text
    assert len(asked) == 2


def test_a_study_that_is_done_says_so() -> None:
    with View(1, 2, console=console(False)) as view:
        view(Event("skipped", "a", "finished"))
    assert said(view) == "1/1 done · 0 running · 1 were there\n"


def test_durations_in_words() -> None:
    assert [duration(s) for s in (5.4, 720, 12240)] == ["5 s", "12 min", "3.4 h"]


def test_who_is_waited_for_is_said() -> None:
    with View(2, 1, console=console(False)) as view:
        view(Event("elsewhere", "b", reason="waiting for a.host, process 12 (runs/b/lease/1)"))
    assert said(view) == "0/2  elsewhere  b  0.0 s  waiting for a.host, process 12 (runs/b/lease/1)\n"
