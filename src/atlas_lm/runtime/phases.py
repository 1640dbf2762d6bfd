"""Where the time and the memory of a run go, phase by phase.

A phase is entered by ``with phases("retrieve"):``; `phases` is handed down as a value. Code that
is not measured is handed `untimed`. Time in an inner phase is not counted in the outer one, so
shares add up to one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Protocol

import torch

BRIEF = 0.001
"""Seconds at the beginning of an outer phase whose memory is not looked at."""


class Phases(Protocol):
    """What is handed down: gives a context in which everything belongs to the phase ``name``."""

    def __call__(self, name: str, /) -> AbstractContextManager[None]:
        """Return the context."""
        ...


def untimed(name: str, /) -> AbstractContextManager[None]:
    """Return a context that measures nothing."""
    return nullcontext()


@dataclass
class PhaseTotal:
    """One phase's part of a run."""

    seconds: float = 0.0
    peak_bytes: int = 0
    """Most memory while in it: of the device where that is a GPU, else of the process."""


class PhaseClock:
    """Measures phases: seconds since the last look and in all, and each phase's peak of memory.

    On a GPU a phase ends when the device has done its work.

    Args:
        device: Where the models are.
        now: A clock that never goes back.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._on_gpu = torch.device(device).type == "cuda"
        self._now = now
        self._began = self._looked = now()
        self._folded = self._began
        self._stack: list[list[float]] = []
        self._names: list[str] = []
        self._recent: dict[str, float] = {}
        self.totals: dict[str, PhaseTotal] = {}
        """Every phase so far, in the order of first entry."""
        self.failed_in: str | None = None
        """The innermost phase that an exception left first; None where none did."""

    @contextmanager
    def __call__(self, name: str, /) -> Iterator[None]:
        """Count the time inside, less that of inner phases, to ``name``."""
        started, inner = self._now(), [0.0]
        if self._names and started - self._folded > BRIEF:
            self._fold_peak()
        self._stack.append(inner)
        self._names.append(name)
        try:
            with torch.profiler.record_function(f"phase {name}"):
                yield
        except BaseException:
            self.failed_in = self.failed_in or name
            raise
        finally:
            if self._on_gpu:
                with suppress(RuntimeError):  # what has gone wrong on the device is raised already
                    torch.cuda.synchronize()
            elapsed = self._now() - started
            self._fold_peak()
            self._stack.pop()
            self._names.pop()
            if self._stack:
                self._stack[-1][0] += elapsed
            own = elapsed - inner[0]
            self._recent[name] = self._recent.get(name, 0.0) + own
            self._total(name).seconds += own

    @property
    def seconds(self) -> float:
        """Since the clock was made."""
        return self._now() - self._began

    def look(self) -> dict[str, float]:
        """Return ``share_*`` of the time since the last look, and ``peak_mb_*`` of the run so far.

        ``share_other`` is what no phase took; the shares add up to one.
        """
        now = self._now()
        elapsed = max(now - self._looked, 1e-9)
        shares = {f"share_{name}": spent / elapsed for name, spent in self._recent.items()}
        shares["share_other"] = max(0.0, 1.0 - sum(shares.values()))
        self._looked, self._recent = now, {}
        peaks = {
            f"peak_mb_{name}": round(total.peak_bytes / 1e6, 1)
            for name, total in self.totals.items()
            if total.peak_bytes
        }
        return shares | peaks

    def summary(self) -> dict[str, PhaseTotal]:
        """Return every phase of the run, ``other`` last."""
        known = sum(total.seconds for total in self.totals.values())
        return {**self.totals, "other": PhaseTotal(max(0.0, self.seconds - known))}

    def _total(self, name: str) -> PhaseTotal:
        return self.totals.setdefault(name, PhaseTotal())

    def _fold_peak(self) -> None:
        """Add the peak since the last call to the innermost phase's, and begin a new one."""
        self._folded = self._now()
        peak = _take_gpu_peak() if self._on_gpu else _take_process_peak()
        if self._names:
            total = self._total(self._names[-1])
            total.peak_bytes = max(total.peak_bytes, peak)


def _take_gpu_peak() -> int:
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return peak


def _take_process_peak() -> int:
    """Return the most memory the process has had since the last call, where Linux tells it.

    Elsewhere it is the most since the process began.
    """
    try:
        with open("/proc/self/status", "rb") as status:
            peak = next(line for line in status if line.startswith(b"VmHWM:"))
        with open("/proc/self/clear_refs", "wb", buffering=0) as reset:
            reset.write(b"5")
        return int(peak.split()[1]) * 1024
    except (OSError, StopIteration):
        try:
            import resource
        except ImportError:  # not POSIX
            return 0
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
