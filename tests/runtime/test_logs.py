from __future__ import annotations

import pytest

from atlas_lm.runtime import logs


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(logs.console, "_force_terminal", False)
    really = logs.Progress.__init__
    monkeypatch.setattr(
        logs.Progress, "__init__", lambda *a, **k: really(*a, get_time=lambda: now[0], **k)
    )
    return now


def test_off_a_terminal_work_is_told_in_a_line_a_minute(clock, capsys):
    with logs.progress_bar() as progress:
        task = progress.add_task("Embedding", total=2_000, completed=200)
        for now, done in [(10, 300), (59, 790), (62, 820), (100, 1_000), (122, 1_300)]:
            clock[0] = now
            progress.update(task, completed=done, description=f"Embedding ({done})")
        clock[0] = 180
        progress.advance(task, 100)
        clock[0] = 182
        progress.advance(task, 100)
        clock[0] = 500
        progress.update(task, completed=2_000)
    assert capsys.readouterr().err.splitlines() == [
        "Embedding (820): 820 of 2,000, about 0:01:58 left",
        "Embedding (1300): 1,300 of 2,000, about 0:01:28 left",
        "Embedding (1300): 1,500 of 2,000, about 0:02:30 left",
    ]


def test_work_of_unknown_length_or_that_stands_still_has_no_time_left(clock, capsys):
    with logs.progress_bar() as progress:
        endless = progress.add_task("Reading", total=None)
        stuck = progress.add_task("Waiting", total=3)
        clock[0] = 61
        progress.advance(endless, 7)
        progress.update(stuck, completed=0)
    assert capsys.readouterr().err.splitlines() == ["Reading: 7", "Waiting: 0 of 3"]
