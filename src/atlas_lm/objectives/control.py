"""A control: the reader's signals, dealt out at random among each query's passages.

What a retriever gains from them is not due to what the reader said of the passages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from zlib import crc32

import torch
from torch import Tensor

from atlas_lm.types import ReaderSignals


def dealt_out(signals: ReaderSignals, ids: Sequence[str]) -> ReaderSignals:
    """Return the signals with each query's passages in a random order.

    Args:
        signals: what the reader makes of K passages of each query.
        ids: of the examples; each draws its own order, the same one every time.
    """

    def dealt(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        return torch.stack(
            [row[_order(id, len(row)).to(row.device)] for id, row in zip(ids, value, strict=True)]
        )

    return replace(
        signals,
        passage_log_likelihood=dealt(signals.passage_log_likelihood),
        leave_one_out=dealt(signals.leave_one_out),
        attention_mass=dealt(signals.attention_mass),
    )


def _order(id: str, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(crc32(id.encode()))
    return torch.randperm(count, generator=generator)
