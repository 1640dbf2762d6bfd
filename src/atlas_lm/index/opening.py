"""An index directory and its passages, opened together and held against each other.

What was opened stays readable whatever a writer does afterwards: files are mapped or open, and a
writer never changes a file but replaces the manifest that names it. An opening that a writer
overtakes starts over.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from atlas_lm.index.base import Index
from atlas_lm.index.binary import BinaryIndex
from atlas_lm.index.corpus import deleted_rows, passage_paths, refuse_changed, with_parts
from atlas_lm.index.faiss import FaissIndex
from atlas_lm.index.files import MANIFEST, Manifest, read_manifest
from atlas_lm.index.flat import FlatIndex
from atlas_lm.index.int8 import Int8Index
from atlas_lm.index.member import joined_files
from atlas_lm.index.milvus import MilvusIndex
from atlas_lm.index.parted import PartedIndex
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError, did_you_mean

KINDS: dict[str, Any] = {
    "flat": FlatIndex,
    "int8": Int8Index,
    "binary": BinaryIndex,
    "faiss": FaissIndex,
    "milvus": MilvusIndex,
}
"""The class of every kind: implements `index.base.Index` and has a classmethod ``load(path, *,
device, mmap, verify)``."""
STACK = "stack"
"""Kind of a directory that names others, which are searched as one."""
ATTEMPTS = 20
Opened = TypeVar("Opened")


@dataclass(frozen=True, kw_only=True)
class _Loading:
    """How an index is loaded."""

    device: torch.device | str
    mmap: bool
    verify: bool


def open_index(
    path: str | Path | Sequence[str | Path],
    *,
    passages: Sequence[str | Path] | None = None,
    device: torch.device | str = "cpu",
    mmap: bool = True,
    verify: bool = False,
) -> tuple[Index, PassageStore]:
    """Open an index directory of any kind, or a stack of them, and the passages of its rows.

    Args:
        path: the index directory; or several, searched as one: of passages with equal ids only the
            one in the last directory that has it is found.
        passages: where the passage files are, if not where the manifest says.
        device: where to search.
        mmap: map the vectors instead of reading them (on CPU).
        verify: also compare the checksums of vectors and arrays.

    Raises:
        InputError: the manifest is missing, damaged, of a newer format or of an unknown kind; a
            file is missing, truncated or (``verify``) altered; the passages are missing, or their
            content is not what the index was built from.
    """
    loading = _Loading(device=device, mmap=mmap, verify=verify)
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(one) for one in path]
    if not paths:
        raise InputError("no index directory given; name at least one")
    if len(paths) == 1:
        return consistently(paths, lambda: _open(paths[0], passages, loading))
    if passages is not None:
        raise InputError("a stack of indexes takes each one's own passages; name only the indexes")
    return consistently(
        paths, lambda: _stack([open_index(one, **vars(loading)) for one in paths], paths)
    )


def consistently(paths: Sequence[Path], read: Callable[[], Opened]) -> Opened:
    """Return what ``read`` returns while the manifests of ``paths`` stay the same.

    Raises:
        InputError: writers never pause; or whatever ``read`` raises when no writer is the cause.
    """
    for _ in range(ATTEMPTS):
        before = _manifests(paths)
        try:
            opened = read()
        except Exception:  # of halves that do not belong together, anything
            if _manifests(paths) == before:
                raise
        else:
            if _manifests(paths) == before:
                return opened
        time.sleep(0.01)
    names = ", ".join(map(str, paths))
    raise InputError(f"{names}: changed {ATTEMPTS} times while being opened; wait for the writers")


def watched(path: Path) -> list[Path]:
    """Return the directories whose manifests say what an index is: its own, and a stack's members.

    Raises:
        InputError: a manifest is missing or damaged, or a member is.
    """
    manifest = read_manifest(path)
    members = stack_members(path, manifest) if manifest.kind == STACK else []
    return [path, *(one for member in members for one in watched(member))]


def load_vectors(path: Path, manifest: Manifest, **how: Any) -> Index:
    """Return the index of a directory without its parts.

    Raises:
        InputError: the kind is unknown, or a file is missing or damaged.
    """
    if manifest.kind not in KINDS:
        raise InputError(
            f"{path / MANIFEST}: unknown kind {manifest.kind!r}"
            f"{did_you_mean(manifest.kind, KINDS)}; upgrade atlas-lm or rebuild the index"
        )
    index: Index = KINDS[manifest.kind].load(path, **how)
    return index


def stack_members(path: Path, manifest: Manifest) -> list[Path]:
    """Return the directories that a stack names, where they are now.

    Raises:
        InputError: one is neither beside the stack nor where it was.
    """
    members = []
    for member in manifest.settings["members"]:
        places = [(path.resolve() / member["path"]).resolve(), Path(member["absolute"])]
        found = next((place for place in places if place.is_dir()), None)
        if found is None:
            raise InputError(
                f"{path}: its index {member['absolute']} is missing; put it back or stack again"
            )
        members.append(found)
    return members


def _open(
    path: Path, passages: Sequence[str | Path] | None, loading: _Loading
) -> tuple[Index, PassageStore]:
    manifest = read_manifest(path)
    if manifest.kind == STACK:
        return open_index(stack_members(path, manifest), passages=passages, **vars(loading))
    members = with_parts(path, manifest)
    indexes = [load_vectors(place, one, **vars(loading)) for place, one in members]
    deleted = deleted_rows(path, manifest, verify=loading.verify)
    files = passages or passage_paths(members)
    store = PassageStore.open(files, check=False, hidden=deleted)
    refuse_changed(members, store, given=passages is not None)
    index = indexes[0]
    if len(indexes) > 1 or len(deleted):
        index = PartedIndex(indexes, deleted, passages=joined_files(indexes))
    index.fingerprint = dataclasses.replace(index.fingerprint, corpus=store.fingerprint)
    return index, store


def _stack(
    opened: Sequence[tuple[Index, PassageStore]], paths: Sequence[Path]
) -> tuple[Index, PassageStore]:
    """Join indexes; of passages with equal ids only the last one is live.

    Raises:
        InputError: they are of several encoders: their scores do not compare.
    """
    indexes = [index for index, _ in opened]
    files = [file for _, store in opened for file in store.paths]
    dead, first = [np.zeros(0, np.int64)], 0
    for index, store in opened:
        if store.hidden is not None:
            dead.append(store.hidden + first)
        first += len(index)
    hidden = np.concatenate(dead)
    repeats = PassageStore.open(files, check=False).repeats()
    hidden = np.union1d(hidden, earlier_rows(repeats, hidden))
    store = PassageStore.open(files, check=False, hidden=hidden)
    try:
        for index in indexes[1:]:
            indexes[0].fingerprint.check(index.fingerprint, ignore={"corpus"})
        joint = PartedIndex(indexes, hidden, passages=joined_files(indexes))
    except InputError as error:
        names = ", ".join(map(str, paths))
        raise InputError(f"{names} cannot be searched as one: {error}") from error
    joint.fingerprint = dataclasses.replace(joint.fingerprint, corpus=store.fingerprint)
    return joint, store


def earlier_rows(repeats: NDArray[np.int64], hidden: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the live rows whose id a later live row has too.

    Args:
        repeats: rows in ascending order, each with the first row of its id.
        hidden: dead rows.
    """
    live = repeats[~np.isin(repeats[:, 0], hidden)]
    last = {group: row for row, group in live.tolist()}
    return np.array([row for row, group in live.tolist() if last[group] != row], np.int64)


def _manifests(paths: Sequence[Path]) -> list[bytes | None]:
    return [_manifest_bytes(path) for path in paths]


def _manifest_bytes(path: Path) -> bytes | None:
    try:
        return (path / MANIFEST).read_bytes()
    except OSError:
        return None
