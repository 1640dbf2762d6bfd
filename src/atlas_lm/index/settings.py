"""Which index is built: its kind, and what that kind needs to know."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from atlas_lm.runtime.dtypes import DTYPES
from atlas_lm.runtime.errors import InputError, did_you_mean

Kind = Literal["flat", "int8", "binary", "faiss", "milvus"]
KIND_NAMES: tuple[str, ...] = get_args(Kind)
RESCORE = {"binary": 16}
"""Rows rescored for every row asked for, where settings do not say; 4 for the other kinds."""


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """How vectors are kept and searched. Written into the manifest of the index."""

    kind: Kind = "flat"
    """flat is exact; int8, binary and faiss keep codes; milvus is a database."""
    dtype: str = "float16"
    """How full-precision vectors are stored: float32, float16 or bfloat16."""
    keep_vectors: bool = False
    """Keep the full-precision vectors too, memory-mapped, to rescore with; flat always does."""
    first_pass: bool = True
    """flat: keep int8 codes too, which are read first; the best few hundred are rescored."""
    unpacked: bool = False
    """flat: never copy those codes into memory, in the layout that is fastest for few queries."""
    rescore: int | None = None
    """Rows rescored for every row asked for, from the best vectors kept; 16 for binary, else 4."""
    factory: str = ""
    """faiss: the factory string, such as IVF4096,PQ64 or HNSW32."""
    nprobe: int | None = None
    """faiss IVF: lists visited by a query; a sixteenth of them if None."""
    ef_search: int | None = None
    """faiss HNSW: candidates kept while walking the graph; 128 if None."""
    train_rows: int | None = None
    """faiss: vectors sampled to train the index on; see `size.training_rows` if None."""
    url: str = ""
    """milvus: the server's URL; a file in the index directory if empty."""
    collection: str = ""
    """milvus: name of the collection; made from the fingerprint if empty."""
    database: str = "milvus.db"
    """milvus without a URL: name of the database in the index directory."""
    recall_k: int = 100
    """Rows per query when recall against exact search is measured at build time."""
    recall_queries: int = 128
    """Vectors sampled as queries for it; 0 measures nothing."""
    seed: int = 0
    """Governs what is sampled."""

    def __post_init__(self) -> None:
        """Refuse what cannot be built, naming the value and the remedy."""
        if self.kind not in KIND_NAMES:
            raise InputError(
                f"index kind {self.kind!r} is none of {', '.join(KIND_NAMES)}"
                f"{did_you_mean(str(self.kind), KIND_NAMES)}"
            )
        if self.dtype not in DTYPES:
            raise InputError(f"dtype {self.dtype!r}: store vectors as {', '.join(DTYPES)}")
        if self.kind == "faiss" and not self.factory:
            raise InputError("kind faiss needs a factory string, such as factory='IVF4096,PQ64'")
        if self.kind != "faiss" and self.factory:
            raise InputError(
                f"factory {self.factory!r}, but kind={self.kind!r}; a factory needs kind=faiss, "
                "so set kind=faiss"
            )
        least = {"rescore": 1, "train_rows": 1, "recall_k": 1, "recall_queries": 0}
        for name in ("nprobe", "ef_search", *least):
            value = getattr(self, name)
            if value is not None and value < least.get(name, 1):
                raise InputError(f"{name}={value}: choose at least {least.get(name, 1)}")

    def check_used(self) -> None:
        """Refuse what is set but has no effect on an index of this kind.

        Manifests may hold it, so settings that do are not refused as such.

        Raises:
            InputError: an option has none; the message says of which kind it is.
        """
        faiss, milvus = self.kind == "faiss", self.kind == "milvus"
        coded = self.kind in ("int8", "binary") or (faiss and self.keep_vectors)
        factory = self.factory.upper()
        options = {
            "url": (milvus, "set kind=milvus"),
            "collection": (milvus, "set kind=milvus"),
            "nprobe": (faiss and "IVF" in factory, "choose kind=faiss and a factory with IVF"),
            "ef_search": (faiss and "HNSW" in factory, "choose kind=faiss and a factory with HNSW"),
            "train_rows": (faiss, "set kind=faiss"),
            "rescore": (coded, "choose int8, binary, or faiss with keep_vectors"),
            "first_pass": (self.kind == "flat", "set kind=flat"),
            "unpacked": (self.kind == "flat", "set kind=flat"),
        }
        for name, (used, remedy) in options.items():
            value = getattr(self, name)
            if not used and value != getattr(IndexSettings, name):
                kind = f"faiss {self.factory}" if faiss else self.kind
                raise InputError(
                    f"{name}={value!r} has no effect on an index of kind {kind}; {remedy}, or "
                    "leave it out"
                )

    @property
    def keeps_vectors(self) -> bool:
        """Whether the index directory holds the full-precision vectors."""
        return self.kind == "flat" or self.keep_vectors

    def rescored(self, topk: int) -> int:
        """Return how many rows are rescored for ``topk`` rows."""
        return topk * (self.rescore or RESCORE.get(self.kind, 4))

    def as_dict(self) -> dict[str, Any]:
        """Return what the manifest records."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, place: str) -> IndexSettings:
        """Return the settings that a manifest records; what is missing takes its default.

        Raises:
            InputError: an unknown field or an impossible value; ``place`` is named.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise InputError(
                    f"{place}: unknown setting {name!r}; upgrade atlas-lm or rebuild the index"
                )
        try:
            return cls(**values)
        except (InputError, TypeError) as error:
            raise InputError(f"{place}: {error}") from error
