"""Vectors as an index of faiss codes has them, so that added passages compete as equals.

Without its vectors such an index scores a row by what its code says, which falls short of the inner
product most for the rows nearest to a query: a code stands for the mean of many vectors. Rows
added with their exact vectors would crowd the old ones out of the first places.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atlas_lm.index.build import Embed
from atlas_lm.index.faiss import faiss_module
from atlas_lm.index.files import Manifest
from atlas_lm.index.storage import array_path
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Passage

NEARLY_EXACT = re.compile(r"(Flat|SQ6|SQ8|SQfp16|SQbf16|HNSW\d*)$")
"""Ends of factory strings whose scores are inner products, or as near as makes no difference."""


def scores_by_codes(manifest: Manifest) -> bool:
    """Return whether the scores of an index cannot be compared with another's exact ones."""
    of_codes = manifest.kind == "faiss" and not manifest.embeddings
    return of_codes and NEARLY_EXACT.search(str(manifest.settings["factory"])) is None


def as_coded(path: Path, manifest: Manifest, embed: Embed) -> Embed:
    """Return ``embed`` with its vectors as the index in ``path`` has its own: coded and decoded.

    They are left as they are where the index has its vectors or is of another kind than faiss, and
    where faiss has no codec (a graph behind a transform).

    Raises:
        InputError: faiss is not installed, or the index's file is missing or damaged.
    """
    if manifest.kind != "faiss" or manifest.embeddings:
        return embed
    index = _read(array_path(path, manifest, "faiss"))

    def coded(passages: Sequence[Passage]) -> Tensor:
        vectors = embed(passages).detach().to("cpu", torch.float32)
        if vectors.shape != (len(passages), manifest.dim) or not bool(vectors.isfinite().all()):
            return vectors  # refused by whoever asked for them
        codec = _codec(index)
        try:
            return torch.from_numpy(codec.sa_decode(codec.sa_encode(vectors.numpy())))
        except RuntimeError:
            return vectors

    return coded


def _read(file: Path) -> Any:
    faiss = faiss_module()
    try:
        return faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise InputError(
            f"{file}: faiss cannot read it; copy it again or rebuild the index"
        ) from error


def _codec(index: Any) -> Any:
    """Return what codes an index's vectors: itself, or where its graph keeps them.

    It lives as long as the index does.
    """
    faiss = faiss_module()
    inner = faiss.downcast_index(index)
    return faiss.downcast_index(inner.storage) if isinstance(inner, faiss.IndexHNSW) else inner
