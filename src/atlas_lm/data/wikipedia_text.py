"""Wikitext to a document: sections, paragraphs, lists, infoboxes, as plain text.

What is left out: references, images, formulas, galleries, categories, navigation, and templates
that stand for no words of the text. Tables are left out unless they are asked for.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from atlas_lm.data.wikipedia_templates import (
    is_disambiguation,
    is_infobox,
    normal_name,
    template_text,
)
from atlas_lm.passages.documents import Block, Document, Outline, flat
from atlas_lm.runtime.errors import InputError

SKIPPED_SECTIONS = frozenset(
    {"see also", "references", "external links", "further reading", "notes", "bibliography"}
    | {"sources", "citations", "footnotes", "notes and references", "references and notes"}
    | {"gallery", "works cited", "explanatory notes", "external link", "publications cited"}
)
"""Sections of English articles that are no text of theirs, in lower case."""
_SKIPPED_TAGS = frozenset(
    {"ref", "references", "gallery", "math", "chem", "ce", "timeline", "score", "imagemap", "style"}
    | {
        "graph",
        "mapframe",
        "maplink",
        "templatestyles",
        "hiero",
        "categorytree",
        "inputbox",
        "syntaxhighlight",
    }
)
_BLOCKS = frozenset({"p", "div", "blockquote", "center", "ul", "ol", "dl"})
_BREAK = "\x1f"
"""A line break that ends no paragraph."""
_BOX_NOISE = re.compile(
    r"image|img|photo|logo|caption|^alt|_alt|map|flag|signature|pushpin|coord|latd|longd|footnotes|"
    r"width|_size$|^size$|^color|style$|^header|^embed|^module|^child|^ref|_ref$|^nocat"
)
_MAGIC = re.compile(r"__[A-Z]{3,}__")
_BLANKS = re.compile(r"[ \t\x1f\u00a0\u2002\u2003\u2009\u200a\u202f]+")
_EMPTY = re.compile(r"\(\s*(?:[;,:–-]\s*)*\)|\[\s*\]")
_OPENING = re.compile(r"\(\s*(?:[;,]\s*)+")
_CLOSING = re.compile(r"(?:\s*[;,])+\s*\)")
_BEFORE_STOP = re.compile(r"[ ]+([,.)])")
_REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class WikitextSettings:
    """What of an article becomes text."""

    lists: bool = True
    """Whether list items are kept."""
    infoboxes: bool = True
    """Whether infoboxes are kept, as lines ``name: value`` in a section of their own."""
    tables: bool = False
    """Whether rows of tables are kept, as lines ``a | b``."""
    skipped_sections: frozenset[str] = SKIPPED_SECTIONS
    """Titles of sections that are left out with all below them, in lower case."""


@dataclass
class _Boxes:
    """The infoboxes met on the way."""

    found: list[Any] = field(default_factory=list)


def is_redirect(text: str) -> bool:
    """Return whether a page's text only leads to another page, in English wikis.

    A dump of any wiki says so itself of pages that were redirects when it was made.
    """
    return _REDIRECT.match(text) is not None


def article(
    title: str, text: str, settings: WikitextSettings, *, media: Iterable[str] = ()
) -> Document | None:
    """Return what an article says; None where it is a disambiguation page.

    Args:
        title: of the article.
        text: its wikitext.
        settings: what is kept.
        media: names of the wiki's namespaces of files and categories, in lower case.

    Raises:
        InputError: ``mwparserfromhell`` is not installed.
    """
    wikicode = _parser().parse(text)
    names = (normal_name(str(template.name)) for template in _templates(wikicode))
    if (
        "__DISAMBIG__" in text
        or title.endswith("(disambiguation)")
        or any(map(is_disambiguation, names))
    ):
        return None
    prefixes = frozenset(media) | {"file", "image", "category"}
    writer = _Writer(settings, prefixes)
    outline, skip_below = Outline(), 7
    for level, heading, nodes in _sections(wikicode):
        if level <= skip_below:
            skipped = flat(writer.text(heading)).lower() in settings.skipped_sections
            skip_below = level if skipped and level else 7
        if level:
            outline.heading(level, writer.text(heading) if level < skip_below else "")
        if skip_below == 7:
            for block in _blocks(writer.written(nodes), settings):
                outline.add(block)
    document = outline.document(title, title, {})
    boxes = [writer.infobox(template) for template in writer.boxes.found]
    extra = tuple(Block("Infobox", box) for box in boxes if box)
    return Document(document.title, document.blocks + extra)


def _sections(wikicode: Any) -> Iterator[tuple[int, Any, list[Any]]]:
    """Yield the level, heading and nodes of every stretch between headings; the lead is level 0."""
    nodes_of = importlib.import_module("mwparserfromhell").nodes
    level, heading = 0, ""
    nodes: list[Any] = []
    for node in wikicode.nodes:
        if isinstance(node, nodes_of.Heading):
            yield level, heading, nodes
            level, heading, nodes = node.level, node.title, []
        else:
            nodes.append(node)
    yield level, heading, nodes


def _blocks(text: str, settings: WikitextSettings) -> Iterator[str]:
    """Yield the paragraphs, list items and table rows of a text."""
    paragraph: list[str] = []
    for line in (*text.split("\n"), ""):
        line = clean(line)
        own = line.startswith(("- ", "| "))
        if line and not own:
            paragraph.append(line)
            continue
        if paragraph:
            yield " ".join(paragraph)
            paragraph = []
        if own and (settings.lists or not line.startswith("- ")) and line.strip("- |"):
            yield line.removeprefix("| ")


def clean(line: str) -> str:
    """Return a line without what templates that were left out leave behind, in single spaces."""
    line = _BLANKS.sub(" ", _MAGIC.sub("", line)).strip()
    line = _OPENING.sub("(", line)
    line = _CLOSING.sub(")", line)
    line = _EMPTY.sub("", line)
    line = _BEFORE_STOP.sub(r"\1", line)
    return re.sub(r"^(?:- )+", "- ", _BLANKS.sub(" ", line).strip())


class _Writer:
    """Writes nodes of wikitext as text; lines matter in it, as in wikitext."""

    def __init__(self, settings: WikitextSettings, prefixes: frozenset[str]) -> None:
        self.boxes = _Boxes()
        self._settings = settings
        self._prefixes = prefixes
        self._nodes = importlib.import_module("mwparserfromhell").nodes

    def text(self, wikicode: Any) -> str:
        """Return a piece of wikitext as text."""
        return self.written(wikicode.nodes) if wikicode else ""

    def written(self, nodes: Iterable[Any]) -> str:
        """Return nodes as text."""
        return "".join(map(self._node, nodes))

    def infobox(self, template: Any) -> str:
        """Return an infobox as lines ``name: value``; empty where none is left."""
        lines = []
        for parameter in template.params:
            name = " ".join(str(parameter.name).replace("_", " ").split())
            if not parameter.showkey or _BOX_NOISE.search(name.lower().replace(" ", "_")):
                continue
            value = self.text(parameter.value).replace(_BREAK, "\n")
            parts = (clean(part).removeprefix("- ") for part in value.split("\n"))
            if value := "; ".join(part for part in parts if part.strip("-|; ")):
                lines.append(f"{name}: {value}")
        return "\n".join(lines)

    def _node(self, node: Any) -> str:
        kinds = self._nodes
        if isinstance(node, kinds.Text):
            return str(node.value)
        if isinstance(node, kinds.Wikilink):
            return self._link(node)
        if isinstance(node, kinds.Template):
            return self._template(node)
        if isinstance(node, kinds.Tag):
            return self._tag(node)
        if isinstance(node, kinds.HTMLEntity):
            return str(node.normalize())
        if isinstance(node, kinds.ExternalLink):
            return self.text(node.title)
        if isinstance(node, kinds.Heading):
            return f"\n\n{self.text(node.title)}\n\n"
        return ""

    def _link(self, node: Any) -> str:
        target = str(node.title).strip()
        prefix, colon, _ = target.partition(":")
        if colon and prefix.strip().lower() in self._prefixes:
            return ""
        if node.text is not None:
            return self.text(node.text)
        return target.removeprefix(":").partition("#")[0] or target.lstrip("#:")

    def _template(self, node: Any) -> str:
        name = normal_name(str(node.name))
        if is_infobox(name):
            if self._settings.infoboxes:
                self.boxes.found.append(node)
            return ""
        values = [self.text(parameter.value) for parameter in node.params if not parameter.showkey]
        if not values and node.params:
            given = {str(parameter.name).strip(): parameter for parameter in node.params}
            named = next((given[name] for name in ("1", "text", "quote") if name in given), None)
            values = [self.text(named.value)] if named else []
        return template_text(name, values)

    def _tag(self, node: Any) -> str:
        tag = str(node.tag).strip().lower()
        if tag in _SKIPPED_TAGS:
            return ""
        if tag == "table":
            return self._table(node) if self._settings.tables else ""
        if tag == "li" or node.wiki_markup in {"*", "#"}:
            return f"\n- {self.text(node.contents).strip()}" if node.contents else "- "
        if tag in {"br", "hr"}:
            return _BREAK if tag == "br" else "\n\n"
        inner = self.text(node.contents)
        return f"\n\n{inner}\n\n" if tag in _BLOCKS else inner

    def _table(self, node: Any) -> str:
        rows = []
        for contents in (node.contents, *(row.contents for row in _tags(node.contents, "tr"))):
            cells = [flat(self.text(cell.contents)) for cell in _tags(contents, "td", "th")]
            if any(cells):
                rows.append("| " + " | ".join(cells))
        return "\n" + "\n".join(rows) + "\n"


def _tags(wikicode: Any, *names: str) -> list[Any]:
    """Return the tags of these names that are not inside of others."""
    tags = wikicode.filter_tags(recursive=False) if wikicode else []
    return [tag for tag in tags if str(tag.tag).strip().lower() in names]


def _templates(wikicode: Any) -> Iterator[Any]:
    """Yield the templates that stand outside of others."""
    kind = importlib.import_module("mwparserfromhell").nodes.Template
    return (node for node in wikicode.nodes if isinstance(node, kind))


@cache
def _parser() -> Any:
    try:
        return importlib.import_module("mwparserfromhell")
    except ImportError:
        raise InputError(
            "reading wikitext needs the mwparserfromhell package; "
            "run pip install 'atlas-lm[prepare]'"
        ) from None
