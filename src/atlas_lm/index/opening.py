"""An index directory and its passages, opened together and held against each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from atlas_lm.index.flat import FlatIndex
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError


def open_index(
    path: str | Path,
    *,
    passages: Sequence[str | Path] | None = None,
    device: torch.device | str = "cpu",
    mmap: bool = True,
    verify: bool = False,
) -> tuple[FlatIndex, PassageStore]:
    """Open an index directory and the passages its rows stand for.

    Args:
        path: the index directory.
        passages: where the passage files are, if not where the manifest says.
        device: where to search.
        mmap: map the vectors instead of reading them (on CPU).
        verify: also compare the checksum of the vectors.

    Raises:
        InputError: as `FlatIndex.load`; or the passages are missing, or their content is not what
            the index was built from.
    """
    path = Path(path)
    index = FlatIndex.load(path, device=device, mmap=mmap, verify=verify)
    if passages is None and index.passage_files is None:
        raise InputError(
            f"{path}: the index was saved without its passages; name the passage files"
        )
    if passages is None:
        assert index.passage_files is not None
        passages = index.passage_files.found_from(path)
    store = PassageStore.open(passages, check=False)
    if store.fingerprint != index.fingerprint.corpus or len(store) != len(index):
        raise InputError(
            f"{path}: built from {len(index)} passages (fingerprint "
            f"{index.fingerprint.corpus[:12]}...), but {', '.join(map(str, store.paths))} holds "
            f"{len(store)} others (fingerprint {store.fingerprint[:12]}...); put the original "
            "files back, or rebuild the index with `atlas-lm index build`"
        )
    return index, store
