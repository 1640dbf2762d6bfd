"""What compaction has to remove outside of the directory once its manifest is written.

It is noted beforehand in the directory, so that a kill in between loses none of it: the next
compaction does what the note says.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atlas_lm.index.directory import LEFTOVERS
from atlas_lm.index.files import Fingerprint, read_manifest
from atlas_lm.index.milvus import MilvusIndex
from atlas_lm.index.opening import load_vectors
from atlas_lm.passages.sidecar import sidecar_path
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.files import read_json, write_json

CACHED = re.compile(r"[0-9a-f]{24}\.(offsets|jsonl)")
"""Names in the cache of passages; a note that came from elsewhere removes nothing else."""


@dataclass(frozen=True, kw_only=True)
class Leftovers:
    """What is to be removed once the index is of ``fingerprint``."""

    fingerprint: Fingerprint
    """Of the compacted index; a note of another one was never due."""
    collection: str
    """The Milvus collection that held the rows before; "" where there is none."""
    cached: tuple[str, ...]
    """Files of the cache: copies of packed files that hold dead rows, and what is known of files
    that go."""
    still_in: tuple[str, ...]
    """Files of the user's own that hold dead rows: to be named, not to be removed."""


def note_leftovers(
    path: Path,
    old: PassageStore,
    dead: NDArray[np.int64],
    *,
    fingerprint: Fingerprint,
    collection: str,
) -> None:
    """Write down what is to go when the index in ``path`` has become that of ``fingerprint``.

    Args:
        path: the index directory.
        old: the passages of its rows as they are now.
        dead: rows that the new index is without.
        fingerprint: the new index's.
        collection: the Milvus collection that will not be used any more.
    """
    cached, still_in = [], []
    if len(dead):
        for named, plain in zip(old.paths, old.plain_paths, strict=True):
            unpacked = plain != named.resolve()
            if unpacked or path in plain.parents:
                cached.append(sidecar_path(plain).name)
            if unpacked:
                cached.append(plain.name)
        last = np.cumsum(old.counts)
        holding = np.unique(np.searchsorted(last, dead, side="right"))
        files = [old.paths[number] for number in holding]
        still_in = [str(file) for file in files if path not in file.resolve().parents]
    noted = Leftovers(
        fingerprint=fingerprint,
        collection=collection,
        cached=tuple(cached),
        still_in=tuple(still_in),
    )
    write_json(path / LEFTOVERS, dataclasses.asdict(noted))


def remove_leftovers(path: Path) -> tuple[Path, ...]:
    """Do what the note in an index directory says, if it is due; afterwards there is none.

    Returns:
        Files of the user's own that still hold dead rows.

    Raises:
        InputError: the Milvus database cannot be opened; the note is kept.
    """
    if not (path / LEFTOVERS).exists():
        return ()
    noted = read_json(path / LEFTOVERS, what="the note of a compaction")
    manifest, still_in = read_manifest(path), []
    if dataclasses.asdict(manifest.fingerprint) == noted["fingerprint"]:
        if manifest.kind == "milvus":
            index = load_vectors(path, manifest, device="cpu", mmap=True, verify=False)
            assert isinstance(index, MilvusIndex)
            index.drop_others(noted["collection"])
            index.close()
        for name in filter(CACHED.fullmatch, noted["cached"]):
            sidecar_path(path).with_name(name).unlink(missing_ok=True)
        still_in = noted["still_in"]
    (path / LEFTOVERS).unlink()
    return tuple(map(Path, still_in))
