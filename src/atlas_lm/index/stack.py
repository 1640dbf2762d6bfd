"""A directory that names several indexes, which are then searched as one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from atlas_lm.index.codec import scores_by_codes
from atlas_lm.index.directory import new_files, refuse_foreign, writing
from atlas_lm.index.files import Manifest, read_manifest, write_manifest
from atlas_lm.index.opening import STACK, open_index
from atlas_lm.runtime.dtypes import name_of
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import notice


def stack(paths: Sequence[str | Path], out: str | Path) -> Manifest:
    """Write a directory that opens as all of ``paths`` searched as one, later ones winning.

    It holds names only: an index that is changed later is changed in the stack too.

    Args:
        paths: index directories, oldest first; of passages with equal ids only the one in the last
            directory that has it is found.
        out: the directory of the stack.

    Raises:
        InputError: fewer than two indexes, one is no index, they were not made by one encoder, or
            ``out`` holds something else.
    """
    if len(paths) < 2:
        raise InputError("name at least two indexes to stack")
    places, out = [Path(path).resolve() for path in paths], Path(out).resolve()
    if out in places:
        raise InputError(f"{out}: is one of the indexes; choose another directory for the stack")
    index, store = open_index(places)
    dead = 0 if store.hidden is None else len(store.hidden)
    store.close()
    _warn_of_codes(places)
    refuse_foreign(out)
    if out.is_dir() and any(out.iterdir()) and read_manifest(out).kind != STACK:
        raise InputError(f"{out}: is an index; choose a new directory for the stack")
    with writing(out), new_files(out, needed_bytes=0):
        return write_manifest(
            out,
            kind=STACK,
            dim=index.dim,
            dtype=name_of(index.dtype),
            count=len(index),
            step=index.step,
            fingerprint=index.fingerprint,
            embeddings="",
            embeddings_bytes=0,
            embeddings_sha256="",
            passages=None,
            settings={"members": [_named(place, out) for place in places]},
            deleted=dead,
        )


def _warn_of_codes(places: Sequence[Path]) -> None:
    """Say where scores of one index cannot be compared with those of the others."""
    for place in places:
        manifest = read_manifest(place)
        if scores_by_codes(manifest):
            notice(
                f"{place}: keeps codes ({manifest.settings['factory']}) without vectors, and its "
                "scores are their estimates: beside the others its passages come first too often "
                "or too seldom; build it with --keep-vectors, or by a factory with SQ8"
            )


def _named(place: Path, out: Path) -> dict[str, str]:
    try:
        relative = os.path.relpath(place, out)
    except ValueError:  # another drive
        relative = str(place)
    return {"path": relative, "absolute": str(place)}
