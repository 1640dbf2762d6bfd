"""When the index is refreshed.

``0-100:10,100-:500`` means every 10 steps, later every 500; ``drift>0.05`` means as soon as the
vectors are that far off.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from atlas_lm.runtime.errors import InputError

_SPAN = re.compile(r"(\d+)\s*-\s*(\d*)\s*:\s*(\d+)")
_DRIFT = re.compile(r"drift\s*>\s*(\d+(?:\.\d*)?(?:e-?\d+)?|\.\d+)")
_FORM = (
    'write "start-end:every", such as "0-100:10,100-:500", one number such as "50", "never", or '
    'a bound on what is measured, such as "drift>0.05"'
)
PROBE_EVERY = 10
"""Steps between measurements, where a bound decides."""


class Trigger(Protocol):
    """When a refresh is due."""

    def is_due(self, step: int, drift: Callable[[], float]) -> bool:
        """Return whether one is due before the update at ``step``; ``drift`` measures."""
        ...


@dataclass(frozen=True)
class DriftBound:
    """A refresh is due when the vectors are further off than a bound, on average."""

    bound: float
    """In 1 - cosine; see `Drift.drift`."""
    every: int = PROBE_EVERY
    """Steps between measurements."""
    freeze_retriever_steps: int = 0
    """Steps before the retriever starts to learn; until it has moved nothing is measured."""

    def is_due(self, step: int, drift: Callable[[], float]) -> bool:
        """Return whether the drift has passed the bound; measured only at every ``every`` steps."""
        return (
            step > self.freeze_retriever_steps and step % self.every == 0 and drift() > self.bound
        )


def parse_trigger(
    text: str, *, freeze_retriever_steps: int = 0, probe_every: int = PROBE_EVERY
) -> Trigger:
    """Read a schedule of steps, see `RefreshSchedule.parse`, or a bound such as ``drift>0.05``.

    Raises:
        InputError: it is neither, or the bound is not between 0 and 2.
    """
    match = _DRIFT.fullmatch(text.strip())
    if match is None:
        return RefreshSchedule.parse(text, freeze_retriever_steps=freeze_retriever_steps)
    bound = float(match.group(1))
    if not 0 < bound < 2:
        raise InputError(
            f"refresh_schedule {text!r}: drift is 1 - cosine; give a bound between 0 and 2"
        )
    return DriftBound(bound, probe_every, freeze_retriever_steps)


@dataclass(frozen=True)
class Span:
    """Steps ``start <= step < end`` at which a refresh is due every ``every`` steps."""

    start: int
    end: int | None
    """None: to the last step."""
    every: int

    def is_due(self, step: int) -> bool:
        """Return whether ``step`` lies in the span and is a multiple of ``every``."""
        inside = self.start <= step and (self.end is None or step < self.end)
        return inside and step % self.every == 0


@dataclass(frozen=True)
class RefreshSchedule:
    """At which steps the passage embeddings are computed anew."""

    spans: tuple[Span, ...] = ()
    freeze_retriever_steps: int = 0
    """Steps before the retriever starts to learn; until it has moved, no refresh is due."""
    passages_move: bool = True
    """Whether the passage encoder learns at all; if not, only step 0 is due."""

    @classmethod
    def parse(
        cls, text: str, *, freeze_retriever_steps: int = 0, passages_move: bool = True
    ) -> RefreshSchedule:
        """Read a schedule.

        Args:
            text: ``start-end:every`` parts separated by commas (an open end runs to the last
                step), a bare period, or ``never`` (also ``-1``).
            freeze_retriever_steps: steps before the retriever starts to learn.
            passages_move: False where the passage encoder is frozen throughout.

        Raises:
            InputError: the text has another form, a period of 0, an empty span or two spans that
                overlap.
        """
        spans = _parse_spans(text.strip())
        for earlier, later in pairwise(spans):
            if earlier.end is None or later.start < earlier.end:
                raise InputError(
                    f"refresh_schedule {text!r}: the span from {later.start} starts before the "
                    f"one from {earlier.start} ends; order them and let each start where the "
                    "one before it ends"
                )
        return cls(spans, freeze_retriever_steps, passages_move)

    def is_due(self, step: int, drift: Callable[[], float] | None = None) -> bool:
        """Return whether the index must be the retriever's own before the update at ``step``.

        Step 0 is always due: training starts from an index that the retriever made. (A run
        refuses to open another, so nothing is embedded then.) Later steps are due as the spans
        say, once the retriever has moved. What drifted does not matter.
        """
        if step == 0:
            return True
        if not self.passages_move or step <= self.freeze_retriever_steps:
            return False
        return any(span.is_due(step) for span in self.spans)


def _parse_spans(text: str) -> tuple[Span, ...]:
    if text in ("never", "-1"):
        return ()
    if text.isdecimal():
        return (_checked(Span(0, None, int(text)), text),)
    spans = []
    for part in text.split(","):
        match = _SPAN.fullmatch(part.strip())
        if match is None:
            raise InputError(f"refresh_schedule {text!r}: cannot read {part.strip()!r}; {_FORM}")
        start, end, every = match.groups()
        spans.append(_checked(Span(int(start), int(end) if end else None, int(every)), text))
    return tuple(spans)


def _checked(span: Span, text: str) -> Span:
    if span.every < 1:
        raise InputError(f"refresh_schedule {text!r}: a period of 0 steps; {_FORM}")
    if span.end is not None and span.end <= span.start:
        raise InputError(
            f"refresh_schedule {text!r}: the span {span.start}-{span.end} is empty; "
            "let it end after it starts"
        )
    return span
