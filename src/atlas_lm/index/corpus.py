"""The passages that an index directory is of: where they are, which are dead, if they changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from atlas_lm.index.files import Manifest, read_manifest
from atlas_lm.index.storage import map_array
from atlas_lm.passages.repeats import joint_fingerprint
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError


def deleted_rows(path: Path, manifest: Manifest, *, verify: bool = False) -> NDArray[np.int64]:
    """Return the dead rows of a directory, sorted, read into memory."""
    if "deleted" not in manifest.arrays:
        return np.zeros(0, np.int64)
    shape = [manifest.deleted]
    rows = map_array(path, manifest, "deleted", torch.int64, shape, verify=verify)
    return np.array(rows.numpy())


def with_parts(path: Path, manifest: Manifest) -> list[tuple[Path, Manifest]]:
    """Return a directory and its parts, in the order of their rows, with their manifests."""
    parts = [path / name for name in manifest.parts]
    return [(path, manifest), *((part, read_manifest(part)) for part in parts)]


def passage_paths(members: Sequence[tuple[Path, Manifest]]) -> list[Path]:
    """Return the passage files of a directory and its parts, in order, where they are now.

    Raises:
        InputError: a file is missing, or the index was saved without its passages.
    """
    files: list[Path] = []
    for place, manifest in members:
        if manifest.passages is None:
            raise InputError(
                f"{place}: the index was saved without its passages; name the passage files"
            )
        files += manifest.passages.found_from(place)
    return files


def open_corpus(path: Path, manifest: Manifest) -> PassageStore:
    """Open the passages of a directory and its parts, dead rows hidden, as a writer must have them.

    Raises:
        InputError: a file is missing or not what the vectors were made of.
    """
    members = with_parts(path, manifest)
    store = PassageStore.open(
        passage_paths(members), check=False, hidden=deleted_rows(path, manifest)
    )
    refuse_changed(members, store)
    return store


def refuse_changed(
    members: Sequence[tuple[Path, Manifest]], store: PassageStore, *, given: bool = False
) -> None:
    """Refuse passages that are not those the vectors were made of.

    Args:
        members: the directory and its parts.
        store: their passages.
        given: whether the files were named by the user: then they may be cut up otherwise.

    Raises:
        InputError: they are others, or in another order.
    """
    path, manifest = members[0]
    rows = sum(one.count for _, one in members)
    if given and len(members) == 1:
        same = store.fingerprint == manifest.fingerprint.corpus or store.sha256 == _sums(manifest)
    else:
        same, first = True, 0
        for _, one in members:
            sums = _sums(one)
            last = first + len(sums)
            of_member = store.fingerprints[first:last]
            same &= bool(of_member) and (
                joint_fingerprint(of_member) == one.fingerprint.corpus
                or store.sha256[first:last] == sums
            )
            same &= sum(store.counts[first:last]) == one.count
            first = last
    if not same or len(store) != rows:
        raise InputError(
            f"{path}: built from {rows} passages (fingerprint "
            f"{manifest.fingerprint.corpus[:12]}...), but {', '.join(map(str, store.paths))} holds "
            f"{len(store)} others (fingerprint {store.fingerprint[:12]}...); put the original "
            "files back, or rebuild the index with `atlas-lm index build`"
        )


def _sums(manifest: Manifest) -> tuple[str, ...]:
    files = manifest.passages.files if manifest.passages is not None else ()
    return tuple(file.sha256 for file in files)
