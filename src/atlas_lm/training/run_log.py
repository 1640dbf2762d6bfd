"""Metrics, kept and shown: JSONL always, a live view on a terminal, TensorBoard where asked for."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table

from atlas_lm.runtime import logs
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_path

SHOWN = ("reader_loss", "retriever_loss", "kl", "exact_match", "queries_per_second")
"""What a plain line shows, off a terminal."""


class RunLog:
    """A callable ``log(step, metrics)``; use it as a context manager.

    Each call appends one JSON object with ``step`` and ``time`` to ``path`` and flushes it.

    Args:
        path: The JSONL file.
        total_steps: For the progress bar and its estimate.
        first_step: Where the run starts or resumes; records of later steps, left by a run that
            was killed after its last checkpoint, are dropped.
        tensorboard: Directory for TensorBoard; None for none.

    Raises:
        InputError: TensorBoard is asked for and not installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        total_steps: int,
        first_step: int = 0,
        tensorboard: str | Path | None = None,
    ) -> None:
        self._writer = _summary_writer(tensorboard) if tensorboard is not None else None
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._forget_after(first_step)
        self._file = self.path.open("a", encoding="utf-8")
        self._latest: dict[str, float] = {}
        self._progress = logs.progress_bar()
        self._task = self._progress.add_task("training", total=total_steps, completed=first_step)
        self._total = total_steps
        on_terminal = logs.console.is_terminal
        self._live = Live(get_renderable=self._view, console=logs.console) if on_terminal else None

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep and show the metrics of a step."""
        record = {"step": step, "time": round(time.time(), 3), **_json_numbers(metrics)}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self._latest |= metrics
        self._progress.update(self._task, completed=step)
        if self._live is None:
            logs.notice(_line(step, self._total, metrics))
        if self._writer is not None:
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)

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
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def _view(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for name, value in self._latest.items():
            table.add_row(name, _short(value))
        return Group(table, self._progress.get_renderable())

    def _forget_after(self, step: int) -> None:
        if not self.path.is_file():
            return
        lines = self.path.read_text("utf-8").splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        if len(kept) < len(lines):
            with atomic_path(self.path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept), "utf-8")


def _step_of(line: str) -> float:
    """Return the step of a record; a line cut short by a kill belongs to no step."""
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf


def _json_numbers(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _line(step: int, total: int, metrics: Mapping[str, float]) -> str:
    shown = [name for name in SHOWN if name in metrics] or list(metrics)
    return f"step {step}/{total}  " + "  ".join(f"{name} {_short(metrics[name])}" for name in shown)


def _short(value: float) -> str:
    return f"{value:.4g}"


def _summary_writer(path: str | Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "TensorBoard is not installed; pip install 'atlas-lm[tracking]', or leave it out: "
            "metrics are in the JSONL file anyway"
        ) from error
    return SummaryWriter(str(path))
