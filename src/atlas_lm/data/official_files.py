"""Official files, opened one after another: plain or packed, in directories or archives."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, cast

from atlas_lm.data.official_fetch import fetch
from atlas_lm.runtime.errors import InputError

PACKED: Mapping[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
SPLIT = re.compile(r"(?<![a-z])(train|dev|valid|validation|val|test)(?![a-z])")
SAME: Mapping[str, str] = {"valid": "dev", "validation": "dev", "val": "dev"}
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)


class Naming(Protocol):
    """What the names of a data set's official files say."""

    def wanted(self, name: PurePosixPath) -> bool:
        """Return whether a file of a directory or archive is one of them."""
        ...

    def split_of(self, name: PurePosixPath) -> str | None:
        """Return the split that a name says, if it says one."""
        ...


@dataclass(frozen=True)
class Source:
    """A file or directory on disk that the user named."""

    named: str
    """As the user named it."""
    path: Path
    split: str | None
    """The split its rows belong to where the user says so."""


@dataclass(frozen=True)
class OpenedFile:
    """One official file, unpacked, while it is open."""

    place: str
    """What messages call it."""
    name: PurePosixPath
    """Its path below the source, without the suffix of a packed file."""
    split: str
    content: io.BufferedReader
    position: Callable[[], int]
    """Bytes read so far of the file on disk."""


def locate(
    sources: Sequence[str], *, splits: Sequence[str], suffixes: Sequence[str], force: bool = False
) -> list[Source]:
    """Return every source on disk; ``split=ADDRESS`` says which split its rows belong to.

    Raises:
        InputError: a source is nowhere, or named twice.
    """
    found = []
    for given in sources:
        split, equals, address = given.partition("=")
        if not equals or split not in splits:
            split, address = "", given
        path = fetch(address, suffixes=suffixes, force=force)
        found.append(Source(address, path, split or None))
    paths = [source.path.resolve() for source in found]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise InputError(f"{found[number].named}: is named twice; name every file once")
    return found


def files_on_disk(source: Source, naming: Naming) -> list[Path]:
    """Return the files of a source that are read; an archive counts as one file.

    Of a directory these are the official files in it, or the archives where there are none.

    Raises:
        InputError: a directory holds neither.
    """
    if source.path.is_file():
        return [source.path]
    files = [path for path in sorted(source.path.rglob("*")) if path.is_file()]
    found = [
        path for path in files if naming.wanted(_inner(path.relative_to(source.path).as_posix()))
    ] or [path for path in files if path.name.lower().endswith(ARCHIVES)]
    if not found:
        raise InputError(f"{source.named}: no official file in this directory; name the files")
    return found


def opened(source: Source, path: Path, naming: Naming) -> Iterator[OpenedFile]:
    """Yield the official files in one file on disk; each may be read until the next is asked for.

    Raises:
        InputError: it is damaged or cut short, an archive holds no official file, or nothing says
            which split a file is.
    """
    whole = source.path.is_file()
    place = source.named if whole else str(Path(source.named) / path.relative_to(source.path))
    relative = path.name if whole else path.relative_to(source.path).as_posix()
    with open(path, "rb") as disk, damage_explained(place):
        if path.name.lower().endswith(ARCHIVES):
            zipped = path.suffix.lower() == ".zip"
            members = _zip_members(disk) if zipped else _tar_members(disk)
            yield from _members(disk, members, place, source, naming)
            return
        name = _inner(relative)
        content = _unpacked(disk, path.name)
        split = source.split or _split(naming, name, place)
        yield OpenedFile(place, name, split, content, disk.tell)


def split_in(name: PurePosixPath) -> str | None:
    """Return the split that a file's name says, or else one of its directories'."""
    for part in reversed(name.parts):
        if found := SPLIT.findall(part.lower()):
            split: str = found[-1]
            return SAME.get(split, split)
    return None


def _members(
    disk: IO[bytes],
    members: Iterator[tuple[str, Callable[[], IO[bytes]]]],
    place: str,
    source: Source,
    naming: Naming,
) -> Iterator[OpenedFile]:
    any_wanted = False
    for member, open_member in members:
        name = _inner(member)
        if not naming.wanted(name):
            continue
        any_wanted = True
        inner_place = f"{place}:{member}"
        content = _unpacked(open_member(), member)
        split = source.split or _split(naming, name, inner_place)
        yield OpenedFile(inner_place, name, split, content, disk.tell)
    if not any_wanted:
        raise InputError(f"{place}: no official file in this archive; unpack it and name the files")


def _tar_members(disk: IO[bytes]) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    with tarfile.open(fileobj=disk, mode="r:*") as archive:
        for member in archive:
            if member.isfile():
                yield (
                    member.name,
                    lambda member=member: cast(  # type: ignore[misc]
                        "IO[bytes]", archive.extractfile(member)
                    ),
                )


def _zip_members(disk: IO[bytes]) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    with zipfile.ZipFile(disk) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                yield member.filename, lambda member=member: archive.open(member)  # type: ignore[misc]


def _unpacked(file: IO[bytes], name: str) -> io.BufferedReader:
    unpack = PACKED.get(PurePosixPath(name).suffix.lower())
    return io.BufferedReader(unpack(file) if unpack else cast("io.RawIOBase", file), 1 << 20)


def _inner(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    return path.with_suffix("") if path.suffix.lower() in PACKED else path


def _split(naming: Naming, name: PurePosixPath, place: str) -> str:
    split = naming.split_of(name)
    if split is None:
        raise InputError(
            f"{place}: its name does not say which split it is; "
            f"write train={place}, dev=… or test=…"
        )
    return split


@contextmanager
def damage_explained(place: str) -> Iterator[None]:
    """Turn what reading a damaged packed file raises into a message about ``place``."""
    try:
        yield
    except (*DAMAGED, gzip.BadGzipFile) as error:
        raise InputError(f"{place}: damaged or cut short ({error}); download it again") from error
    except OSError as error:
        if "Invalid data stream" not in str(error):
            raise
        raise InputError(f"{place}: not a whole bzip2 file; download it again") from error
