from __future__ import annotations

import argparse

import pytest

from atlas_lm.data.templama import TempLAMA
from atlas_lm.runtime.errors import InputError
from tests.data.official_files import jsonl, made


def statement(date, name, number=1):
    answer = {"wikidata_id": "Q1085474", "name": name}
    return {
        "query": f"Rider {number} plays for _X_.",
        "answer": [answer],
        "date": date,
        "id": f"Q{number}_P54_{date}",
        "most_frequent_answer": answer,
        "most_recent_answer": answer,
        "relation": "P54",
    }


def test_official_rows(tmp_path):
    file = jsonl(tmp_path / "test.json", statement("2010", "Yamaha Motor Racing"))
    assert made(TempLAMA(), [file], tmp_path / "out")[1]["test"] == [
        {
            "id": "Q1_P54_2010",
            "question": "Rider 1 plays for _X_.",
            "answers": ["Yamaha Motor Racing"],
            "date": "2010",
            "relation": "P54",
        }
    ]


def test_only_what_changed_between_the_years(tmp_path):
    file = jsonl(
        tmp_path / "test.json",
        *(statement("2017", "Yamaha"), statement("2020", "Ducati"), statement("2019", "Honda")),
        *(statement("2017", "Yamaha", 2), statement("2020", "Yamaha", 2)),
        statement("2017", "Yamaha", 3),
    )
    asked = argparse.Namespace(years="2017, 2020", changed=True)
    manifest, rows = made(TempLAMA.from_arguments(asked), [file], tmp_path / "out")
    assert [row["id"] for row in rows["test"]] == ["Q1_P54_2017", "Q1_P54_2020"]
    assert manifest["left_out"] == {"test": {"not of 2017, 2020": 1}}
    assert manifest["files"]["test.jsonl"]["rows"] == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"query": "Rossi plays."}, "expected the blank _X_ once"),
        ({"answer": ["Yamaha"]}, "answer is a list"),
        ({"answer": []}, "no answer"),
        ({"date": None}, "missing field 'date'"),
    ],
)
def test_malformed_rows(tmp_path, change, told):
    file = jsonl(tmp_path / "train.json", statement("2010", "a"), statement("2011", "b") | change)
    with pytest.raises(InputError, match=f"train.json:2: .*{told}"):
        made(TempLAMA(), [file], tmp_path / "out")


def test_wrong_options():
    with pytest.raises(InputError, match="write years as"):
        TempLAMA.from_arguments(argparse.Namespace(years="17", changed=False))
    with pytest.raises(InputError, match="at least two"):
        TempLAMA.from_arguments(argparse.Namespace(years="2017", changed=True))
