from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from atlas_lm.passages import store as store_module
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import DiskFullError, InputError
from atlas_lm.types import Passage

RECORDS = [
    {"id": "a", "text": "first", "title": "One"},
    {"id": "b", "text": "zweite Größe ☃", "title": "Two", "section": "History"},
    {"id": "c", "text": "third", "valid_from": "2020", "source": 7},
    {"id": "d", "text": "", "title": None, "section": None},
]


def test_row_to_passage(write):
    store = PassageStore.open(write(RECORDS))
    assert len(store) == 4
    assert store[0] == Passage("a", "first", "One")
    assert store[1].text == "zweite Größe ☃"
    assert store[1].heading == "Two: History"
    assert store[2].metadata == {"valid_from": "2020", "source": 7}
    assert store[3] == Passage("d", "")
    assert [p.id for p in store.passages([3, 0, 3])] == ["d", "a", "d"]
    assert [p.id for p in store.passages(np.array([1, 2]))] == ["b", "c"]
    assert store.passages([]) == []
    assert [p.id for p in store] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("row", [-1, 4])
def test_row_outside_the_corpus(write, row):
    with pytest.raises(IndexError, match=f"row {row} of a corpus of 4"):
        PassageStore.open(write(RECORDS))[row]


def test_last_line_without_newline_and_crlf(write):
    store = PassageStore.open(write(RECORDS, end=""))
    assert store[3].id == "d"
    crlf = write([json.dumps(r) + "\r" for r in RECORDS], "crlf.jsonl")
    assert [p.id for p in PassageStore.open(crlf)] == ["a", "b", "c", "d"]


def test_several_files_count_on(write):
    paths = [write(RECORDS[:1], "1.jsonl", end=""), write(RECORDS[1:], "2.jsonl")]
    store = PassageStore.open(paths)
    assert [store[row].id for row in range(4)] == ["a", "b", "c", "d"]
    assert store.rows_of(["d", "a", "c"]) == [3, 0, 2]
    assert store.paths == tuple(paths)
    assert store.counts == (1, 3)
    assert store.place(3) == f"{paths[1]}:3"
    assert [p.id for p in store.passages([1, 2, 3])] == ["b", "c", "d"]
    assert [p.id for p in store.passages([3, 0, 1])] == ["d", "a", "b"]


def test_fingerprint_is_of_the_content(write, tmp_path):
    plain = write(RECORDS)
    store = PassageStore.open(plain)
    assert store.fingerprint == hashlib.sha256(plain.read_bytes()).hexdigest()
    assert store.sha256 == (store.fingerprint,)
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert PassageStore.open(packed).fingerprint == store.fingerprint
    changed = write([*RECORDS[:3], {"id": "d", "text": "x"}], "changed.jsonl")
    assert PassageStore.open(changed).fingerprint != store.fingerprint


def test_rows_of(write):
    rng = random.Random(0)
    ids = [f"{rng.randrange(10**9)}-{n}" for n in range(2000)]
    store = PassageStore.open(write([{"id": i, "text": "t"} for i in ids]))
    wanted = rng.sample(range(2000), 50)
    assert store.rows_of(ids[row] for row in wanted) == wanted
    assert store.rows_of(["nobody", ids[5]], missing="skip") == [5]
    with pytest.raises(InputError, match=r"'nobody' is not in .*corpus\.jsonl"):
        store.rows_of(["nobody"])


def test_rows_of_with_colliding_hashes(write, monkeypatch):
    from atlas_lm.passages import scan

    monkeypatch.setattr(scan, "id_hash", lambda _: b"\0" * 8)
    monkeypatch.setattr(store_module, "id_hash", lambda _: b"\0" * 8)
    store = PassageStore.open(write(RECORDS))
    assert store.rows_of(["c", "a", "d"]) == [2, 0, 3]
    assert store.rows_of(["e"], missing="skip") == []
    with pytest.raises(InputError, match=r"twice\.jsonl:5: id 'b' was used before at .*:2;"):
        PassageStore.open(write([*RECORDS, RECORDS[1]], "twice.jsonl"))


