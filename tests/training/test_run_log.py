import errno
import io
import json

from rich.console import Console

from atlas_lm.runtime import logs
from atlas_lm.runtime.phases import PhaseClock
from atlas_lm.training import RunLog
from atlas_lm.training.run_log import read_log, write_phases


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_call_is_one_flushed_json_line(tmp_path, capsys):
    path = tmp_path / "run" / "metrics.jsonl"
    with RunLog(path, total_steps=4) as log:
        log(1, {"reader_loss": 2.0, "kl": float("nan")})
        assert [record["step"] for record in records(path)] == [1]
        log(2, {"exact_match": 0.5})
    first, second = records(path)
    assert first["reader_loss"] == 2.0
    assert first["kl"] is None
    assert second["exact_match"] == 0.5
    captured = capsys.readouterr()
    assert "step 1/4  reader_loss 2" in captured.err
    assert captured.out == ""


def test_resume_appends_and_drops_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with RunLog(path, total_steps=9) as log:
        for step in (1, 2, 3, 4):
            log(step, {"reader_loss": float(step)})
    with path.open("a") as file:
        file.write('{"step": 5, "reader_lo')
    assert [record["step"] for record in read_log(path)] == [1, 2, 3, 4]
    with RunLog(path, total_steps=9, first_step=2) as log:
        log(3, {"reader_loss": 30.0})
    assert [(record["step"], record["reader_loss"]) for record in records(path)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 30.0),
    ]


def test_a_tracker_that_fails_gets_no_more_and_training_goes_on(tmp_path, capsys):
    class Tracker:
        def __init__(self, fails):
            self.fails, self.seen = fails, []

        def log(self, step, metrics):
            self.seen.append(step)
            if step == self.fails:
                raise OSError("no network")

        def close(self):
            self.seen.append("closed")
            raise RuntimeError("locked")

    failing, other = Tracker(2), Tracker(9)
    with RunLog(tmp_path / "metrics.jsonl", total_steps=3, trackers=[failing, other]) as log:
        for step in (1, 2, 3):
            log(step, {"reader_loss": 1.0})
    assert failing.seen == [1, 2]
    assert other.seen == [1, 2, 3, "closed"]
    assert [record["step"] for record in records(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    said = capsys.readouterr().err
    assert said.count("no network") == said.count("locked") == 1


def test_lines_that_a_full_disk_refuses_are_written_once_there_is_room(tmp_path, capsys):
    class FullDisk:
        def __init__(self, file, room):
            self.file, self.room = file, room

        def write(self, data):
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = self.file.write(data[: self.room])
            self.room -= written
            return written

        def close(self):
            self.file.close()

    path = tmp_path / "metrics.jsonl"
    with RunLog(path, total_steps=4) as log:
        log._file = FullDisk(log._file, room=10)
        log(1, {"reader_loss": 1.0})
        log(2, {"reader_loss": 2.0})
        assert len(path.read_bytes()) == 10
        log._file.room = 10_000
        log(3, {"reader_loss": 3.0})
        assert [record["step"] for record in records(path)] == [1, 2, 3]
        log._file.room = 0
        log(4, {"reader_loss": 4.0})
    said = capsys.readouterr().err
    assert said.count("No space left on device") == 1
    assert "could not be written" in said


def test_a_terminal_sees_the_latest_metrics_and_a_bar(tmp_path, monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, force_interactive=True)
    monkeypatch.setattr(logs, "console", console)
    with RunLog(tmp_path / "metrics.jsonl", total_steps=4) as log:
        log(3, {"reader_loss": 1.25})
        for _ in logs.track(range(2), "refreshing the index"):
            pass
        logs.warn("something to say")
    shown = screen.getvalue()
    assert "reader_loss" in shown
    assert "1.25" in shown
    assert "3/4" in shown
    assert "something to say" in shown


def test_a_plain_line_shows_where_the_time_went(tmp_path, capsys):
    with RunLog(tmp_path / "metrics.jsonl", total_steps=4) as log:
        shares = {"share_encode": 0.6, "share_backward": 0.3, "share_data": 0.001}
        log(1, {"reader_loss": 2.0, "peak_mb_encode": 100.0, **shares})
    assert "step 1/4  reader_loss 2  encode 60% backward 30%\n" in capsys.readouterr().err


def test_the_phases_of_a_resumed_run_are_added_up(tmp_path):
    def part(encode, peak):
        time = [0.0]
        clock = PhaseClock(now=lambda: time[0])
        with clock("encode"):
            time[0] += encode
        time[0] += 2.0
        clock.totals["encode"].peak_bytes = peak
        return clock

    write_phases(tmp_path, part(3.0, 5_000_000), resumed=True)
    first = json.loads((tmp_path / "phases.json").read_text())
    write_phases(tmp_path, part(1.0, 2_000_000), resumed=True)
    both = json.loads((tmp_path / "phases.json").read_text())
    assert first["phases"]["encode"]["seconds"] == 3.0
    assert both["phases"]["encode"]["seconds"] == 4.0
    assert both["phases"]["encode"]["peak_mb"] == 5.0
    assert both["phases"]["other"] == {"seconds": 4.0, "share": 0.5, "peak_mb": None}
    assert (first["seconds"], both["seconds"]) == (5.0, 8.0)
    write_phases(tmp_path, part(1.0, 2_000_000))
    alone = json.loads((tmp_path / "phases.json").read_text())
    assert alone["phases"]["encode"]["seconds"] == 1.0
