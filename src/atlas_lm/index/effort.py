"""How widely a faiss index is searched: chosen when it is built, and changed here afterwards."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from atlas_lm.index.coded import kept_vectors
from atlas_lm.index.directory import writing
from atlas_lm.index.files import Manifest, read_manifest, rewrite_manifest
from atlas_lm.index.opening import load_vectors
from atlas_lm.index.recall import measure_recall
from atlas_lm.index.settings import IndexSettings
from atlas_lm.runtime.errors import InputError


def set_effort(
    path: str | Path, *, nprobe: int | None = None, ef_search: int | None = None
) -> Manifest:
    """Write into the manifest how many lists or candidates a query visits; return it.

    Recall is measured again where the index keeps its vectors, and no longer known where not.

    Args:
        path: the directory of an index of kind faiss.
        nprobe: lists visited by a query (IVF); as it was if None.
        ef_search: candidates kept while walking the graph (HNSW); as it was if None.

    Raises:
        InputError: the index is of another kind or its type has no such parameter, nothing or less
            than 1 is asked for, or another process is writing the index.
    """
    path = Path(path)
    given: dict[str, Any] = {"nprobe": nprobe, "ef_search": ef_search}
    asked = {name: value for name, value in given.items() if value is not None}
    if not asked:
        raise InputError("name what to change: nprobe (IVF) or ef_search (HNSW)")
    with writing(path):
        manifest = read_manifest(path)
        if manifest.kind != "faiss":
            raise InputError(
                f"{path}: an index of kind {manifest.kind} has no {' or '.join(asked)}; only "
                "those of kind faiss are searched more or less widely"
            )
        before = IndexSettings.from_dict(manifest.settings, place=str(path))
        settings = dataclasses.replace(before, **asked)
        settings.check_used()
        manifest = dataclasses.replace(manifest, settings=settings.as_dict(), recall=None)
        vectors = kept_vectors(path, manifest)
        if vectors is not None:
            index = load_vectors(path, manifest, device="cpu", mmap=True, verify=False)
            for name, value in asked.items():
                setattr(index, name, value)
            recall = measure_recall(index, vectors, settings)
            manifest = dataclasses.replace(manifest, recall=recall)
        return rewrite_manifest(path, manifest, updated=manifest.updated)
