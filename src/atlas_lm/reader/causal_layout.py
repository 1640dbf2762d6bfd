"""One sequence a query: prefix, passages, then one copy of question and target per view of them.

- Every token belongs to a segment (prefix, one passage, one copy); a boolean matrix says which
  segment sees which. The attention mask and the positions follow from it, so both readings, and a
  question that sees all passages, one of them or all but one, are the same layout.
- The context (prefix and passages) is packed to the left without pads in between; the copies come
  after it, all of one width, so that the columns whose logits score the target are the same for
  every query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from atlas_lm.types import Tokens

PAD = -1
"""The segment of pads: seen by nobody, seeing themselves."""
PREFIX = 0
"""The segment of the prefix; passage k is segment 1 + k, copy c is segment 1 + n_context + c."""


@dataclass(frozen=True)
class Layout:
    """What is fed to the model for a batch, and where to look afterwards."""

    ids: Int64[Tensor, "bsz length"]
    """Token ids."""
    positions: Int64[Tensor, "bsz seen"]
    """Position, as the model counts it, of each token that can be seen: those in the cache, then
    those of ``ids``."""
    segments: Int64[Tensor, "bsz seen"]
    """Segment of each of them."""
    mask: Bool[Tensor, "bsz 1 length seen"]
    """True where a token may look."""
    columns: Int64[Tensor, " scored"]
    """Where in ``ids`` the logits score the target: copy by copy, token by token."""

    @property
    def fed(self) -> Int64[Tensor, "bsz length"]:
        """Positions of ``ids``."""
        return self.positions[:, -self.ids.shape[1] :]


def lay_out(
    prefix: Int64[Tensor, " prefix"],
    passages: Tokens,
    query: Tokens,
    target: Tokens,
    copies: Bool[Tensor, "copies n_context"],
    *,
    reading: Literal["one_prompt", "fused"],
    prefix_cached: bool = False,
    behind: Layout | None = None,
) -> Layout:
    """Return the layout in which copy c of question and target sees the passages ``copies[c]``.

    ``passages`` is ``bsz n_context length``, ``query`` and ``target`` are ``bsz length``. In one
    prompt every passage sees those before it, so every copy must see all of them. Fused, passages
    see the prefix alone and share their positions; a copy stands behind the longest passage it
    sees. The last token of the target is not fed: nothing is predicted from it. With
    ``prefix_cached`` the prefix is not fed either, only seen; ``behind`` a layout of one copy whose
    keys and values are cached, the passages are not fed either, and the copies here do not see the
    one there.
    """
    bsz, n_context, _ = passages.ids.shape
    lengths = passages.mask.sum(-1)
    if reading == "one_prompt":
        starts = prefix.numel() + lengths.cumsum(1) - lengths
        ends = prefix.numel() + lengths.sum(1, keepdim=True).expand(bsz, len(copies))
    else:
        starts = torch.full_like(lengths, prefix.numel())
        ends = prefix.numel() + _longest_seen(lengths, copies)
    parts = _copies(query, target, ends, 1 + n_context + (behind is not None))
    if behind is not None:
        cached, places = behind.segments, behind.positions
        copies = torch.cat([torch.ones_like(copies[:1]), copies])
    else:
        cached = prefix.new_full((bsz, prefix.numel() * prefix_cached), PREFIX)
        places = torch.arange(cached.shape[1], device=prefix.device).expand(bsz, -1)
        context = _context(prefix, passages, starts, with_prefix=not prefix_cached)
        parts = [torch.cat(pair, 1) for pair in zip(context, parts, strict=True)]
    ids, positions, segments = parts
    segments, positions = torch.cat([cached, segments], 1), torch.cat([places, positions], 1)
    mask = _mask(segments, _visible(copies, reading), ids.shape[1])
    return Layout(ids, positions, segments, mask, _scored(ids, query, target, ends.shape[1]))


def _scored(
    ids: Int64[Tensor, "bsz length"], query: Tokens, target: Tokens, n_copies: int
) -> Int64[Tensor, " scored"]:
    """Return the columns that predict the target, in the copies at the end of ``ids``."""
    n_scored = target.ids.shape[1]
    width = query.ids.shape[1] + n_scored - 1
    ends = ids.shape[1] - width * torch.arange(n_copies - 1, -1, -1, device=ids.device)
    return (ends[:, None] + torch.arange(-n_scored, 0, device=ids.device)).flatten()


def _longest_seen(
    lengths: Int64[Tensor, "bsz n_context"], copies: Bool[Tensor, "copies n_context"]
) -> Int64[Tensor, "bsz copies"]:
    if lengths.shape[1] == 0:
        return lengths.new_zeros(len(lengths), len(copies))
    return (lengths[:, None] * copies).amax(-1)


def _context(
    prefix: Int64[Tensor, " prefix"],
    passages: Tokens,
    starts: Int64[Tensor, "bsz n_context"],
    *,
    with_prefix: bool,
) -> list[Tensor]:
    """Return ids, positions and segments of prefix and passages, pads moved to the right."""
    bsz, n_context, length = passages.ids.shape
    device = prefix.device
    segments = torch.arange(1, n_context + 1, device=device)[:, None].expand(n_context, length)
    segments = torch.where(passages.mask, segments, PAD).flatten(1)
    ids = passages.ids.flatten(1)
    positions = (starts[..., None] + torch.arange(length, device=device)).flatten(1)
    order = torch.argsort((segments == PAD).long(), dim=1, stable=True)
    kept = order[:, : int(passages.mask.sum((1, 2)).max()) if n_context else 0]
    parts = [part.gather(1, kept) for part in (ids, positions, segments)]
    if with_prefix:
        before = (prefix, torch.arange(len(prefix), device=device), torch.zeros_like(prefix))
        parts = [
            torch.cat([head.expand(bsz, -1), part], 1)
            for head, part in zip(before, parts, strict=True)
        ]
    return parts


def _copies(
    query: Tokens, target: Tokens, ends: Int64[Tensor, "bsz copies"], first_segment: int
) -> list[Tensor]:
    """Return ids, positions and segments of every copy.

    The question's pads stand before it, the target's behind it.
    """
    n_copies = ends.shape[1]
    length = query.ids.shape[1]
    asked = query.mask.sum(1, keepdim=True)
    index = torch.arange(length, device=ends.device) - (length - asked)
    ids = torch.cat([query.ids.gather(1, index % length), target.ids[:, :-1]], 1)
    real = torch.cat([index >= 0, target.mask[:, :-1]], 1)
    steps = torch.arange(ids.shape[1], device=ends.device) - (length - asked)
    positions = (ends[..., None] + steps.clamp_min(0)[:, None]).flatten(1)
    segments = first_segment + torch.arange(n_copies, device=ends.device)
    segments = torch.where(real[:, None], segments[:, None], PAD).flatten(1)
    return [ids.repeat(1, n_copies), positions, segments]


def _visible(
    copies: Bool[Tensor, "copies n_context"], reading: str
) -> Bool[Tensor, "segments segments"]:
    """Return which segment (row) sees which (column); everything sees the prefix and itself."""
    n_copies, n_context = copies.shape
    size = 1 + n_context + n_copies
    sees = torch.eye(size, dtype=torch.bool, device=copies.device)
    sees[:, PREFIX] = True
    sees[1 + n_context :, 1 : 1 + n_context] = copies
    if reading == "one_prompt":
        block = sees[1 : 1 + n_context, 1 : 1 + n_context]
        block |= torch.ones_like(block).tril()
    return sees


def _mask(
    segments: Int64[Tensor, "bsz seen"], sees: Bool[Tensor, "segments segments"], length: int
) -> Bool[Tensor, "bsz 1 length seen"]:
    """Return where each of the last ``length`` tokens may look: segments it sees, never ahead."""
    seen = segments.shape[1]
    rows = segments[:, seen - length :]
    keys = segments.clamp_min(0)[:, None, :].expand(-1, length, -1)
    visible = sees[rows.clamp_min(0)].gather(2, keys)
    visible &= ((rows != PAD)[:, :, None]) & ((segments != PAD)[:, None, :])
    column = torch.arange(seen, device=segments.device)
    own = column[seen - length :, None]
    visible &= column <= own
    visible |= column == own
    return visible[:, None]
