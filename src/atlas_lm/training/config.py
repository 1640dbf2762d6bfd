"""How long, how fast and how often: the hyper-parameters of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from atlas_lm.runtime.errors import InputError
from atlas_lm.training.optim import OptimConfig


@dataclass(frozen=True, kw_only=True)
class FSDPConfig:
    """How ``training.parallel = "fsdp"`` shards."""

    param_dtype: Literal["fp32", "bf16"] = "fp32"
    """What gathered parameters are computed in; the shares and AdamW's moments stay in fp32."""
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"
    """What gradients are summed over the processes in."""
    cpu_offload: bool = False
    """Keep shares, gradients and moments in the CPU's memory, and update there."""

    def __post_init__(self) -> None:
        for name in ("param_dtype", "reduce_dtype"):
            if getattr(self, name) not in ("fp32", "bf16"):
                raise InputError(
                    f"training.fsdp.{name}={getattr(self, name)!r}: choose one of fp32 or bf16"
                )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A training run. One step is one optimizer update of both halves."""

    total_steps: int = 1000
    """Updates in the run."""
    bsz: int = 4
    """Queries per micro-batch, at most, in each process."""
    accumulation_steps: int = 1
    """Micro-batches per update; the gradient is that of one batch of all their queries. Several
    processes share out the same bsz x accumulation_steps queries."""
    parallel: Literal["none", "ddp", "fsdp"] = "ddp"
    """What several processes do: each has both halves whole (ddp), or a share of them (fsdp); none
    refuses to run in several. One process that was started alone needs none of it."""
    fsdp: FSDPConfig = field(default_factory=FSDPConfig)
    timeout_minutes: float = 30.0
    """How long a process waits for the others before the run is given up."""
    reader: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-4))
    """How the reader is updated."""
    retriever: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-5))
    """How the retriever is updated; its schedule begins with its first update."""
    freeze_retriever_steps: int = 0
    """Steps before the retriever starts to learn: the reader must read before it can teach."""
    signal_round: int = 1
    """Steps whose signals are gathered before the retriever learns from all of them; 1: at once."""
    signal_epochs: int = 1
    """Passes of the retriever over the signals of a round."""
    signal_batches: int = 1
    """Gathered micro-batches per update of the retriever in a round."""
    reader_loss_weight: float = 1.0
    """Factor on the reader's loss, nats per target token."""
    retriever_loss_weight: float = 1.0
    """Factor on the retriever's loss, nats per query."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """fp32, or bf16 autocast with fp32 weights on devices that have bf16 units."""
    seed: int = 0
    """Governs the order of the data, dropout and every other choice by chance."""
    log_every: int = 10
    """Steps between lines of metrics."""
    evaluate_every: int = 0
    """Steps between evaluations; 0 for one at the end only."""
    save_every: int = 0
    """Steps between checkpoints; 0 for one at the end (or when stopped) only."""
    save_in_background: bool = False
    """Train on while a copy of the state is written; several processes wait all the same."""
    keep_last: int = 2
    """Checkpoints kept; older ones are removed after a new one is safely written."""
    best_metric: str = ""
    """Also keep the checkpoint that is best by this metric of the evaluations, such as exact_match;
    a minus before it where less is better."""
    gradient_checkpointing_reader: bool = False
    """Recompute the reader's activations in the backward pass: less memory, more time."""
    gradient_checkpointing_retriever: bool = False
    """The same for the retriever."""
    dropout: float | None = None
    """Dropout probability in both halves; left out, each keeps its own."""

    def __post_init__(self) -> None:
        for name in ("total_steps", "bsz", "accumulation_steps", "log_every", "keep_last"):
            _at_least(self, name, 1)
        for name in ("signal_round", "signal_epochs", "signal_batches"):
            _at_least(self, name, 1)
        for name in ("freeze_retriever_steps", "evaluate_every", "save_every", "seed"):
            _at_least(self, name, 0)
        for name in ("reader_loss_weight", "retriever_loss_weight"):
            _at_least(self, name, 0)
        if self.reader.warmup_steps > self.total_steps:
            raise InputError(
                f"training.reader.warmup_steps={self.reader.warmup_steps} is more than "
                f"training.total_steps={self.total_steps}; the peak would never be reached"
            )
        if self.freeze_retriever_steps > self.total_steps:
            raise InputError(
                f"training.freeze_retriever_steps={self.freeze_retriever_steps} is more than "
                f"training.total_steps={self.total_steps}; to train the reader alone set them equal"
            )
        thawed = self.total_steps - self.freeze_retriever_steps
        self._check_rounds(thawed)
        if 0 < self.retriever_updates < self.retriever.warmup_steps:
            raise InputError(
                f"training.retriever.warmup_steps={self.retriever.warmup_steps} is more than the "
                f"{self.retriever_updates} updates of the retriever (training.total_steps="
                f"{self.total_steps}, training.freeze_retriever_steps="
                f"{self.freeze_retriever_steps}); the peak would never be reached"
            )
        if self.parallel not in ("none", "ddp", "fsdp"):
            raise InputError(
                f"training.parallel={self.parallel!r}: choose one of none, ddp or fsdp"
            )
        if not self.timeout_minutes > 0:
            raise InputError(
                f"training.timeout_minutes={self.timeout_minutes}: give a number above 0"
            )
        if self.precision not in ("fp32", "bf16"):
            raise InputError(f"training.precision={self.precision!r}: choose one of fp32 or bf16")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise InputError(f"training.dropout={self.dropout}: give a number in [0, 1)")

    def _check_rounds(self, thawed: int) -> None:
        if self.signal_round == 1:
            for name in ("signal_epochs", "signal_batches"):
                if getattr(self, name) > 1:
                    raise InputError(
                        f"training.{name}={getattr(self, name)} has no effect with "
                        "training.signal_round=1; gather signals over more steps, or leave it at 1"
                    )
        elif thawed % self.signal_round:
            raise InputError(
                f"training.signal_round={self.signal_round} does not divide the {thawed} steps "
                f"that the retriever learns (training.total_steps={self.total_steps} - "
                f"training.freeze_retriever_steps={self.freeze_retriever_steps}); the last signals "
                "would be wasted: change one of the three"
            )

    @property
    def updates_per_round(self) -> int:
        """Updates of the retriever from one round's signals."""
        gathered = self.signal_round * self.accumulation_steps
        return self.signal_epochs * -(-gathered // self.signal_batches)

    @property
    def retriever_updates(self) -> int:
        """Updates of the retriever in the run: what its warm-up and schedule count."""
        thawed = self.total_steps - self.freeze_retriever_steps
        return (
            thawed
            if self.signal_round == 1
            else thawed // self.signal_round * self.updates_per_round
        )

    @property
    def queries_per_update(self) -> int:
        """Queries that one update sees."""
        return self.bsz * self.accumulation_steps


def _at_least(config: TrainingConfig, name: str, least: int) -> None:
    value = getattr(config, name)
    if not value >= least:
        raise InputError(f"training.{name}={value}: give a number of at least {least}")
