"""One index of the live rows, in the place of parts and dead rows; with another encoder if asked.

Afterwards neither the text nor the vector of a deleted passage is left in the directory or in the
cache: their files are removed (not overwritten). Passage files that belong to the user are not
touched; the result names those that still hold deleted text.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from atlas_lm.index.build import PASSAGES_AT_A_TIME, Embed, Partial
from atlas_lm.index.coded import Facts
from atlas_lm.index.copies import append_lines
from atlas_lm.index.corpus import deleted_rows, open_corpus
from atlas_lm.index.directory import disk_full_explained, free_name, remove_unnamed, writing
from atlas_lm.index.files import (
    Fingerprint,
    Manifest,
    PassageFile,
    PassageFiles,
    read_manifest,
)
from atlas_lm.index.keep import writable_manifest
from atlas_lm.index.leftovers import note_leftovers, remove_leftovers
from atlas_lm.index.member import steps_of
from atlas_lm.index.milvus import next_collection
from atlas_lm.index.opening import open_index
from atlas_lm.index.parted import PartedIndex
from atlas_lm.index.settings import IndexSettings
from atlas_lm.index.storage import ArraySource, map_embeddings
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_path

ROWS_AT_A_TIME = 65_536


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """What compaction did."""

    live: int
    """Passages of the index, before and after."""
    removed: int
    """Dead rows whose text and vectors were removed."""
    parts: int
    """Parts that were merged into one."""
    bytes_before: int
    """Size of the directory before."""
    bytes_after: int
    """Its size now."""
    still_in: tuple[Path, ...] = ()
    """Files of the user's own that still hold text of deleted passages."""


def compact(
    path: str | Path,
    *,
    embed: Embed | None = None,
    fingerprint: Fingerprint | None = None,
) -> Compacted:
    """Write one index of the live rows and remove everything else from the directory.

    Vectors are copied where all are kept in full precision; otherwise they are computed again.
    Where passages were deleted the directory gets a copy of the live ones.

    Args:
        path: the index directory.
        embed: passages to vectors; needed where only codes are kept.
        fingerprint: what this encoder's vectors depend on; its corpus does not matter.

    Raises:
        InputError: only codes are kept and no encoder is given, it is another than the index's, a
            file is missing, damaged or changed, the index is being written, or the disk is full.
    """
    path = Path(path).resolve()
    with writing(path):
        manifest = writable_manifest(path)
        before = directory_bytes(path)
        still_in = remove_leftovers(path)
        if manifest.parts or manifest.deleted:
            if fingerprint is not None:
                manifest.fingerprint.check(fingerprint, ignore={"corpus"})
            _require_vectors(path, manifest, embed)
            still_in += _rewritten(path, manifest, embed, manifest.fingerprint, manifest.step)
        return _report(path, manifest, before, still_in)


def refresh(
    path: str | Path, embed: Embed, *, fingerprint: Fingerprint, step: int = 0
) -> Compacted:
    """Embed every live passage with another encoder; the index is then compact and that encoder's.

    The index answers with the old vectors until all new ones are there. Killed on the way, it goes
    on where it stopped when it is called again.

    Args:
        path: the index directory.
        embed: passages to vectors, by the encoder the index is to be for.
        fingerprint: what this encoder's vectors depend on; its corpus does not matter.
        step: the training step of that encoder.

    Raises:
        InputError: a file is missing, damaged or changed, an embedding is not finite, the index is
            being written, or the disk is full.
    """
    path = Path(path).resolve()
    with writing(path):
        manifest = writable_manifest(path)
        before = directory_bytes(path)
        still_in = remove_leftovers(path)
        still_in += _rewritten(path, manifest, embed, fingerprint, step)
        return _report(path, manifest, before, still_in)


def _report(path: Path, manifest: Manifest, before: int, still_in: tuple[Path, ...]) -> Compacted:
    """Remove what unfinished additions left; return what was done to the index of ``manifest``."""
    _remove_partials(path)
    return Compacted(
        live=manifest.live,
        removed=manifest.deleted,
        parts=len(manifest.parts),
        bytes_before=before,
        bytes_after=directory_bytes(path),
        still_in=tuple(dict.fromkeys(still_in)),
    )


