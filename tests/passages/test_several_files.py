from __future__ import annotations

import json

import numpy as np
import pytest

from atlas_lm.passages import repeats, scan
from atlas_lm.passages import store as store_module
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError


def records(*ids: str, text: str = "t") -> list[dict[str, str]]:
    return [{"id": i, "text": text} for i in ids]


@pytest.fixture
def files(write):
    return [
        write(records("a", "b", "c"), "1.jsonl"),
        write(records("d"), "2.jsonl", end=""),
        write(records("b", "e", text="new"), "3.jsonl"),
    ]


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def test_an_id_is_used_again_once_its_row_is_hidden(files):
    with pytest.raises(InputError, match=r"3\.jsonl:1: id 'b' was used before at .*1\.jsonl:2;"):
        PassageStore.open(files)
    store = PassageStore.open(files, hidden=rows(1))
    assert len(store) == 6
    assert store.rows_of(["e", "b", "a"]) == [5, 4, 0]
    assert store[1].text == "t"
    assert store[4].text == "new"
    other = PassageStore.open(files, hidden=rows(0, 4))
    assert other.rows_of(["b"]) == [1]
    assert other.rows_of(["a"], missing="skip") == []
    with pytest.raises(InputError, match="'a' is not in"):
        other.rows_of(["a"])


def test_hidden_rows_change_no_fingerprint(files):
    assert (
        PassageStore.open(files, hidden=rows(1)).fingerprint
        == PassageStore.open(files, hidden=rows(4)).fingerprint
    )


def test_three_of_one_id_of_which_the_middle_is_hidden(write):
    path = write(records("x", "x", "y", "x"))
    with pytest.raises(InputError, match=r":4: id 'x' was used before at .*:1;"):
        PassageStore.open(path, hidden=rows(1))
    assert PassageStore.open(path, hidden=rows(0, 1)).rows_of(["x"]) == [3]


def test_hidden_rows_are_sound(files):
    with pytest.raises(InputError, match="not ascending"):
        PassageStore.open(files, hidden=rows(3, 1))
    with pytest.raises(InputError, match="not ascending"):
        PassageStore.open(files, hidden=rows(-1, 1))
    with pytest.raises(InputError, match="row 6 is to be hidden, but there are 6 passages"):
        PassageStore.open(files, hidden=rows(1, 6))
    assert PassageStore.open(files[:2], hidden=rows()).hidden is None


def test_a_file_more_does_not_reread_the_others(files, monkeypatch):
    PassageStore.open(files[:2])
    read = []

    def counted(path, *args, **kwargs):
        read.append(path.name)
        return scan.scan(path, *args, **kwargs)

    monkeypatch.setattr(store_module, "scan", counted)
    store = PassageStore.open(files, hidden=rows(1))
    assert read == ["3.jsonl"]
    assert store.rows_of(["b"]) == [4]


def test_a_known_combination_is_not_compared_again(files, monkeypatch):
    first = PassageStore.open(files, hidden=rows(1))
    monkeypatch.setattr(repeats, "repeated", None)
    assert PassageStore.open(files, hidden=rows(1)).fingerprint == first.fingerprint
    with pytest.raises(InputError, match="used before"):
        PassageStore.open(files)


def test_fingerprint_of_several_files(files, write):
    store = PassageStore.open(files, hidden=rows(1))
    assert store.fingerprints == tuple(PassageStore.open(f).fingerprint for f in files)
    assert store.fingerprint not in store.fingerprints
    assert PassageStore.open(files[:2]).fingerprint != store.fingerprint
    assert PassageStore.open(files[1::-1]).fingerprint != PassageStore.open(files[:2]).fingerprint
    closed = write(records("d"), "4.jsonl")
    same = PassageStore.open([files[0], closed]).fingerprint
    assert same == PassageStore.open(files[:2]).fingerprint


def test_an_id_in_many_files(write):
    paths = [write(records("same", f"own{n}"), f"{n}.jsonl") for n in range(4)]
    with pytest.raises(InputError, match=r"3\.jsonl:1: id 'same' was used before at .*2\.jsonl:1;"):
        PassageStore.open(paths, hidden=rows(0, 2))
    store = PassageStore.open(paths, hidden=rows(0, 2, 4))
    assert store.rows_of(["same", "own1"]) == [6, 3]


def test_ids_are_sorted_in_ranges(write, monkeypatch):
    path = write(records(*(str(n) for n in range(500)), "7"))
    with pytest.raises(InputError, match=r":501: id '7' was used before at .*:8;"):
        PassageStore.open(path)
    other = write(records(*(str(n) for n in range(500))), "other.jsonl")
    whole = PassageStore.open(other)._layouts[0].ids
    monkeypatch.setattr(scan, "ROWS_AT_ONCE", 64)
    again = write([*records(*(str(n) for n in range(500))), {"id": "z", "text": "t"}], "3.jsonl")
    pieces = PassageStore.open(again)._layouts[0].ids
    assert list(pieces.hashes) == sorted(pieces.hashes)
    assert set(whole.hashes) < set(pieces.hashes)
    assert PassageStore.open(again).rows_of(["499", "z", "0"]) == [499, 500, 0]
    path.write_text("\n".join(json.dumps(r) for r in records(*map(str, range(300)), "7")))
    with pytest.raises(InputError, match=r":301: id '7' was used before at .*:8;"):
        PassageStore.open(path)


def test_long_runs_are_read_in_one_piece(write, monkeypatch):
    ids = [str(n) for n in range(1000)]
    store = PassageStore.open([write(records(*ids[:600]), "1.jsonl"), write(records(*ids[600:]))])
    assert [p.id for p in store.passages(range(1000))] == ids
    assert [p.id for p in store.passages(range(300, 600))] == ids[300:600]
    assert [p.id for p in store.passages(range(599, 601))] == ids[599:601]
    assert [p.id for p in store] == ids
