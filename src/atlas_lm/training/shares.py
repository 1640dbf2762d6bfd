"""Weights and moments that lie in shares over the processes, written and read by all of them.

`torch.distributed.checkpoint` over safetensors: each process writes ``shares/shard-*.safetensors``
with its own part of every tensor and where that part lies in the whole, so that any other number of
processes, or one alone, can read what it needs. Nothing on disk is pickled; there is no
``.metadata`` file: names, shapes and offsets are in the headers of the safetensors files.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from atlas_lm.runtime import distributed

SHARES = "shares"
"""The directory's name within a checkpoint."""


def write_shares(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write every process's part of ``tensors`` into ``path``, synced to disk. Collective.

    A tensor that all processes hold whole is written once.
    """
    writer = HuggingFaceStorageWriter(path=str(path), save_distributed=True)
    with _quiet():
        save(dict(tensors), storage_writer=writer, no_dist=not distributed.is_started())


def read_shares(targets: Mapping[str, Tensor], path: Path) -> None:
    """Fill ``targets``, each whole or in whatever shares, from ``path``. Collective."""
    reader = HuggingFaceStorageReader(path=str(path))
    with _quiet():
        load(dict(targets), storage_reader=reader, no_dist=not distributed.is_started())


def shapes(path: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Return the whole shape and the dtype of every tensor in ``path``, from the headers alone."""
    described = HuggingFaceStorageReader(path=str(path)).read_metadata().state_dict_metadata
    return {
        name: (entry.size, entry.properties.dtype)
        for name, entry in described.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def empty_like_saved(path: Path, live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return room for every tensor in ``path``: in the shares of the live one it belongs to.

    Args:
        path: Where they were written.
        live: Tensors of the state, by the names under which they, or moments of them, are saved.
    """
    room = {}
    for name, (size, dtype) in shapes(path).items():
        like = live.get(name)
        if like is not None and like.shape == size:
            room[name] = torch.zeros_like(like, dtype=dtype)
        else:
            room[name] = torch.zeros(size, dtype=dtype)
    return room


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's note that one process alone is no process group."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield
