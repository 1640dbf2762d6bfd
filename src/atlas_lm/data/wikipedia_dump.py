"""The pages of MediaWiki's XML dumps, one after another, in the memory of one page."""

from __future__ import annotations

import bz2
import gzip
import importlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from xml.etree.ElementTree import ParseError

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.extras import library

MAGIC = {b"BZh": "bz2", b"\x1f\x8b": "gz"}
_ARTICLES, _FILES, _CATEGORIES = 0, 6, 14


@dataclass(frozen=True)
class Page:
    """A page of a dump with its newest text."""

    id: int
    title: str
    namespace: int
    redirect: bool
    revision: int
    text: str


@dataclass(frozen=True)
class Dump:
    """A dump while it is read."""

    pages: Iterator[Page]
    media: frozenset[str]
    """Names of the namespaces of files and categories, in lower case."""
    position: Callable[[], int]
    """Bytes read so far of the file on disk."""


@contextmanager
def open_dump(path: Path) -> Iterator[Dump]:
    """Open a dump of pages: ``.xml``, ``.xml.bz2`` (also of many streams) or ``.xml.gz``.

    Raises:
        InputError: it is missing, no dump, damaged or cut short, which also comes from reading on;
            or ``mwxml`` is not installed.
    """
    mwxml = _library()
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a dump such as …-pages-articles.xml.bz2")
    with open(path, "rb") as disk:
        state = _Read(path)
        with state.damage_explained(), _unpacked(disk) as content:
            root = importlib.import_module("mwxml.element_iterator").ElementIterator.from_file(
                content
            )
            if root.tag != "mediawiki":
                raise InputError(f"{path}: XML of <{root.tag}>, not of <mediawiki>; give a dump")
            dump = mwxml.Dump.from_element(root)
            spaces = dump.site_info.namespaces or ()
            media = frozenset(
                str(space.name).lower() for space in spaces if space.id in (_FILES, _CATEGORIES)
            )
            yield Dump(state.pages(dump, root), media, disk.tell)


class _Read:
    """How far a dump was read, for messages."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0
        self._last = ""

    def pages(self, dump: Any, root: Any) -> Iterator[Page]:
        """Yield the pages; what was read before is let go."""
        with self.damage_explained():
            for page in dump.pages:
                revision = next(reversed(list(page)), None)
                text = getattr(revision, "text", None) or ""
                self._count += 1
                self._last = page.title
                # mwxml empties every page but leaves it in the root's list of children.
                root.element.clear()
                yield Page(
                    page.id,
                    page.title,
                    _ARTICLES if page.namespace is None else page.namespace,
                    page.redirect is not None,
                    getattr(revision, "id", None) or 0,
                    text,
                )

    @contextmanager
    def damage_explained(self) -> Iterator[None]:
        """Turn what reading a damaged dump raises into a message about it."""
        malformed = importlib.import_module("mwxml.errors").MalformedXML
        try:
            yield
        except (EOFError, ParseError, zlib.error, gzip.BadGzipFile, malformed) as error:
            raise InputError(self._told(error)) from error
        except OSError as error:
            if error.errno is not None or "data stream" not in str(error):
                raise
            raise InputError(self._told(error)) from error

    def _told(self, error: Exception) -> str:
        after = f" after page {self._count:,} ({self._last!r})" if self._count else " at its start"
        return (
            f"{self._path}: the dump ends or breaks{after}: {error}; it is cut short or damaged: "
            "download it again and compare its checksum with the published one"
        )


@contextmanager
def _unpacked(disk: IO[bytes]) -> Iterator[IO[bytes]]:
    start = disk.read(4)
    disk.seek(0)
    form = next((form for magic, form in MAGIC.items() if start.startswith(magic)), "xml")
    if form == "xml":
        yield disk
        return
    packed: Any = bz2.BZ2File(disk) if form == "bz2" else gzip.GzipFile(fileobj=disk)
    with packed:
        yield packed


def _library() -> Any:
    needs = "reading a Wikipedia dump needs the mwxml package"
    return library("mwxml", needs=needs, extra="prepare")
