from __future__ import annotations

import re

import pytest

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.templates import template_pieces

KNOWN = ("query", "text")


def test_a_template_is_literals_and_fields():
    pieces = template_pieces("a {query} {{b}} {text} c", KNOWN, option="o", needs=KNOWN)
    joined = "".join(f"{literal}<{name}>" for literal, name in pieces)
    assert joined == "a <query> {<None>b}<None> <text> c<None>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{qury} {text}", "o='{qury} {text}': unknown field 'qury' (did you mean 'query'?)"),
        ("{query} {text.foo}", "unknown field 'text.foo'"),
        ("{query[0]} {text}", "unknown field 'query[0]'"),
        ("{} {text}", "unknown field ''; known: {query}, {text}"),
        ("{query} {text!r}", "write {text} without format codes"),
        ("{query:>9} {text}", "write {query} without format codes"),
        ("{query", "write a field as {query}, {text} and a plain brace twice"),
        ("query", "does not contain {query}"),
        ("{query}", "does not contain {text}"),
        ("{query} {{text}}", "does not contain {text}"),
    ],
)
def test_wrong_templates_are_refused(template, message):
    with pytest.raises(InputError, match=re.escape(message)):
        template_pieces(template, KNOWN, option="o", needs=KNOWN)
