"""Wikitext to a document: sections, paragraphs, lists, infoboxes, as plain text.

What is left out: references, images, formulas, galleries, categories, navigation, and templates
that stand for no words of the text. Tables are left out unless they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from atlas_lm.data.wikipedia_clean import (
    BREAK,
    ROW,
    blocks,
    clean,
    sections,
    template_names,
    without_notes,
)
from atlas_lm.data.wikipedia_templates import (
    is_disambiguation,
    is_infobox,
    normal_name,
    template_text,
)
from atlas_lm.passages.documents import Block, Document, Outline, flat
from atlas_lm.runtime.extras import library

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
_BOX_NOISE = re.compile(
    r"image|img|photo|logo|caption|^alt|_alt|map|flag|signature|pushpin|coord|latd|longd|footnotes|"
    r"width|_size$|^size$|^color|style$|^header|^embed|^module|^child|^ref|_ref$|^nocat"
)
_FILE = re.compile(r"\.(?:png|jpe?g|svg|gif|tiff?|webp|ogg|ogv|webm|mid)$", re.IGNORECASE)
DEEPEST = 7
"""Deeper than any heading."""
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
    text = without_notes(text)
    if (
        "__DISAMBIG__" in text
        or title.endswith("(disambiguation)")
        or any(is_disambiguation(normal_name(name)) for name in template_names(text))
    ):
        return None
    writer = _Writer(settings, frozenset(media) | {"file", "image", "category"})
    outline, skip_below = Outline(), DEEPEST
    for level, heading, content in sections(text):
        name = clean(writer.text(writer.parsed(heading)))
        if level <= skip_below:
            skipped = level and name.lower() in settings.skipped_sections
            skip_below = level if skipped else DEEPEST
        if skip_below < DEEPEST:
            continue
        if level:
            outline.heading(level, name)
        for block in blocks(writer.text(writer.parsed(content)), lists=settings.lists):
            outline.add(block)
    document = outline.document(title, title, {})
    boxes = [writer.infobox(template) for template in writer.boxes]
    extra = tuple(Block("Infobox", box) for box in boxes if box)
    return Document(document.title, document.blocks + extra)


class _Writer:
    """Writes the nodes of one article as text."""

    def __init__(self, settings: WikitextSettings, prefixes: frozenset[str]) -> None:
        self.boxes: list[Any] = []
        """The infoboxes met on the way."""
        self._settings = settings
        self._prefixes = prefixes
        self._library = _parser()
        self._nodes = self._library.nodes

    def parsed(self, wikitext: str) -> Any:
        """Return wikitext as nodes."""
        return self._library.parse(wikitext)

    def text(self, wikicode: Any) -> str:
        """Return parsed wikitext as text; lines matter in it, as in wikitext."""
        return "".join(map(self._node, wikicode.nodes)) if wikicode else ""

    def infobox(self, template: Any) -> str:
        """Return an infobox as lines ``name: value``; empty where none is left."""
        lines = []
        for parameter in template.params:
            name = " ".join(str(parameter.name).replace("_", " ").split())
            if not parameter.showkey or _BOX_NOISE.search(name.lower().replace(" ", "_")):
                continue
            value = self.text(parameter.value).replace(BREAK, "\n")
            parts = (clean(part).removeprefix("- ") for part in value.split("\n"))
            kept = (part for part in parts if part.strip("-|; ") and not _FILE.search(part))
            if value := "; ".join(kept).replace(":;", ":"):
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
                self.boxes.append(node)
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
            return BREAK if tag == "br" else "\n\n"
        inner = self.text(node.contents)
        return f"\n\n{inner}\n\n" if tag in _BLOCKS else inner

    def _table(self, node: Any) -> str:
        rows = []
        for contents in (node.contents, *(row.contents for row in _tags(node.contents, "tr"))):
            cells = [flat(self.text(cell.contents)) for cell in _tags(contents, "td", "th")]
            if any(cells):
                rows.append(ROW + " | ".join(cells))
        return "\n" + "\n".join(rows) + "\n"


def _tags(wikicode: Any, *names: str) -> list[Any]:
    """Return the tags of these names that are not inside of others."""
    tags = wikicode.filter_tags(recursive=False) if wikicode else []
    return [tag for tag in tags if str(tag.tag).strip().lower() in names]


@cache
def _parser() -> Any:
    needs = "reading wikitext needs the mwparserfromhell package"
    return library("mwparserfromhell", needs=needs, extra="prepare")