GOOD = '{"id": "x", "text": "t"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", r"corpus\.jsonl:2: blank line; .*remove"),
        ("  \r", r"corpus\.jsonl:2: blank line"),
        ('{"id": "y", "text": ', r"corpus\.jsonl:2: malformed JSON .*one JSON object per line"),
        ('["y"]', r"corpus\.jsonl:2: a list instead of an object"),
        ("7", r"corpus\.jsonl:2: a number instead of an object"),
        ('"id text"', r"corpus\.jsonl:2: a string instead of an object"),
        ("null", r"corpus\.jsonl:2: null instead of an object"),
        ('{"text": "t"}', r"corpus\.jsonl:2: no field 'id'"),
        ('{"id": "y", "texts": "t"}', r"corpus\.jsonl:2: no field 'text' \(did you mean 'texts'"),
        ('{"id": 3, "text": "t"}', r"corpus\.jsonl:2: field 'id' is a number \(3\).*a string"),
        ('{"id": "y", "text": null}', r"corpus\.jsonl:2: field 'text' is null"),
        ('{"id": "y", "text": ["t"]}', r"corpus\.jsonl:2: field 'text' is a list"),
        ('{"id": "y", "text": "t", "title": 1}', r"corpus\.jsonl:2: field 'title' is a number"),
        ('{"id": "y", "text": "t", "title": false}', r"field 'title' is a boolean \(false\)"),
        ('{"id": "y", "text": "t", "section": []}', r"field 'section' is a list \(\[\]\)"),
        (
            '{"id": "y", "text": "t", "section": {"a": 1}}',
            r"corpus\.jsonl:2: field 'section' is an object",
        ),
        (b'{"id": "y", "text": "\xff"}', r"corpus\.jsonl:2: byte 21 \(0xff\) is not UTF-8"),
        (b"\xef\xbb\xbf" + GOOD.encode(), r"corpus\.jsonl:2: byte order mark"),
        ('{"id": "x", "text": "again"}', r"corpus\.jsonl:2: id 'x' was used before at .*:1;"),
    ],
)
def test_bad_line_is_named(write, line, message):
    path = write([GOOD, line, '{"id": "z", "text": "t"}'])
    with pytest.raises(InputError, match=message):
        PassageStore.open(path)
    with pytest.raises(InputError, match=message):
        PassageStore.open(path)  # nothing bad was cached


def test_bad_line_without_check_is_an_error_when_read(write):
    store = PassageStore.open(write([GOOD, "{"]), check=False)
    assert store[0].id == "x"
    with pytest.raises(InputError, match=r"corpus\.jsonl:2: malformed"):
        store[1]
    with pytest.raises(InputError, match=r"corpus\.jsonl:2: malformed"):
        store.rows_of(["x"])


def test_bad_line_in_the_second_file(write):
    paths = [write(RECORDS, "1.jsonl"), write([GOOD, "oops"], "2.jsonl", end="")]
    with pytest.raises(InputError, match=r"2\.jsonl:2: malformed"):
        PassageStore.open(paths)
    twice = [paths[0], write([GOOD, RECORDS[2]], "3.jsonl")]
    with pytest.raises(InputError, match=r"3\.jsonl:2: id 'c' was used before at .*1\.jsonl:3;"):
        PassageStore.open(twice)


def test_lines_longer_than_the_buffer(write, monkeypatch):
    from atlas_lm.passages import scan

    expected = [p.id for p in PassageStore.open(write(RECORDS, "whole.jsonl"))]
    monkeypatch.setattr(scan, "BUFFER_BYTES", 7)
    store = PassageStore.open(write(RECORDS, "pieces.jsonl", end=""))
    assert [p.id for p in store] == expected
    with pytest.raises(InputError, match=r"bad\.jsonl:3: malformed"):
        PassageStore.open(write([*RECORDS[:2], "{", RECORDS[3]], "bad.jsonl"))


