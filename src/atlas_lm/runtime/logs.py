"""What a person sees: a rich console on stderr, progress bars. Stdout stays for results.

Where stderr is no terminal, a file or a pipe, long work says how far it is in a line a minute.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Item = TypeVar("Item")
SECONDS_A_LINE = 60
"""Between two lines about the same work, off a terminal."""

console = Console(stderr=True, highlight=False)
"""Where progress, notices and warnings go."""


def notice(message: str) -> None:
    """Print one line for the user on stderr."""
    console.print(message, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """Print one warning for the user on stderr."""
    console.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)


def verbatim(text: object, style: str = "") -> Text:
    """Return text that is not ours for a table: shown as it is, with no markup read in it."""
    return Text(str(text), style)


def warn_once(message: str) -> None:
    """Print a warning the first time that a message with the same beginning is given.

    Messages are alike up to their first digit.
    """
    kind = re.split(r"\d", message, maxsplit=1)[0]
    if kind not in _WARNED:
        _WARNED.add(kind)
        warn(message)


_WARNED: set[str] = set()


class _Lines(Progress):
    """A progress display that says how far it is in a line a minute where it is disabled."""

    def __init__(self, *columns: Any, **options: Any) -> None:
        super().__init__(*columns, **options)
        self._said: dict[TaskID, tuple[float, float]] = {}

    def update(self, task_id: TaskID, *args: Any, **changes: Any) -> None:
        """Change a task, and say how far it is where a minute has gone by."""
        before = self._completed(task_id)
        super().update(task_id, *args, **changes)
        self._say(task_id, before)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advance a task, and say how far it is where a minute has gone by."""
        before = self._completed(task_id)
        super().advance(task_id, advance)
        self._say(task_id, before)

    def _completed(self, task_id: TaskID) -> float:
        return self._tasks[task_id].completed

    def _say(self, task_id: TaskID, before: float) -> None:
        task, now = self._tasks[task_id], self.get_time()
        began = now if task.start_time is None else task.start_time
        since, done = self._said.setdefault(task_id, (began, before))
        if not self.disable or task.finished or now - since < SECONDS_A_LINE:
            return
        self._said[task_id] = now, task.completed
        line = f"{task.description}: {task.completed:,.0f}"
        if task.total is not None:
            line += f" of {task.total:,.0f}"
            if task.completed > done:
                left = (task.total - task.completed) * (now - since) / (task.completed - done)
                line += f", about {datetime.timedelta(seconds=round(left))} left"
        notice(line)


def progress_bar(*, transient: bool = False) -> Progress:
    """Return a progress display with count, elapsed and remaining time.

    Off a terminal the count and the remaining time are a line a minute.
    """
    return _Lines(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
        disable=not console.is_terminal,
    )


def track(items: Iterable[Item], description: str, *, total: int | None = None) -> Iterator[Item]:
    """Yield ``items`` with a progress bar on a terminal and a line a minute elsewhere."""
    with progress_bar() as progress:
        yield from progress.track(items, total=total, description=description)
