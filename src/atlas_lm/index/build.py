"""Passages to an index on disk: streaming, bounded in memory, resumable after a kill.

Vectors are appended to ``<out>.partial/embeddings.bin``; after every chunk the file is synced and
``state.json`` says how many rows it holds. A later call with the same fingerprint, dtype and step
goes on from there; with others it starts anew. An index at ``out`` stays as it was until the end.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from atlas_lm.index.base import Index
from atlas_lm.index.directory import (
    disk_full_explained,
    free_name,
    new_files,
    refuse_foreign,
    writing,
)
from atlas_lm.index.exact import check_dim, check_finite
from atlas_lm.index.files import Fingerprint, Manifest, PassageFiles, read_manifest
from atlas_lm.index.kinds import Encoded, check_possible, disk_needed, encode
from atlas_lm.index.milvus import MilvusIndex, collection_in
from atlas_lm.index.milvus_filter import described
from atlas_lm.index.opening import load_vectors
from atlas_lm.index.settings import IndexSettings
from atlas_lm.index.storage import (
    ArraySource,
    finish,
    map_rows,
    write_arrays,
    write_rows,
)
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.dtypes import DTYPES, name_of
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import read_json, sha256_file, write_json
from atlas_lm.runtime.logs import notice, progress_bar
from atlas_lm.types import Passage

STATE = "state.json"
VECTORS = "embeddings.bin"
PASSAGES_AT_A_TIME = 4096
"""Passages handed to the encoder at once: enough to sort by length; the work lost by a kill."""

Embed = Callable[[Sequence[Passage]], Float[Tensor, "n dim"]]
"""Passages to vectors: eval mode, no gradient."""


def build(
    store: PassageStore,
    embed: Embed,
    out: str | Path,
    *,
    fingerprint: Fingerprint,
    dtype: torch.dtype = torch.float16,
    settings: IndexSettings | None = None,
    step: int = 0,
    passages_at_a_time: int = PASSAGES_AT_A_TIME,
    copy_passages: bool = False,
) -> Index:
    """Embed every passage and write the index to ``out``; return it, mapped.

    Args:
        store: the passages; row r of the index is passage r. Hidden rows are embedded and stay
            dead.
        embed: passages to vectors: eval mode, no gradient.
        out: the index directory; an index in it is replaced at the end.
        fingerprint: what the vectors depend on; ``fingerprint.corpus`` is the store's.
        dtype: how vectors are stored, where ``settings`` does not say.
        settings: which kind of index; the vectors alone, searched exactly, if None.
        step: the retriever's step.
        passages_at_a_time: passages handed to ``embed`` at once; the work lost by a kill.
        copy_passages: put a copy of the passages into the directory instead of their names.

    Raises:
        InputError: ``out`` holds something else or is being written, the fingerprint is of another
            corpus, a vector is of another dim or not finite, or the disk is full. Rows done so far
            are kept.
    """
    out = Path(out).resolve()
    with writing(out):
        before = collection_in(out)
        build_claimed(
            store,
            embed,
            out,
            fingerprint=fingerprint,
            settings=settings or vectors_alone(dtype),
            step=step,
            passages_at_a_time=passages_at_a_time,
            copy_passages=copy_passages,
        )
        index = load_vectors(out, read_manifest(out), device="cpu", mmap=True, verify=False)
        if isinstance(index, MilvusIndex):
            index.leave(before)
    return index


def vectors_alone(dtype: torch.dtype) -> IndexSettings:
    """Return the settings of an index that is its vectors and nothing else.

    Raises:
        InputError: vectors are not stored in this dtype.
    """
    name = name_of(dtype)
    if name not in DTYPES:
        raise InputError(f"dtype {name}: store vectors as one of {', '.join(DTYPES)}")
    return IndexSettings(kind="flat", dtype=name, first_pass=False)


def build_claimed(
    store: PassageStore,
    embed: Embed,
    out: Path,
    *,
    fingerprint: Fingerprint,
    settings: IndexSettings,
    step: int,
    passages_at_a_time: int = PASSAGES_AT_A_TIME,
    copy_passages: bool,
) -> None:
    """Do what `build` does in a directory that this process is already the writer of."""
    refuse_foreign(out)
    settings.check_used()
    if fingerprint.corpus != store.fingerprint:
        raise InputError(
            f"the fingerprint names corpus {fingerprint.corpus!r}, but the passages given are "
            f"{store.fingerprint!r}; make it with the store's fingerprint"
        )
    check_possible(settings, len(store), directory=out, fingerprint=fingerprint)
    partial = Partial(out, fingerprint, settings.dtype, step)
    partial.embed_rest(store, embed, passages_at_a_time)
    partial.publish(store, settings, passages=PassageFiles.of(store), copy_passages=copy_passages)


class Partial:
    """The directory of an unfinished build: vectors, and how many of them."""

    def __init__(self, out: Path, fingerprint: Fingerprint, dtype: str, step: int) -> None:
        self.out = out
        self.path = out.with_name(out.name + ".partial")
        self.vectors = self.path / VECTORS
        self.dtype, self.fingerprint, self.step = dtype, fingerprint, step
        self._of = {
            "fingerprint": dataclasses.asdict(fingerprint),
            "dtype": dtype,
            "step": step,
        }
        self.row_bytes = fingerprint.dim * DTYPES[dtype].itemsize

    def embed_rest(
        self,
        store: PassageStore,
        embed: Embed,
        at_a_time: int,
        *,
        own: range | None = None,
    ) -> None:
        """Embed the rows that are not yet there; afterwards the file holds all, or its ``own``."""
        own = range(len(store)) if own is None else own
        done = self._resumed()
        self.path.mkdir(parents=True, exist_ok=True)
        needed = (len(own) - done) * self.row_bytes
        kept = "then run the same command again: it goes on where it stopped"
        with (
            disk_full_explained(self.path, needed, kept),
            open(self.vectors, "r+b" if self.vectors.exists() else "w+b") as file,
            progress_bar() as progress,
        ):
            file.truncate(done * self.row_bytes)
            file.seek(0, os.SEEK_END)
            task = progress.add_task("Embedding passages", total=len(own), completed=done)
            began = time.monotonic()
            for start in range(done, len(own), at_a_time):
                rows = own[start : start + at_a_time]
                write_rows(file, self._embedded(store, embed, rows))
                file.flush()
                os.fsync(file.fileno())
                held = start + len(rows)
                write_json(self.path / STATE, {**self._of, "rows": held})
                rate = (held - done) / max(time.monotonic() - began, 1e-9)
                label = f"Embedding passages ({rate:,.0f}/s)"
                progress.update(task, completed=held, description=label)

    def _embedded(self, store: PassageStore, embed: Embed, rows: range) -> Tensor:
        vectors = embed(store.passages(rows)).detach()
        check_dim(vectors, self.fingerprint.dim)
        if len(vectors) != len(rows):
            raise InputError(f"embed returned {len(vectors)} vectors for {len(rows)} passages")
        vectors = vectors.to("cpu", DTYPES[self.dtype])
        check_finite(vectors, first_row=rows.start)
        return vectors

    def _resumed(self) -> int:
        """Return how many rows are already there; what does not belong here is removed."""
        if not self.path.exists():
            return 0
        self._refuse_foreign()
        state = self._state()
        size = self.vectors.stat().st_size if self.vectors.exists() else 0
        rows = int(state.pop("rows", 0))
        if state == self._of and 0 < rows * self.row_bytes <= size:
            notice(f"{self.path}: going on after {rows} passages")
            return rows
        notice(f"{self.path}: an unfinished build of other vectors; starting anew")
        shutil.rmtree(self.path)
        return 0

    def _state(self) -> dict[str, Any]:
        try:
            return dict(read_json(self.path / STATE, what="the state of a build"))
        except (InputError, TypeError, ValueError):
            return {}

    def _refuse_foreign(self) -> None:
        for path in self.path.iterdir():
            if path.name not in (VECTORS, STATE) and not path.name.endswith(".tmp"):
                raise InputError(
                    f"{self.path}: holds {path.name!r}, so it is no unfinished build; move it away"
                )

    def write(self, pieces: Iterable[Float[Tensor, "some dim"]], count: int) -> None:
        """Put vectors that are known already in place of what is here.

        Raises:
            InputError: the disk is full.
        """
        if self.path.exists():
            self._refuse_foreign()
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True)
        with (
            disk_full_explained(self.path, count * self.row_bytes),
            open(self.vectors, "wb") as file,
        ):
            for piece in pieces:
                write_rows(file, piece.to("cpu", DTYPES[self.dtype]))
            file.flush()
            os.fsync(file.fileno())

    def publish(
        self,
        store: PassageStore,
        settings: IndexSettings,
        *,
        passages: PassageFiles,
        copy_passages: bool,
        arrays: Mapping[str, ArraySource] | None = None,
        created: str = "",
    ) -> Manifest:
        """Make the index in ``out`` of these vectors, manifest last; then drop this directory.

        The vectors stay here as well until the manifest is written, so a kill in between loses no
        work.

        Args:
            store: the passages of the rows.
            settings: which kind of index.
            passages: the files of ``store``.
            copy_passages: whether the directory gets its own copy of them.
            arrays: further files by role.
            created: when the vectors were computed; now if empty.
        """
        count, dim = len(store), self.fingerprint.dim
        hidden = store.hidden if store.hidden is not None else np.zeros(0, np.int64)
        further = dict(arrays or {})
        if len(hidden):
            further["deleted"] = torch.from_numpy(hidden)
        with new_files(self.out, disk_needed(settings, count, dim)):
            vectors = map_rows(self.vectors, DTYPES[self.dtype], count, dim)
            encoded = self._encoded(vectors, settings, store)
            target = self._linked() if settings.keeps_vectors else None
            manifest = finish(
                self.out,
                target,
                sha256_file(target) if target is not None else "",
                passages=passages,
                copy_passages=copy_passages,
                kind=settings.kind,
                step=self.step,
                fingerprint=self.fingerprint,
                dtype=self.dtype,
                count=count,
                dim=dim,
                arrays=write_arrays(self.out, {**encoded.arrays, **further}),
                settings=encoded.settings,
                recall=encoded.recall,
                deleted=len(hidden),
                created=created,
            )
        shutil.rmtree(self.path)
        return manifest

    def _encoded(
        self, vectors: Float[Tensor, "n dim"], settings: IndexSettings, store: PassageStore
    ) -> Encoded:
        if settings.kind == "flat" and not settings.first_pass:
            return Encoded(settings=settings.as_dict())
        return encode(
            settings,
            vectors,
            directory=self.out,
            fingerprint=self.fingerprint,
            metadata=lambda rows: [described(passage) for passage in store.passages(rows)],
        )

    def _linked(self) -> Path:
        """Return the vectors' file in ``out``: the same file, or a copy."""
        target = self.out / free_name(self.out, VECTORS)
        target.unlink(missing_ok=True)
        try:
            os.link(self.vectors, target)
        except OSError:  # a file system without hard links
            shutil.copyfile(self.vectors, target)
        return target
