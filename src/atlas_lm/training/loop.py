"""The joint training loop: keep the index fresh, update both halves, log, save."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from atlas_lm.runtime import distributed
from atlas_lm.runtime.logs import notice, warn
from atlas_lm.runtime.phases import PhaseClock
from atlas_lm.training.checkpoint import Checkpoints
from atlas_lm.training.collapse import CollapseMonitor
from atlas_lm.training.config import TrainingConfig
from atlas_lm.training.interrupt import StopRequest
from atlas_lm.training.memory import memory_explained
from atlas_lm.training.skips import TrainingStopped, learn_from_round, note_skip
from atlas_lm.training.state import TrainState
from atlas_lm.training.update import Update, guilty_examples, update
from atlas_lm.types import Batch

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended."""

    step: int
    """Updates made in the run so far."""
    finished: bool
    """False where the user or the system asked it to stop, be it in the last step."""
    checkpoint: Path
    """The checkpoint of that very step."""


def train(
    state: TrainState,
    cfg: TrainingConfig,
    *,
    checkpoints: Checkpoints,
    log: Callable[[int, Metrics], None],
    evaluate: Callable[[], Metrics] | None = None,
    clock: PhaseClock | None = None,
    after_step: Callable[[int], None] | None = None,
    findable: int = 0,
) -> Outcome:
    """Train from ``state.step`` to ``cfg.total_steps``; the last step is evaluated and saved.

    On Ctrl-C or SIGTERM the step is finished, a checkpoint saved, and the call returns.

    Args:
        state: A new state, or one restored by ``checkpoints.load``. It is moved along, and its
            ``freshness`` is closed.
        cfg: The hyper-parameters, those that ``state`` was made with.
        checkpoints: Where checkpoints go.
        log: Receives the step and its metrics.
        evaluate: Returns metrics on held-out data; the model is in whichever mode it likes.
        clock: Measures the phases; every logged line has their shares of the time since the last.
        after_step: Called with the step after everything else in it, such as a profiler's.
        findable: Passages that a search may return, for the collapse monitor; 0: not known.

    Raises:
        OutOfMemoryError: the machine or the GPU has no more memory; the phase is named.
        TrainingStopped: ten updates in a row had a loss or gradient that is not finite. A
            checkpoint is saved first; its weights are those from before the first of them.
    """
    clock = clock or PhaseClock(model_device(state))
    run = _Run(state, cfg, checkpoints, log, evaluate, clock, CollapseMonitor(findable))
    explained = memory_explained(clock, cfg, state.model, checkpoints)
    if cfg.save_in_background and distributed.world().size > 1:
        warn("training.save_in_background=true has no effect: several processes wait for a save")
    with StopRequest() as stop, closing(state.freshness), explained:
        stopping = distributed.any_process(stop.asked)
        while state.step < cfg.total_steps and not stopping:
            run.step(lambda: stop.asked)
            stopping = distributed.any_process(stop.asked)
            if run.checkpoint_is_due and state.step < cfg.total_steps and not stopping:
                run.save(wait=not cfg.save_in_background)
            if after_step:
                after_step(state.step)
        path = run.save()
        finished = state.step >= cfg.total_steps and not distributed.any_process(stop.asked)
    if not finished:
        notice(f"stopped after step {state.step} of {cfg.total_steps}, saved as {path}")
    return Outcome(state.step, finished, path)


