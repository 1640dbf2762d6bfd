"""Encode every passage on its own and lay each query's states side by side, without pads.

Passages are sorted by length and encoded in a few runs, each padded to its own longest; the pads
of the concatenated states are then dropped, so that the decoder attends to tokens only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from atlas_lm.types import Tokens


@dataclass(frozen=True)
class Layout:
    """Where each query's tokens stand in its packed row: passage after passage, pads at the end."""

    lengths: Int64[Tensor, "bsz n_rows"]
    """Tokens of each passage."""
    passage: Int64[Tensor, "bsz packed"]
    """Which passage a token belongs to; ``n_rows`` on pads."""
    mask: Bool[Tensor, "bsz packed"]
    """True where there is a token."""
    offset: Int64[Tensor, "bsz packed"]
    """The token's position in its passage; 0 on pads."""

    @classmethod
    def of(cls, mask: Bool[Tensor, "bsz n_rows length"]) -> Layout:
        """Return the layout of right-padded passages."""
        lengths = mask.sum(dim=-1)
        ends = lengths.cumsum(dim=-1)
        packed = int(ends[:, -1].max())
        position = torch.arange(packed, device=mask.device).expand(len(ends), -1).contiguous()
        passage = torch.searchsorted(ends, position, right=True)
        real = passage < lengths.shape[1]
        starts = (ends - lengths).gather(1, passage.clamp(max=lengths.shape[1] - 1))
        return cls(lengths, passage, real, (position - starts).where(real, 0))

    def rows_of(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Return where the tokens of passages ``first`` to ``last - 1`` stand, passage by passage.

        Returns:
            Positions in the packed row ``[bsz n length]``, 0 on pads, and the mask of that shape.
        """
        lengths = self.lengths[:, first:last]
        starts = (self.lengths.cumsum(dim=-1) - self.lengths)[:, first:last]
        steps = torch.arange(int(lengths.max()), device=lengths.device)
        mask = steps < lengths[..., None]
        return (starts[..., None] + steps).where(mask, 0), mask


@dataclass(frozen=True)
class PackedStates:
    """The encoder's states of every passage of a query, side by side; garbage where masked."""

    states: Float[Tensor, "bsz packed dim"]
    layout: Layout

    @property
    def mask(self) -> Bool[Tensor, "bsz packed"]:
        """True where there is a token."""
        return self.layout.mask

    def detach(self) -> PackedStates:
        """Return the same states without gradient."""
        return PackedStates(self.states.detach(), self.layout)


def encode_packed(encoder: Any, tokens: Tokens, *, chunks: int) -> PackedStates:
    """Run a stock encoder over ``tokens [bsz n_rows length]`` and pack its states.

    The gradient follows torch's grad mode. Equal to encoding all rows padded to the longest, up to
    rounding.
    """
    layout = Layout.of(tokens.mask)
    rows = Tokens(tokens.ids.flatten(0, 1), tokens.mask.flatten(0, 1))
    lengths = layout.lengths.flatten()
    order = lengths.argsort(stable=True)
    pieces = [_encode_run(encoder, rows, run) for run in order.chunk(chunks)]
    starts = torch.empty_like(lengths)
    starts[order] = lengths[order].cumsum(dim=0) - lengths[order]
    starts = starts.view_as(layout.lengths)
    passage = layout.passage.clamp(max=layout.lengths.shape[1] - 1)
    source = (starts.gather(1, passage) + layout.offset).where(layout.mask, 0)
    return PackedStates(torch.cat(pieces)[source], layout)


def _encode_run(encoder: Any, rows: Tokens, run: Int64[Tensor, " run"]) -> Float[Tensor, "n dim"]:
    """Encode some rows, padded to their own longest, and return their states without pads."""
    mask = rows.mask[run]
    longest = int(mask.sum(dim=-1).max())
    mask = mask[:, :longest]
    ids = rows.ids[run, :longest]
    output = encoder(input_ids=ids, attention_mask=mask.to(ids.dtype))
    states: Tensor = output.last_hidden_state
    return states[mask]