def directory_bytes(path: Path) -> int:
    """Return the size of all files of a directory."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _rewritten(
    path: Path, manifest: Manifest, embed: Embed | None, encoder: Fingerprint, step: int
) -> tuple[Path, ...]:
    """Write the new index; return the user's files that hold deleted text."""
    dead = deleted_rows(path, manifest)
    old = open_corpus(path, manifest)
    passages, copied = _live_passages(path, manifest, old, dead)
    store = PassageStore.open([Path(file.absolute) for file in passages.files], check=False)
    fingerprint = dataclasses.replace(encoder, corpus=store.fingerprint)
    partial = Partial(path, fingerprint, manifest.dtype, step)
    arrays: dict[str, ArraySource] = {}
    created = ""
    if embed is None:
        alive = np.ones(manifest.rows, np.bool_)
        alive[dead] = False
        live = np.flatnonzero(alive)
        partial.write(_live_vectors(path, manifest, live), len(live))
        arrays = _steps(path, live)
        parts = (read_manifest(path / name) for name in manifest.parts)
        created = min(one.created for one in (manifest, *parts))
    else:
        partial.embed_rest(store, embed, PASSAGES_AT_A_TIME)
    settings = _settings(path, manifest)
    facts = Facts(count=len(store), settings=settings, fingerprint=fingerprint)
    before, after = settings.collection, next_collection(settings.collection, facts)
    note_leftovers(path, old, dead, fingerprint=fingerprint, collection=before)
    partial.publish(
        store,
        dataclasses.replace(settings, collection=after),
        passages=passages,
        copy_passages=copied,
        arrays=arrays,
        created=created,
    )
    store.close()
    old.close()
    return remove_leftovers(path)


def _require_vectors(path: Path, manifest: Manifest, embed: Embed | None) -> None:
    if embed is None and not manifest.embeddings:
        raise InputError(
            f"{path}: keeps codes only, so its {manifest.live} live passages must be embedded "
            "again; name the encoder with --retriever or --model, or rebuild the index with "
            "--keep-vectors"
        )


def _live_passages(
    path: Path, manifest: Manifest, old: PassageStore, dead: NDArray[np.int64]
) -> tuple[PassageFiles, bool]:
    """Return the files of the live passages, written where rows are dead, and if they are copies.

    Without dead rows files of the user's are named as they are.
    """
    places = [path, *(path / name for name in manifest.parts)]
    each = [read_manifest(place).passages for place in places]
    known = [(place, one) for place, one in zip(places, each, strict=True) if one is not None]
    if not len(dead) and not any(one.copied for _, one in known):
        located = [file for place, one in known for file in one.located(place).files]
        return PassageFiles(files=tuple(located)), False
    name = free_name(path, "passages.jsonl")
    size = sum(file.stat().st_size for file in old.plain_paths)
    with (
        disk_full_explained(path, size),
        atomic_path(path / name) as temporary,
        open(temporary, "wb") as out,
    ):
        first = 0
        for file, count in zip(old.plain_paths, old.counts, strict=True):
            mine = dead[(dead >= first) & (dead < first + count)] - first
            if len(mine):
                _append_live(file, set(mine.tolist()), out)
            else:
                append_lines(file, out)
            first += count
    copy = PassageStore.open(path / name, check=False)
    copy.close()
    size = (path / name).stat().st_size
    kept = PassageFile(name, str(path / name), size, copy.sha256[0])
    return PassageFiles(files=(kept,), copied=True), True


def _append_live(source: Path, dead: set[int], out: BinaryIO) -> None:
    """Append the lines of a file that are not dead, each closed by a newline."""
    with open(source, "rb") as file:
        for row, line in enumerate(file):
            if row not in dead:
                out.write(line if line.endswith(b"\n") else line + b"\n")


def _live_vectors(
    path: Path, manifest: Manifest, live: NDArray[np.int64]
) -> Iterator[Float[Tensor, "some dim"]]:
    """Yield the vectors of the live rows, part after part, in pieces."""
    first = 0
    for place in (path, *(path / name for name in manifest.parts)):
        vectors = map_embeddings(place, read_manifest(place))
        mine = live[(live >= first) & (live < first + len(vectors))] - first
        for start in range(0, len(mine), ROWS_AT_A_TIME):
            yield vectors[torch.from_numpy(mine[start : start + ROWS_AT_A_TIME])]
        first += len(vectors)


def _steps(path: Path, live: NDArray[np.int64]) -> dict[str, ArraySource]:
    """Return the steps of the live rows' vectors where they differ."""
    index, store = open_index(path)
    store.close()
    parts = index.parts if isinstance(index, PartedIndex) else (index,)
    steps = torch.cat([steps_of(part) for part in parts])[torch.from_numpy(live)]
    return {} if bool((steps == steps[0]).all()) else {"row_steps": steps}


def _settings(path: Path, manifest: Manifest) -> IndexSettings:
    if not manifest.settings:
        first_pass = "codes" in manifest.arrays
        return IndexSettings(kind="flat", dtype=manifest.dtype, first_pass=first_pass)
    return IndexSettings.from_dict(manifest.settings, place=str(path))


def _remove_partials(path: Path) -> None:
    """Remove vectors of unfinished additions."""
    remove_unnamed(path)
    for partial in path.glob("part-*.partial"):
        with suppress(OSError):
            shutil.rmtree(partial)
