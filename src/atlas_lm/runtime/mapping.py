"""Files as tensors: pages come as they are read, and are let go where each is read once."""

from __future__ import annotations

import mmap
import warnings
import weakref
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

_MAPPINGS: weakref.WeakValueDictionary[int, mmap.mmap] = weakref.WeakValueDictionary()
"""The files that are mapped, by address: of other memory nothing may be let go."""


def map_file(path: str | Path, *, writable: bool = False) -> UInt8[Tensor, " n"]:
    """Return the bytes of a file that is not empty, mapped.

    What is written to a ``writable`` tensor goes to the file; writing to another kills the process.
    """
    with open(path, "r+b" if writable else "rb") as file:
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        mapping = mmap.mmap(file.fileno(), 0, access=access)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        mapped = torch.from_numpy(np.frombuffer(mapping, np.uint8))
    _MAPPINGS[mapped.data_ptr()] = mapping
    return mapped


def let_go(mapped: Shaped[Tensor, "..."]) -> None:
    """Take the pages of a mapped tensor out of this process's memory.

    They are read again from the system's cache, or the file, where they are needed. A tensor that
    is no file's stays as it is.
    """
    mapping = _MAPPINGS.get(mapped.untyped_storage().data_ptr())
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)
