"""An index directory as names: what may lie in it, who writes, what a new manifest leaves behind.

New files get names that the present manifest does not use; the manifest that names them replaces
the old one by a single rename; what it no longer names is removed.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atlas_lm.index.files import MANIFEST, read_manifest
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import is_disk_full
from atlas_lm.runtime.locks import try_lock

LEFTOVERS = "leftovers.json"
"""Note of a compaction that may not have removed everything yet; see `leftovers`."""
OURS = re.compile(
    r"\.?(embeddings|passages(-\d+)?)(\.\d+)?\.(bin|jsonl)(\..+\.tmp)?"
    r"|\.?[a-z][a-z0-9_]*(\.\d+)?\.array(\..+\.tmp)?"
    r"|\.vectors\..+\.tmp"
    r"|milvus(\.\d+)?\.db(\..*)?|\.milvus(\.\d+)?\.db\..*"
    r"|part-\d{4,}(\.partial)?"
    r"|leftovers\.json|\.(manifest|leftovers)\.json\..+\.tmp"
)
"""Names an index directory may hold beside its manifest; only these are ever removed."""


@contextmanager
def new_files(directory: Path, needed_bytes: int) -> Iterator[None]:
    """Make room for a new index in ``directory``; afterwards it holds what its manifest names.

    On an exception a database stays where a build can go on (``<directory>.partial``), for it is
    filled on then.

    Raises:
        InputError: the directory holds something else, or the disk is or becomes full.
    """
    refuse_foreign(directory)
    existed = directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with disk_full_explained(directory, needed_bytes):
            yield
    except BaseException:
        unfinished = directory.with_name(directory.name + ".partial").exists()
        remove_unnamed(directory, databases=not unfinished)
        raise
    else:
        remove_unnamed(directory)
    finally:
        if not existed and not any(directory.iterdir()):
            directory.rmdir()


@contextmanager
def disk_full_explained(directory: Path, needed_bytes: int, kept: str = "") -> Iterator[None]:
    """Turn the error of a full disk into one that says how much is needed; check beforehand.

    Raises:
        InputError: the disk is too small, or was full.
    """
    try:
        free = shutil.disk_usage(directory).free
        if free < needed_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        free = shutil.disk_usage(directory).free
        raise InputError(
            f"{directory}: the disk is full: the index needs {needed_bytes / 1e6:.1f} MB and "
            f"{free / 1e6:.1f} MB are free; make room or choose another directory"
            + (f"; {kept}" if kept else "")
        ) from error


def refuse_foreign(directory: Path) -> None:
    """Raise `InputError` unless ``directory`` is absent, empty, or an index (even unfinished)."""
    if directory.is_file():
        raise InputError(f"{directory}: is a file; name a directory for the index")
    if not directory.is_dir():
        return
    for path in directory.iterdir():
        if path.name != MANIFEST and not OURS.fullmatch(path.name):
            raise InputError(
                f"{directory}: holds {path.name!r}, so it is no index directory; choose a new or "
                "an empty directory"
            )


def free_name(directory: Path, name: str) -> str:
    """Return ``name``, or its numbered form where the present manifest uses it."""
    stem, suffix = name.rsplit(".", 1)
    return name if name not in named(directory) else f"{stem}.1.{suffix}"


def remove_unnamed(directory: Path, *, databases: bool = True) -> None:
    """Remove the files of earlier or unfinished indexes that the manifest does not name.

    A part that is being built is kept, for its building goes on later; so are Milvus databases
    unless ``databases``.
    """
    keep = named(directory) | {LEFTOVERS}
    for path in directory.iterdir():
        if path.name in keep or not OURS.fullmatch(path.name) or path.suffix == ".partial":
            continue
        if path.suffix == ".db" and not databases:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def named(directory: Path) -> set[str]:
    """Return the names that the directory's manifest uses; empty where there is no valid one."""
    try:
        manifest = read_manifest(directory)
    except InputError:
        return set()
    copied = manifest.passages is not None and manifest.passages.copied
    files = manifest.passages.files if manifest.passages is not None and copied else ()
    embedded = manifest.kind == "milvus" and not manifest.settings.get("url")
    return {
        manifest.embeddings,
        *(file.path for file in files),
        *(array.name for array in manifest.arrays.values()),
        *manifest.parts,
        *([manifest.settings.get("database", "milvus.db")] if embedded else []),
    }


@contextmanager
def writing(directory: str | Path) -> Iterator[None]:
    """Be the only writer of an index directory; the claim ends with the process, however it ends.

    Readers are not kept out. The claim is a locked file beside the directory.

    Raises:
        InputError: another process, or another thread of this one, is writing.
    """
    directory = Path(directory).resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    path = directory.with_name(f".{directory.name}.writing")
    file = try_lock(path)
    if file is None:
        raise InputError(
            f"{directory}: another process is writing this index; wait until it is done "
            "(searching goes on meanwhile)"
        )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
