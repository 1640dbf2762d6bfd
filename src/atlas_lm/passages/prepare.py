"""Text, Markdown and HTML files to a passage file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from atlas_lm.passages.chunk import WORD, chunks
from atlas_lm.passages.documents import SUFFIXES, read_document
from atlas_lm.passages.duplicates import Drop, duplicate_check
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_path
from atlas_lm.runtime.logs import track


@dataclass(frozen=True, kw_only=True)
class ChunkSettings:
    """How documents become passages."""

    words: int = 100
    """Words of a passage, about."""
    overlap: int = 0
    """Words repeated from the passage before, at most."""
    drop_duplicates: Drop | None = None
    """Whether passages that repeat an earlier one are dropped: "exact", or "near" too."""
    similarity: float = 0.8
    """Jaccard similarity from which passages are near duplicates, in (0, 1]."""
    encoding: str = "utf-8"
    """Of the files."""

    def __post_init__(self) -> None:
        if self.words < 1:
            raise InputError(f"--words {self.words}: give at least 1")
        if not 0 <= self.overlap < self.words:
            raise InputError(
                f"--overlap {self.overlap}: give 0 or more, and less than --words {self.words}"
            )
        if not 0 < self.similarity <= 1:
            raise InputError(f"--similarity {self.similarity}: give more than 0 and at most 1")


def prepare_passages(
    paths: Sequence[str | Path], out: str | Path, settings: ChunkSettings | None = None
) -> dict[str, Any]:
    """Write the passages of the files to ``out`` as JSONL, atomically; return the counts.

    A passage's id is the file's name (below a named directory: the path from that directory's name
    on), ``#`` and a number from 1. ``source`` is that path; front matter and ``<meta>`` are kept.

    Raises:
        InputError: a file is missing, binary or not in the encoding, two files would give the same
            ids, or nothing is left to write. What was at ``out`` is as it was.
    """
    settings, out = settings or ChunkSettings(), Path(out)
    if out.suffix != ".jsonl":
        raise InputError(f"{out}: passages are written as JSONL; name a file that ends in .jsonl")
    files, skipped = _files([Path(path) for path in paths])
    if out.resolve() in {path.resolve() for path in files.values()}:
        raise InputError(f"{out}: is one of the files to read; name another --out")
    counts: Counter[str] = Counter()
    with atomic_path(out) as temporary, open(temporary, "wb") as file:
        for record in _records(files, settings, counts):
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        if not counts["passages"]:
            raise InputError(f"{', '.join(map(str, paths))}: no text in {len(files)} files")
    names = ("passages", "words", "empty_files", "exact_duplicates", "near_duplicates")
    return {
        "out": str(out),
        "files": len(files),
        **{name: counts[name] for name in names},
        "skipped_files": dict(sorted(skipped.items())),
    }


def _records(
    files: dict[str, Path], settings: ChunkSettings, counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    drop = settings.drop_duplicates
    duplicate = duplicate_check(drop, settings.similarity) if drop else lambda _: None
    for name, path in track(files.items(), "Reading documents", total=len(files)):
        document = read_document(path, encoding=settings.encoding)
        number = 0
        for section, text in chunks(document, words=settings.words, overlap=settings.overlap):
            number += 1
            if found := duplicate(text):
                counts[f"{found}_duplicates"] += 1
                continue
            counts["passages"] += 1
            counts["words"] += len(WORD.findall(text))
            own = {"id": f"{name}#{number}", "title": document.title, "section": section}
            yield {"source": name, **document.metadata, **own, "text": text}
        counts["empty_files"] += not number


def _files(paths: Sequence[Path]) -> tuple[dict[str, Path], Counter[str]]:
    """Return the files by the name their ids begin with, and how many others were passed over."""
    files: dict[str, Path] = {}
    skipped: Counter[str] = Counter()
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or directory")
        for name, file in _walk(path, skipped) if path.is_dir() else [(path.name, path)]:
            if name in files and files[name].resolve() != file.resolve():
                raise InputError(
                    f"{file}: its passages would have the ids of {files[name]}; "
                    "name the directory above both instead"
                )
            files[name] = file
    if not files:
        raise InputError(
            f"{', '.join(map(str, paths))}: no files ending in {', '.join(sorted(SUFFIXES))}"
        )
    return files, skipped


def _walk(top: Path, skipped: Counter[str]) -> Iterator[tuple[str, Path]]:
    base = top.resolve().name
    for directory, inner, names in os.walk(top):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(directory) / name
            if path.suffix.lower() in SUFFIXES:
                yield (Path(base) / path.relative_to(top)).as_posix(), path
            else:
                skipped[path.suffix.lower() or "(none)"] += 1
