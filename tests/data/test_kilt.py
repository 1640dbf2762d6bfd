from __future__ import annotations

import json

import pytest

from atlas_lm.data.kilt import NAMES, Kilt
from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import TaskConfig, load_examples
from tests.data.official_files import jsonl, made, write

ROW = {
    "id": "4140202570735748767",
    "input": "who sings does he love me with reba",
    "output": [
        {
            "answer": "Linda Davis",
            "provenance": [
                {
                    "wikipedia_id": "4396843",
                    "title": "Does He Love You",
                    "section": "Section::::Abstract.",
                    "start_paragraph_id": 1,
                    "start_character": 0,
                    "end_paragraph_id": 1,
                    "end_character": 134,
                    "bleu_score": 1.0,
                    "meta": {"evidence_span": []},
                }
            ],
        },
        {"answer": "Linda Kaye Davis", "meta": {"score": 3}},
        {"provenance": [{"wikipedia_id": 36, "title": "Reba"}]},
        {"meta": {}},
    ],
    "meta": {"left_context": ""},
}
LINKED = {
    "id": "aida-1",
    "input": "EU rejects [START_ENT] German [END_ENT] call",
    "output": [{"answer": "Germany", "provenance": [{"wikipedia_id": "11867"}]}],
}
ANSWERS = {"fever": "SUPPORTS"}


def test_official_rows(tmp_path):
    train = jsonl(tmp_path / "nq-train-kilt.jsonl", ROW)
    test = jsonl(tmp_path / "nq-test_without_answers-kilt.jsonl", {"id": "5", "input": "q"})
    manifest, rows = made(Kilt(), [train, test], tmp_path / "out")
    assert rows["nq/train"] == [
        {
            "id": "4140202570735748767",
            "input": "who sings does he love me with reba",
            "output": [
                {
                    "answer": "Linda Davis",
                    "provenance": [
                        {
                            "wikipedia_id": "4396843",
                            "title": "Does He Love You",
                            "section": "Section::::Abstract.",
                            "start_paragraph_id": 1,
                            "start_character": 0,
                            "end_paragraph_id": 1,
                            "end_character": 134,
                        }
                    ],
                },
                {"answer": "Linda Kaye Davis"},
                {"provenance": [{"wikipedia_id": "36", "title": "Reba"}]},
            ],
        }
    ]
    assert rows["nq/test"] == [{"id": "5", "input": "q"}]
    assert manifest["without_answers"] == {"nq/test": 1}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "triviaqa"])
def test_each_data_set_is_read_by_its_task(tmp_path, name):
    answer = {"answer": ANSWERS.get(name, "x"), "provenance": [{"wikipedia_id": "1"}]}
    row = LINKED | {"output": [answer]}
    file = jsonl(tmp_path / f"{name}-dev-kilt.jsonl", row)
    made(Kilt(), [file], tmp_path / "out")
    written = tmp_path / "out" / name / "dev.jsonl"
    example = load_examples(written, TaskConfig(task=f"kilt_{name}"))[0]
    assert example.answers == (ANSWERS.get(name, "x"),)


def test_questions_of_triviaqa_are_joined(tmp_path):
    row = {**ROW, "id": "tc_2"}
    del row["input"]
    dev = jsonl(tmp_path / "triviaqa-dev_id-kilt.jsonl", row)
    data = {"Data": [{"QuestionId": "tc_2", "Question": "Who?"}], "Version": 1.0}
    trivia = write(tmp_path / "unfiltered-web-dev.json", json.dumps(data))
    rows = made(Kilt((trivia,)), [dev], tmp_path / "out")[1]
    assert rows["triviaqa/dev"][0]["input"] == "Who?"
    data["Data"][0]["Question"] = "Who else?"
    write(tmp_path / "unfiltered-web-dev.json", json.dumps(data))
    rows = made(Kilt((trivia,)), [dev], tmp_path / "out")[1]
    assert rows["triviaqa/dev"][0]["input"] == "Who else?"
    with pytest.raises(
        InputError, match=r"dev_id-kilt.jsonl:1: row 'tc_2' has no input.*--triviaqa"
    ):
        made(Kilt(), [dev], tmp_path / "other")
    other = jsonl(tmp_path / "triviaqa-train_id-kilt.jsonl", row | {"id": "tc_3"})
    with pytest.raises(InputError, match="question 'tc_3' is not in"):
        made(Kilt((trivia,)), [other], tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"output": None}, "no output"),
        ({"output": [{"meta": {}}]}, "no output"),
        ({"output": {"answer": "x"}}, "output is an object"),
        ({"output": ["x"]}, r"output\[0\] is a string 'x'"),
        ({"output": [{"answer": ["x"]}]}, r"output\[0\]: answer is a list"),
        ({"output": [{"answer": "x", "provenance": [{"title": "t"}]}]}, "'wikipedia_id'"),
        ({"input": ""}, "input is blank"),
        ({"id": None}, "missing field 'id'"),
    ],
)
def test_malformed_rows(tmp_path, change, told):
    file = jsonl(tmp_path / "nq-dev-kilt.jsonl", ROW, ROW | {"id": "2"} | change)
    with pytest.raises(InputError, match=f"nq-dev-kilt.jsonl:2: .*{told}"):
        made(Kilt(), [file], tmp_path / "out")


def test_a_file_of_no_data_set_is_named(tmp_path):
    file = jsonl(tmp_path / "mine-dev.jsonl", ROW)
    with pytest.raises(InputError, match=r"says none of KILT's data sets.*nq-dev-kilt"):
        made(Kilt(), [file], tmp_path / "out")
