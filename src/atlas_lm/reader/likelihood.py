"""log p(target | query, passages) in the forms that the objectives ask for, from one encoding."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from atlas_lm.reader.attention_mass import AttentionRecorder
from atlas_lm.reader.cross_attention import CrossMemory, project, shared_attention
from atlas_lm.reader.packing import PackedStates
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import ReaderSignals, Signal, Tokens

IGNORED = -100
"""The label of a pad: no loss."""
MAX_ELEMENTS = 2**27
"""Logits or attention scores held at once while scoring passages (0.5 GB in float32)."""


def labels_of(target: Tokens) -> Int64[Tensor, "bsz length"]:
    """Return the target's ids with -100 on pads."""
    return target.ids.masked_fill(~target.mask, IGNORED)


def token_log_likelihood(
    logits: Float[Tensor, "rows length vocab"],
    labels: Int64[Tensor, "rows length"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, "rows length"]:
    """Return log p of each label in nats, in float32; 0 on pads."""
    logits = logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return -loss.view_as(labels)


def decode(
    model: Any,
    memory: CrossMemory,
    labels: Int64[Tensor, "rows length"],
    mask: Bool[Tensor, "rows source"],
    *,
    recorder: AttentionRecorder | None = None,
) -> Float[Tensor, "rows length vocab"]:
    """Return the stock decoder's logits over a memory; ``rows`` is a multiple of the memory's.

    Only valid inside `shared_attention`.
    """
    bias = torch.zeros_like(mask, dtype=memory.keys[0].dtype)
    bias.masked_fill_(~mask, torch.finfo(bias.dtype).min)
    keywords = {} if recorder is None else {"attention_recorder": recorder}
    output = model(
        encoder_outputs=memory.encoder_outputs(len(labels)),
        attention_mask=bias[:, None, None, :],
        decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels),
        past_key_values=memory.cache(),
        use_cache=True,
        **keywords,
    )
    logits: Tensor = output.logits
    return logits


def measure_signals(
    model: Any,
    packed: PackedStates,
    target: Tokens,
    measure: frozenset[Signal],
    *,
    logit_temperature: float = 1.0,
    memory: CrossMemory | None = None,
) -> ReaderSignals:
    """Return the signals of already encoded passages.

    The model must be in eval mode and gradients off. ``memory`` holds the states' keys and values
    where a pass over them has left some. ``leave_one_out`` is computed with autocast off: its range
    is a few tenths of a nat, as large as bfloat16's error.

    Raises:
        InputError: ``leave_one_out`` of a single passage, which would leave nothing to read.
    """
    labels = labels_of(target)
    memory = memory or project(model, packed)
    likelihood = loop = mass = None
    with shared_attention(model):
        if "passage_log_likelihood" in measure:
            likelihood = passage_log_likelihood(model, memory, labels, logit_temperature)
        if "attention_mass" in measure:
            mass = attention_mass(model, memory, target)
        if "leave_one_out" in measure:
            with torch.autocast(packed.states.device.type, enabled=False):
                loop = leave_one_out(
                    model, _full_precision(model, packed, memory), labels, logit_temperature
                )
    return ReaderSignals(
        target_mask=target.mask,
        passage_log_likelihood=likelihood,
        leave_one_out=loop,
        attention_mass=mass,
    )


def passage_log_likelihood(
    model: Any, memory: CrossMemory, labels: Int64[Tensor, "bsz length"], temperature: float
) -> Float[Tensor, "bsz n_context length"]:
    """Return log p(a_t | a_<t, q, d_k): decoder rows that each read one passage."""
    pieces = []
    for first, last in _runs(model, memory, labels):
        alone = memory.of_passages(first, last)
        rows = labels.repeat_interleave(last - first, dim=0)
        logits = decode(model, alone, rows, alone.mask)
        scores = token_log_likelihood(logits, rows, temperature=temperature)
        pieces.append(scores.view(len(labels), last - first, -1))
    return torch.cat(pieces, dim=1)


def leave_one_out(
    model: Any, memory: CrossMemory, labels: Int64[Tensor, "bsz length"], temperature: float
) -> Float[Tensor, "bsz n_context length"]:
    """Return log p(a_t | a_<t, q, {d_j : j != k}): rows over one memory, each blind to one passage.

    Raises:
        InputError: there is only one passage.
    """
    n_context = memory.layout.lengths.shape[1]
    if n_context < 2:
        raise InputError(
            "leave_one_out with 1 passage leaves nothing to read; "
            "retrieve at least 2 passages (retriever_n_context >= 2) or take another objective"
        )
    pieces = []
    for first, last in _runs(model, memory, labels):
        left_out = torch.arange(first, last, device=labels.device)[:, None]
        mask = (memory.layout.passage[:, None] != left_out) & memory.mask[:, None]
        rows = labels.repeat_interleave(last - first, dim=0)
        logits = decode(model, memory, rows, mask.flatten(0, 1))
        scores = token_log_likelihood(logits, rows, temperature=temperature)
        pieces.append(scores.view(len(labels), last - first, -1))
    return torch.cat(pieces, dim=1)


def attention_mass(
    model: Any, memory: CrossMemory, target: Tokens
) -> Float[Tensor, "bsz n_context"]:
    """Return the cross-attention mass on each passage while the target is read."""
    recorder = AttentionRecorder(target.mask, memory.keys)
    decode(model, memory, labels_of(target), memory.mask, recorder=recorder)
    return recorder.by_passage(memory.layout)


def _runs(
    model: Any, memory: CrossMemory, labels: Int64[Tensor, "bsz length"]
) -> list[tuple[int, int]]:
    """Cut the passages into runs whose logits and attention scores stay within bounds."""
    n_context = memory.layout.lengths.shape[1]
    heads, source = memory.keys[0].shape[1:3]
    per_passage = labels.numel() * max(model.config.vocab_size, heads * source)
    size = max(1, MAX_ELEMENTS // per_passage)
    return [(first, min(first + size, n_context)) for first in range(0, n_context, size)]


def _full_precision(model: Any, packed: PackedStates, memory: CrossMemory) -> CrossMemory:
    """Return the memory in the weights' own precision, projected anew where autocast lowered it."""
    if memory.keys[0].dtype == model.dtype:
        return memory
    return project(model, PackedStates(packed.states.to(model.dtype), packed.layout))
