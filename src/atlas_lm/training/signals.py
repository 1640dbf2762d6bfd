"""Measured signals that several processes hold in parts: put together, and shared out again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor

from atlas_lm.runtime import distributed
from atlas_lm.runtime.dtypes import name_of
from atlas_lm.training.batches import parts
from atlas_lm.types import Measured, Passage, ReaderSignals


def signal_tensors(signals: ReaderSignals) -> dict[str, Tensor]:
    """Return the signals that were measured, by name."""
    values = {entry.name: getattr(signals, entry.name) for entry in fields(signals)}
    return {name: value for name, value in values.items() if value is not None}


def whole_signals(entries: Sequence[Measured | None]) -> list[Measured]:
    """Return every micro-batch whole, from the parts of all processes. Collective.

    Targets are padded to the longest of the micro-batch.
    """
    if distributed.world().size == 1:
        return [entry for entry in entries if entry is not None]
    said = distributed.gather_json([None if one is None else _as_json(one) for one in entries])
    whole = []
    for batch in zip(*said, strict=True):
        whole.append(_joined([_from_json(part) for part in batch if part is not None]))
    return whole


def own_signals(whole: Sequence[Measured], per_step: int) -> list[Measured | None]:
    """Return this process's part of every micro-batch of a run with ``per_step`` in a step."""
    if distributed.world().size == 1:
        return list(whole)
    own: list[Measured | None] = [None] * len(whole)
    for number, measured in enumerate(whole):
        bsz = len(measured.ids)
        for part in parts(per_step, bsz, distributed.world()):
            if part.places and part.batch == number % per_step:
                first = part.places.start - part.batch * bsz
                own[number] = _rows(measured, slice(first, first + len(part.places)))
    return own


def _rows(measured: Measured, rows: slice) -> Measured:
    signals = {name: value[rows] for name, value in signal_tensors(measured.signals).items()}
    return Measured(
        measured.ids[rows], measured.query[rows], measured.passages[rows], ReaderSignals(**signals)
    )


def _joined(some: Sequence[Measured]) -> Measured:
    names = signal_tensors(some[0].signals)
    longest = max(one.signals.target_mask.shape[1] for one in some)
    joined = {}
    for name in names:
        values = [signal_tensors(one.signals)[name] for one in some]
        if name != "attention_mass":
            values = [
                torch.nn.functional.pad(value, (0, longest - value.shape[-1])) for value in values
            ]
        joined[name] = torch.cat(values)
    return Measured(
        tuple(id for one in some for id in one.ids),
        tuple(query for one in some for query in one.query),
        tuple(row for one in some for row in one.passages),
        ReaderSignals(**joined),
    )


def _as_json(measured: Measured) -> dict[str, Any]:
    named = signal_tensors(measured.signals)
    return {
        "ids": measured.ids,
        "query": measured.query,
        "passages": [[asdict(passage) for passage in row] for row in measured.passages],
        "signals": {name: [value.tolist(), name_of(value.dtype)] for name, value in named.items()},
    }


def _from_json(said: dict[str, Any]) -> Measured:
    signals = {
        name: torch.tensor(value, dtype=getattr(torch, dtype))
        for name, (value, dtype) in said["signals"].items()
    }
    return Measured(
        tuple(said["ids"]),
        tuple(said["query"]),
        tuple(tuple(Passage(**passage) for passage in row) for row in said["passages"]),
        ReaderSignals(**signals),
    )
