"""Any index that a faiss factory string names, trained on a sample, kept without its vectors.

- One file, written by faiss itself (no pickle) and opened mapped where its type allows.
- Where vectors are kept too, what faiss finds is rescored from them; else scores are faiss' own
  estimates of the inner product.
- Rows that may not be returned are kept out by an IDSelector, or, where the type has none, by
  finding more. A query that gets too few rows so is searched again more widely.
- Searches are the same every time. Graphs (HNSW) built on several threads differ from build to
  build.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from atlas_lm.index.coded import CodedIndex, Facts, kept_vectors
from atlas_lm.index.exact import (
    MARGIN,
    check_queries,
    exact_search,
    excluded_pairs,
    sort_found,
)
from atlas_lm.index.files import read_manifest
from atlas_lm.index.settings import IndexSettings
from atlas_lm.index.size import default_lists, training_rows
from atlas_lm.index.storage import ArraySource, array_path
from atlas_lm.index.vectors import Dense, scores_at
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import SearchResult

ADD_ROWS = 65_536
"""Vectors handed to faiss at once."""
EF_SEARCH = 128
"""Candidates kept while walking an HNSW graph, where settings do not say."""

Found = tuple[Float[Tensor, "bsz n_found"], Int64[Tensor, "bsz n_found"]]


def faiss_module() -> Any:
    """Return the faiss library.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise InputError(
            "an index of kind faiss needs the faiss library; run `pip install 'atlas-lm[faiss]'`"
        ) from error


def train(settings: IndexSettings, embeddings: Float[Tensor, "n dim"]) -> Any:
    """Return the faiss index of the vectors, trained on a sample of them.

    Memory beyond the index itself is that of the sample in float32.

    Raises:
        InputError: faiss is not installed, does not know the factory string, or cannot train it
            on so few vectors.
    """
    faiss = faiss_module()
    count, dim = embeddings.shape
    factory = resolved_factory(settings.factory, count)
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        sampled = settings.train_rows or training_rows(_lists(faiss, index))
        index.train(_sample(embeddings, sampled, settings.seed).numpy())
        for start in range(0, count, ADD_ROWS):
            index.add(embeddings[start : start + ADD_ROWS].float().cpu().numpy())
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"faiss cannot build {factory!r} over {count} vectors of {dim} components: "
            f"{_reason(error)}; choose another factory string"
        ) from error
    return index


def check_factory(settings: IndexSettings, count: int, dim: int) -> None:
    """Refuse, before there are vectors, a factory string that `train` would refuse.

    Raises:
        InputError: faiss is not installed, does not know the string, or needs more vectors for its
            lists or its product codes.
    """
    faiss = faiss_module()
    factory = resolved_factory(settings.factory, count)
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"faiss cannot build {factory!r} for vectors of {dim} components: "
            f"{_reason(error)}; choose another factory string"
        ) from error
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.index)
    codes = getattr(inner, "pq", None)
    needed = max(_lists(faiss, index), 0 if codes is None else int(codes.ksub))
    sampled = settings.train_rows or training_rows(_lists(faiss, index))
    trained_on = min(count, sampled)
    if trained_on < needed:
        raise InputError(
            f"faiss {factory!r} is trained on at least {needed} vectors, and these are "
            f"{trained_on} (of {count} passages); choose another factory string"
            + (" or a larger train_rows" if trained_on < count else "")
        )


def resolved_factory(factory: str, count: int) -> str:
    """Return the factory string with a number of lists where ``IVF`` has none.

    It is as many as `index.size` reckons with.
    """
    return re.sub(r"IVF(?=,|_|$)", f"IVF{default_lists(count)}", factory)


def _sample(embeddings: Float[Tensor, "n dim"], count: int, seed: int) -> Float[Tensor, "some dim"]:
    if len(embeddings) <= count:
        return embeddings.float().cpu()
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.choice(len(embeddings), count, replace=False))
    return embeddings[torch.from_numpy(rows)].float().cpu()


