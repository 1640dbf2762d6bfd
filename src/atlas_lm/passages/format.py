"""A passage as one string: what the retriever embeds."""

from __future__ import annotations

from functools import lru_cache

from atlas_lm.runtime.templates import template_pieces
from atlas_lm.types import Passage

FIELDS = ("title", "text", "section")
"""What a template may name; ``{title}`` is the heading: the title and, if any, the section."""


def format_passage(template: str, passage: Passage) -> str:
    """Return the template with the passage's fields in place of their names.

    A space that stands beside an empty field goes with it, so no double, leading or trailing
    space appears; spaces inside the fields are kept. ``{{`` and ``}}`` write braces.

    Raises:
        InputError: the template is wrong; see `template_pieces`.
    """
    values = {"title": passage.heading, "text": passage.text, "section": passage.section}
    written, was_empty = "", False
    for literal, name in _pieces(template):
        if was_empty and literal.startswith(" ") and (not written or written.endswith(" ")):
            literal = literal[1:]
        value = values[name] if name is not None else ""
        written += literal + value
        was_empty = name is not None and not value
    return written[:-1] if was_empty and written.endswith(" ") else written


@lru_cache(maxsize=64)
def _pieces(template: str) -> tuple[tuple[str, str | None], ...]:
    return template_pieces(template, FIELDS, option="template")
