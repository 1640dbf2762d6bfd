"""Vectors kept in one byte a component: a quarter of float32, half of float16.

Without full-precision vectors, scores are inner products with the decoded vectors, in float32, and
near ties may come in another order than the vectors' own. With them, the rows found by code are
rescored from the full precision, which stays on disk, mapped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atlas_lm.index.coded import CodedIndex, Facts, kept_vectors
from atlas_lm.index.codes import Int8Scan, load_codes, supported
from atlas_lm.index.exact import exact_search, uses_first_pass
from atlas_lm.index.files import read_manifest
from atlas_lm.index.storage import ArraySource
from atlas_lm.index.vectors import Dense, Int8Vectors
from atlas_lm.types import SearchResult


class Int8Index(CodedIndex):
    """Int8 codes, all of them scored. Implements `index.base.Index`."""

    def __init__(
        self,
        facts: Facts,
        codes: Int8Vectors,
        vectors: Float[Tensor, "n dim"] | None = None,
        *,
        mapped: bool = False,
    ) -> None:
        """Take the codes, and the vectors to rescore from where they are kept."""
        super().__init__(facts, vectors)
        self.codes = codes
        on_cpu = codes.device.type == "cpu"
        self._scan = Int8Scan(codes, mapped=mapped) if on_cpu and supported() else None

    @property
    def device(self) -> torch.device:
        """Where the codes live and searches run."""
        return self.codes.device

    def to(self, device: torch.device | str) -> Int8Index:
        """Return the same index with its codes on ``device``; it rescores from codes alone there.

        Full-precision vectors do not move: they are what does not fit.
        """
        if torch.device(device) == self.device:
            return self
        return Int8Index(self.facts, self.codes.to(device))

    def share(self, rows: range) -> Int8Index:
        """Return an index of these contiguous rows alone, over the same memory."""
        vectors = None if self.vectors is None else self.vectors[rows.start : rows.stop]
        return Int8Index(self.facts.share(rows), self.codes.share(rows), vectors, mapped=True)

    def search(
        self,
        query_emb: Float[Tensor, "bsz dim"],
        topk: int,
        exclude_rows: Sequence[Sequence[int]] | None = None,
        *,
        allowed_rows: Bool[Tensor, " n"] | None = None,
    ) -> SearchResult:
        """Return the ``topk`` best rows of every query; see `base.Index.search`."""
        return exact_search(
            self.codes if self.vectors is None else Dense(self.vectors),
            query_emb,
            topk,
            exclude_rows,
            allowed_rows=allowed_rows,
            first_pass=self._scan,
            rescored=self.facts.settings.rescored(topk),
        )

    def pack_(self) -> None:
        """Copy the codes into memory in the layout that is fastest for single queries, at once."""
        if self._scan is not None:
            self._scan.pack()

    def way(self, bsz: int, topk: int = 100) -> str:
        """Return in words how a batch of ``bsz`` queries is searched."""
        found = self.facts.settings.rescored(topk)
        if self._scan is None or not uses_first_pass(len(self), found):
            return f"float32 products with all decoded codes, in chunks, on {self.device}"
        source = "the codes in float32" if self.vectors is None else f"{self.dtype} vectors"
        return f"{self._scan.way(bsz)}, the best {found} rescored from {source}"

    def arrays(self) -> Mapping[str, ArraySource]:
        """Return the kind's files by role."""
        return {"codes": self.codes.codes, "scales": self.codes.scales}

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: torch.device | str = "cpu",
        mmap: bool = True,
        verify: bool = False,
    ) -> Int8Index:
        """Open an index directory; file sizes are checked against the manifest.

        Args:
            path: the directory.
            device: where to search; on another than the CPU, codes alone are moved there.
            mmap: on CPU, map the codes instead of reading them.
            verify: also compare the checksums, which reads the files.

        Raises:
            InputError: the manifest is missing, damaged or of another kind; or a file is missing,
                truncated or (``verify``) altered.
        """
        path = Path(path)
        manifest = read_manifest(path, kind="int8")
        vectors = kept_vectors(path, manifest, verify=verify)
        codes = load_codes(path, manifest, mmap=mmap, verify=verify)
        return cls(Facts.of(path, manifest), codes, vectors, mapped=mmap).to(device)
