from __future__ import annotations

import pytest

from atlas_lm.data.anserini_topics import Question, parse_topics
from atlas_lm.runtime.errors import InputError

LINES = "\n".join(
    [
        "who sings it\t['Linda Davis']",
        'where was it kept\t"[\'the Ingres Museum\', ""Château d\'Amboise""]"',
        '"""Who was the target of the """"Bomb Plot""""?"""\t[\'Hitler\', \'\', \'A. H.\']',
        '{"question": "what do jamaican people speak?", "answer": ["Jamaican English"]}',
        '"Which ""plot"" failed?"\t[\'Bomb\']\r',
        "",
    ]
)


def test_every_form_of_line_is_read():
    assert parse_topics(LINES, place="topics") == [
        Question("who sings it", ("Linda Davis",)),
        Question("where was it kept", ("the Ingres Museum", "Château d'Amboise")),
        Question('Who was the target of the "Bomb Plot"?', ("Hitler", "A. H.")),
        Question("what do jamaican people speak?", ("Jamaican English",)),
        Question('Which "plot" failed?', ("Bomb",)),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "no tab here",
        "three\t['a']\tcells",
        "code\t__import__('os').getcwd()",
        "a string\t'not a list'",
        "numbers\t[1, 2]",
        "nothing\t['', ' ']",
        " \t['an answer to nothing']",
        "",
        '{"question": "no answer"}',
        '{"question": 3, "answer": ["x"]}',
        "cut\t\"['a'",
    ],
)
def test_other_lines_are_errors_with_their_number(line):
    with pytest.raises(InputError, match=r"^topics:2: "):
        parse_topics(f"fine\t['x']\n{line}\nfine\t['x']\n", place="topics")
