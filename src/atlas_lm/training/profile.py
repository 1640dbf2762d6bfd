"""A trace of a few steps by torch's profiler, with the phases named in it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import torch

from atlas_lm.runtime.files import atomic_path
from atlas_lm.runtime.logs import notice, warn

SKIPPED = 1
"""Steps before the first that is recorded: buffers are made and caches filled in them."""


class StepProfiler:
    """A context manager and a callable ``after_step(step)``: records ``steps`` steps, then stops.

    The trace is ``OUT/profile/step-A-B.json``, for chrome://tracing or ui.perfetto.dev; a table of
    the costliest operations lies beside it as ``.txt``.
    """

    def __init__(self, out: Path, steps: int) -> None:
        self._out, self._steps, self._left = out / "profile", steps, steps
        self._skip = SKIPPED
        self._first: int | None = None
        self._profile: torch.profiler.profile | None = None

    def __call__(self, step: int) -> None:
        """Begin after the first step, end after the last that is asked for."""
        if self._profile is None:
            self._skip -= 1
            if self._skip == 0:
                self._begin(step + 1)
            return
        self._left -= 1
        if self._left == 0:
            self._end(step)

    def __enter__(self) -> StepProfiler:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._left == self._steps:
            if self._profile is not None:
                self._profile.stop()
            warn(
                "profile: nothing is recorded; the trace begins after the first step of a run, and "
                "there was no second one"
            )
        elif self._profile is not None and self._left > 0:
            self._end(None)

    def _begin(self, step: int) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._first = step
        self._profile = torch.profiler.profile(
            activities=activities, profile_memory=True, record_shapes=True
        )
        self._profile.start()

    def _end(self, step: int | None) -> None:
        assert self._profile is not None
        self._left = 0
        self._profile.stop()
        name = f"step-{self._first}-{step if step is not None else 'stopped'}"
        with atomic_path(self._out / f"{name}.json") as temporary:
            self._profile.export_chrome_trace(str(temporary))
        averages = self._profile.key_averages()
        key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        (self._out / f"{name}.txt").write_text(averages.table(sort_by=key, row_limit=60), "utf-8")
        notice(f"profile: {self._out / name}.json (open it in ui.perfetto.dev), .txt beside it")
