"""Files that survive: written beside their place, then renamed, so a kill loses nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atlas_lm.runtime.errors import DiskFullError, InputError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary file path beside ``path``; on success it is synced and renamed to ``path``.

    On any exception the temporary file is removed and ``path`` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        with full_disk_explained(path):
            yield temporary
            _sync(temporary)
            temporary.chmod(0o644)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path, *, replace: bool = True) -> Iterator[Path]:
    """Give a temporary directory beside ``path``; on success it takes the place of ``path``.

    On any exception the temporary directory is removed and ``path`` is as it was. An existing
    directory is moved aside before the rename and removed after it.

    Raises:
        InputError: ``path`` exists and ``replace`` is false.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise InputError(f"{path}: exists already; choose another directory or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    aside = temporary.with_suffix(".old")
    try:
        with full_disk_explained(path):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync(file)
            temporary.chmod(0o755)
            if path.exists():
                os.replace(path, aside)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        if aside.exists() and not path.exists():
            os.replace(aside, path)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def full_disk_explained(path: Path) -> Iterator[None]:
    """Turn the error of a full disk, of whatever writer, into a message about ``path``.

    Raises:
        DiskFullError: the disk was full.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or not is_disk_full(error):
            raise
        raise DiskFullError(
            f"{path}: the disk is full; nothing was written and what was there is whole: "
            "free some space and run the command again"
        ) from error


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error says that the disk, or the user's share of it, is full.

    Python has a number for it; libraries that write from C++ or Rust have the system's words alone.
    """
    if isinstance(error, InputError):
        return isinstance(error, DiskFullError)
    words = (os.strerror(number) for number in _FULL)
    return getattr(error, "errno", None) in _FULL or any(text in str(error) for text in words)


def reserve(path: str | Path, size: int, *, first: int = 0) -> None:
    """Give ``size`` bytes of a file, from byte ``first``, their place on the disk. They are zero.

    A file that is written through mapped memory needs this: where the disk is full only then, the
    process dies by a signal. What the platform cannot reserve is left to chance.

    Raises:
        DiskFullError: there is no room.
    """
    if size == 0 or not hasattr(os, "posix_fallocate"):
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with full_disk_explained(Path(path)):
            os.posix_fallocate(descriptor, first, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
    finally:
        os.close(descriptor)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: str | Path, *, what: str) -> Any:
    """Read a JSON file that must exist.

    Raises:
        InputError: the file is missing or is not JSON; ``what`` says what it should have been.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected {what}")
    try:
        return json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); expected {what}") from error


def read_table(path: str | Path, *, what: str) -> dict[str, Any]:
    """Read a JSON file that must exist and hold an object.

    Raises:
        InputError: the file is missing or is no JSON object; ``what`` says what it should have
            been.
    """
    value = read_json(path, what=what)
    if not isinstance(value, dict):
        found = type(value).__name__
        raise InputError(f"{path}: a JSON object is needed, not a {found}; expected {what}")
    return value


def sha256_file(path: str | Path) -> str:
    """Return the hex SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
