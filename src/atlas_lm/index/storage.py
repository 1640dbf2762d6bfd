"""The files of an index directory: written so that a kill at any instant leaves the old or the new.

New files get names that the present manifest does not use; the manifest that names them replaces
the old one by a single rename; what it no longer names is removed. Nothing is pickled.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from atlas_lm.index.files import (
    MANIFEST,
    Fingerprint,
    Manifest,
    PassageFile,
    PassageFiles,
    read_manifest,
    relative_files,
    write_manifest,
)
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_path, sha256_file

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""The dtypes vectors are stored in, by their names in the manifest."""
WRITE_BYTES = 64 << 20
OURS = re.compile(
    r"\.?(embeddings|passages)(-\d+)?(\.\d+)?\.(bin|jsonl)(\..+\.tmp)?|\.manifest\.json\..+\.tmp"
)
"""Names an index directory may hold beside its manifest; only these are ever removed."""


def write_index(
    directory: Path,
    embeddings: Float[Tensor, "n dim"],
    *,
    kind: str,
    step: int,
    fingerprint: Fingerprint,
    passages: PassageFiles | None,
    copy_passages: bool,
) -> Manifest:
    """Write vectors and manifest, and the passages where they are to be copied.

    Raises:
        InputError: the directory holds something else, or the disk is full; an index that was
            there is as it was.
    """
    with new_files(directory, embeddings.numel() * embeddings.element_size()):
        target = directory / free_name(directory, "embeddings.bin")
        with atomic_path(target) as temporary:
            sha256 = _write_tensor(temporary, embeddings)
        return finish(
            directory,
            target,
            sha256,
            passages=passages,
            copy_passages=copy_passages,
            kind=kind,
            step=step,
            fingerprint=fingerprint,
            dtype=str(embeddings.dtype).removeprefix("torch."),
            count=len(embeddings),
            dim=embeddings.shape[1],
        )


def finish(
    directory: Path,
    vectors: Path,
    sha256: str,
    *,
    passages: PassageFiles | None,
    copy_passages: bool,
    **fields: Any,
) -> Manifest:
    """Write the manifest of an index whose vectors are in ``vectors``, in ``directory``."""
    if passages is not None:
        if copy_passages:
            passages = _copied(passages, directory, fields["fingerprint"].corpus)
        else:
            passages = relative_files(passages, directory)
    size = vectors.stat().st_size
    expected = fields["count"] * fields["dim"] * DTYPES[fields["dtype"]].itemsize
    if size != expected:
        raise OSError(errno.EIO, f"{size} bytes were written instead of {expected}", str(vectors))
    return write_manifest(
        directory,
        embeddings=vectors.name,
        embeddings_bytes=size,
        embeddings_sha256=sha256,
        passages=passages,
        **fields,
    )


@contextmanager
def new_files(directory: Path, needed_bytes: int) -> Iterator[None]:
    """Make room for a new index in ``directory``; afterwards it holds what its manifest names.

    Raises:
        InputError: the directory holds something else, or the disk is or becomes full.
    """
    refuse_foreign(directory)
    existed = directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with disk_full_explained(directory, needed_bytes):
            yield
    finally:
        remove_unnamed(directory)
        if not existed and not any(directory.iterdir()):
            directory.rmdir()


@contextmanager
def disk_full_explained(directory: Path, needed_bytes: int, kept: str = "") -> Iterator[None]:
    """Turn "no space left" into an `InputError` that says how much is needed; check beforehand."""
    try:
        free = shutil.disk_usage(directory).free
        if free < needed_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
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
    stem, suffix = name.split(".")
    return name if name not in _named(directory) else f"{stem}.1.{suffix}"


def remove_unnamed(directory: Path) -> None:
    """Remove the files of earlier or unfinished indexes that the manifest does not name."""
    named = _named(directory)
    for path in directory.iterdir():
        if path.name not in named and OURS.fullmatch(path.name):
            path.unlink(missing_ok=True)


