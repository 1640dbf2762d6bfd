"""Wikitext before and after it is parsed: what can go at once, and what was left by mistake.

Articles contain markup that is not closed, and what follows it comes out of the parser as it was.
So an article is cut at its headings first, which keeps the damage to one section; and traces of
markup are taken out of the text at the end.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

BREAK = "\x1f"
"""A line break that ends no paragraph."""
ROW = "\x1e"
"""Begins the row of a table."""
_GONE = "ref|gallery|math|chem|ce|timeline|score|imagemap|syntaxhighlight|source|templatestyles"
_DROPPED = re.compile(
    rf"<!--.*?-->|<(?:{_GONE})\b[^<>]*/>|<(?P<tag>{_GONE})\b[^<>]*>.*?</(?P=tag)\s*>",
    re.DOTALL | re.IGNORECASE,
)
_HEADING = re.compile(r"^(={1,6})[ \t]*(\S[^\n]*?)[ \t]*\1[ \t]*$", re.MULTILINE)
_TEMPLATE = re.compile(r"\{\{\s*([^{}|\n]+)\s*(?=\||\}\}|\n)")
_MAGIC = re.compile(r"__[A-Z]{3,}__")
_BLANKS = re.compile(r"[ \t\x1f\u00a0\u2002\u2003\u2009\u200a\u202f]+")
_QUOTES = re.compile(r"'''?(?='s\b)|''+")
_LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
_TAG = re.compile(
    r"</?(?:ref|small|big|sub|sup|br|hr|span|div|center|font|i|b|u|s|nowiki|blockquote|p|table|tr|"
    r"td|th|abbr|poem|li|ul|ol|onlyinclude|includeonly|noinclude)\b[^<>]*>",
    re.IGNORECASE,
)
_BRACKETS = re.compile(r"\[\[|\]\]|\{\{|\}\}")
_TABLE = ("{|", "|", "!")
_EMPTY = re.compile(r"\(\s*(?:[;,:–-]\s*)*\)|\[\s*\]")
_OPENING = re.compile(r"\(\s*(?:[;,]\s*)+")
_CLOSING = re.compile(r"(?:\s*[;,])+\s*\)")
_BEFORE_STOP = re.compile(r" +([,.)])")


def without_notes(wikitext: str) -> str:
    """Return wikitext without comments, references, formulas and galleries."""
    return _DROPPED.sub("", wikitext)


def template_names(wikitext: str) -> Iterator[str]:
    """Yield the names of the templates in wikitext, as they are written."""
    return (found[1] for found in _TEMPLATE.finditer(wikitext))


def sections(wikitext: str) -> Iterator[tuple[int, str, str]]:
    """Yield level, heading and wikitext of every stretch between headings; the lead is level 0."""
    level, heading, start = 0, "", 0
    for found in _HEADING.finditer(wikitext):
        yield level, heading, wikitext[start : found.start()]
        level, heading, start = len(found[1]), found[2], found.end()
    yield level, heading, wikitext[start:]


def blocks(text: str, *, lists: bool) -> Iterator[str]:
    """Yield the paragraphs, list items and table rows of a text in which lines matter.

    A line without a letter or digit, such as an item whose template was left out, counts as empty.
    """
    paragraph: list[str] = []
    for line in (*text.split("\n"), ""):
        row = line.startswith(ROW)
        line = clean(line.removeprefix(ROW))
        item = line.startswith("- ") and not row
        if line.startswith(_TABLE) and not row:
            continue
        line = line if any(map(str.isalnum, line)) else ""
        if line and not item and not row:
            paragraph.append(line)
            continue
        if paragraph:
            yield clean(" ".join(paragraph))
            paragraph = []
        if line and (row or (item and lists)):
            yield line


def clean(line: str) -> str:
    """Return a line in single spaces, without traces of markup and of templates left out."""
    line = _MAGIC.sub("", html.unescape(line))
    if "''" in line or "[[" in line or "{{" in line or "}}" in line or "]]" in line:
        line = _BRACKETS.sub("", _LINK.sub(r"\1", _QUOTES.sub("", line)))
    if "<" in line:
        line = _TAG.sub(" ", line)
    line = _OPENING.sub("(", _BLANKS.sub(" ", line).strip())
    line = _EMPTY.sub("", _CLOSING.sub(")", line))
    line = _BEFORE_STOP.sub(r"\1", line)
    return re.sub(r"^(?:- )+", "- ", _BLANKS.sub(" ", line).strip())
