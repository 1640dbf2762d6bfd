"""Ctrl-C and SIGTERM: kept until a step is finished; SIGTERM ends what is outside of steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from atlas_lm.runtime.logs import notice

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While entered, SIGTERM and the first SIGINT only set ``asked``; a second SIGINT strikes.

    SIGTERM may come any number of times: a scheduler sends it to every process of a job, and a
    launcher among them passes it on to its workers. Off the main thread, where Python delivers no
    signals, nothing is changed.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            for number in SIGNALS:
                signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(number, self._before.pop(number))
            notice("stopping after this step; a second Ctrl-C stops at once, without a checkpoint")
        elif not self.asked:
            notice("stopping after this step")
        self.asked = True


class Terminated(BaseException):
    """SIGTERM came where there is no step to finish: a model is opened, an index built."""


@contextmanager
def terminable() -> Iterator[None]:
    """While entered, the first SIGTERM raises `Terminated` and others do nothing.

    A `StopRequest` within takes precedence. Off the main thread nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise Terminated
