from __future__ import annotations

import pytest

from atlas_lm.data.mmlu import Mmlu
from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import TaskConfig, load_examples
from tests.data.official_files import made, tar, write

ROW = '"What is ""it"", exactly?",one,"two, or three",4,None,C\n'
LONG = '"A question\nof two lines",a,b,c,d,A\n'


@pytest.fixture
def archive(tmp_path):
    members = {"data/README.txt": "a,b"}
    for subject in ("astronomy", "virology"):
        for split in ("dev", "val", "test"):
            members[f"data/{split}/{subject}_{split}.csv"] = ROW.replace("4,None", "None") + LONG
    members["data/auxiliary_train/race.csv"] = LONG + ROW.replace("4,None", "None")
    members["data/auxiliary_train/mc_test.csv"] = LONG
    members["data/._junk.txt"] = ""
    return tar(tmp_path / "data.tar", members)


def test_official_archive(tmp_path, archive):
    manifest, rows = made(Mmlu(), [archive], tmp_path / "out")
    assert rows["subjects/astronomy/test"] == [
        {
            "id": "astronomy-test-1",
            "question": 'What is "it", exactly?',
            "options": {"A": "one", "B": "two, or three", "C": "None"},
            "answer": "C",
            "subject": "astronomy",
        },
        {
            "id": "astronomy-test-2",
            "question": "A question\nof two lines",
            "options": {"A": "a", "B": "b", "C": "c", "D": "d"},
            "answer": "A",
            "subject": "astronomy",
        },
    ]
    assert [len(rows[name]) for name in ("dev", "val", "test", "auxiliary_train", "full")] == [
        *(4, 4, 4),
        *(3, 7),
    ]
    assert [row["id"] for row in rows["auxiliary_train"]] == [
        "race-auxiliary_train-1",
        "race-auxiliary_train-3",
        "mc_test-auxiliary_train-1",  # MCTest, not the test split of a subject
    ]
    assert "subjects/mc/test" not in rows
    assert not any(name.startswith("shots") for name in rows)
    examples = load_examples(tmp_path / "out" / "full.jsonl", TaskConfig(task="multiple_choice"))
    assert len(examples) == 7
    assert manifest["task"] == "multiple_choice"


def test_five_options_are_kept(tmp_path):
    file = write(tmp_path / "anatomy_val.csv", ROW)
    assert list(made(Mmlu(), [file], tmp_path / "out")[1]["val"][0]["options"]) == list("ABCD")
    file = write(tmp_path / "anatomy_dev.csv", ROW.replace("4,", "4,5,").replace(",C", ",E"))
    row = made(Mmlu(), [file], tmp_path / "two")[1]["subjects/anatomy/dev"][0]
    assert row["options"]["E"] == "None"
    assert row["answer"] == "E"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("question,a,b,c,d,E\n", "answer 'E' is none of the options A, B, C, D"),
        ("question,a,b\n", "3 cells"),
        ("question,a,,c,d,A\n", "option B is blank"),
        ("\n", "0 cells"),
        ('"open question,a,b,c,d,A\n', "1 cells"),
        (",a,b,c,d,A\n", "question is blank"),
    ],
)
def test_malformed_rows(tmp_path, row, told):
    file = write(tmp_path / "anatomy_test.csv", LONG + row)
    with pytest.raises(InputError, match=f"anatomy_test.csv:3: {told}"):
        made(Mmlu(), [file], tmp_path / "out")


def test_shots_are_the_dev_split(tmp_path, archive):
    with pytest.raises(InputError, match="no train split here to draw from"):
        made(Mmlu(), [archive], tmp_path / "out", shots=(5,))
