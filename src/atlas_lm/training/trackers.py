"""Where metrics go beside the JSONL file: TensorBoard, W&B, trackio, all through one interface.

Each library is imported by its own tracker alone and need not be installed for the others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from atlas_lm.runtime.errors import InputError, did_you_mean

PROJECT = "atlas-lm"


class Tracker(Protocol):
    """Receives every line of the log."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the metrics of a step."""
        ...

    def close(self) -> None:
        """Write what is not written yet."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of the run."""

    out: Path
    """The run's directory."""
    title: str = ""
    """What the run is; its directory's name where empty."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved recipe."""
    first_step: int = 0
    """Where the run starts or resumes."""

    @property
    def name(self) -> str:
        """The run's name in a tracker."""
        return self.title or self.out.name

    @property
    def id(self) -> str:
        """The same for the same directory, so that a resumed run goes on in the tracker, too."""
        return hashlib.sha256(str(self.out.resolve()).encode()).hexdigest()[:12]


class TensorBoard:
    """Event files in ``OUT/tensorboard``; what a killed run logged after the resumed step goes."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.out / "tensorboard"), purge_step=run.first_step + 1)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one scalar for each metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases in the project ``atlas-lm``; set WANDB_MODE=offline without net."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self._run = wandb.init(
            project=PROJECT,
            name=run.name,
            id=run.id,
            resume="allow",
            dir=str(run.out),
            config=dict(run.config),
        )
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics over their own step, which may go back when a run is resumed."""
        self._run.log({"step": step, **metrics})

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class Trackio:
    """A run of trackio, kept on this machine: ``trackio show --project atlas-lm``."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self._library = trackio
        trackio.init(
            project=PROJECT,
            name=f"{run.name}-{run.id}",
            config=dict(run.config),
            resume="allow",
            embed=False,
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the finite metrics: trackio keeps JSON."""
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._library.log(finite, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._library.finish()


TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}
_LIBRARIES = {
    "tensorboard": ("torch.utils.tensorboard", "TensorBoard", "'atlas-lm[tracking]'"),
    "wandb": ("wandb", "W&B", "wandb"),
    "trackio": ("trackio", "trackio", "trackio"),
}


def open_trackers(names: Sequence[str], run: TrackedRun) -> list[Tracker]:
    """Open the trackers of these names, each once.

    Raises:
        InputError: there is no such tracker, or its library is not installed.
    """
    require_trackers(names)
    return [TRACKERS[name](run) for name in dict.fromkeys(names)]


def require_trackers(names: Sequence[str]) -> None:
    """Find out before any work that the trackers of these names can be opened.

    Raises:
        InputError: there is no such tracker, or its library is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise InputError(
                f"--track {name}: no such tracker{did_you_mean(name, TRACKERS)}; "
                f"there are {', '.join(TRACKERS)}"
            )
        library, what, package = _LIBRARIES[name]
        try:
            import_module(library)
        except ImportError as error:
            raise InputError(
                f"{what} is not installed; pip install {package}, or leave it out: metrics are in "
                "the JSONL file anyway"
            ) from error
