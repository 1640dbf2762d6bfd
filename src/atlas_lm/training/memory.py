"""Out of memory: in which phase, and which settings would help most."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError, first_line
from atlas_lm.runtime.phases import PhaseClock
from atlas_lm.training.checkpoint import Checkpoints
from atlas_lm.training.config import TrainingConfig
from atlas_lm.training.update import Trainable

ADVICE = 3
"""Settings that are named."""
NEW_RUN = ("staleness.query_side", "reader.path")
"""Settings under which a checkpoint made without them does not open."""


class OutOfMemoryError(InputError):
    """There was no more memory; the message names the phase and what to change."""


@contextmanager
def memory_explained(
    clock: PhaseClock, cfg: TrainingConfig, model: Trainable, checkpoints: Checkpoints
) -> Iterator[None]:
    """Turn an out-of-memory error of the processor or of a GPU into one that says what to do.

    Raises:
        OutOfMemoryError: there was no more memory.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        phase = clock.failed_in or "training"
        saved = checkpoints.all()
        settings = "\n".join(
            f"  {setting}" + " (in a new run)" * bool(saved and setting.startswith(NEW_RUN))
            for setting in helpful(phase, cfg, model)[:ADVICE]
        )
        go_on = (
            f"change a setting and resume from {saved[-1].name}"
            if saved
            else "no checkpoint was written yet: change a setting and start anew; with "
            "training.save_every a run has some"
        )
        peaks = ", ".join(
            f"{name} {total.peak_bytes / 1e6:,.0f} MB"
            for name, total in clock.totals.items()
            if total.peak_bytes
        )
        raise OutOfMemoryError(
            f"out of memory in the phase {phase!r} ({first_line(error)}). What would help "
            f"most, first things first:\n{settings}\npeaks so far: {peaks or 'none measured'}; "
            f"{go_on}. atlas-lm plan predicts what fits"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or in the process."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate")
    return isinstance(error, RuntimeError | OSError) and any(word in str(error) for word in words)


def helpful(phase: str, cfg: TrainingConfig, model: Trainable) -> list[str]:
    """Return settings that need less memory in a phase, best first.

    Left out is what is in use already, and what such a reader or retriever has no use for.
    """
    learns = model.retriever is not None and cfg.freeze_retriever_steps < cfg.total_steps
    passages_learn = learns and _passages_learn(model.retriever)
    sharded = cfg.parallel == "fsdp" and distributed.world().size > 1
    limit = "passage_maxlength" if _reads_prompts(model.reader) else "text_maxlength"
    general = {
        "activations": _smaller_batches(cfg),
        "recompute reader": ""
        if cfg.gradient_checkpointing_reader
        else "training.gradient_checkpointing_reader=true: one layer's activations, a third slower",
        "recompute retriever": ""
        if cfg.gradient_checkpointing_retriever or not learns
        else "training.gradient_checkpointing_retriever=true: the same for the retriever",
        "bf16": ""
        if cfg.precision == "bf16"
        else 'training.precision="bf16": half the activations, on devices with bf16 units',
        "read less": "context.n_context: read fewer passages (memory grows with it)",
        "score less": "context.retriever_n_context: measure fewer passages" if learns else "",
        "cut": f"reader.settings.{limit}: shorter passages",
        "freeze": "staleness.query_side=true: the passage encoder needs no gradient, no refresh"
        if passages_learn
        else "",
        "index": ""
        if passages_learn  # vectors of such an index cannot follow the encoder
        else "data.index built with --kind int8 or binary: a 4th or a 32nd of the memory",
        "rerank": "context.n_rerank: re-embed fewer candidates",
        "shard": ""
        if sharded
        else 'training.parallel="fsdp" under torchrun: weights and moments shared out',
        "smaller": "reader.path: a smaller reader",
        "wait": "training.save_in_background=false: no copy of the state while it is written"
        if cfg.save_in_background
        else "",
    }
    names = dict.fromkeys((*_BY_PHASE.get(phase, ()), *_BY_PHASE["encode"], *_BY_PHASE["update"]))
    return [general[name] for name in names if general[name]]


def _reads_prompts(reader: Any) -> bool:
    """Return whether a reader is a decoder-only model, whose limit is one of each passage."""
    return getattr(getattr(reader, "settings", None), "kind", "fid") == "causal"


def _passages_learn(retriever: Any) -> bool:
    """Return whether the passage encoder of a retriever that learns does."""
    encoder = getattr(retriever, "passage_encoder", retriever)
    return any(parameter.requires_grad for parameter in encoder.parameters())


_BY_PHASE = {
    "data": ("activations", "read less", "smaller"),
    "retrieve": ("index", "rerank", "activations"),
    "encode": ("recompute reader", "activations", "bf16", "read less", "cut", "shard"),
    "decode": ("recompute reader", "activations", "bf16", "read less"),
    "score": ("score less", "recompute retriever", "activations", "freeze", "bf16"),
    "round": ("recompute retriever", "score less", "freeze", "activations"),
    "backward": ("recompute reader", "activations", "recompute retriever", "bf16", "read less"),
    "update": ("shard", "freeze", "smaller"),
    "refresh": ("freeze", "index", "shard"),
    "evaluate": ("read less", "cut", "smaller"),
    "save": ("wait", "shard", "smaller"),
}


def _smaller_batches(cfg: TrainingConfig) -> str:
    if cfg.bsz == 1:
        return ""
    steps = cfg.accumulation_steps * cfg.bsz
    return f"training.bsz=1 training.accumulation_steps={steps}: the same gradient in small pieces"
