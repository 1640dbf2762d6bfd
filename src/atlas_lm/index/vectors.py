"""Vectors that are read by row: as they are stored, or decoded from int8 codes.

A vector x is coded as round(x / s) with its own step s = max|x| / 127, so every component is off by
at most s / 2. Codes are kept with 128 added, as unsigned bytes, which integer products on CPU want.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

OFFSET = 128
"""Code of a component that is zero."""
LEVELS = 127
"""Steps from zero to the largest component."""


class Vectors(Protocol):
    """The vectors of an index, whatever their form."""

    def __len__(self) -> int: ...

    @property
    def dim(self) -> int:
        """Components of a vector."""
        ...

    @property
    def device(self) -> torch.device:
        """Where they live."""
        ...

    def chunk(
        self, start: int, stop: int, room: Float32[Tensor, "rows dim"]
    ) -> Float32[Tensor, "some dim"]:
        """Return the vectors of these rows, in ``room`` where they must be converted."""
        ...

    def at(self, rows: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """Return a copy of the vectors of the rows, in no wider a dtype than float32."""
        ...


@dataclass(frozen=True)
class Dense:
    """Vectors as they are stored, in any floating dtype."""

    embeddings: Float[Tensor, "n dim"]

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    @property
    def dim(self) -> int:
        """Components of a vector."""
        return self.embeddings.shape[1]

    @property
    def device(self) -> torch.device:
        """Where they live."""
        return self.embeddings.device

    def chunk(
        self, start: int, stop: int, room: Float32[Tensor, "rows dim"]
    ) -> Float32[Tensor, "some dim"]:
        """Return the vectors of these rows, in ``room`` unless they are stored in float32."""
        stored = self.embeddings[start:stop]
        return stored if stored.dtype == torch.float32 else room[: len(stored)].copy_(stored)

    def at(self, rows: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """Return a copy of the vectors of the rows."""
        return self.embeddings[rows]


@dataclass(frozen=True)
class Int8Vectors:
    """Vectors kept as one byte a component and one step a row."""

    codes: UInt8[Tensor, "n dim"]
    """Components in steps, plus `OFFSET`."""
    scales: Float32[Tensor, " n"]
    """The step of each row."""

    def __len__(self) -> int:
        return self.codes.shape[0]

    @property
    def dim(self) -> int:
        """Components of a vector."""
        return self.codes.shape[1]

    @property
    def device(self) -> torch.device:
        """Where they live."""
        return self.codes.device

    def chunk(
        self, start: int, stop: int, room: Float32[Tensor, "rows dim"]
    ) -> Float32[Tensor, "some dim"]:
        """Return the decoded vectors of these rows, in ``room``."""
        codes = self.codes[start:stop]
        decoded = room[: len(codes)].copy_(codes)
        return decoded.sub_(OFFSET).mul_(self.scales[start:stop, None])

    def at(self, rows: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """Return the decoded vectors of the rows."""
        return (self.codes[rows].float() - OFFSET) * self.scales[rows][..., None]

    def share(self, rows: range) -> Int8Vectors:
        """Return these contiguous rows alone, over the same memory."""
        return Int8Vectors(self.codes[rows.start : rows.stop], self.scales[rows.start : rows.stop])

    def to(self, device: torch.device | str) -> Int8Vectors:
        """Return the same vectors on ``device``."""
        return Int8Vectors(self.codes.to(device), self.scales.to(device))


def encode_int8(embeddings: Float[Tensor, "n dim"]) -> Int8Vectors:
    """Return the vectors coded in one byte a component; see the module for the code."""
    wide = embeddings.float()
    scales = wide.abs().amax(dim=1) / LEVELS
    steps = torch.where(scales > 0, scales, 1.0)
    codes = (wide / steps[:, None]).round_().clamp_(-LEVELS, LEVELS).add_(OFFSET).to(torch.uint8)
    return Int8Vectors(codes, scales)


def encode_int8_chunked(embeddings: Float[Tensor, "n dim"], rows: int = 16_384) -> Int8Vectors:
    """Return `encode_int8` of the vectors, in little more memory than the codes take."""
    count, dim = embeddings.shape
    codes = torch.empty((count, dim), dtype=torch.uint8, device=embeddings.device)
    scales = torch.empty(count, device=embeddings.device)
    for start in range(0, count, rows):
        some = encode_int8(embeddings[start : start + rows])
        codes[start : start + rows], scales[start : start + rows] = some.codes, some.scales
    return Int8Vectors(codes, scales)


def scores_at(
    vectors: Vectors, query: Float[Tensor, "bsz dim"], rows: Int64[Tensor, "bsz n_found"]
) -> Float[Tensor, "bsz n_found"]:
    """Return each query's inner products with its own rows, computed in the query's dtype."""
    scores = query.new_empty(rows.shape)
    for one, (vector, its_rows) in enumerate(zip(query, rows, strict=True)):
        scores[one] = vectors.at(its_rows).to(query.dtype) @ vector
    return scores
