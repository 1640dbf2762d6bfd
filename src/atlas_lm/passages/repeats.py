"""Ids that occur twice in a corpus of several files, found without reading the files again.

Each file's sidecar holds its sorted id hashes; only rows whose hashes agree are read. What was
found is kept in the cache directory under the content of the files, so that a new file is
compared once with the old ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atlas_lm.passages.scan import repeated
from atlas_lm.passages.sidecar import IdTable, Layout
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_path
from atlas_lm.runtime.settings import cache_dir


def repeated_rows(layouts: Sequence[Layout], id_of: Callable[[int], str]) -> NDArray[np.int64]:
    """Return the rows whose id occurs more than once, each with the first row of that id.

    Args:
        layouts: the files, checked, in order.
        id_of: a row of the whole corpus to its passage id.
    """
    if len(layouts) == 1:
        return _ids(layouts[0]).repeats
    known = _known(layouts)
    if known is not None:
        return known
    first = np.cumsum([0, *(layout.lines for layout in layouts)])
    last = len(layouts) - 1
    start, candidates = 1, [_ids(layouts[0]).repeats[:, 0]]
    for count in range(last, 1, -1):
        if (found := _known(layouts[:count])) is not None:
            start, candidates = count, [found[:, 0]]
            break
    for new in range(start, last + 1):
        candidates.append(_ids(layouts[new]).repeats[:, 0] + first[new])
        for old in range(new):
            for file, rows in zip((old, new), _shared(layouts[old], layouts[new]), strict=True):
                candidates.append(rows.astype(np.int64) + first[file])
    found = repeated(np.concatenate(candidates).tolist(), id_of)
    _keep(layouts, found)
    return found


def live_repeat(
    repeats: NDArray[np.int64], hidden: NDArray[np.int64] | None
) -> tuple[int, int] | None:
    """Return the first two rows that share an id and are not hidden; None where there are none."""
    live = repeats if hidden is None else repeats[~np.isin(repeats[:, 0], hidden)]
    seen: dict[int, int] = {}
    for row, group in live.tolist():
        if group in seen:
            return seen[group], row
        seen[group] = row
    return None


def joint_fingerprint(fingerprints: Sequence[str]) -> str:
    """Return the fingerprint of files in order: of a single file, its own."""
    if len(fingerprints) == 1:
        return fingerprints[0]
    return hashlib.sha256("\n".join(["atlas-lm passages", *fingerprints]).encode()).hexdigest()


def _ids(layout: Layout) -> IdTable:
    assert layout.ids is not None
    return layout.ids


def _shared(one: Layout, other: Layout) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the rows in each file whose id hashes occur in both."""
    small, large = sorted((_ids(one), _ids(other)), key=lambda ids: len(ids.hashes))
    common = [np.zeros(0, np.uint64)]
    for start in range(0, len(small.hashes), 1 << 20):
        block = small.hashes[start : start + (1 << 20)]
        places = np.searchsorted(large.hashes, block)
        places[places == len(large.hashes)] = 0
        common.append(block[large.hashes[places] == block])
    hashes = np.unique(np.concatenate(common))
    return _rows(_ids(one), hashes), _rows(_ids(other), hashes)


def _rows(ids: IdTable, hashes: NDArray[np.uint64]) -> NDArray[np.uint32]:
    starts = np.searchsorted(ids.hashes, hashes, side="left").tolist()
    ends = np.searchsorted(ids.hashes, hashes, side="right").tolist()
    found = [ids.rows[start:end] for start, end in zip(starts, ends, strict=True)]
    return np.concatenate([np.zeros(0, np.uint32), *found])


def _known(layouts: Sequence[Layout]) -> NDArray[np.int64] | None:
    if len(layouts) == 1:
        return _ids(layouts[0]).repeats
    try:
        found = np.frombuffer(_path(layouts).read_bytes(), "<i8")
        return found.reshape(-1, 2)
    except (OSError, ValueError):
        return None


def _keep(layouts: Sequence[Layout], found: NDArray[np.int64]) -> None:
    try:
        with atomic_path(_path(layouts)) as temporary:
            temporary.write_bytes(found.astype("<i8").tobytes())
    except (OSError, InputError):
        return  # found again at the next opening; `scan` has warned about the cache


def _path(layouts: Sequence[Layout]) -> Path:
    key = joint_fingerprint([layout.fingerprint for layout in layouts])[:24]
    return cache_dir() / "passages" / f"{key}.repeats"
