"""Text, Markdown and HTML files as blocks of text under their headings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atlas_lm.runtime.errors import InputError

MARKDOWN = {".md", ".markdown", ".mdown"}
HTML = {".html", ".htm", ".xhtml"}
TEXT = {".txt", ".text"}
SUFFIXES = MARKDOWN | HTML | TEXT
"""The files taken from a directory."""


@dataclass(frozen=True)
class Block:
    """A paragraph, list item, table row or piece of code."""

    section: str
    """The headings it stands under, from the outermost, joined by `` > ``."""
    text: str


@dataclass(frozen=True)
class Document:
    """What a file says."""

    title: str
    blocks: tuple[Block, ...]
    metadata: dict[str, Any] = field(default_factory=dict)


class Outline:
    """Collects blocks while the headings above them change."""

    def __init__(self) -> None:
        self.blocks: list[tuple[tuple[str, ...], str]] = []
        self.headings: list[tuple[int, str]] = []
        self._path: list[tuple[int, str]] = []

    def heading(self, level: int, text: str) -> None:
        """Go under a heading; those of its level and deeper end."""
        text = flat(text)
        if text:
            self.headings.append((level, text))
            self._path = [*(above for above in self._path if above[0] < level), (level, text)]

    def add(self, text: str) -> None:
        """Add a block, unless it is empty."""
        if text.strip():
            self.blocks.append((tuple(text for _, text in self._path), text))

    def document(self, title: str, fallback: str, metadata: dict[str, Any]) -> Document:
        """Return the document; a single heading of the first level is its title, not a section.

        Args:
            title: the title the file gives elsewhere, or an empty string.
            fallback: the title of a file that gives none.
            metadata: kept with every passage.
        """
        tops = [text for level, text in self.headings if level == 1]
        only = tops[0] if len(tops) == 1 else ""
        blocks = tuple(
            Block(" > ".join(path[1:] if path[:1] == (only,) else path), text)
            for path, text in self.blocks
        )
        return Document(title or only or fallback, blocks, metadata)


def read_document(path: Path, *, encoding: str = "utf-8") -> Document:
    """Return the document in a file; its suffix says whether it is Markdown, HTML or plain text.

    Raises:
        InputError: the file is missing, binary or not in ``encoding``; the message names the place.
    """
    from atlas_lm.passages.html_documents import html_document
    from atlas_lm.passages.markdown_documents import markdown_document

    text, suffix = _text(path, encoding), path.suffix.lower()
    if suffix in MARKDOWN:
        return markdown_document(text, path)
    if suffix in HTML:
        return html_document(text, path)
    outline = Outline()
    for paragraph in re.split(r"\n[ \t]*\n", text):
        outline.add(flat(paragraph))
    return outline.document("", path.stem, {})


def flat(text: str) -> str:
    """Return the text in one line, with single spaces."""
    return " ".join(text.split())


def _text(path: Path, encoding: str) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name text files") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) and "16" not in encoding:
        raise InputError(f"{path}: is UTF-16; give --encoding utf-16")
    if b"\0" in data and "16" not in encoding and "32" not in encoding:
        raise InputError(
            f"{path}: a binary file (byte {data.index(0)} is zero); "
            "give text, Markdown or HTML files"
        )
    try:
        text = data.decode("utf-8-sig" if encoding.lower() in {"utf-8", "utf8"} else encoding)
    except LookupError:
        raise InputError(f"--encoding {encoding}: unknown; give for example latin-1") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}:{line}: byte {error.start} ({data[error.start]:#04x}) is not {encoding}; "
            "save the file as UTF-8 or give --encoding, for example latin-1"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
