from __future__ import annotations

import json

import pytest

from atlas_lm.data.webq import WebQuestions, descriptions
from atlas_lm.runtime.errors import InputError
from tests.data.official_files import made, write

ROWS = [
    {
        "url": "http://www.freebase.com/view/en/justin_bieber",
        "targetValue": '(list (description "Jazmyn Bieber") (description "Jaxon Bieber"))',
        "utterance": "what is the name of justin bieber brother?",
    },
    {
        "url": "http://www.freebase.com/view/en/natalie_portman",
        "targetValue": '(list (description Padm\u00e9) (description "say \\"hi\\" (now)"))',
        "utterance": "what character did natalie portman play in star wars?",
    },
]


@pytest.mark.parametrize("indent", [None, 1])
def test_official_json(tmp_path, indent):
    name = "webquestions.examples.train.json.bz2"
    file = write(tmp_path / name, json.dumps(ROWS, indent=indent))
    rows = made(WebQuestions(), [file], tmp_path / "out")[1]["train"]
    assert [row["answers"] for row in rows] == [
        ["Jazmyn Bieber", "Jaxon Bieber"],
        ["Padmé", 'say "hi" (now)'],
    ]
    assert rows[0]["question"] == ROWS[0]["utterance"]
    assert rows[0]["url"] == ROWS[0]["url"]


def test_one_object_a_line_between_brackets(tmp_path):
    lines = "[" + ",\n".join(map(json.dumps, ROWS)) + "]\n"
    file = write(tmp_path / "webquestions.examples.test.json", lines)
    assert len(made(WebQuestions(), [file], tmp_path / "out")[1]["test"]) == 2


@pytest.mark.parametrize(
    "value",
    ["Padmé", '(list (description "open))', "(list (entity x))", "(list (description a) junk)", ""],
)
def test_answers_written_otherwise_are_refused(value):
    with pytest.raises(InputError, match=r"f:1: targetValue .*expected \(list"):
        descriptions(value, place="f:1")


def test_a_row_without_answers_is_malformed(tmp_path):
    row = ROWS[0] | {"targetValue": "(list)"}
    file = write(tmp_path / "train.json", json.dumps([ROWS[1], row], indent=1))
    with pytest.raises(InputError, match=r"train.json:7: no answer"):
        made(WebQuestions(), [file], tmp_path / "out")
