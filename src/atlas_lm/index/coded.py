"""What the kinds that keep codes share: facts, the vectors they may rescore from, saving."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atlas_lm.index.directory import writing
from atlas_lm.index.files import Fingerprint, Manifest, PassageFiles, Recall
from atlas_lm.index.settings import IndexSettings
from atlas_lm.index.storage import ArraySource, map_embeddings, write_index
from atlas_lm.runtime.dtypes import DTYPES
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import SearchResult


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What an index of codes knows beside its codes."""

    count: int
    """Rows."""
    settings: IndexSettings
    """How it was built."""
    fingerprint: Fingerprint
    """What the vectors were computed with, and over."""
    step: int = 0
    """The retriever's step when they were computed."""
    passages: PassageFiles | None = None
    """The passages the rows stand for, once the index is on disk."""
    recall: Recall | None = None
    """Measured when the index was built."""
    created: str = ""
    """When the vectors were written (UTC, ISO 8601); "" where they are not yet."""

    @classmethod
    def of(cls, directory: Path, manifest: Manifest) -> Facts:
        """Return what the manifest of an index directory says.

        Raises:
            InputError: its settings are damaged or of a newer version.
        """
        settings = IndexSettings.from_dict(manifest.settings, place=str(directory))
        return cls(
            count=manifest.count,
            settings=settings,
            fingerprint=manifest.fingerprint,
            step=manifest.step,
            passages=manifest.passages.located(directory) if manifest.passages else None,
            recall=manifest.recall,
            created=manifest.created,
        )

    def share(self, rows: range) -> Facts:
        """Return the facts of some of the rows."""
        return dataclasses.replace(self, count=len(rows))


class CodedIndex(ABC):
    """An index of codes. Each kind says how it searches and which files it has."""

    def __init__(self, facts: Facts, vectors: Float[Tensor, "n dim"] | None) -> None:
        """Take the facts, and the full-precision vectors where they are kept."""
        self.facts = facts
        self.vectors = vectors
        """Full-precision vectors to rescore from, mapped perhaps; None where only codes are."""
        self.fingerprint = facts.fingerprint
        """What the vectors were computed with, and over."""
        self.passage_files = facts.passages
        """The passages the rows stand for, once the index is on disk."""
        self.recall = facts.recall
        """Share of the exact result it finds, measured when it was built."""

    def __len__(self) -> int:
        return self.facts.count

    @property
    def dim(self) -> int:
        """Components of an embedding."""
        return self.fingerprint.dim

    @property
    def dtype(self) -> torch.dtype:
        """How vectors are stored beside the codes, or were before they were coded."""
        return DTYPES[self.facts.settings.dtype]

    @property
    def step(self) -> int:
        """The retriever's step when the vectors were computed."""
        return self.facts.step

    @property
    def created(self) -> str:
        """When the vectors were written (UTC, ISO 8601); "" where they are not yet."""
        return self.facts.created

    @property
    def device(self) -> torch.device:
        """Where searches run."""
        return torch.device("cpu")

    @abstractmethod
    def search(
        self,
        query_emb: Float[Tensor, "bsz dim"],
        topk: int,
        exclude_rows: Sequence[Sequence[int]] | None = None,
        *,
        allowed_rows: Bool[Tensor, " n"] | None = None,
    ) -> SearchResult:
        """Return the ``topk`` best rows of every query; see `base.Index.search`."""

    @abstractmethod
    def way(self, bsz: int) -> str:
        """Return in words how a batch of ``bsz`` queries is searched."""

    @abstractmethod
    def arrays(self) -> Mapping[str, ArraySource]:
        """Return the kind's files by role."""

    def save(
        self,
        path: str | Path,
        *,
        passages: PassageFiles | None = None,
        copy_passages: bool = False,
    ) -> None:
        """Write the index directory, or replace the index in it; a kill leaves the old or the new.

        Codes are written as they are, and full-precision vectors only where the index has them.

        Args:
            path: the directory.
            passages: the passage files of the rows; those the index was loaded with if None.
            copy_passages: put a copy of the passages into the directory instead of their names.

        Raises:
            InputError: the directory holds something else, is being written, or the disk is full.
        """
        with writing(path):
            self.save_claimed(path, passages=passages, copy_passages=copy_passages)

    def save_claimed(
        self, path: str | Path, *, passages: PassageFiles | None, copy_passages: bool
    ) -> None:
        """Do what `save` does in a directory that this process is already the writer of."""
        passages = passages or self.passage_files
        self.passage_files = write_index(
            Path(path),
            self.vectors,
            kind=self.facts.settings.kind,
            step=self.step,
            fingerprint=self.fingerprint,
            passages=passages,
            copy_passages=copy_passages or (passages is not None and passages.copied),
            arrays=self.arrays(),
            settings=self.facts.settings.as_dict(),
            recall=self.recall,
            count=len(self),
            dtype=self.dtype,
            created=self.created,
        ).passages


def kept_vectors(directory: Path, manifest: Manifest, *, verify: bool = False) -> Tensor | None:
    """Return the mapped full-precision vectors of an index directory; None where it has none.

    Raises:
        InputError: see `storage.map_embeddings`.
    """
    return map_embeddings(directory, manifest, verify=verify) if manifest.embeddings else None


def require_cpu(device: torch.device | str, kind: str) -> None:
    """Raise `InputError` unless ``device`` is the CPU."""
    if torch.device(device).type != "cpu":
        raise InputError(
            f"device {str(device)!r}: an index of kind {kind} is searched on the CPU; leave the "
            "device out, or build kind flat or int8"
        )
