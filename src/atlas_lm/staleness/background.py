"""A refresh in a second process: training goes on, and the vectors are swapped in when done.

The passage encoder is copied when the refresh begins. Its weights go to the other process as
safetensors files, and the vectors come back as an index directory: nothing is pickled. The swap is
one call, so a search sees all old or all new vectors. The weights of the copy are also part of the
run's checkpoints: a run that stops meanwhile begins the same refresh again when it is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from atlas_lm.index.files import Fingerprint
from atlas_lm.runtime.distributed import never
from atlas_lm.runtime.errors import InputError
from atlas_lm.staleness.live import LiveIndex
from atlas_lm.staleness.refresher import Tensors

Weights = Mapping[str, Tensor]
"""An encoder's state dict, on the CPU."""


@dataclass(frozen=True, kw_only=True)
class BackgroundConfig:
    """Where a background refresh runs and when its vectors come in."""

    steps: int = 0
    """Steps after which the vectors are swapped in, waited for if need be: a run can be repeated
    and resumed exactly; 0 swaps as soon as they are there, whenever that is."""
    device: str = "cpu"
    """Where the second process embeds: cpu, cuda:1 ..."""
    threads: int = 0
    """CPU threads of the second process; 0 for as many as training has."""

    def __post_init__(self) -> None:
        for name in ("steps", "threads"):
            if getattr(self, name) < 0:
                raise InputError(
                    f"staleness.background.{name}={getattr(self, name)}: give a number of at least "
                    "0"
                )


@dataclass(frozen=True)
class Job:
    """One refresh that is made elsewhere."""

    step: int
    """The step at which it began: that of its vectors."""
    weights: Weights
    """The passage encoder of that step."""
    fingerprint: Fingerprint
    """Of the vectors that it makes."""


class Worker(Protocol):
    """A job under way in another process."""

    def is_done(self) -> bool:
        """Return whether it has ended, well or not."""
        ...

    def vectors(self) -> Float[Tensor, "n dim"]:
        """Wait for the end and return every passage's vector, in the index's dtype."""
        ...

    def stop(self) -> None:
        """End it. What it has done so far is taken up when the same job is launched again."""
        ...

    def clear(self) -> None:
        """Remove what it has left on disk."""
        ...


class Launcher(Protocol):
    """Starts jobs elsewhere."""

    def copy_weights(self) -> dict[str, Tensor]:
        """Return a copy of the passage encoder's weights, on the CPU."""
        ...

    def launch(self, job: Job, *, again: bool) -> Worker:
        """Start a job; ``again`` where an earlier process may have done a part of it."""
        ...


class BackgroundRefresh:
    """Every passage, while training goes on. One at a time: what is due meanwhile is not begun.

    Args:
        live: The index and its retriever.
        config: When to swap.
        launcher: Starts the second process.
    """

    def __init__(self, live: LiveIndex, config: BackgroundConfig, launcher: Launcher) -> None:
        self._live, self._config, self._launcher = live, config, launcher
        self._job: Job | None = None
        self._worker: Worker | None = None

    def begin(self, step: int, stopping: Callable[[], bool] = never) -> None:
        """Copy the passage encoder and start to embed with the copy."""
        if self._job is not None:
            return
        self._job = Job(step, self._launcher.copy_weights(), self._live.describe())
        self._worker = self._launcher.launch(self._job, again=False)

    def proceed(self, step: int) -> None:
        """Swap the new vectors in, if it is time."""
        if self._job is None or not self._is_time(self._job, step):
            return
        worker = self._running(self._job)
        everything = range(len(self._live))
        self._live.put(everything, worker.vectors(), self._job.step, self._job.fingerprint)
        self._live.embedded += len(everything)
        worker.clear()
        self._job = self._worker = None

    def facts(self) -> dict[str, Any]:
        """Return the step and the fingerprint of the refresh under way."""
        if self._job is None:
            return {}
        fingerprint = self._job.fingerprint
        return {"step": self._job.step, "fingerprint": asdict(fingerprint)}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return ``background``: the weights of the copy that is embedding."""
        return {} if self._job is None else {"background": dict(self._job.weights)}

    def restore(self, facts: Mapping[str, Any], tensors: Tensors) -> None:
        """Start the refresh again that was under way; passages done by then are not done again."""
        if facts and "background" in tensors:
            fingerprint = Fingerprint(**facts["fingerprint"])
            self._job = Job(facts["step"], tensors["background"], fingerprint)
            self._running(self._job)

    def close(self) -> None:
        """Stop the second process. The refresh remains due: see `restore`."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _is_time(self, job: Job, step: int) -> bool:
        if self._config.steps:
            return step >= job.step + self._config.steps
        return self._running(job).is_done()

    def _running(self, job: Job) -> Worker:
        """Return the job's process; it is started where it was stopped."""
        if self._worker is None:
            self._worker = self._launcher.launch(job, again=True)
        return self._worker
