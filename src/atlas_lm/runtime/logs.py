"""What a person sees: a rich console on stderr, progress bars. Stdout stays for results."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")

console = Console(stderr=True, highlight=False)
"""Where progress, notices and warnings go."""


def notice(message: str) -> None:
    """Print one line for the user on stderr."""
    console.print(message, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """Print one warning for the user on stderr."""
    console.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)


def warn_once(message: str) -> None:
    """Print a warning the first time that a message with the same beginning is given.

    Messages are alike up to their first digit.
    """
    kind = re.split(r"\d", message, maxsplit=1)[0]
    if kind not in _WARNED:
        _WARNED.add(kind)
        warn(message)


_WARNED: set[str] = set()


def progress_bar(*, transient: bool = False) -> Progress:
    """Return a progress display with count, elapsed and remaining time; silent off a terminal."""
    return Progress(
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
    """Yield ``items`` with a progress bar on a terminal and nothing elsewhere."""
    with progress_bar() as progress:
        yield from progress.track(items, total=total, description=description)
