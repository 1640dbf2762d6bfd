"""What an index directory holds, from its manifests and small files: no vector is read.

A stack is opened, for what its indexes hide of each other is not written anywhere.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atlas_lm.index.corpus import deleted_rows, with_parts
from atlas_lm.index.files import Manifest, read_manifest, size_of
from atlas_lm.index.opening import STACK, consistently, open_index, stack_members, watched
from atlas_lm.index.storage import map_array
from atlas_lm.runtime.errors import InputError


def members(path: Path) -> Iterator[tuple[Path, Manifest]]:
    """Yield the directories of vectors with their manifests: the first, its parts, a stack's."""
    manifest = read_manifest(path)
    if manifest.kind == STACK:
        for member in stack_members(path, manifest):
            yield from members(member)
        return
    yield from with_parts(path, manifest)


def describe(path: str | Path) -> dict[str, Any]:
    """Return kind, counts, sizes, fingerprints, recall, age and steps of an index.

    Age is that of the oldest vectors, of all parts or of all indexes of a stack.

    Raises:
        InputError: a manifest is missing or damaged, or a stack cannot be opened.
    """
    path = Path(path)
    return consistently(watched(path), lambda: _described(path))


def _described(path: Path) -> dict[str, Any]:
    manifest = read_manifest(path)
    directories = list(members(path))
    dead = _dead_rows(path, manifest)
    rows = sum(one.count for _, one in directories)
    counts: dict[str, Any] = {"passages": rows - len(dead), "rows": rows, "deleted": len(dead)}
    if manifest.kind == STACK:
        stacked = stack_members(path, manifest)
        counts["stack"] = [str(member) for member in stacked]
        counts["recall_of_stack"] = [_recall(read_manifest(member)) for member in stacked]
    else:
        counts["parts"] = len(manifest.parts)
        counts["rows_of_parts"] = [manifest.count, *manifest.part_rows]
    created = min(one.created for _, one in directories)
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(created)
    return {
        "index": str(path),
        "kind": manifest.kind,
        "dim": manifest.dim,
        "dtype": manifest.dtype,
        **counts,
        "settings": {name: value for name, value in manifest.settings.items() if value},
        "recall": _recall(manifest),
        "bytes": _bytes(directories),
        "fingerprint": asdict(manifest.fingerprint),
        "step": manifest.step,
        "steps": _steps(path, dead, directories),
        "created": created,
        "updated": manifest.updated or None,
        "age_hours": round(age.total_seconds() / 3600, 2),
        "passage_files": [
            file.absolute
            for place, one in directories
            if one.passages is not None
            for file in one.passages.located(place).files
        ],
        "copied_passages": manifest.passages is not None and manifest.passages.copied,
        "format_version": manifest.format_version,
        "library_version": manifest.library_version,
    }


def _recall(manifest: Manifest) -> dict[str, Any] | None:
    return asdict(manifest.recall) if manifest.recall is not None else None


def _dead_rows(path: Path, manifest: Manifest) -> NDArray[np.int64]:
    """Return the rows that cannot be found, of all directories one after the other."""
    if manifest.kind != STACK:
        return deleted_rows(path, manifest)
    _, store = open_index(path)
    hidden = store.hidden
    store.close()
    return np.zeros(0, np.int64) if hidden is None else hidden


def _bytes(directories: list[tuple[Path, Manifest]]) -> dict[str, int]:
    """Return what is on disk: vectors, every kind of array, passages, and all of it.

    Of Milvus that is the embedded database; what lies on a server is not known here.
    """
    sizes: Counter[str] = Counter()
    for place, manifest in directories:
        if manifest.kind == "milvus" and not manifest.settings["url"]:
            database = place / manifest.settings["database"]
            sizes["database"] += size_of(database) if database.exists() else 0
        sizes["vectors"] += manifest.embeddings_bytes
        for role, file in manifest.arrays.items():
            sizes[role] += file.bytes
        if manifest.passages is not None:
            inside = "copied passages" if manifest.passages.copied else "passages elsewhere"
            sizes[inside] += sum(file.bytes for file in manifest.passages.files)
    total = sum(size for name, size in sizes.items() if name != "passages elsewhere")
    return {**{name: size for name, size in sizes.items() if size}, "total": total}


def _steps(
    path: Path, dead: NDArray[np.int64], directories: list[tuple[Path, Manifest]]
) -> dict[str, float]:
    """Return the share of live passages whose vector is of each retriever step."""
    live = np.ones(sum(one.count for _, one in directories), np.bool_)
    live[dead] = False
    counts: Counter[int] = Counter()
    first = 0
    for place, one in directories:
        mine = live[first : first + one.count]
        first += one.count
        if "row_steps" in one.arrays:
            steps = map_array(place, one, "row_steps", torch.int32, [one.count]).numpy()
            for step, count in zip(*np.unique(steps[mine], return_counts=True), strict=True):
                counts[int(step)] += int(count)
        else:
            counts[one.step] += int(mine.sum())
    total = sum(counts.values())
    if not total:
        raise InputError(f"{path}: no passage is left")
    return {str(step): count / total for step, count in sorted(counts.items()) if count}
