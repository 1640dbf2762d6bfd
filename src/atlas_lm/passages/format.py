"""A passage as one string: what the retriever embeds."""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import lru_cache

from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.types import Passage

FIELDS = ("title", "text", "section")
"""What a template may name; ``{title}`` is the heading: the title and, if any, the section."""


@dataclass(frozen=True, kw_only=True)
class PassageFormat:
    """How a passage becomes text."""

    template: str = "{title} {text}"
    """Fields {title} (the heading, with ": section" where there is one), {text}, {section}."""

    def __post_init__(self) -> None:
        _pieces(self.template)

    def __call__(self, passage: Passage) -> str:
        """Return the passage as text."""
        return format_passage(self.template, passage)


def format_passage(template: str, passage: Passage) -> str:
    """Return the template with the passage's fields in place of their names.

    A space that stands beside an empty field goes with it, so no double, leading or trailing
    space appears; spaces inside the fields are kept. ``{{`` and ``}}`` write braces.

    Raises:
        InputError: the template names an unknown field or its braces do not match.
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
    """Return the template as (literal, field after it) pairs; the last field may be None."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(
            f"template {template!r}: {error}; write a literal brace as '{{{{' or '}}}}'"
        ) from error
    for _, name, spec, conversion in parsed:
        if name is None:
            continue
        if name not in FIELDS or spec or conversion:
            raise InputError(
                f"template {template!r}: unknown field {{{name}}}{did_you_mean(name, FIELDS)}; "
                "use {title}, {text} and {section}, without format codes"
            )
    return tuple((literal, name) for literal, name, _, _ in parsed)
