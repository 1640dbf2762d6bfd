"""An index that is kept up to date: passages added, replaced, deleted, and rows made compact.

Added passages become a part of their own and deleted rows are listed as dead; both are searchable,
or gone, once the manifest that says so has replaced the old one. Old files are neither read again
nor hashed again. `compact` writes one index of the live rows and removes what was before. A kill at
any instant leaves the index as it was before or as it is after.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from atlas_lm.index.build import PASSAGES_AT_A_TIME, Embed, build_claimed, vectors_alone
from atlas_lm.index.codec import as_coded
from atlas_lm.index.corpus import deleted_rows, open_corpus
from atlas_lm.index.directory import disk_full_explained, remove_unnamed, writing
from atlas_lm.index.files import Fingerprint, Manifest, read_manifest, rewrite_manifest
from atlas_lm.index.opening import STACK, earlier_rows
from atlas_lm.index.storage import write_arrays
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.dtypes import DTYPES
from atlas_lm.runtime.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Change:
    """What became of an index."""

    added: int = 0
    """New passages that can be found now."""
    replaced: int = 0
    """Of these, how many took the place of a passage with the same id."""
    deleted: int = 0
    """Passages that can be found no more."""
    live: int
    """Passages that can be found."""
    dead: int
    """Rows that `compact` will remove."""
    parts: int
    """Parts beside the first; every one costs a little at each search."""


def add(
    path: str | Path,
    passages: str | Path | Sequence[str | Path],
    embed: Embed,
    *,
    fingerprint: Fingerprint,
    replace: bool = False,
    copy_passages: bool | None = None,
    passages_at_a_time: int = PASSAGES_AT_A_TIME,
) -> Change:
    """Embed new passages and make them part of the index.

    Killed on the way, it goes on where it stopped when it is called again.

    Args:
        path: the index directory.
        passages: files of new passages.
        embed: passages to vectors, by the encoder the index was built with.
        fingerprint: what this encoder's vectors depend on; its corpus does not matter.
        replace: whether a passage may take the place of the one with its id.
        copy_passages: put a copy of the new passages into the directory; as the index has its
            other passages if None.
        passages_at_a_time: passages handed to ``embed`` at once; the work lost by a kill.

    Raises:
        InputError: the encoder is not the index's, an id is in the index already (unless
            ``replace``), a passage is malformed, the index's passage files changed, it is being
            written, or the disk is full.
    """
    path = Path(path).resolve()
    with writing(path):
        manifest = writable_manifest(path)
        manifest.fingerprint.check(fingerprint, ignore={"corpus"})
        new = PassageStore.open(passages)
        dead = _dead_after(path, manifest, new, replace=replace)
        name = _next_part(manifest)
        if copy_passages is None:
            copy_passages = manifest.passages is not None and manifest.passages.copied
        build_claimed(
            new,
            as_coded(path, manifest, embed),
            path / name,
            fingerprint=dataclasses.replace(fingerprint, corpus=new.fingerprint),
            settings=vectors_alone(DTYPES[manifest.dtype]),
            step=manifest.step,
            passages_at_a_time=passages_at_a_time,
            copy_passages=copy_passages,
        )
        parts = (*manifest.parts, name), (*manifest.part_rows, len(new))
        replaced = len(dead) - manifest.deleted
        after = _swap(path, manifest, dead, parts)
    return _change(after, added=len(new), replaced=replaced)


def update(
    path: str | Path,
    passages: str | Path | Sequence[str | Path],
    embed: Embed,
    *,
    fingerprint: Fingerprint,
    copy_passages: bool | None = None,
    passages_at_a_time: int = PASSAGES_AT_A_TIME,
) -> Change:
    """Put passages in the place of those with their ids; add those whose id is new. See `add`."""
    return add(
        path,
        passages,
        embed,
        fingerprint=fingerprint,
        replace=True,
        copy_passages=copy_passages,
        passages_at_a_time=passages_at_a_time,
    )


def delete(path: str | Path, ids: Iterable[str]) -> Change:
    """Make passages unfindable. Their text and vectors stay on disk until `compact`.

    Raises:
        InputError: an id is not in the index, no passage would be left, its passage files changed,
            or it is being written. Nothing has changed then.
    """
    path = Path(path).resolve()
    with writing(path):
        manifest = writable_manifest(path)
        known = deleted_rows(path, manifest)
        store = open_corpus(path, manifest)
        rows = np.unique(np.array(store.rows_of(ids), np.int64))
        store.close()
        dead = np.union1d(known, rows)
        if len(dead) == manifest.rows:
            raise InputError(
                f"{path}: this would delete all {manifest.live} passages; remove the directory "
                "instead"
            )
        after = _swap(path, manifest, dead, (manifest.parts, manifest.part_rows))
    return _change(after, deleted=len(rows))


def writable_manifest(path: Path) -> Manifest:
    """Return the manifest of an index that can be written to; what a kill left is removed."""
    manifest = read_manifest(path)
    if manifest.kind == STACK:
        raise InputError(f"{path}: is a stack of indexes; change one of those it names")
    if manifest.passages is None:
        raise InputError(
            f"{path}: was saved without its passages; rebuild it to keep it up to date"
        )
    remove_unnamed(path)
    return manifest


def _dead_after(
    path: Path, manifest: Manifest, new: PassageStore, *, replace: bool
) -> NDArray[np.int64]:
    """Return the rows that are dead once the new passages are there."""
    known = deleted_rows(path, manifest)
    corpus = open_corpus(path, manifest)
    joined = PassageStore.open([*corpus.paths, *new.paths], check=False, hidden=known)
    corpus.close()
    replaced = earlier_rows(joined.repeats(), known)
    if len(replaced) and not replace:
        old = int(replaced[0])
        raise InputError(
            f"id {joined[old].id!r} is in the index already ({joined.place(old)}), as are "
            f"{len(replaced) - 1} others of the new passages; use `atlas-lm index update` to "
            "replace them"
        )
    joined.close()
    return np.union1d(known, replaced)


def _next_part(manifest: Manifest) -> str:
    last = max((int(name.removeprefix("part-")) for name in manifest.parts), default=0)
    return f"part-{last + 1:04}"


def _swap(
    path: Path,
    manifest: Manifest,
    dead: NDArray[np.int64],
    parts: tuple[tuple[str, ...], tuple[int, ...]],
) -> Manifest:
    """Write the list of dead rows and the manifest that names it and the parts."""
    with disk_full_explained(path, dead.nbytes):
        arrays = {role: file for role, file in manifest.arrays.items() if role != "deleted"}
        if len(dead):
            arrays |= write_arrays(path, {"deleted": torch.from_numpy(dead)})
        after = rewrite_manifest(
            path, manifest, arrays=arrays, parts=parts[0], part_rows=parts[1], deleted=len(dead)
        )
    remove_unnamed(path)
    return after


def _change(manifest: Manifest, *, added: int = 0, replaced: int = 0, deleted: int = 0) -> Change:
    return Change(
        added=added,
        replaced=replaced,
        deleted=deleted,
        live=manifest.live,
        dead=manifest.deleted,
        parts=len(manifest.parts),
    )
