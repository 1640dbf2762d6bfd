"""An index's own copy of its passages."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import BinaryIO

from atlas_lm.index.directory import disk_full_explained, free_name
from atlas_lm.index.files import PassageFile, PassageFiles
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_path


def copied(passages: PassageFiles, directory: Path, corpus: str) -> PassageFiles:
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
            append_lines(path, copy)
        content = store.fingerprints[number - 1]
        files.append(
            PassageFile(target.name, str(target.resolve()), target.stat().st_size, content)
        )
    return PassageFiles(files=tuple(files), copied=True)


def append_lines(path: Path, copy: BinaryIO) -> None:
    """Append a file's content, closed by a newline."""
    with open(path, "rb") as source:
        shutil.copyfileobj(source, copy, 1 << 20)
        source.seek(-1, os.SEEK_END)
        if source.read(1) != b"\n":
            copy.write(b"\n")
