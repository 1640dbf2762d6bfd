"""Checksums of vectors that a database keeps, by which it is known later if they are the same."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

DIGEST_ROWS = 1000
"""Rows under one checksum."""
DIGEST_BYTES = 32


def pieces(count: int) -> list[range]:
    """Return the rows under each checksum."""
    starts = range(0, count, DIGEST_ROWS)
    return [range(start, min(start + DIGEST_ROWS, count)) for start in starts]


def digest(vectors: Float[Tensor, "some dim"]) -> bytes:
    """Return the SHA-256 of vectors in float32."""
    return hashlib.sha256(vectors.cpu().float().contiguous().numpy().astype("<f4").data).digest()


def digests_of(vectors: Float[Tensor, "n dim"]) -> UInt8[Tensor, "pieces 32"]:
    """Return the checksums of the vectors, mapped perhaps, piece by piece."""
    found = b"".join(digest(vectors[rows.start : rows.stop]) for rows in pieces(len(vectors)))
    return torch.from_numpy(np.frombuffer(bytearray(found), np.uint8).reshape(-1, DIGEST_BYTES))
