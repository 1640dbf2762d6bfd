"""Packed passage files, unpacked once into the cache directory so that they can be read by row."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import zlib
from pathlib import Path

from atlas_lm.passages.sidecar import file_state
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_path, read_json, write_json
from atlas_lm.runtime.logs import notice
from atlas_lm.runtime.settings import cache_dir

UNSUPPORTED = {".zst", ".parquet", ".arrow", ".bz2", ".xz", ".zip", ".tsv", ".csv"}


def plain_file(path: Path) -> Path:
    """Return a plain JSONL file with the content of ``path``: itself, or its unpacked copy.

    The copy is made again when the packed file changes in size or time.

    Raises:
        InputError: the file is missing, a directory, of another format, or not valid gzip.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a directory; name its .jsonl files")
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected JSONL passages (.jsonl or .jsonl.gz)")
    if path.suffix in UNSUPPORTED:
        raise InputError(
            f"{path}: {path.suffix} files are not read; convert it to .jsonl or .jsonl.gz, "
            "one JSON object per line"
        )
    return _unpacked(path) if path.suffix == ".gz" else path


def _unpacked(path: Path) -> Path:
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]
    copy = cache_dir() / "passages" / f"{key}.jsonl"
    stamp = copy.with_suffix(".source.json")
    state = file_state(path.resolve())
    if stamp.is_file() and copy.is_file():
        known = read_json(stamp, what="the state of an unpacked file")
        if known == {"source": state, "bytes": copy.stat().st_size}:
            return copy
    notice(f"Unpacking {path} to {copy}")
    stamp.unlink(missing_ok=True)
    try:
        with (
            gzip.open(path) as source,
            atomic_path(copy) as temporary,
            open(temporary, "wb") as target,
        ):
            shutil.copyfileobj(source, target, 1 << 20)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a complete gzip file ({error}); pack it again") from error
    write_json(stamp, {"source": state, "bytes": copy.stat().st_size})
    return copy
