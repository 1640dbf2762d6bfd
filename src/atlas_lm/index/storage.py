"""The files of an index directory: written so that a kill at any instant leaves the old or the new.

Vectors and arrays are raw, the manifest is JSON; nothing is pickled. How names are chosen is in
`directory`.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from atlas_lm.index.copies import copied
from atlas_lm.index.directory import (
    disk_full_explained,
    free_name,
    new_files,
    refuse_foreign,
)
from atlas_lm.index.files import (
    MANIFEST,
    ArrayFile,
    Fingerprint,
    Manifest,
    PassageFiles,
    Recall,
    relative_files,
    write_manifest,
)
from atlas_lm.runtime.dtypes import DTYPES, name_of
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_path, sha256_file
from atlas_lm.runtime.mapping import let_go, map_file

__all__ = [
    "ArraySource",
    "array_path",
    "disk_full_explained",
    "finish",
    "free_name",
    "map_array",
    "map_embeddings",
    "map_rows",
    "new_files",
    "refuse_foreign",
    "write_arrays",
    "write_index",
    "write_rows",
]

WRITE_BYTES = 64 << 20
ArraySource = Tensor | Callable[[Path], None]
"""What an array file holds: a tensor's own bytes, or whatever a function writes to a path."""


def write_index(
    directory: Path,
    embeddings: Float[Tensor, "n dim"] | None,
    *,
    kind: str,
    step: int,
    fingerprint: Fingerprint,
    passages: PassageFiles | None,
    copy_passages: bool,
    arrays: Mapping[str, ArraySource] | None = None,
    settings: Mapping[str, Any] | None = None,
    recall: Recall | None = None,
    count: int | None = None,
    dtype: torch.dtype | None = None,
    deleted: int = 0,
    created: str = "",
) -> Manifest:
    """Write vectors, arrays and manifest, and the passages where they are to be copied.

    Args:
        directory: the index directory.
        embeddings: full-precision vectors; None where only codes are kept (then give ``count`` and
            ``dtype``).
        kind: which index.
        step: the retriever's step.
        fingerprint: what the vectors were computed with, and over.
        passages: the passage files of the rows.
        copy_passages: whether the directory gets its own copy of them.
        arrays: further files by role; each becomes ``<role>.array``.
        settings: what the kind needs to know beside.
        recall: how much of the exact result is found.
        count: number of vectors.
        dtype: how vectors are, or were, stored.
        deleted: how many rows the array "deleted" lists.
        created: when the vectors were written first; now if empty.

    Raises:
        InputError: the directory holds something else, or the disk is full; an index that was
            there is as it was.
    """
    given = [source for source in (arrays or {}).values() if isinstance(source, Tensor)]
    given += [] if embeddings is None else [embeddings]
    with new_files(directory, sum(tensor.numel() * tensor.element_size() for tensor in given)):
        vectors, sha256 = None, ""
        if embeddings is not None:
            vectors = directory / free_name(directory, "embeddings.bin")
            with atomic_path(vectors) as temporary:
                sha256 = _write_tensor(temporary, embeddings)
            count, dtype = len(embeddings), embeddings.dtype
        assert dtype is not None, "the dtype is given where the vectors are not"
        return finish(
            directory,
            vectors,
            sha256,
            passages=passages,
            copy_passages=copy_passages,
            kind=kind,
            step=step,
            fingerprint=fingerprint,
            dtype=name_of(dtype),
            count=count,
            dim=fingerprint.dim,
            arrays=write_arrays(directory, arrays or {}),
            settings=settings or {},
            recall=recall,
            deleted=deleted,
            created=created,
        )


def write_arrays(directory: Path, arrays: Mapping[str, ArraySource]) -> dict[str, ArrayFile]:
    """Write each array to a file of its own that no manifest names yet; return what they are."""
    return {role: _write_array(directory, role, source) for role, source in arrays.items()}


def _write_array(directory: Path, role: str, source: ArraySource) -> ArrayFile:
    target = directory / free_name(directory, f"{role}.array")
    with atomic_path(target) as temporary:
        if isinstance(source, Tensor):
            sha256 = _write_tensor(temporary, source)
        else:
            source(temporary)
            sha256 = sha256_file(temporary)
    return ArrayFile(name=target.name, bytes=target.stat().st_size, sha256=sha256)


