"""Vectors in a Milvus database: a file in the index directory, or a cluster that serves many.

- Rows are primary keys, vectors are float32 under an exact (FLAT) index by default; a cluster's own
  index may be approximate. Scores are the server's inner products; ties go to the lower row.
- Vectors go there in batches of upserts, in order: a build that was killed goes on where the
  database stopped, and doing a batch twice changes nothing.
- A collection says which vectors it is filled with (its property ``atlas_lm.vectors``). One that
  holds rows of others is never added to.
- Which collection is ours is in the manifest; a token never is: it comes from the environment.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from atlas_lm.index.coded import CodedIndex, Facts, kept_vectors, require_cpu
from atlas_lm.index.digests import DIGEST_BYTES, digest, digests_of, pieces
from atlas_lm.index.directory import disk_full_explained, free_name, refuse_foreign, writing
from atlas_lm.index.exact import check_queries, excluded_pairs
from atlas_lm.index.files import Manifest, PassageFiles, read_manifest
from atlas_lm.index.milvus_client import connect, place_of, pymilvus_module
from atlas_lm.index.milvus_filter import both, mask_filter, server_filter
from atlas_lm.index.storage import ArraySource, map_array
from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import notice, progress_bar
from atlas_lm.types import SearchResult

DATABASE = "milvus.db"
"""The embedded database in an index directory; a copy may be called milvus.1.db."""
VECTORS = "atlas_lm.vectors"
"""Property of a collection: which vectors it is filled with."""
UPSERT_ROWS = 1000
MOST_FOUND = 16_384
"""Rows that a cluster returns at most for a query."""
LISTED = 10_000
"""Rows that a filter may name; masks that need more are met by finding more, then in pieces."""
ROUNDING = 1e-4
"""Of the product of two lengths: more than float32 loses in an inner product."""
MARGIN = 16
"""Rows found beyond those asked for, so that ties are broken here."""

Metadata = Callable[[range], Sequence[Mapping[str, Any]]]
"""Rows to the fields that are stored with them; see `milvus_filter.described`."""


class MilvusIndex(CodedIndex):
    """A collection of a Milvus database. Implements `index.base.Index`."""

    def __init__(
        self,
        facts: Facts,
        client: Any,
        directory: Path,
        vectors: Float[Tensor, "n dim"] | None = None,
        digests: UInt8[Tensor, "pieces 32"] | None = None,
    ) -> None:
        """Take an open client; ``facts.settings.collection`` is filled.

        Args:
            facts: what the manifest says.
            client: a `pymilvus.MilvusClient`.
            directory: the index directory.
            vectors: full-precision vectors where they are kept; not used by searches.
            digests: checksums of the vectors in the database; see `digests`.
        """
        super().__init__(facts, vectors)
        self.digests = digests
        """Checksums of the vectors in the database; None where none were written."""
        self._client = client
        self._directory = directory

    @property
    def collection(self) -> str:
        """Name of the collection."""
        return self.facts.settings.collection

    @classmethod
    def create(
        cls,
        facts: Facts,
        embeddings: Float[Tensor, "n dim"],
        vectors: Float[Tensor, "n dim"] | None,
        directory: Path,
        *,
        metadata: Metadata | None = None,
        token: str | None = None,
    ) -> MilvusIndex:
        """Put vectors into a collection, going on after those that are there; return the index.

        Args:
            facts: what is known; an empty ``settings.collection`` is named by the vectors.
            embeddings: the vectors, mapped perhaps.
            vectors: the same where the index directory keeps them, else None.
            directory: the index directory, where the embedded database is.
            metadata: fields stored with each row, for filters on the server.
            token: a cluster's token; the environment's if None.

        Raises:
            InputError: pymilvus is missing, the server cannot be reached or refuses, or the
                collection holds other vectors.
        """
        index = cls._unfilled(facts, vectors, directory, token)
        index._take_collection()
        index._fill(embeddings, metadata)
        index.digests = digests_of(embeddings)
        return index

    @classmethod
    def check(cls, facts: Facts, directory: Path) -> None:
        """Refuse what `create` would refuse, before there are vectors; nothing is written.

        Raises:
            InputError: pymilvus is missing, the server cannot be reached, or the collection holds
                other vectors.
        """
        if not facts.settings.url and not (directory / facts.settings.database).exists():
            pymilvus_module(embedded=True)
            return
        index = cls._unfilled(facts, None, directory, None)
        if index._call("has_collection"):
            index._holds_others()
        index.close()

    @classmethod
    def _unfilled(
        cls, facts: Facts, vectors: Tensor | None, directory: Path, token: str | None
    ) -> MilvusIndex:
        """Return an index whose collection has a name and may not be there yet."""
        name = facts.settings.collection or f"atlas_{vectors_digest(facts)}"
        settings = dataclasses.replace(facts.settings, collection=name)
        client = connect(settings, directory, token)
        return cls(dataclasses.replace(facts, settings=settings), client, directory, vectors)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: torch.device | str = "cpu",
        mmap: bool = True,
        verify: bool = False,
        token: str | None = None,
    ) -> MilvusIndex:
        """Open an index directory; the collection must hold as many rows as the manifest says.

        Args:
            path: the directory.
            device: the CPU: the database searches by itself.
            mmap: has no meaning here.
            verify: also compare the checksum of vectors that are kept.
            token: a cluster's token; the environment's if None.

        Raises:
            InputError: the manifest is missing, damaged or of another kind; pymilvus is missing,
                the server cannot be reached, or rows are missing; or the database is in the
                directory and this process is one of several.
        """
        require_cpu(device, "milvus")
        path = Path(path)
        manifest = read_manifest(path, kind="milvus")
        facts = Facts.of(path, manifest)
        database = path / facts.settings.database
        if not facts.settings.url and not database.exists():
            raise InputError(f"{database}: missing; copy it again or rebuild the index")
        processes = distributed.world().size
        if not facts.settings.url and processes > 1:
            raise InputError(
                f"{database}: a Milvus database in a directory opens in one process, and this run "
                f"has {processes}; build the index on a server (--url), or of another kind"
            )
        client = connect(facts.settings, path, token)
        vectors = kept_vectors(path, manifest, verify=verify)
        index = cls(facts, client, path, vectors, _load_digests(path, manifest))
        index._call("load_collection")
        held = index.rows_held()
        if held != len(index):
            raise InputError(
                f"{path}: collection {index.collection!r} of {place_of(facts.settings, path)} "
                f"holds {held} rows instead of {len(index)}; rebuild the index"
            )
        return index

    def search(
        self,
        query_emb: Float[Tensor, "bsz dim"],
        topk: int,
        exclude_rows: Sequence[Sequence[int]] | None = None,
        *,
        allowed_rows: Bool[Tensor, " n"] | None = None,
        where: str = "",
    ) -> SearchResult:
        """Return the ``topk`` best rows of every query; see `base.Index.search`.

        Args:
            query_emb: the queries.
            topk: rows per query.
            exclude_rows: for each query, rows it may not get.
            allowed_rows: True for the rows that any query may get.
            where: a simple condition on the metadata stored with the rows, met by the server; see
                `milvus_filter.server_filter`.

        Raises:
            InputError: as `FlatIndex.search`; or ``topk`` is more than Milvus returns.
        """
        query = query_emb.detach().to("cpu", torch.float32)
        check_queries(query, len(self), self.dim, topk)
        pairs = excluded_pairs(exclude_rows, len(query), len(self), topk, allowed_rows)
        barred: list[set[int]] = [set() for _ in query]
        for row, number in pairs.tolist():
            barred[number].add(row)
        mask, listed = mask_filter(allowed_rows, LISTED)
        condition = server_filter(where) if where else ""
        hidden = None if listed or allowed_rows is None else ~allowed_rows.cpu()
        found = self._found(query, topk, barred, hidden, both(mask, condition))
        for number, one in enumerate(found):
            if len(one) < topk:
                left = torch.ones(len(self), dtype=torch.bool)
                if allowed_rows is not None:
                    left &= allowed_rows.cpu()
                left[list(barred[number])] = False
                found[number] = self._found_in_pieces(query[number], topk, left, condition)
        scores = torch.tensor([[score for score, _ in one] for one in found])
        rows = torch.tensor([[row for _, row in one] for one in found], dtype=torch.int64)
        return SearchResult(scores.view(-1, topk), rows.view(-1, topk))

    def way(self, bsz: int) -> str:
        """Return in words how a batch of ``bsz`` queries is searched."""
        return f"Milvus at {place_of(self.facts.settings, self._directory)}"

    def arrays(self) -> Mapping[str, ArraySource]:
        """Return the checksums alone: the database keeps its own files."""
        return {} if self.digests is None else {"digests": self.digests}

    def rows_held(self, condition: str = "") -> int:
        """Return how many rows the collection holds, or of them those that meet a condition."""
        answer = self._call("query", filter=condition, output_fields=["count(*)"])
        return int(answer[0]["count(*)"])

    def damaged(self) -> Iterator[tuple[range, int]]:
        """Yield the rows that were looked at, and how many of them are not as they were put there.

        A vector is in the database twice, as data and in what searches read: data must have the
        checksum of the build, and a random query must score every row as its data says.

        Raises:
            InputError: the database cannot read them.
        """
        probe = torch.randn((1, self.dim), generator=torch.Generator().manual_seed(0))
        for number, rows in enumerate(pieces(len(self))):
            only = f"row >= {rows.start} and row < {rows.stop}"
            fields = ["row", "vector"]
            stored = self._call("query", filter=only, output_fields=fields, limit=len(rows))
            vectors = {int(one["row"]): torch.tensor(one["vector"]) for one in stored}
            (answer,) = self._answers(probe, len(rows), only)
            scores = {int(hit["row"]): float(hit["distance"]) for hit in answer}
            bad = sum(not _scores(vectors, scores, row, probe[0]) for row in rows)
            if not bad and self.digests is not None:
                joined = torch.stack([vectors[row] for row in rows])
                same = digest(joined) == bytes(self.digests[number].tolist())
                bad = 0 if same else len(rows)
            yield rows, bad

    def save(
        self,
        path: str | Path,
        *,
        passages: PassageFiles | None = None,
        copy_passages: bool = False,
    ) -> None:
        """Write the index directory; an embedded database is copied where ``path`` is another.

        The copy gets a name that an index in ``path`` does not use, so a kill leaves the old index
        or the new one.

        Raises:
            InputError: the directory holds something else, is being written, or the disk is full.
        """
        path = Path(path)
        with writing(path):
            elsewhere = path.resolve() != self._directory.resolve()
            copy = self._copied(path) if elsewhere and not self.facts.settings.url else self
            copy.save_claimed(path, passages=passages, copy_passages=copy_passages)
        self.passage_files = copy.passage_files

    def _copied(self, path: Path) -> MilvusIndex:
        """Return this index with a database in ``path`` that no index there uses."""
        self._call("flush")
        refuse_foreign(path)
        source = self._directory / self.facts.settings.database
        target = path / free_name(path, DATABASE)
        shutil.rmtree(target, ignore_errors=True)
        try:
            with disk_full_explained(path.parent, 0):
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("LOCK"))
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
        settings = dataclasses.replace(self.facts.settings, database=target.name)
        facts = dataclasses.replace(self.facts, settings=settings)
        copy = MilvusIndex(facts, self._client, path, self.vectors, self.digests)
        copy.fingerprint, copy.passage_files = self.fingerprint, self.passage_files
        return copy

    def drop_others(self, *names: str) -> None:
        """Remove collections that this index has taken the place of.

        Of a database in the index directory all others go, of a cluster only those named.
        """
        present = self._client.list_collections()
        gone = names if self.facts.settings.url else present
        for name in set(gone) & set(present) - {self.collection}:
            self._client.drop_collection(collection_name=name)

    def leave(self, before: str) -> None:
        """Remove the collection that the index in the directory had before, and any unfinished one.

        On a cluster nothing is removed, for others may use it: a notice names it.
        """
        if not self.facts.settings.url:
            self.drop_others()
        elif before not in ("", self.collection):
            notice(f"{self._directory}: uses collection {before!r} no more; drop it if none does")

    def close(self) -> None:
        """Let the database go; another process may open an embedded one then."""
        self._client.close()

    def _found(
        self,
        query: Float[Tensor, "bsz dim"],
        topk: int,
        barred: Sequence[set[int]],
        hidden: Bool[Tensor, " n"] | None,
        condition: str,
    ) -> list[list[tuple[float, int]]]:
        """Return (score, row) of each query, best first; find more until every query has enough.

        A query has fewer than ``topk`` where not so many are among the most that Milvus returns.
        """
        if topk > MOST_FOUND:
            raise InputError(f"topk={topk}: Milvus returns at most {MOST_FOUND} rows")
        most = min(MOST_FOUND, len(self))
        limit = min(topk + max(map(len, barred), default=0) + MARGIN, most)
        while True:
            answers = self._answers(query, limit, condition)
            kept = [_best(answer, bar, hidden) for answer, bar in zip(answers, barred, strict=True)]
            if limit == most or all(len(one) >= topk for one in kept):
                return [one[:topk] for one in kept]
            limit = min(limit * 4, most)

    def _found_in_pieces(
        self, query: Float[Tensor, " dim"], topk: int, allowed: Bool[Tensor, " n"], condition: str
    ) -> list[tuple[float, int]]:
        """Return (score, row) of one query's best allowed rows, found among so many at a time.

        Raises:
            InputError: fewer than ``topk`` rows meet the condition.
        """
        best: list[tuple[float, int]] = []
        limit = min(topk + MARGIN, MOST_FOUND)
        left = allowed.nonzero()[:, 0].tolist()
        for start in range(0, len(left), LISTED):
            only = both(f"row in {left[start : start + LISTED]}", condition)
            (answer,) = self._answers(query[None], limit, only)
            best = _in_order([*best, *_best(answer, set(), None)])[:topk]
        if len(best) < topk:
            raise InputError(
                f"topk={topk}, but only {len(best)} rows may be returned; lower topk, or filter "
                "and exclude less"
            )
        return best

    def _answers(
        self, query: Float[Tensor, "bsz dim"], limit: int, condition: str
    ) -> list[list[Mapping[str, Any]]]:
        """Return what the server finds for each query."""
        if not len(query):
            return []
        answers: list[list[Mapping[str, Any]]] = self._call(
            "search",
            data=query.tolist(),
            limit=limit,
            filter=condition,
            output_fields=["row"],
            anns_field="vector",
            search_params={"metric_type": "IP"},
        )
        return answers

    def _take_collection(self) -> None:
        """Have a loaded collection that holds nothing, or what these vectors' build put there.

        What an unfinished build of other vectors left in the embedded database is dropped.

        Raises:
            InputError: it holds other vectors.
        """
        there = self._call("has_collection")
        if there and self._holds_others():
            self._call("drop_collection")
            there = False
        if there:
            properties = {VECTORS: vectors_digest(self.facts)}
            self._call("alter_collection_properties", properties=properties)
        else:
            self._make_collection()
        self._call("load_collection")

    def _holds_others(self) -> bool:
        """Return whether the collection holds rows of other vectors that nothing uses.

        Raises:
            InputError: it does, and they may be in use.
        """
        properties = self._call("describe_collection").get("properties", {})
        if properties.get(VECTORS) == vectors_digest(self.facts):
            return False
        self._call("load_collection")
        held = self.rows_held()
        if held and (self.facts.settings.url or self.collection == collection_in(self._directory)):
            raise InputError(
                f"collection {self.collection!r} of "
                f"{place_of(self.facts.settings, self._directory)} holds {held} rows of "
                "other vectors; name another with --collection, or drop it first"
            )
        return held > 0

    def _make_collection(self) -> None:
        types = importlib.import_module("pymilvus").DataType
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=True)
        schema.add_field("row", types.INT64, is_primary=True)
        schema.add_field("vector", types.FLOAT_VECTOR, dim=self.dim)
        params = self._client.prepare_index_params()
        params.add_index("vector", index_type="FLAT", metric_type="IP")
        self._call(
            "create_collection",
            schema=schema,
            index_params=params,
            properties={VECTORS: vectors_digest(self.facts)},
        )

    def _fill(self, embeddings: Float[Tensor, "n dim"], metadata: Metadata | None) -> None:
        """Upsert what is not there yet; batches come in order, so the count says where to go on.

        Rows that were all there once may have been replaced or deleted since: all are put again.
        """
        held = self.rows_held()
        done = held // UPSERT_ROWS * UPSERT_ROWS
        if held >= len(embeddings) or (done and self.rows_held(f"row < {done}") < done):
            done = 0
        if done:
            notice(f"{self.collection}: going on after {done} rows")
        with progress_bar() as progress:
            task = progress.add_task("Filling Milvus", total=len(embeddings), completed=done)
            for start in range(done, len(embeddings), UPSERT_ROWS):
                rows = range(start, min(start + UPSERT_ROWS, len(embeddings)))
                fields = metadata(rows) if metadata is not None else None
                self._upsert(rows, embeddings[start : rows.stop].float(), fields)
                progress.update(task, completed=rows.stop)
        self._call("flush")

    def _upsert(
        self,
        rows: Sequence[int],
        embeddings: Float[Tensor, "n dim"],
        fields: Sequence[Mapping[str, Any]] | None,
    ) -> None:
        vectors = embeddings.numpy()
        described = fields or [{}] * len(rows)
        data = [
            {**one, "row": int(row), "vector": vector}
            for one, row, vector in zip(described, rows, vectors, strict=True)
        ]
        self._call("upsert", data=data)

    def _call(self, what: str, **arguments: Any) -> Any:
        """Call the client about our collection; its errors name the place."""
        errors = importlib.import_module("pymilvus.exceptions").MilvusException
        try:
            return getattr(self._client, what)(self.collection, **arguments)
        except errors as error:
            raise InputError(
                f"{place_of(self.facts.settings, self._directory)}: {what}: {error.message}"
            ) from error


def _best(
    answer: Iterable[Mapping[str, Any]], barred: set[int], hidden: Bool[Tensor, " n"] | None
) -> list[tuple[float, int]]:
    """Return the rows of an answer that may be returned, higher score first, then lower row."""
    found = [(float(hit["distance"]), int(hit["row"])) for hit in answer]
    left = [
        (score, row)
        for score, row in found
        if row not in barred and (hidden is None or not bool(hidden[row]))
    ]
    return _in_order(left)


def _scores(
    vectors: Mapping[int, Tensor], scores: Mapping[int, float], row: int, query: Tensor
) -> bool:
    """Return whether a row is there and its score is the inner product with the query."""
    if row not in vectors or row not in scores:
        return False
    off = abs(float(vectors[row].double() @ query.double()) - scores[row])
    return off <= ROUNDING * float(vectors[row].norm() * query.norm())


def _in_order(found: Iterable[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return (score, row) by score, the higher first, then by row, the lower first."""
    return sorted(found, key=lambda one: (-one[0], one[1]))


def _load_digests(path: Path, manifest: Manifest) -> UInt8[Tensor, "pieces 32"] | None:
    if "digests" not in manifest.arrays:
        return None
    shape = [len(pieces(manifest.count)), DIGEST_BYTES]
    return map_array(path, manifest, "digests", torch.uint8, shape)


def collection_in(directory: Path) -> str:
    """Return the collection of the Milvus index in a directory; "" where there is none."""
    try:
        settings = read_manifest(directory, kind="milvus").settings
    except InputError:
        return ""
    return str(settings.get("collection", ""))


def next_collection(name: str, facts: Facts) -> str:
    """Return the name of a collection of other vectors that is to take the place of ``name``.

    It is "" for a name that was made from the vectors, else the name given by the user and their
    digest.
    """
    if not name or re.fullmatch("atlas_[0-9a-f]{24}", name):
        return ""
    return f"{re.sub('_[0-9a-f]{24}$', '', name)}_{vectors_digest(facts)}"


def vectors_digest(facts: Facts) -> str:
    """Return 24 hexadecimal digits that differ between different vectors."""
    of = {
        **dataclasses.asdict(facts.fingerprint),
        "count": facts.count,
        "dtype": facts.settings.dtype,
    }
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:24]
