"""HTML as blocks, through the standard library's parser: what a reader sees, without scripts."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from atlas_lm.passages.documents import Document, Outline, flat

HEADINGS = {f"h{level}": level for level in range(1, 7)}
SKIPPED = {"script", "style", "noscript", "template", "svg", "nav", "iframe", "select", "button"}
"""Elements of which nothing is kept: up to their end, or that of an element they stand in."""
INLINE = {"select", "button"}
"""Those of them that stand within a paragraph, an item or a cell."""
LOOSE = {"dd", "dt", "li", "p", "tbody", "td", "tfoot", "th", "thead", "tr"}
"""Elements that may go without their end tag."""
VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())  # noqa: SIM905
"""Elements that have none."""
BLOCKS = frozenset(
    """
    address article aside blockquote body caption dd details div dl dt fieldset figcaption figure
    footer form header hr html li main ol p pre section summary table tbody tfoot thead tr ul
    """.split()  # noqa: SIM905
)
META = {"author", "date", "description", "keywords", "valid_from", "valid_to"}
"""Named ``<meta>`` elements that become metadata."""


def html_document(text: str, path: Path) -> Document:
    """Return the document; ``<title>`` is its title, else its only ``<h1>``, else the file name."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    parser.end_block()
    return parser.outline.document(flat(parser.title), path.stem, parser.metadata)


def html_text(text: str) -> str:
    """Return the visible text of a piece of HTML in one line."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    parser.end_block()
    headings = [heading for _, heading in parser.outline.headings]
    return flat(" ".join([*headings, *(text for _, text in parser.outline.blocks)]))


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.outline = Outline()
        self.title = ""
        self.metadata: dict[str, str] = {}
        self._words: list[str] = []
        self._cells: list[str] | None = None
        self._open: list[str] = []
        self._skipping: list[str] = []
        self._lists: list[tuple[str, int]] = []
        self._marker = ""
        self._in_title = self._verbatim = False
        self._heading: int | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        skipped = bool(self._skipping) or tag in SKIPPED
        if tag not in LOOSE and tag not in VOID:
            (self._skipping if skipped else self._open).append(tag)
        if not skipped:
            self._show(tag, {name: value or "" for name, value in attrs})

    def _show(self, tag: str, given: dict[str, str]) -> None:
        if tag == "meta":
            name = given.get("name", "").lower()
            if name in META and given.get("content"):
                self.metadata[name] = given["content"]
        elif tag == "html" and given.get("lang"):
            self.metadata["language"] = given["lang"]
        elif tag == "title":
            self._in_title = not self.title
        elif tag == "br":
            self._words.append("\n" if self._verbatim else " ")
        elif tag in {"td", "th"}:
            self._end_cell()
            self._cells = self._cells or []
        elif tag in BLOCKS or tag in HEADINGS:
            self._begin(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._is_skipped(tag):
            return
        if tag == "title":
            self._in_title = False
        elif tag in {"td", "th"}:
            self._end_cell()
        elif tag in HEADINGS and self._heading is not None:
            self.outline.heading(self._heading, "".join(self._words))
            self._words, self._heading = [], None
        elif tag in BLOCKS and (self._cells is None or tag in {"tr", "table"}):
            self.end_block()
            self._verbatim = self._verbatim and tag != "pre"
            if tag in {"ul", "ol"} and self._lists:
                self._lists.pop()

    def _is_skipped(self, tag: str) -> bool:
        """Return whether an end tag belongs to what is skipped; one of an outer element ends it."""
        if not self._skipping:
            _close(self._open, tag)
            return False
        if _close(self._skipping, tag):
            return True
        leaves = tag in LOOSE and self._skipping[0] in INLINE
        if leaves or _close(self._open, tag):
            self._skipping = []
        return bool(self._skipping)

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif not self._skipping:
            self._words.append(data)

    def end_block(self) -> None:
        """Add what was gathered as a block."""
        if self._cells is not None:
            self._end_cell()
            text, self._cells = " | ".join(self._cells), None
        else:
            text = "".join(self._words)
            text = text.strip("\n") if self._verbatim else flat(text)
        self._words = []
        if text.strip(" |"):
            self.outline.add(self._marker + text)
            self._marker = ""

    def _begin(self, tag: str) -> None:
        if self._cells is not None and tag not in {"tr", "table"}:
            self._words.append(" ")
            return
        self.end_block()
        if tag in HEADINGS:
            self._heading = HEADINGS[tag]
        elif tag == "pre":
            self._verbatim = True
        elif tag in {"ul", "ol"}:
            self._lists.append((tag, 0))
        elif tag == "li" and self._lists:
            kind, number = self._lists[-1]
            self._lists[-1] = (kind, number + 1)
            sign = f"{number + 1}. " if kind == "ol" else "- "
            self._marker = "  " * (len(self._lists) - 1) + sign

    def _end_cell(self) -> None:
        text, self._words = flat("".join(self._words)), []
        if self._cells is not None and text:
            self._cells.append(text)


def _close(names: list[str], tag: str) -> bool:
    """Take the innermost ``tag`` and all within it off the open elements, where it is there."""
    for place in range(len(names) - 1, -1, -1):
        if names[place] == tag:
            del names[place:]
            return True
    return False
