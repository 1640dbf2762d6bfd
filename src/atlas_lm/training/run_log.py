"""Metrics, kept and shown: JSONL always, a live view on a terminal, trackers where asked for."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table

from atlas_lm.runtime import logs
from atlas_lm.runtime.files import atomic_path, read_json, write_json
from atlas_lm.runtime.phases import PhaseClock
from atlas_lm.training.trackers import Tracker

SHOWN = (
    *("reader_loss", "retriever_loss", "kl", "leaked", "exact_match", "accuracy"),
    "queries_per_second",
)
"""What a plain line shows, off a terminal."""
LOG_FILE = "metrics.jsonl"
"""The log in a run's directory."""
PHASES_FILE = "phases.json"
_PHASES = ("share_", "peak_mb_")


class RunLog:
    """A callable ``log(step, metrics)``; use it as a context manager.

    Each call appends one JSON object with ``step`` and ``time`` to ``path``. No failure to keep
    metrics ends a run: what the disk refuses is kept in memory and tried again at the next line, a
    tracker that fails gets no more. Either is said once.

    Args:
        path: The JSONL file.
        total_steps: For the progress bar and its estimate.
        first_step: Where the run starts or resumes; records of later steps, left by a run that
            was killed after its last checkpoint, are dropped.
        trackers: Receive every line as well, and are closed at the end.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        total_steps: int,
        first_step: int = 0,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self._trackers = list(trackers)
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._forget_after(first_step)
        self._file = self.path.open("ab", buffering=0)
        self._unwritten, self._refused = b"", False
        self._latest: dict[str, float] = {}
        self._progress = logs.progress_bar()
        self._task = self._progress.add_task("training", total=total_steps, completed=first_step)
        self._total = total_steps
        on_terminal = logs.console.is_terminal
        self._live = Live(get_renderable=self._view, console=logs.console) if on_terminal else None

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep and show the metrics of a step."""
        record = {"step": step, "time": round(time.time(), 3), **_json_numbers(metrics)}
        self._unwritten += json.dumps(record).encode() + b"\n"
        self._write()
        self._latest |= metrics
        self._progress.update(self._task, completed=step)
        if self._live is None:
            logs.notice(_line(step, self._total, metrics))
        for tracker in tuple(self._trackers):
            if not _done(tracker, partial(tracker.log, step, metrics)):
                self._trackers.remove(tracker)

    def __enter__(self) -> RunLog:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        self._write()
        if self._unwritten:
            logs.warn(f"{self.path}: the last {len(self._unwritten)} bytes could not be written")
        self._file.close()
        for tracker in self._trackers:
            _done(tracker, tracker.close)

    def _write(self) -> None:
        """Append what is not in the file yet, as far as the disk takes it."""
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
        except OSError as error:
            if not self._refused:
                logs.warn(f"{self.path}: {error.strerror}; metrics wait in memory for some room")
            self._refused = True

    def _view(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for name, value in self._latest.items():
            if not name.startswith(_PHASES):
                table.add_row(name, _short(value))
        table.add_row("time", shares_line(self._latest))
        return Group(table, self._progress.get_renderable())

    def _forget_after(self, step: int) -> None:
        if not self.path.is_file():
            return
        lines = self.path.read_text("utf-8").splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        if len(kept) < len(lines):
            with atomic_path(self.path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept), "utf-8")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log; a line cut short by a kill is left out."""
    records = []
    for line in path.read_text("utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def _done(tracker: Tracker, work: Callable[[], None]) -> bool:
    """Return whether a tracker has done its work; where it has failed, that is said."""
    try:
        work()
    except Exception as error:
        logs.warn(
            f"the tracker {type(tracker).__name__} failed and gets no more metrics "
            f"({type(error).__name__}: {error}); they are all in the JSONL file"
        )
        return False
    return True


def _step_of(line: str) -> float:
    """Return the step of a record; a line cut short by a kill belongs to no step."""
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf


def _json_numbers(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _line(step: int, total: int, metrics: Mapping[str, float]) -> str:
    others = [name for name in metrics if not name.startswith(_PHASES)]
    shown = [name for name in SHOWN if name in metrics] or others
    line = f"step {step}/{total}  " + "  ".join(f"{name} {_short(metrics[name])}" for name in shown)
    return f"{line}  {phases}" if (phases := shares_line(metrics)) else line


def shares_line(metrics: Mapping[str, float], *, least: float = 0.02) -> str:
    """Return the shares of the phases as ``encode 41% backward 33% ...``, small ones left out."""
    shares = {
        name.removeprefix("share_"): value
        for name, value in metrics.items()
        if name.startswith("share_") and value >= least
    }
    largest = sorted(shares.items(), key=lambda entry: -entry[1])
    return " ".join(f"{name} {value:.0%}" for name, value in largest)


def write_phases(out: Path, clock: PhaseClock, *, resumed: bool = False) -> None:
    """Show how the time of a run was spent, and write it with peaks to ``OUT/phases.json``.

    That of a ``resumed`` run is added to what lies there from its parts before; a part that was
    killed has left nothing.
    """
    seconds = max(clock.seconds, 1e-9)
    spent = {name: (each.seconds, each.peak_bytes / 1e6) for name, each in clock.summary().items()}
    shares = {f"share_{name}": part / seconds for name, (part, _) in spent.items()}
    whole, file = seconds, out / PHASES_FILE
    if resumed and file.is_file():
        before = read_json(file, what="phases")
        whole += before["seconds"]
        for name, row in before["phases"].items():
            part, peak = spent.get(name, (0.0, 0.0))
            spent[name] = (part + row["seconds"], max(peak, row["peak_mb"] or 0.0))
    table = {
        name: {
            "seconds": round(part, 3),
            "share": round(part / whole, 4),
            "peak_mb": round(peak, 1) or None,
        }
        for name, (part, peak) in spent.items()
    }
    write_json(file, {"seconds": round(whole, 3), "phases": table})
    peak = max((total.peak_bytes for total in clock.totals.values()), default=0)
    notice = f"{seconds:.0f} s: {shares_line(shares, least=0.005)}"
    logs.notice(f"{notice}; peak memory {peak / 1e6:,.0f} MB" if peak else notice)


def _short(value: float) -> str:
    return f"{value:.4g}"
