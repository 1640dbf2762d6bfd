"""Vectors to the codes of a kind of index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from atlas_lm.index.binary import BinaryIndex, Signs, encode_signs
from atlas_lm.index.coded import CodedIndex, Facts
from atlas_lm.index.faiss import FaissIndex, check_factory, train
from atlas_lm.index.files import Fingerprint, Recall
from atlas_lm.index.int8 import Int8Index
from atlas_lm.index.milvus import Metadata, MilvusIndex
from atlas_lm.index.recall import measure_recall
from atlas_lm.index.settings import IndexSettings
from atlas_lm.index.shares import mapped_room
from atlas_lm.index.storage import ArraySource
from atlas_lm.index.vectors import Int8Vectors, encode_int8
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.mapping import let_go

CODED_AT_ONCE = 16_384
"""Rows coded at once."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What `build` writes for a kind beside, or in the place of, the vectors."""

    arrays: Mapping[str, ArraySource] = field(default_factory=dict)
    """Files by role: a tensor, or a function that writes to a path."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the manifest records."""
    recall: Recall | None = None
    """Measured on a sample; None for an exact index."""


@dataclass(frozen=True)
class _Rows:
    """What is made into an index."""

    embeddings: Float[Tensor, "n dim"]
    vectors: Float[Tensor, "n dim"] | None
    """The same where full precision is kept."""
    metadata: Metadata | None


def encode(
    settings: IndexSettings,
    embeddings: Float[Tensor, "n dim"],
    *,
    directory: Path,
    fingerprint: Fingerprint,
    queries: Float[Tensor, "n_queries dim"] | None = None,
    metadata: Metadata | None = None,
) -> Encoded:
    """Return the codes of mapped vectors, made in bounded memory, and their recall.

    Codes live in unnamed files in ``directory`` until the result is dropped, so memory holds
    little of them; the disk has room for them before they are made. An index of faiss is held
    whole.

    Args:
        settings: which kind.
        embeddings: the vectors, mapped.
        directory: where the index will be.
        fingerprint: what the vectors were computed with, and over.
        queries: embedded queries to measure recall with; vectors are sampled if None.
        metadata: fields that a database stores with each row.

    Raises:
        InputError: a library is missing or cannot build the kind, or the disk is full.
    """
    if settings.kind == "flat":
        codes = _int8(embeddings, directory)
        arrays = {"codes": codes.codes, "scales": codes.scales}
        return Encoded(arrays=arrays, settings=settings.as_dict())
    maker = _MAKERS.get(settings.kind)
    if maker is None:
        raise InputError(f"kind {settings.kind!r} keeps no codes in the index directory")
    facts = Facts(count=len(embeddings), settings=settings, fingerprint=fingerprint)
    vectors = embeddings if settings.keeps_vectors else None
    index = maker(facts, _Rows(embeddings, vectors, metadata), directory)
    recall = measure_recall(index, embeddings, settings, queries)
    return Encoded(arrays=index.arrays(), settings=index.facts.settings.as_dict(), recall=recall)


def disk_needed(settings: IndexSettings, count: int, dim: int) -> int:
    """Return the bytes of disk that making codes takes beside the vectors; 0 where not known.

    Codes are there twice until the index is written: where they are made, and as its files.
    """
    signs, codes = -(-dim // 8) + 4, dim + 4
    a_row = {
        "flat": codes if settings.first_pass else 0,
        "int8": codes,
        "binary": signs if settings.keep_vectors else signs + codes,
    }
    return 2 * count * a_row.get(settings.kind, 0)


def check_possible(
    settings: IndexSettings, count: int, *, directory: Path, fingerprint: Fingerprint
) -> None:
    """Refuse, before vectors are computed, what `encode` would refuse once they are there.

    Raises:
        InputError: a library is missing, a factory string is not known or needs more vectors, a
            server cannot be reached, or its collection holds other vectors.
    """
    if settings.kind == "faiss":
        check_factory(settings, count, fingerprint.dim)
    if settings.kind == "milvus":
        facts = Facts(count=count, settings=settings, fingerprint=fingerprint)
        MilvusIndex.check(facts, directory)


def _make_int8(facts: Facts, made_of: _Rows, directory: Path) -> Int8Index:
    return Int8Index(facts, _int8(made_of.embeddings, directory), made_of.vectors, mapped=True)


def _make_binary(facts: Facts, made_of: _Rows, directory: Path) -> BinaryIndex:
    count, dim = made_of.embeddings.shape
    bits = mapped_room(directory, count, -(-dim // 8), torch.uint8)
    worth = mapped_room(directory, count, 1, torch.float32)[:, 0]
    for rows in _slices(count):
        some = encode_signs(made_of.embeddings[rows])
        bits[rows], worth[rows] = some.bits, some.worth
        _let_go(made_of.embeddings, bits, worth)
    codes = None if made_of.vectors is not None else _int8(made_of.embeddings, directory)
    return BinaryIndex(facts, Signs(bits, worth), codes, made_of.vectors)


def _make_faiss(facts: Facts, made_of: _Rows, directory: Path) -> FaissIndex:
    return FaissIndex(facts, train(facts.settings, made_of.embeddings), made_of.vectors)


def _make_milvus(facts: Facts, made_of: _Rows, directory: Path) -> MilvusIndex:
    return MilvusIndex.create(
        facts, made_of.embeddings, made_of.vectors, directory, metadata=made_of.metadata
    )


_MAKERS: dict[str, Callable[[Facts, _Rows, Path], CodedIndex]] = {
    "int8": _make_int8,
    "binary": _make_binary,
    "faiss": _make_faiss,
    "milvus": _make_milvus,
}


def _int8(embeddings: Float[Tensor, "n dim"], directory: Path) -> Int8Vectors:
    """Return the vectors' int8 codes, in unnamed files."""
    count, dim = embeddings.shape
    codes = mapped_room(directory, count, dim, torch.uint8)
    scales = mapped_room(directory, count, 1, torch.float32)[:, 0]
    for rows in _slices(count):
        some = encode_int8(embeddings[rows])
        codes[rows], scales[rows] = some.codes, some.scales
        _let_go(embeddings, codes, scales)
    return Int8Vectors(codes, scales)


def _let_go(*mapped: Tensor) -> None:
    for tensor in mapped:
        let_go(tensor)


def _slices(count: int) -> list[slice]:
    return [slice(start, start + CODED_AT_ONCE) for start in range(0, count, CODED_AT_ONCE)]
