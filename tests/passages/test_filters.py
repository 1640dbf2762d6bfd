from __future__ import annotations

import json

import numpy as np
import pytest

from atlas_lm.passages import filters as filters_module
from atlas_lm.passages.filters import Filter, rows_that_pass
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError

ROWS = [
    {"id": "a", "text": "x", "source": "hr", "year": 2019, "valid_to": "2019-05"},
    {"id": "b", "text": "y", "source": "hr", "year": 2021, "valid_from": "2019-06"},
    {"id": "c", "text": "z", "source": "it", "year": "2021"},
    {"id": "d", "text": "w"},
]


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    for path, rows in zip(paths, (ROWS[:3], ROWS[3:]), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [
        (Filter(where='source == "hr"'), "ab"),
        (Filter(where='source != "hr"'), "cd"),
        (Filter(as_of="2019-05"), "acd"),
        (Filter(as_of="2019-06"), "bcd"),
        (Filter(where='source == "hr"', as_of="2019-06"), "b"),
    ],
)
def test_rows_that_pass(files, wanted, rows):
    store = PassageStore.open(files)
    passing = rows_that_pass(store, wanted)
    assert "".join(row["id"] for row, ok in zip(ROWS, passing, strict=True) if ok) == rows


def test_nothing_is_read_twice(files, monkeypatch):
    wanted = Filter(where='source == "hr"')
    first = rows_that_pass(PassageStore.open(files[:1]), wanted)
    read = []
    really = filters_module._read
    monkeypatch.setattr(
        filters_module, "_read", lambda store, w, rows: read.append(rows) or really(store, w, rows)
    )
    both = rows_that_pass(PassageStore.open(files), wanted)
    assert read == [range(3, 4)]
    assert both.tolist() == [*first.tolist(), False]
    rows_that_pass(PassageStore.open(files), wanted)
    assert len(read) == 1
    with files[1].open("a") as file:
        file.write('{"id": "e", "text": "v", "source": "hr"}\n')
    assert rows_that_pass(PassageStore.open(files), wanted).tolist()[-1]
    assert len(read) == 2


def test_dead_rows_say_nothing(tmp_path, monkeypatch):
    rows = [
        {"id": "a", "text": "x", "valid_from": "May"},
        {"id": "b", "text": "y", "draft": True},
        {"id": "a", "text": "x", "valid_from": "2019"},
    ]
    file = tmp_path / "1.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dated, drafts = Filter(as_of="2020"), Filter(where="draft != true")
    corrected = PassageStore.open(file, hidden=np.array([0, 1]))
    assert rows_that_pass(corrected, dated).tolist() == [False, True, True]
    with pytest.raises(InputError, match=r"no passage has a field 'draft'; .*text, .*valid_from"):
        rows_that_pass(corrected, drafts)

    monkeypatch.setattr(filters_module, "_read", None)
    with pytest.raises(InputError, match=r"1\.jsonl:1: 'May' is no date"):
        rows_that_pass(PassageStore.open(file, hidden=np.array([2])), dated)
    alive = PassageStore.open(file, hidden=np.array([0]))
    assert rows_that_pass(alive, drafts).tolist() == [True, False, True]


def test_wrong_filters(files):
    store = PassageStore.open(files)
    with pytest.raises(
        InputError,
        match=r"no passage has a field 'sorce' \(did you mean 'source'\?\); there are id,",
    ):
        rows_that_pass(store, Filter(where='sorce == "hr"'))
    with pytest.raises(InputError, match=r"1\.jsonl:3: where .*quote what is text"):
        rows_that_pass(store, Filter(where="year >= 2020"))
    with pytest.raises(InputError, match="no passage satisfies where 'year == 3' and as of '2019'"):
        rows_that_pass(store, Filter(where="year == 3", as_of="2019"))
    with pytest.raises(InputError, match=r"as of '2019': no passage has valid_from or valid_to"):
        rows_that_pass(PassageStore.open(files[1:]), Filter(as_of="2019"))
    with pytest.raises(InputError, match="invalid syntax"):
        Filter(where="source ==")


def test_a_bad_date_in_a_passage_is_named(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"id": "a", "text": "x"}\n{"id": "b", "text": "x", "valid_from": "soon"}\n')
    with pytest.raises(InputError, match=r"bad\.jsonl:2: 'soon' is no date in valid_from"):
        rows_that_pass(PassageStore.open(path), Filter(as_of="2019"))
