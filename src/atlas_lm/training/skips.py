"""Updates that were skipped, of both halves or of a round's; ten in a row end a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import warn
from atlas_lm.runtime.skips import SKIPS_IN_ROW, named
from atlas_lm.training.config import TrainingConfig
from atlas_lm.training.rounds import learn_round
from atlas_lm.training.state import TrainState
from atlas_lm.training.update import Update


class TrainingStopped(InputError):  # noqa: N818
    """Training cannot go on as it is configured; the message says why and what to change."""


def note_skip(state: TrainState, done: Update, guilty: Sequence[str] | None = None) -> None:
    """Count a skipped update, name its examples, and stop the run at ten in a row.

    Args:
        state: The run's.
        done: What became of the update.
        guilty: Those of its examples whose own loss is not finite; None where nobody has looked.

    Raises:
        TrainingStopped: this was the tenth.
    """
    if not done.skipped:
        state.skipped_in_row = 0
        return
    state.skipped += 1
    state.skipped_in_row += 1
    blamed = guilty or done.skipped
    ids = named(blamed)
    what = "loss" if guilty else "loss or gradient"
    alone = "" if guilty is None or guilty else " (that of each example alone is)"
    warn(f"step {state.step}: {what} is not finite{alone}, update skipped; examples: {ids}")
    if state.skipped_in_row >= SKIPS_IN_ROW:
        state.skipped_in_row = 0
        raise TrainingStopped(
            f"step {state.step}: {SKIPS_IN_ROW} updates in a row were not finite (last examples: "
            f"{ids}). Lower training.reader.lr and training.retriever.lr, raise their "
            'warmup_steps, or set training.precision="fp32", and resume: this step\'s checkpoint '
            f"has the weights of step {state.step - SKIPS_IN_ROW}"
        )


def learn_from_round(state: TrainState, cfg: TrainingConfig, done: Update) -> Update:
    """Keep what the step has measured; at the end of a round the retriever learns from it.

    Raises:
        TrainingStopped: the last ten updates of the retriever had a gradient that is not finite.
    """
    thawed = state.step - cfg.freeze_retriever_steps
    if cfg.signal_round > 1 and thawed > 0 and state.optimizers.retriever and not done.skipped:
        parts = state.batches.parts(cfg.accumulation_steps)
        state.signals.gather(done.measured, parts, cfg.accumulation_steps)
    if not state.signals.gathered or thawed % cfg.signal_round:
        return done
    assert state.optimizers.retriever is not None
    learnt = learn_round(
        state.model, state.signals, state.optimizers.retriever, cfg, state.optimizers.parallel
    )
    if learnt.skipped:
        note_skip(state, replace(done, skipped=learnt.skipped))
    if (in_row := state.signals.skipped_in_row) >= SKIPS_IN_ROW:
        state.signals.skipped_in_row = 0
        raise TrainingStopped(
            f"step {state.step}: the last {in_row} updates of the retriever were not finite, so it "
            "no longer learns. Lower training.retriever.lr, raise its warmup_steps, or set "
            'training.precision="fp32", and resume: this step\'s checkpoint has the retriever '
            "as it was before them"
        )
    return replace(done, metrics=done.metrics | learnt.metrics, measured=())
