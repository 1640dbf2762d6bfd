"""Markdown (CommonMark with tables) as blocks, through markdown-it."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from atlas_lm.passages.documents import Document, Outline, flat
from atlas_lm.passages.html_documents import html_text

FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|$)", re.DOTALL)


def markdown_document(text: str, path: Path) -> Document:
    """Return the document; fields of YAML front matter become metadata, ``title`` the title."""
    metadata, text = _front_matter(text)
    title = metadata.pop("title", "")
    metadata.pop("id", None), metadata.pop("text", None), metadata.pop("section", None)
    outline = Outline()
    _fill(outline, MarkdownIt("commonmark").enable("table").parse(text))
    return outline.document(flat(str(title or "")), path.stem, metadata)


def _fill(outline: Outline, tokens: Sequence[Token]) -> None:
    lists = 0
    marker, cells = "", list[str]()
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            outline.heading(int(token.tag[1]), _inline(tokens[number + 1]))
        elif token.type in {"bullet_list_open", "ordered_list_open"}:
            lists += 1
        elif token.type in {"bullet_list_close", "ordered_list_close"}:
            lists -= 1
        elif token.type == "list_item_open":
            marker = "  " * (lists - 1) + (f"{token.info}. " if token.info else "- ")
        elif token.type == "tr_close":
            outline.add(" | ".join(cells))
            cells = []
        elif token.type == "inline":
            before = tokens[number - 1].type
            if before in {"td_open", "th_open"}:
                cells.append(flat(_inline(token)))
            elif before == "paragraph_open":
                outline.add(marker + flat(_inline(token)))
                marker = ""
        elif token.type in {"fence", "code_block"}:
            outline.add(token.content.rstrip("\n"))
        elif token.type == "html_block":
            outline.add(html_text(token.content))


def _inline(token: Token) -> str:
    """Return what a reader sees of a line: no marks, no addresses, no tags."""
    words = []
    for child in token.children or ():
        if child.type in {"text", "code_inline", "image"}:
            words.append(child.content)
        elif child.type in {"softbreak", "hardbreak"}:
            words.append(" ")
    return "".join(words)


def _front_matter(text: str) -> tuple[dict[str, Any], str]:
    found = FRONT_MATTER.match(text)
    if found is None:
        return {}, text
    try:
        fields = yaml.safe_load(found[1])
    except yaml.YAMLError:
        return {}, text
    if not isinstance(fields, dict):
        return {}, text
    return {str(name): _plain(value) for name, value in fields.items()}, text[found.end() :]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime.date):
        return value.isoformat()
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
