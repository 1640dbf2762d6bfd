"""Vectors to the codes of a kind of index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from atlas_lm.index.files import Fingerprint, Recall
from atlas_lm.index.settings import IndexSettings
from atlas_lm.index.storage import ArraySource
from atlas_lm.runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What `build` writes for a kind beside, or in the place of, the vectors."""

    arrays: Mapping[str, ArraySource] = field(default_factory=dict)
    """Files by role: a tensor, or a function that writes to a path."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the manifest records."""
    recall: Recall | None = None
    """Measured on a sample; None for an exact index."""


def encode(
    settings: IndexSettings,
    embeddings: Float[Tensor, "n dim"],
    *,
    directory: Path,
    fingerprint: Fingerprint,
) -> Encoded:
    """Return the codes of mapped vectors, made in bounded memory, and their recall.

    Args:
        settings: which kind.
        embeddings: the vectors, mapped.
        directory: where the index will be, for files that a library writes itself.
        fingerprint: what the vectors were computed with, and over.
    """
    raise InputError(f"kind {settings.kind!r} cannot be built yet")
