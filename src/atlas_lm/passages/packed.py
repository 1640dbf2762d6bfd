"""The content of ``.gz`` and ``.zst`` files, in pieces."""

from __future__ import annotations

import gzip
import importlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.extras import library

BLOCK_BYTES = 1 << 20


def unpacked(path: Path, form: str) -> Iterator[bytes]:
    """Yield the content of a file of form "gz" or "zst".

    Raises:
        InputError: it is damaged or cut short; or Zstandard cannot be read here.
    """
    return _gzip(path) if form == "gz" else _zstandard(path)


def _gzip(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path) as file:
            while block := file.read(BLOCK_BYTES):
                yield block
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a complete gzip file ({error}); pack it again") from error


def _zstandard(path: Path) -> Iterator[bytes]:
    make, fault = _decompressor(path)
    reader, begun = make(), False
    try:
        with open(path, "rb") as file:
            while block := file.read(BLOCK_BYTES):
                while block:
                    begun = True
                    yield reader.decompress(block)
                    block = reader.unused_data if reader.eof else b""
                    if reader.eof:
                        reader, begun = make(), False
    except fault as error:
        raise InputError(f"{path}: not a valid zst file ({error}); pack it again") from error
    if begun:
        raise InputError(f"{path}: not a complete zst file (cut short); pack it again")


def _decompressor(path: Path) -> tuple[Any, type[Exception]]:
    """Return what makes decompressors and the error they raise: Python's own from 3.14 on."""
    try:
        own = importlib.import_module("compression.zstd")
        return own.ZstdDecompressor, own.ZstdError
    except ImportError:
        pass
    needs = f"{path}: reading .zst needs the zstandard package"
    zstandard = library("zstandard", needs=needs, extra="corpora", otherwise="unpack the file")
    largest_window = 1 << 31
    return (
        lambda: zstandard.ZstdDecompressor(max_window_size=largest_window).decompressobj(),
        zstandard.ZstdError,
    )
