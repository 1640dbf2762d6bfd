from __future__ import annotations

import json

import pytest

from atlas_lm.data.triviaqa import TriviaQA
from atlas_lm.runtime.errors import InputError
from tests.data.official_files import made, tar, write


def question(number, **answer):
    """A question of triviaqa-unfiltered/unfiltered-web-*.json."""
    answer = {
        "Aliases": ["(Harry) Sinclair Lewis", "Sinclair Lewis"],
        "MatchedWikiEntityName": "Sinclair Lewis",
        "NormalizedAliases": ["harry sinclair lewis", "sinclair lewis"],
        "NormalizedMatchedWikiEntityName": "sinclair lewis",
        "NormalizedValue": "sinclair lewis",
        "Type": "WikipediaEntity",
        "Value": "Sinclair Lewis",
    } | answer
    return {
        "Answer": answer,
        "EntityPages": [{"DocSource": "TagMe", "Filename": "Nobel.txt", "Title": "Nobel"}],
        "Question": f"Which American-born Sinclair won the Nobel Prize, number {number}?",
        "QuestionId": f"tc_{number}",
        "QuestionSource": "http://www.triviacountry.com/",
        "SearchResults": [{"Description": '{ "Data": [', "DisplayUrl": "x", "Rank": 0}],
    }


def document(*questions):
    head = {"Data": list(questions), "Domain": "unfiltered-web", "Split": "train"}
    return json.dumps(head | {"VerifiedEval": False, "Version": 1.0}, indent=4)


def test_unfiltered_and_filtered_from_the_archive(tmp_path):
    folder = "triviaqa-unfiltered"
    hidden = {key: question(99)[key] for key in ("Question", "QuestionId", "QuestionSource")}
    archive = tar(
        tmp_path / "triviaqa-unfiltered.tar.gz",
        {
            f"{folder}/README": "read me",
            f"{folder}/unfiltered-web-train.json": document(*map(question, range(20))),
            f"{folder}/unfiltered-web-dev.json": document(*map(question, range(20, 23))),
            f"{folder}/unfiltered-web-test-without-answers.json": document(hidden),
            "evidence/web/train/1.txt": "evidence",
        },
    )
    manifest, rows = made(TriviaQA(), [archive], tmp_path / "out", shots=(4,), seeds=2)
    assert rows["dev"][0] == {
        "id": "tc_20",
        "question": "Which American-born Sinclair won the Nobel Prize, number 20?",
        "answers": ["Sinclair Lewis", "(Harry) Sinclair Lewis"],
        "target": "Sinclair Lewis",
    }
    assert "answers" not in rows["test"][0]
    assert manifest["without_answers"] == {"test": 1}
    assert rows["filtered/test"] == rows["dev"]
    # 20 x 8,837 / 87,622 = 2.02
    assert (len(rows["filtered/train"]), len(rows["filtered/dev"])) == (18, 2)
    ids = {row["id"] for name in ("train", "dev") for row in rows[f"filtered/{name}"]}
    assert ids == {row["id"] for row in rows["train"]}
    assert len(rows["filtered/shots/4-seed1"]) == len(rows["shots/4-seed0"]) == 4


@pytest.mark.parametrize("listed", [[0, 2], ["tc_0", "tc_2"]])
def test_the_published_list_of_dev_questions_is_followed(tmp_path, listed):
    train = write(tmp_path / "unfiltered-web-train.json", document(*map(question, range(4))))
    ids = write(tmp_path / "dev.json", json.dumps(listed))
    rows = made(TriviaQA(ids), [train], tmp_path / "out")[1]
    assert [row["id"] for row in rows["filtered/dev"]] == ["tc_0", "tc_2"]
    assert [row["id"] for row in rows["filtered/train"]] == ["tc_1", "tc_3"]


@pytest.mark.parametrize("listed", [[4], ["tc_9"]])
def test_a_list_of_other_questions_is_refused(tmp_path, listed):
    train = write(tmp_path / "unfiltered-web-train.json", document(*map(question, range(4))))
    ids = write(tmp_path / "dev.json", json.dumps(listed))
    with pytest.raises(InputError, match="none of the 4 train questions"):
        made(TriviaQA(ids), [train], tmp_path / "out")


def test_questions_of_web_and_wikipedia_files_count_once(tmp_path):
    (tmp_path / "qa").mkdir()
    first = document(question(1), question(2))
    write(tmp_path / "qa" / "web-train.json", first)
    write(tmp_path / "qa" / "wikipedia-train.json", document(question(2), question(3)))
    write(tmp_path / "qa" / "verified-web-dev.json", document(question(4)))
    manifest, rows = made(TriviaQA(), [str(tmp_path / "qa")], tmp_path / "out")
    assert [row["id"] for row in rows["train"]] == ["tc_1", "tc_2", "tc_3"]
    assert "dev" not in rows
    assert manifest["left_out"] == {"train": {"id seen before": 1}}


def test_a_broken_document_is_named_where_it_breaks(tmp_path):
    broken = document(question(1), question(2)).replace(
        '"Question": "Which', '"Question" "Which', 1
    )
    file = write(tmp_path / "web-train.json", broken)
    with pytest.raises(InputError, match=r"web-train.json:\d+: malformed JSON \(Expecting ':'"):
        made(TriviaQA(), [file], tmp_path / "out", skip_malformed=True)
    cut = write(tmp_path / "cut-train.json", document(question(1), question(2))[:-300])
    with pytest.raises(InputError, match=r"cut-train.json:\d+: .*cut short"):
        made(TriviaQA(), [cut], tmp_path / "out")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (question(5) | {"Answer": "Lewis"}, "Answer is a string 'Lewis'"),
        (question(5, Aliases="Lewis"), "Aliases is a string 'Lewis'"),
        ({**question(5), "QuestionId": None}, "missing field 'QuestionId'"),
        ({**question(5), "Answer": None}, "no answer"),
    ],
)
def test_malformed_rows(tmp_path, row, told):
    file = write(tmp_path / "web-train.json", document(question(1), row))
    second = document(question(1), row).split("\n").index("        {", 3) + 1
    with pytest.raises(InputError, match=told) as caught:
        made(TriviaQA(), [file], tmp_path / "out")
    assert str(caught.value).startswith(f"{file}:{second}: ")


def test_a_list_of_dev_questions_that_is_not_there():
    with pytest.raises(InputError, match=r"--dev-ids none\.json: no such file"):
        TriviaQA("none.json")