def finish(
    directory: Path,
    vectors: Path | None,
    sha256: str,
    *,
    passages: PassageFiles | None,
    copy_passages: bool,
    **fields: Any,
) -> Manifest:
    """Write the manifest of an index whose vectors are in ``vectors``, in ``directory``."""
    if passages is not None:
        if copy_passages:
            passages = copied(passages, directory, fields["fingerprint"].corpus)
        else:
            passages = relative_files(passages, directory)
    size = 0
    if vectors is not None:
        size = vectors.stat().st_size
        expected = fields["count"] * fields["dim"] * DTYPES[fields["dtype"]].itemsize
        if size != expected:
            problem = f"{size} bytes were written instead of {expected}"
            raise OSError(errno.EIO, problem, str(vectors))
    return write_manifest(
        directory,
        embeddings="" if vectors is None else vectors.name,
        embeddings_bytes=size,
        embeddings_sha256=sha256,
        passages=passages,
        **fields,
    )


def map_embeddings(
    directory: Path, manifest: Manifest, *, verify: bool = False
) -> Float[Tensor, "n dim"]:
    """Return the vectors, mapped read-only: writing to them would kill the process.

    Raises:
        InputError: only codes are kept; or the file is missing, of another size than the manifest
            says, or (``verify``) of another checksum.
    """
    if not manifest.embeddings:
        raise InputError(
            f"{directory}: this {manifest.kind} index keeps no full-precision vectors; rebuild it "
            "with `atlas-lm index build --keep-vectors`"
        )
    dtype = DTYPES.get(manifest.dtype)
    if dtype is None or manifest.count * manifest.dim * dtype.itemsize != manifest.embeddings_bytes:
        raise InputError(
            f"{directory / MANIFEST}: {manifest.count} x {manifest.dim} vectors in "
            f"{manifest.dtype} are not {manifest.embeddings_bytes} bytes; rebuild the index"
        )
    file = ArrayFile(
        name=manifest.embeddings,
        bytes=manifest.embeddings_bytes,
        sha256=manifest.embeddings_sha256,
    )
    path = _checked(directory, file, verify=verify)
    return map_rows(path, dtype, manifest.count, manifest.dim)


def map_rows(path: Path, dtype: torch.dtype, count: int, dim: int) -> Float[Tensor, "n dim"]:
    """Return the vectors in a file that is known to hold as many, mapped read-only."""
    return map_file(path).view(dtype)[: count * dim].view(count, dim)


def array_path(directory: Path, manifest: Manifest, role: str, *, verify: bool = False) -> Path:
    """Return the file of an array.

    Raises:
        InputError: the manifest names none, or the file is missing, of another size, or
            (``verify``) of another checksum.
    """
    if role not in manifest.arrays:
        raise InputError(
            f"{directory / MANIFEST}: names no array {role!r}; rebuild the index with "
            "`atlas-lm index build`"
        )
    return _checked(directory, manifest.arrays[role], verify=verify)


def map_array(
    directory: Path,
    manifest: Manifest,
    role: str,
    dtype: torch.dtype,
    shape: Sequence[int],
    *,
    verify: bool = False,
) -> Tensor:
    """Return an array, mapped read-only.

    Raises:
        InputError: as `array_path`; or its bytes do not make the shape.
    """
    path = array_path(directory, manifest, role, verify=verify)
    numbers = int(np.prod([1, *shape]))
    if numbers * dtype.itemsize != manifest.arrays[role].bytes:
        raise InputError(
            f"{path}: {manifest.arrays[role].bytes} bytes do not make {list(shape)} numbers of "
            f"{dtype.itemsize} bytes; rebuild the index"
        )
    if not numbers:
        return torch.empty(tuple(shape), dtype=dtype)
    return map_file(path).view(dtype).view(tuple(shape))


def _checked(directory: Path, file: ArrayFile, *, verify: bool) -> Path:
    path = directory / file.name
    size = path.stat().st_size if path.is_file() else None
    if size != file.bytes:
        raise InputError(
            f"{path}: {'missing' if size is None else f'{size} bytes'} instead of "
            f"{file.bytes} bytes; copy it again or rebuild the index"
        )
    if verify and sha256_file(path) != file.sha256:
        raise InputError(
            f"{path}: checksum differs from the manifest's; copy it again or rebuild the index"
        )
    return path


def write_rows(file: BinaryIO, embeddings: Tensor) -> memoryview:
    """Write a tensor's own bytes, row by row; return them."""
    data = embeddings.contiguous().cpu().view(torch.uint8).numpy().data.cast("B")
    file.write(data)
    return data


def _write_tensor(path: Path, tensor: Tensor) -> str:
    """Write the tensor's own bytes in pieces and return their checksum."""
    digest = hashlib.sha256()
    if not tensor.numel():
        return digest.hexdigest()
    row_bytes = tensor.numel() // len(tensor) * tensor.element_size()
    rows = max(WRITE_BYTES // row_bytes, 1)
    with open(path, "wb") as file:
        for start in range(0, len(tensor), rows):
            digest.update(write_rows(file, tensor[start : start + rows]))
            let_go(tensor)
    return digest.hexdigest()