def map_embeddings(
    directory: Path, manifest: Manifest, *, verify: bool = False
) -> Float[Tensor, "n dim"]:
    """Return the vectors, mapped read-only: writing to them would kill the process.

    Raises:
        InputError: the file is missing, of another size than the manifest says, or (``verify``)
            of another checksum.
    """
    path = directory / manifest.embeddings
    dtype = DTYPES.get(manifest.dtype)
    if dtype is None or manifest.count * manifest.dim * dtype.itemsize != manifest.embeddings_bytes:
        raise InputError(
            f"{directory / MANIFEST}: {manifest.count} x {manifest.dim} vectors in "
            f"{manifest.dtype} are not {manifest.embeddings_bytes} bytes; rebuild the index"
        )
    size = path.stat().st_size if path.is_file() else None
    if size != manifest.embeddings_bytes:
        raise InputError(
            f"{path}: {'missing' if size is None else f'{size} bytes'} instead of "
            f"{manifest.embeddings_bytes} bytes; copy it again or rebuild the index"
        )
    if verify and sha256_file(path) != manifest.embeddings_sha256:
        raise InputError(
            f"{path}: checksum differs from the manifest's; copy it again or rebuild the index"
        )
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        flat = torch.from_numpy(mapped)
    return flat.view(dtype).view(manifest.count, manifest.dim)


def write_rows(file: BinaryIO, embeddings: Float[Tensor, "n dim"]) -> memoryview:
    """Write the vectors' bytes, row by row; return them."""
    data = embeddings.contiguous().cpu().view(torch.uint8).numpy().data.cast("B")
    file.write(data)
    return data


def _write_tensor(path: Path, embeddings: Float[Tensor, "n dim"]) -> str:
    """Write the vectors' own bytes in pieces and return their checksum."""
    digest = hashlib.sha256()
    rows = max(WRITE_BYTES // (embeddings.shape[1] * embeddings.element_size()), 1)
    with open(path, "wb") as file:
        for start in range(0, len(embeddings), rows):
            digest.update(write_rows(file, embeddings[start : start + rows]))
    return digest.hexdigest()


def _copied(passages: PassageFiles, directory: Path, corpus: str) -> PassageFiles:
    """Copy each passage file into the directory, unless it already holds them."""
    if passages.copied and Path(passages.files[0].absolute).parent == directory.resolve():
        return passages
    sources = [Path(file.absolute) for file in passages.files]
    store = PassageStore.open(sources, check=False)
    if store.fingerprint != corpus:
        raise InputError(
            f"{', '.join(map(str, sources))}: changed since the index was built; rebuild the index"
        )
    needed, files = sum(path.stat().st_size for path in store.plain_paths), []
    for number, path in enumerate(store.plain_paths, 1):
        name = "passages.jsonl" if len(sources) == 1 else f"passages-{number:04}.jsonl"
        target = directory / free_name(directory, name)
        with (
            disk_full_explained(directory, needed),
            atomic_path(target) as temporary,
            open(temporary, "wb") as copy,
        ):
            _append_lines(path, copy)
        content = store.fingerprints[number - 1]
        files.append(
            PassageFile(target.name, str(target.resolve()), target.stat().st_size, content)
        )
    return PassageFiles(files=tuple(files), copied=True)


def _append_lines(path: Path, copy: BinaryIO) -> None:
    """Append a file's content, closed by a newline."""
    with open(path, "rb") as source:
        shutil.copyfileobj(source, copy, 1 << 20)
        source.seek(-1, os.SEEK_END)
        if source.read(1) != b"\n":
            copy.write(b"\n")


def _named(directory: Path) -> set[str]:
    """Return the names that the directory's manifest uses; empty where there is no valid one."""
    try:
        manifest = read_manifest(directory)
    except InputError:
        return set()
    copied = manifest.passages is not None and manifest.passages.copied
    files = manifest.passages.files if manifest.passages is not None and copied else ()
    return {manifest.embeddings, *(file.path for file in files)}
