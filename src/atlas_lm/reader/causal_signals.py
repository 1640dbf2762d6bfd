"""What a decoder-only reader makes of each passage: on its own, or by the way of its training loss.

Where nothing is random, the forward pass of the loss also serves the signals: read apart and fused,
its passages' keys and values are those that a question seeing one of them (PDist), or all but one
(LOOP), needs; and the attention mass is recorded as it goes by.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from atlas_lm.reader.causal_attention import PassageRecorder
from atlas_lm.reader.causal_forward import CausalForward, Rows, copied_log_likelihood, detached
from atlas_lm.reader.causal_layout import Layout
from atlas_lm.types import ReaderSignals, Reading, Signal, TokenLoss


def measured(
    forward: CausalForward,
    rows: Rows,
    measure: frozenset[Signal],
    *,
    temperature: float,
    prefix: DynamicCache | None,
) -> ReaderSignals:
    """Return the signals asked for, by forward passes of their own, behind the given prefix.

    ``leave_one_out`` is computed with autocast off: its range is a few tenths of a nat, as large as
    bfloat16's error.
    """
    alone = without = mass = None
    if "passage_log_likelihood" in measure:
        alone = _alone(forward, rows, prefix, temperature)
    if "leave_one_out" in measure:
        device = rows.query.ids.device.type
        lowered = torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False):
            exact = forward.cached_prefix() if lowered else prefix
            without = forward.leave_one_out(rows, exact, temperature=temperature)
    if "attention_mass" in measure:
        mass = forward.attention_mass(rows, prefix)
    return ReaderSignals(rows.target.mask, alone, without, mass)


def read_once(
    forward: CausalForward,
    rows: Rows,
    measure: frozenset[Signal],
    *,
    n_context: int,
    temperature: float,
) -> Reading:
    """Return the loss over the first ``n_context`` passages and the signals over all of them.

    What the loss's forward pass cannot serve is measured by `measured`; so is ``leave_one_out``
    under autocast, whose keys and values are not exact enough for it.
    """
    everything = n_context == rows.passages.ids.shape[1]
    served = measure & _served(forward.reading, everything)
    if torch.is_autocast_enabled(rows.query.ids.device.type):
        served -= {"leave_one_out"}
    prefix = None
    if measure - served or ("passage_log_likelihood" in served and not everything):
        with torch.no_grad():
            prefix = forward.cached_prefix()
    total = torch.zeros((), device=rows.query.ids.device)
    found = {name: rows.target.mask.new_zeros(_shape(rows, name)).float() for name in served}
    for run in forward.runs(rows) if served else [torch.arange(len(rows), device=total.device)]:
        part = rows.select(run)
        summed, signals = _read_run(
            forward, part, served, n_context=n_context, temperature=temperature, prefix=prefix
        )
        total = total + summed
        for name, values in signals.items():
            found[name][run, ..., : values.shape[-1]] = values
    with torch.no_grad():
        rest = measure - served
        other = measured(forward, rows, rest, temperature=temperature, prefix=prefix)
    loss = TokenLoss(total, int(rows.target.mask.sum()))
    return Reading(loss, replace(other, **found))


def _read_run(
    forward: CausalForward,
    rows: Rows,
    served: frozenset[Signal],
    *,
    n_context: int,
    temperature: float,
    prefix: DynamicCache | None,
) -> tuple[Float[Tensor, ""], dict[Signal, Tensor]]:
    """Return the summed loss of rows that are read at once, and the signals that serves."""
    first = rows.first(n_context)
    layout = forward.lay_out(first, first.all_passages())
    cache = DynamicCache() if served & _LIKELIHOODS else None
    recorder = PassageRecorder(layout, rows.target.mask, n_context)
    options = {"passage_recorder": recorder} if "attention_mass" in served else {}
    logits = forward.logits(layout, cache, **options)
    loss = -copied_log_likelihood(logits, rows.target).sum()
    found: dict[Signal, Tensor] = {}
    with torch.no_grad():
        if cache is not None:
            found = _behind(forward, first, layout, detached(cache), served, temperature)
        if "passage_log_likelihood" in served and n_context < rows.passages.ids.shape[1]:
            rest = _alone(forward, rows.after(n_context), prefix, temperature)
            known = found["passage_log_likelihood"]
            found["passage_log_likelihood"] = torch.cat([known, rest], 1)
        if "attention_mass" in served:
            found["attention_mass"] = recorder.mass()
    return loss, found


def _shape(rows: Rows, signal: Signal) -> tuple[int, ...]:
    """Return the shape of a signal, as `ReaderSignals` gives it."""
    bsz, n_context = rows.passages.ids.shape[:2]
    by_passage = (bsz, n_context)
    return by_passage if signal == "attention_mass" else (*by_passage, rows.target.ids.shape[1])


_LIKELIHOODS: frozenset[Signal] = frozenset({"passage_log_likelihood", "leave_one_out"})


def _served(reading: str, everything: bool) -> frozenset[Signal]:
    """Return the signals that the loss's forward pass serves; ``everything``: it reads them all."""
    served: set[Signal] = {"attention_mass"} if everything else set()
    if reading == "fused":
        served |= _LIKELIHOODS if everything else {"passage_log_likelihood"}
    return frozenset(served)


def _alone(
    forward: CausalForward, rows: Rows, prefix: DynamicCache | None, temperature: float
) -> Float[Tensor, "rows n_context length"]:
    """Return log p of every target token with one passage at a time."""
    single = rows.single_passages()
    flat = forward.log_likelihood(single, single.all_passages(), prefix, temperature=temperature)
    return flat.view(len(rows), -1, flat.shape[-1])


def _behind(
    forward: CausalForward,
    rows: Rows,
    layout: Layout,
    cache: DynamicCache,
    measure: frozenset[Signal],
    temperature: float,
) -> dict[Signal, Tensor]:
    """Return the likelihoods asked for, by questions alone: the passages' cache is at hand."""
    n_context = rows.passages.ids.shape[1]
    own = torch.eye(n_context, dtype=torch.bool, device=rows.query.ids.device)
    views: dict[Signal, Tensor] = {"passage_log_likelihood": own, "leave_one_out": ~own}
    asked = [name for name in views if name in measure]
    copies = torch.cat([views[name] for name in asked])
    logits = forward.logits(forward.lay_out(rows, copies, behind=layout), cache) / temperature
    flat = copied_log_likelihood(logits, rows.target, len(copies))
    parts = flat.view(len(rows), len(asked), n_context, -1)
    return {name: parts[:, i] for i, name in enumerate(asked)}