class FaissIndex(CodedIndex):
    """An index of the faiss library. Implements `index.base.Index`."""

    def __init__(
        self,
        facts: Facts,
        index: Any,
        vectors: Float[Tensor, "n dim"] | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        """Take the faiss index, and the vectors to rescore from where they are kept.

        Raises:
            InputError: ``device`` is a GPU, and the installed faiss has none.
        """
        super().__init__(facts, vectors)
        self._faiss = faiss_module()
        self._on_cpu = index
        self._device = torch.device(device)
        self._index = index if self._device.type == "cpu" else self._on_gpu(index)
        self._n_lists = _lists(self._faiss, index)
        self._set("nprobe", self.nprobe)
        self._set("efSearch", self.ef_search)

    @property
    def nprobe(self) -> int:
        """Lists visited by a query (IVF); what is set here is saved."""
        return self.facts.settings.nprobe or max(self._n_lists // 16, 1)

    @nprobe.setter
    def nprobe(self, lists: int) -> None:
        self._change(nprobe=lists)
        self._set("nprobe", lists)

    @property
    def ef_search(self) -> int:
        """Candidates kept while walking the graph (HNSW); what is set here is saved."""
        return self.facts.settings.ef_search or EF_SEARCH

    @ef_search.setter
    def ef_search(self, candidates: int) -> None:
        self._change(ef_search=candidates)
        self._set("efSearch", candidates)

    def _change(self, **settings: Any) -> None:
        changed = dataclasses.replace(self.facts.settings, **settings)
        self.facts = dataclasses.replace(self.facts, settings=changed)

    def _set(self, name: str, value: int) -> None:
        """Set it on the index too, for types that take no parameters at search."""
        try:
            self._faiss.ParameterSpace().set_index_parameter(self._index, name, value)
        except RuntimeError:
            return  # this type has no such parameter

    def _on_gpu(self, index: Any) -> Any:
        if not hasattr(self._faiss, "StandardGpuResources"):
            raise InputError(
                f"device {str(self._device)!r}: the installed faiss is for the CPU; leave the "
                "device out, or install a faiss for GPUs"
            )
        resources = self._faiss.StandardGpuResources()
        return self._faiss.index_cpu_to_gpu(resources, self._device.index or 0, index)

    @property
    def device(self) -> torch.device:
        """Where searches run; results are on the CPU all the same where it is a GPU."""
        return self._device

    def way(self, bsz: int) -> str:
        """Return in words how a batch of ``bsz`` queries is searched."""
        factory = resolved_factory(self.facts.settings.factory, len(self))
        width = f", {self.nprobe} of {self._n_lists} lists" if self._n_lists else ""
        width += f", ef_search {self.ef_search}" if "HNSW" in factory.split(",")[0] else ""
        source = "" if self.vectors is None else f", rescored from {self.dtype} vectors"
        return f"faiss {factory}{width}{source}, on {self.device}"

    def search(
        self,
        query_emb: Float[Tensor, "bsz dim"],
        topk: int,
        exclude_rows: Sequence[Sequence[int]] | None = None,
        *,
        allowed_rows: Bool[Tensor, " n"] | None = None,
    ) -> SearchResult:
        """Return the ``topk`` best rows of every query; see `base.Index.search`."""
        query = query_emb.detach().to("cpu", torch.float32)
        check_queries(query, len(self), self.dim, topk)
        excluded = excluded_pairs(exclude_rows, len(query), len(self), topk, allowed_rows)
        allowed = None if allowed_rows is None else allowed_rows.cpu()
        scores, rows = self._found(query, topk, excluded, allowed)
        if self.vectors is not None:
            exact = scores_at(Dense(self.vectors), query.double(), rows.clamp(min=0)).float()
            scores = torch.where(scores == -torch.inf, scores, exact)
        scores, rows = sort_found(scores, rows)
        return SearchResult(scores[:, :topk], rows[:, :topk])

    def _found(
        self,
        query: Float[Tensor, "bsz dim"],
        topk: int,
        excluded: Int64[Tensor, "pairs 2"],
        allowed: Bool[Tensor, " n"] | None,
    ) -> Found:
        """Return at least ``topk`` rows of every query, whatever it takes; -inf marks no row."""
        wanted = topk + MARGIN
        if self.vectors is not None:
            wanted = max(wanted, self.facts.settings.rescored(topk))
        wanted = min(wanted, len(self))
        most = int(torch.bincount(excluded[:, 1]).max()) if len(excluded) else 0
        scores = query.new_full((len(query), wanted), -torch.inf)
        rows = torch.zeros((len(query), wanted), dtype=torch.int64)
        left, width = torch.arange(len(query)), 1
        while len(left) and width <= len(self):
            count = min((wanted + most) * width, len(self))
            some, its_rows = self._search(query[left], count, allowed, width)
            keys = left[:, None] * len(self) + its_rows
            some[torch.isin(keys, excluded[:, 1] * len(self) + excluded[:, 0])] = -torch.inf
            some, its_rows = sort_found(some, its_rows)
            scores[left], rows[left] = some[:, :wanted], its_rows[:, :wanted]
            left = left[some[:, topk - 1] == -torch.inf]
            width *= 8
        for one in left.tolist():  # a graph that does not lead to enough of the allowed rows
            its = excluded[excluded[:, 1] == one, 0].tolist()
            found = exact_search(
                _Decoded(self._on_cpu), query[one : one + 1], topk, [its], allowed_rows=allowed
            )
            scores[one], rows[one] = -torch.inf, 0
            scores[one, :topk], rows[one, :topk] = found.scores[0], found.rows[0]
        return scores, rows

    def _search(
        self,
        query: Float[Tensor, "bsz dim"],
        count: int,
        allowed: Bool[Tensor, " n"] | None,
        width: int,
    ) -> Found:
        """Search ``width`` times as widely as set; rows not allowed score -inf."""
        selector = None
        if allowed is not None:
            bits = np.packbits(allowed.numpy(), bitorder="little")
            selector = self._faiss.IDSelectorBitmap(bits)
        parameters = self._parameters(self._index, selector, width, count)
        try:
            found, labels = self._index.search(query.numpy(), count, params=parameters)
        except RuntimeError as error:
            raise InputError(
                f"faiss cannot search this index ({_reason(error)}); check its files with "
                "`atlas-lm index verify`"
            ) from error
        scores, rows = torch.from_numpy(found), torch.from_numpy(labels)
        scores = scores.masked_fill(rows < 0, -torch.inf)
        rows = rows.clamp(min=0)
        if allowed is not None:
            scores = scores.masked_fill(~allowed[rows], -torch.inf)
        return scores, rows

    def _parameters(self, index: Any, selector: Any, width: int, count: int) -> Any:
        """Return search parameters; None for types that take none, of which more are fetched."""
        faiss = self._faiss
        index = faiss.downcast_index(index)
        kept = {} if selector is None else {"sel": selector}
        if isinstance(index, faiss.IndexPreTransform):
            inner = self._parameters(index.index, selector, width, count)
            return inner and faiss.SearchParametersPreTransform(index_params=inner)
        if isinstance(index, faiss.IndexIVF):
            nprobe = min(self.nprobe * width, index.nlist)
            return faiss.SearchParametersIVF(nprobe=nprobe, **kept)
        if isinstance(index, faiss.IndexHNSW):
            ef_search = min(max(self.ef_search * width, count), len(self))
            return faiss.SearchParametersHNSW(efSearch=ef_search, **kept)
        if isinstance(index, (faiss.IndexFlat, faiss.IndexScalarQuantizer, faiss.IndexRaBitQ)):
            return faiss.SearchParameters(**kept)
        return None

    def arrays(self) -> Mapping[str, ArraySource]:
        """Return the kind's files by role."""
        return {"faiss": lambda path: self._faiss.write_index(self._on_cpu, str(path))}

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: torch.device | str = "cpu",
        mmap: bool = True,
        verify: bool = False,
    ) -> FaissIndex:
        """Open an index directory; file sizes are checked against the manifest.

        Args:
            path: the directory.
            device: where to search; a GPU where the installed faiss has it. Full-precision vectors
                are never moved there.
            mmap: map the file where the type of index allows; full-precision vectors are always.
            verify: also compare the checksums, which reads the files.

        Raises:
            InputError: the manifest is missing, damaged or of another kind; a file is missing,
                truncated, (``verify``) altered, or no index of as many vectors; or faiss is not
                installed.
        """
        path = Path(path)
        faiss = faiss_module()
        manifest = read_manifest(path, kind="faiss")
        vectors = kept_vectors(path, manifest, verify=verify)
        file = array_path(path, manifest, "faiss", verify=verify)
        try:
            index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC if mmap else 0)
        except RuntimeError as error:
            raise InputError(
                f"{file}: faiss cannot read it ({_reason(error)}); copy it again or rebuild the "
                "index"
            ) from error
        if (index.ntotal, index.d) != (manifest.count, manifest.dim):
            raise InputError(
                f"{file}: {index.ntotal} vectors of {index.d} components instead of "
                f"{manifest.count} of {manifest.dim}; rebuild the index"
            )
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise InputError(f"{file}: is no index by inner product; rebuild the index")
        return cls(Facts.of(path, manifest), index, vectors, device=device)


class _Decoded:
    """The vectors of a faiss index, decoded from its codes; see `vectors.Vectors`."""

    device = torch.device("cpu")

    def __init__(self, index: Any) -> None:
        self._index = index

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dim(self) -> int:
        return int(self._index.d)

    def chunk(self, start: int, stop: int, room: Tensor) -> Tensor:
        count = min(stop, len(self)) - start
        return torch.from_numpy(self._index.reconstruct_n(start, count))

    def at(self, rows: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        decoded = [self._index.reconstruct(row) for row in rows.reshape(-1).tolist()]
        return torch.from_numpy(np.stack(decoded)).view(*rows.shape, self.dim)


def _lists(faiss: Any, index: Any) -> int:
    """Return the number of lists of an IVF index, however wrapped; 0 for another."""
    ivf = faiss.try_extract_index_ivf(index)
    return int(ivf.nlist) if ivf is not None else 0


def _reason(error: BaseException) -> str:
    """Return what a faiss error says, without the place in its source."""
    return str(error).strip().rsplit("\n", 1)[-1].rsplit("Error: ", 1)[-1].strip()