def test_missing_empty_and_foreign_files(write, tmp_path):
    with pytest.raises(InputError, match=r"no\.jsonl: no such file"):
        PassageStore.open(tmp_path / "no.jsonl")
    with pytest.raises(InputError, match="is a directory"):
        PassageStore.open(tmp_path)
    with pytest.raises(InputError, match="no passage file"):
        PassageStore.open([])
    for check in (True, False):
        with pytest.raises(InputError, match=r"empty\.jsonl: empty file"):
            PassageStore.open(write([], "empty.jsonl", end=""), check=check)


def test_gz_is_unpacked_once(write, tmp_path, cache):
    packed = tmp_path / "p.jsonl.gz"
    packed.write_bytes(gzip.compress(write(RECORDS).read_bytes()))
    store = PassageStore.open(packed)
    assert [p.id for p in store] == ["a", "b", "c", "d"]
    copies = list(cache.rglob("*.jsonl"))
    before = copies[0].stat().st_mtime_ns
    PassageStore.open(packed)
    assert list(cache.rglob("*.jsonl")) == copies
    assert copies[0].stat().st_mtime_ns == before
    packed.write_bytes(gzip.compress(write([GOOD, "["]).read_bytes()))
    with pytest.raises(InputError, match=r"p\.jsonl\.gz:2: malformed"):
        PassageStore.open(packed)


@pytest.mark.parametrize("content", [b"plain", gzip.compress(b"x" * 9999)[:-9]])
def test_broken_gz(tmp_path, content, cache):
    packed = tmp_path / "p.jsonl.gz"
    packed.write_bytes(content)
    with pytest.raises(InputError, match="not a complete gzip file"):
        PassageStore.open(packed)
    assert not list(cache.rglob("*.jsonl"))


def test_second_opening_does_not_scan(write, monkeypatch):
    path = write(RECORDS)
    first = PassageStore.open(path)
    monkeypatch.setattr(store_module, "scan", None)
    again = PassageStore.open(path)
    assert again.fingerprint == first.fingerprint
    assert again.rows_of(["c"]) == [2]
    assert [p.id for p in again] == ["a", "b", "c", "d"]


def test_changed_file_is_scanned_again(write):
    path = write(RECORDS)
    old = PassageStore.open(path).fingerprint
    write(list(reversed(RECORDS)))
    assert PassageStore.open(path).fingerprint != old
    assert PassageStore.open(path)[0].id == "d"


def test_unchecked_sidecar_does_not_pass_for_checked(write):
    path = write([GOOD, GOOD])
    assert len(PassageStore.open(path, check=False)) == 2
    with pytest.raises(InputError, match="used before"):
        PassageStore.open(path)


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"garbage", None])
def test_damaged_sidecar_is_ignored(write, cache, damage):
    path = write(RECORDS)
    PassageStore.open(path)
    (sidecar,) = cache.rglob("*.offsets")
    sidecar.write_bytes(sidecar.read_bytes()[:-1] if damage is None else damage)
    assert PassageStore.open(path).rows_of(["b"]) == [1]


def test_unwritable_cache_costs_a_warning(write, tmp_path, monkeypatch, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    monkeypatch.setenv("ATLAS_LM_CACHE", str(blocked))
    store = PassageStore.open(write(RECORDS))
    assert store.rows_of(["b"]) == [1]
    assert "cannot cache line offsets" in capsys.readouterr().err


def test_full_cache_disk_costs_a_warning(write, monkeypatch, capsys):
    from atlas_lm.passages import scan

    def full(*_: object) -> None:
        raise DiskFullError("the disk is full")

    monkeypatch.setattr(scan, "atomic_path", full)
    assert PassageStore.open(write(RECORDS))[1].id == "b"
    assert "the disk is full" in capsys.readouterr().err


def test_reads_from_many_threads(write):
    store = PassageStore.open(write([{"id": str(n), "text": "x" * (n % 97)} for n in range(500)]))
    barrier = threading.Barrier(4)

    def read(seed: int) -> bool:
        rng = random.Random(seed)
        barrier.wait()
        for _ in range(50):
            rows = rng.choices(range(500), k=20)
            if [p.id for p in store.passages(rows)] != [str(row) for row in rows]:
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files through /proc")
def test_files_are_closed(write):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        PassageStore.open(write(RECORDS))
    assert len(os.listdir("/proc/self/fd")) <= before + 1
