"""LOSSES -> BOTH UPDATES: the joint training loop and everything an exact resume needs."""

from __future__ import annotations

from atlas_lm.training.batches import Batches, batches
from atlas_lm.training.checkpoint import Checkpoints
from atlas_lm.training.collapse import CollapseMonitor
from atlas_lm.training.config import TrainingConfig
from atlas_lm.training.loop import Outcome, train
from atlas_lm.training.optim import HalfOptimizer, OptimConfig
from atlas_lm.training.run_log import RunLog
from atlas_lm.training.skips import TrainingStopped
from atlas_lm.training.state import TrainState, new_state
from atlas_lm.training.update import Optimizers, Trainable, Update, make_optimizers, update

__all__ = [
    "Batches",
    "Checkpoints",
    "CollapseMonitor",
    "HalfOptimizer",
    "OptimConfig",
    "Optimizers",
    "Outcome",
    "RunLog",
    "TrainState",
    "Trainable",
    "TrainingConfig",
    "TrainingStopped",
    "Update",
    "batches",
    "make_optimizers",
    "new_state",
    "train",
    "update",
]
