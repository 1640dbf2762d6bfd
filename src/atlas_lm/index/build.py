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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from atlas_lm.index.exact import check_dim, check_finite
from atlas_lm.index.files import Fingerprint, PassageFiles
from atlas_lm.index.flat import FlatIndex
from atlas_lm.index.storage import (
    DTYPES,
    disk_full_explained,
    finish,
    free_name,
    new_files,
    refuse_foreign,
    write_rows,
)
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import read_json, sha256_file, write_json
from atlas_lm.runtime.logs import notice, progress_bar
from atlas_lm.types import Passage

STATE = "state.json"
VECTORS = "embeddings.bin"


def build(
    store: PassageStore,
    embed: Callable[[Sequence[Passage]], Float[Tensor, "n dim"]],
    out: str | Path,
    *,
    fingerprint: Fingerprint,
    dtype: torch.dtype = torch.float16,
    step: int = 0,
    passages_at_a_time: int = 4096,
    copy_passages: bool = False,
) -> FlatIndex:
    """Embed every passage and write the index to ``out``; return it, mapped.

    Args:
        store: the passages; row r of the index is passage r.
        embed: passages to vectors: eval mode, no gradient.
        out: the index directory; an index in it is replaced at the end.
        fingerprint: what the vectors depend on; ``fingerprint.corpus`` is the store's.
        dtype: how vectors are stored.
        step: the retriever's step.
        passages_at_a_time: passages handed to ``embed`` at once; the work lost by a kill.
        copy_passages: put a copy of the passages into the directory instead of their names.

    Raises:
        InputError: ``out`` holds something else, the fingerprint is of another corpus, a vector is
            of another dim or not finite, or the disk is full. Rows done so far are kept.
    """
    out = Path(out).resolve()
    refuse_foreign(out)
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise InputError(f"dtype {name}: store vectors as one of {', '.join(DTYPES)}")
    if fingerprint.corpus != store.fingerprint:
        raise InputError(
            f"the fingerprint names corpus {fingerprint.corpus!r}, but the passages given are "
            f"{store.fingerprint!r}; make it with the store's fingerprint"
        )
    partial = _Partial(out, fingerprint, name, step)
    partial.embed_rest(store, embed, passages_at_a_time)
    _publish(partial, out, store, copy_passages)
    return FlatIndex.load(out)


class _Partial:
    """The directory of an unfinished build."""

    def __init__(self, out: Path, fingerprint: Fingerprint, dtype: str, step: int) -> None:
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
        embed: Callable[[Sequence[Passage]], Tensor],
        at_a_time: int,
    ) -> None:
        """Embed the rows that are not yet there; afterwards the file holds all."""
        done = self._resumed()
        self.path.mkdir(parents=True, exist_ok=True)
        needed = (len(store) - done) * self.row_bytes
        kept = "then run the same command again: it goes on where it stopped"
        with (
            disk_full_explained(self.path, needed, kept),
            open(self.vectors, "r+b" if self.vectors.exists() else "w+b") as file,
            progress_bar() as progress,
        ):
            file.truncate(done * self.row_bytes)
            file.seek(0, os.SEEK_END)
            task = progress.add_task("Embedding passages", total=len(store), completed=done)
            began = time.monotonic()
            for start in range(done, len(store), at_a_time):
                rows = range(start, min(start + at_a_time, len(store)))
                write_rows(file, self._embedded(store, embed, rows))
                file.flush()
                os.fsync(file.fileno())
                write_json(self.path / STATE, {**self._of, "rows": rows.stop})
                rate = (rows.stop - done) / max(time.monotonic() - began, 1e-9)
                label = f"Embedding passages ({rate:,.0f}/s)"
                progress.update(task, completed=rows.stop, description=label)

    def _embedded(
        self, store: PassageStore, embed: Callable[[Sequence[Passage]], Tensor], rows: range
    ) -> Tensor:
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


def _publish(partial: _Partial, out: Path, store: PassageStore, copy_passages: bool) -> None:
    """Give the vectors their place in ``out``, then the manifest; then drop the partial build.

    The vectors stay in the partial build as well until the manifest is written, so a kill in
    between loses no work.
    """
    with new_files(out, needed_bytes=0):
        target = out / free_name(out, VECTORS)
        target.unlink(missing_ok=True)
        try:
            os.link(partial.vectors, target)
        except OSError:  # a file system without hard links
            shutil.copyfile(partial.vectors, target)
        finish(
            out,
            target,
            sha256_file(target),
            passages=PassageFiles.of(store),
            copy_passages=copy_passages,
            kind="flat",
            step=partial.step,
            fingerprint=partial.fingerprint,
            dtype=partial.dtype,
            count=len(store),
            dim=partial.fingerprint.dim,
        )
    shutil.rmtree(partial.path)
