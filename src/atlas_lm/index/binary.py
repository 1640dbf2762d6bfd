"""Vectors kept in one bit a component, the sign; the rows found so are rescored from better ones.

The first pass estimates q.x as |x|^2 / |x|_1 times q.sign(x), without bias over random rotations
(RaBitQ, Gao and Long 2024, equation 12); the query keeps eight bits. What it finds is rescored
from full-precision vectors where they are kept, else from int8 codes. Either stay on disk, mapped:
memory holds the bits, a 32nd of float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor

from atlas_lm.index.coded import CodedIndex, Facts, kept_vectors, require_cpu
from atlas_lm.index.codes import IntegerProduct, load_codes, supported
from atlas_lm.index.exact import exact_search, uses_first_pass
from atlas_lm.index.files import Manifest, read_manifest
from atlas_lm.index.first_pass import CHUNK_ROWS, Found, Scorer, best_of_chunks
from atlas_lm.index.storage import ArraySource, map_array
from atlas_lm.index.vectors import Dense, Int8Vectors, Vectors
from atlas_lm.types import SearchResult

QUERY_LEVELS = 127
"""Steps from zero to a query's largest component."""


@dataclass(frozen=True)
class Signs:
    """The signs of vectors, packed, and what one of their products is worth."""

    bits: UInt8[Tensor, "n bytes"]
    """Bit d of a row, the lowest of a byte first, is set where component d is not negative."""
    worth: Float32[Tensor, " n"]
    """|x|^2 / |x|_1 of each row."""


def encode_signs(embeddings: Float[Tensor, "n dim"]) -> Signs:
    """Return the vectors' signs."""
    wide = embeddings.float()
    packed = np.packbits((wide >= 0).cpu().numpy(), axis=1, bitorder="little")
    sums = wide.abs().sum(dim=1)
    worth = wide.square().sum(dim=1) / torch.where(sums > 0, sums, 1.0)
    return Signs(torch.from_numpy(packed), worth)


class SignScan:
    """Scores all rows by their signs and keeps each query's best; see `first_pass.FirstPass`."""

    largest_step = 0.0
    """Signs are no rounding."""

    def __init__(self, signs: Signs, dim: int) -> None:
        """Take the signs of vectors of ``dim`` components."""
        self.signs = signs
        self._dim = dim

    def way(self, bsz: int) -> str:
        """Return in words how a batch of ``bsz`` queries is scored."""
        return "signs, unpacked a chunk at a time (oneDNN)" if supported() else "signs, in float32"

    def best(
        self,
        query: Float[Tensor, "bsz dim"],
        n_found: int,
        excluded: Int64[Tensor, "pairs 2"],
        hidden: Bool[Tensor, " n"] | None,
    ) -> Found:
        """Return each query's ``n_found`` best rows by sign; see `first_pass.FirstPass.best`."""
        largest = query.abs().amax(dim=1, keepdim=True)
        largest = torch.where(largest > 0, largest, 1.0)
        unit = query / largest
        total = unit.sum(dim=1)

        def scorer() -> Scorer:
            product = IntegerProduct(unit, QUERY_LEVELS) if supported() else None

            def score(chunk: int) -> tuple[Tensor, bool]:
                rows = slice(chunk * CHUNK_ROWS, (chunk + 1) * CHUNK_ROWS)
                bits = _unpacked(self.signs.bits[rows], self._dim)
                of_ones = product(bits, 0) if product else bits.float() @ unit.T
                worth = self.signs.worth[rows, None]
                return of_ones.mul_(2).sub_(total).mul_(worth), False

            return score

        count = len(self.signs.bits)
        scores, rows = best_of_chunks(scorer, count, len(unit), n_found, excluded, hidden)
        return scores * largest, rows


class BinaryIndex(CodedIndex):
    """Signs to find, better vectors to rescore. Implements `index.base.Index`."""

    def __init__(
        self,
        facts: Facts,
        signs: Signs,
        codes: Int8Vectors | None,
        vectors: Float[Tensor, "n dim"] | None = None,
    ) -> None:
        """Take the signs, and what to rescore from: int8 codes or vectors."""
        super().__init__(facts, vectors)
        self.codes = codes
        self._scan = SignScan(signs, facts.fingerprint.dim)

    def share(self, rows: range) -> BinaryIndex:
        """Return an index of these contiguous rows alone, over the same memory."""
        own = slice(rows.start, rows.stop)
        signs = Signs(self._scan.signs.bits[own], self._scan.signs.worth[own])
        codes = None if self.codes is None else self.codes.share(rows)
        vectors = None if self.vectors is None else self.vectors[own]
        return BinaryIndex(self.facts.share(rows), signs, codes, vectors)

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
            self._better(),
            query_emb,
            topk,
            exclude_rows,
            allowed_rows=allowed_rows,
            first_pass=self._scan,
            rescored=self.facts.settings.rescored(topk),
        )

    def _better(self) -> Vectors:
        if self.vectors is not None:
            return Dense(self.vectors)
        assert self.codes is not None
        return self.codes

    def way(self, bsz: int, topk: int = 100) -> str:
        """Return in words how a batch of ``bsz`` queries is searched."""
        found = self.facts.settings.rescored(topk)
        source = "int8 codes" if self.vectors is None else f"{self.dtype} vectors"
        if not uses_first_pass(len(self), found):
            return f"float32 products with all {source}, in chunks, on cpu"
        return f"{self._scan.way(bsz)}, the best {found} rescored from {source}"

    def arrays(self) -> Mapping[str, ArraySource]:
        """Return the kind's files by role."""
        signs = {"bits": self._scan.signs.bits, "worth": self._scan.signs.worth}
        if self.codes is None:
            return signs
        return {**signs, "codes": self.codes.codes, "scales": self.codes.scales}

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: torch.device | str = "cpu",
        mmap: bool = True,
        verify: bool = False,
    ) -> BinaryIndex:
        """Open an index directory; file sizes are checked against the manifest.

        Args:
            path: the directory.
            device: the CPU.
            mmap: map the signs instead of reading them; what is rescored from is always mapped.
            verify: also compare the checksums, which reads the files.

        Raises:
            InputError: the manifest is missing, damaged or of another kind; or a file is missing,
                truncated or (``verify``) altered; or ``device`` is not the CPU.
        """
        require_cpu(device, "binary")
        path = Path(path)
        manifest = read_manifest(path, kind="binary")
        vectors = kept_vectors(path, manifest, verify=verify)
        codes = None if vectors is not None else load_codes(path, manifest, verify=verify)
        signs = _load_signs(path, manifest, mmap=mmap, verify=verify)
        return cls(Facts.of(path, manifest), signs, codes, vectors)


def _load_signs(directory: Path, manifest: Manifest, *, mmap: bool, verify: bool) -> Signs:
    shape = [manifest.count, -(-manifest.dim // 8)]
    bits = map_array(directory, manifest, "bits", torch.uint8, shape, verify=verify)
    worth = map_array(directory, manifest, "worth", torch.float32, shape[:1], verify=verify)
    return Signs(bits, worth) if mmap else Signs(bits.clone(), worth.clone())


def _unpacked(bits: UInt8[Tensor, "rows bytes"], dim: int) -> UInt8[Tensor, "rows dim"]:
    return torch.from_numpy(np.unpackbits(bits.numpy(), axis=1, count=dim, bitorder="little"))