class _Run:
    """What one call of `train` does over and over."""

    def __init__(
        self,
        state: TrainState,
        cfg: TrainingConfig,
        checkpoints: Checkpoints,
        log: Callable[[int, Metrics], None],
        evaluate: Callable[[], Metrics] | None,
        clock: PhaseClock,
        monitor: CollapseMonitor,
    ) -> None:
        self.state, self.cfg, self.checkpoints = state, cfg, checkpoints
        self.log, self.evaluate, self.clock, self.monitor = log, evaluate, clock, monitor
        self.checkpoint_is_due = False

    def step(self, stopping: Callable[[], bool]) -> None:
        """Make one update and all that belongs to its step; say whether a checkpoint is due.

        Nothing is made where ``stopping`` is true in a refresh, on any process.
        """
        state, cfg, clock = self.state, self.cfg, self.clock
        began = state.batches.position
        try:
            batches, done, guilty = self._update(stopping)
        except distributed.StopAsked:
            return
        except Exception:
            state.batches.position = began
            state.optimizers.drop_gradients()
            # Within an optimizer's step some of the weights have moved.
            if distributed.world().size == 1 and state.step > 0 and clock.failed_in != "update":
                self._rescue()
            raise
        state.step += 1
        state.freshness.observe(query for batch in batches for query in batch.retriever_query)
        with self._kept(of=TrainingStopped):
            note_skip(state, done, guilty)
            with clock("round"):
                done = learn_from_round(state, cfg, done)
        watch(self.monitor, done, state.step)
        self._report(done)

    def _update(
        self, stopping: Callable[[], bool]
    ) -> tuple[Sequence[Batch], Update, Sequence[str] | None]:
        """Refresh what is due and update; return the batches, and what became of them."""
        state, cfg, clock = self.state, self.cfg, self.clock
        with clock("refresh"):
            state.freshness.prepare(state.step, stopping)
        with clock("data"):
            batches = state.batches.take(cfg.accumulation_steps)
        learns = retriever_learns(state, cfg)
        done = update(
            state.model,
            batches,
            state.optimizers,
            cfg,
            step=state.step,
            train_retriever=learns,
            phases=clock,
        )
        guilty = None
        if done.skipped:
            guilty = guilty_examples(state.model, batches, cfg, train_retriever=learns)
        return batches, done, guilty

    def save(self, *, wait: bool = True) -> Path:
        """Write a checkpoint."""
        with self.clock("save"):
            return self.checkpoints.save(self.state, wait=wait)

    def _report(self, done: Update) -> None:
        """Log and evaluate what is due at this step."""
        state, cfg, clock = self.state, self.cfg, self.clock
        last = state.step == cfg.total_steps
        if last or every(cfg.log_every, state.step):
            with clock("refresh"):
                described = describe(state, self.monitor)
            self.log(state.step, done.metrics | described | clock.look())
        self.checkpoint_is_due = every(cfg.save_every, state.step)
        if self.evaluate and (last or every(cfg.evaluate_every, state.step)):
            with self._kept(distributed.world().size == 1), clock("evaluate"):
                measured = self.evaluate()
            self.log(state.step, measured)
            with self._kept():
                self.checkpoint_is_due |= is_best(state, cfg, measured)
        elif not self.evaluate and self.checkpoint_is_due and not done.skipped:
            with self._kept():
                is_best(state, cfg, done.metrics)

    @contextmanager
    def _kept(self, wanted: bool = True, *, of: type[Exception] = Exception) -> Iterator[None]:
        """Save the updates so far where looking at them fails; then what failed is raised.

        Args:
            wanted: Whether to: several processes can save only where all have failed alike.
            of: The failures after which it is saved.
        """
        try:
            yield
        except of:
            if wanted:
                self._rescue()
            raise

    def _rescue(self) -> None:
        """Save the updates so far because something has failed, if that can be."""
        try:
            notice(f"saved as {self.save()}")
        except Exception as failure:
            warn(f"step {self.state.step} could not be saved either ({failure})")


def model_device(state: TrainState) -> torch.device:
    """Return where the reader's parameters are."""
    device: torch.device = next(iter(state.model.reader.parameters())).device
    return device


def every(period: int, step: int) -> bool:
    """Return whether ``step`` is a multiple of ``period``; a period of 0 never comes round."""
    return period > 0 and step % period == 0


def is_best(state: TrainState, cfg: TrainingConfig, metrics: Metrics) -> bool:
    """Return whether this step is the best so far by the run's metric; without one, False.

    Args:
        state: The run's; it remembers the best.
        cfg: Names the metric.
        metrics: What the evaluation measured and nothing else, for an update's own numbers say how
            easy its batch was; those only where nothing is evaluated, at every checkpoint.

    Raises:
        InputError: nothing of that name was measured.
    """
    return bool(cfg.best_metric) and state.note(cfg.best_metric, metrics)


def retriever_learns(state: TrainState, cfg: TrainingConfig) -> bool:
    """Return whether the update at ``state.step`` moves the retriever."""
    return state.optimizers.retriever is not None and state.step >= cfg.freeze_retriever_steps


def watch(monitor: CollapseMonitor, done: Update, step: int) -> None:
    """Show the monitor what an update has retrieved."""
    for ids, rows in done.retrieved:
        monitor.add(ids, rows)
    monitor.check(step)


def describe(state: TrainState, monitor: CollapseMonitor) -> dict[str, float]:
    """Return the metrics of the run, beside those of the update."""
    metrics = {
        "epoch": state.batches.epoch,
        "skipped_updates": float(state.skipped),
        **state.freshness.measure(state.step),
    }
    if monitor.share is not None:
        metrics["distinct_passages"] = monitor.share
    return metrics
