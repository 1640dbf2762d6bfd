from __future__ import annotations

import pytest

from atlas_lm.passages.format import format_passage
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Passage

FULL = Passage("1", "It is  round.", "Earth", "Shape")
BARE = Passage("2", "It is  round.")


@pytest.mark.parametrize(
    ("template", "full", "bare"),
    [
        ("{title} {text}", "Earth: Shape It is  round.", "It is  round."),
        ("{text} {title}", "It is  round. Earth: Shape", "It is  round."),
        (
            "title: {title} context: {text}",
            "title: Earth: Shape context: It is  round.",
            "title: context: It is  round.",
        ),
        ("{section} | {text}", "Shape | It is  round.", "| It is  round."),
        ("{text} ({section}) end", "It is  round. (Shape) end", "It is  round. () end"),
        ("a {section} b", "a Shape b", "a b"),
        ("{section} {title} {text}", "Shape Earth: Shape It is  round.", "It is  round."),
        ("{{{text}}}", "{It is  round.}", "{It is  round.}"),
        ("passage", "passage", "passage"),
    ],
)
def test_format(template, full, bare):
    assert format_passage(template, FULL) == full
    assert format_passage(template, BARE) == bare


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{titel}", "unknown field 'titel' \\(did you mean 'title'"),
        ("{text!r}", "without format codes"),
        ("{text:>9}", "without format codes"),
        ("{text", "plain brace twice"),
        ("{}", "unknown field"),
    ],
)
def test_bad_template(template, message):
    with pytest.raises(InputError, match=message):
        format_passage(template, BARE)
