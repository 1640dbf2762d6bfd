"""Ctrl-C and the scheduler's SIGTERM, kept until the step is finished."""

from __future__ import annotations

import signal
import threading
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
