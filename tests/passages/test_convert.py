from __future__ import annotations

import gzip
import importlib
import json
import os
from decimal import Decimal
from pathlib import Path

import pytest

from atlas_lm.passages import convert, packed
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError

RECORDS = [
    {"id": "a", "text": "first", "title": "One", "section": None, "source": None},
    {"id": "b", "text": "zweite Größe ☃", "title": "Two", "section": "History"},
    {"id": "c", "text": "third", "source": "hr"},
]
TABLE = (
    "id\ttext\ttitle\n"
    '1\t"He said ""no"" and\nleft\tsoon."\tOne\n'
    "2\tIt's plain.\tTwo\n"
    "3\tNo title.\t\n"
)


def zstd(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor().compress(data)


def parquet(path: Path, rows, **columns) -> Path:
    arrow = pytest.importorskip("pyarrow")
    importlib.import_module("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), path)
    return path


def saved(path: Path, rows, shards: int = 2) -> Path:
    """A directory as `datasets.Dataset.save_to_disk` writes it."""
    arrow = pytest.importorskip("pyarrow")
    path.mkdir()
    names = [f"data-{n:05}-of-{shards:05}.arrow" for n in range(shards)]
    table, size = arrow.Table.from_pylist(rows), -(-len(rows) // shards)
    for number, name in enumerate(names):
        with arrow.ipc.new_stream(str(path / name), table.schema) as stream:
            stream.write_table(table.slice(number * size, size))
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": n} for n in names]}))
    return path


def ids(store: PassageStore) -> list[str]:
    return [passage.id for passage in store]


def test_every_form_gives_the_same_passages(write, tmp_path):
    plain = write(RECORDS)
    expected = list(PassageStore.open(plain))
    data = plain.read_bytes()
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(data))
    (tmp_path / "p.jsonl.zst").write_bytes(zstd(data[:20]) + zstd(data[20:]))
    (tmp_path / "no_suffix").write_bytes(zstd(data))
    parquet(tmp_path / "p.parquet", RECORDS)
    saved(tmp_path / "dataset", RECORDS)
    for name in ("p.jsonl.gz", "p.jsonl.zst", "no_suffix"):
        assert list(PassageStore.open(tmp_path / name)) == expected
    for name in ("p.parquet", "dataset"):
        store = PassageStore.open(tmp_path / name)
        assert [(p.id, p.text, p.heading) for p in store] == [
            (p.id, p.text, p.heading) for p in expected
        ]
        assert store[2].metadata["source"] == "hr"
        assert store.rows_of(["c"]) == [2]


def test_what_datasets_really_writes(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_list([{"id": n, "text": f"t{n}"} for n in range(5)])
    rows.select([4, 1]).save_to_disk(tmp_path / "dataset")
    assert [(p.id, p.text) for p in PassageStore.open(tmp_path / "dataset")] == [
        ("4", "t4"),
        ("1", "t1"),
    ]
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "splits")
    with pytest.raises(InputError, match=r"several splits; name one: .*splits/train"):
        PassageStore.open(tmp_path / "splits")
    assert len(PassageStore.open(tmp_path / "splits" / "train")) == 5


@pytest.mark.parametrize("name", ["psgs.tsv", "psgs.tsv.gz", "psgs.tsv.zst", "psgs", "psgs.gz"])
def test_dprs_table(tmp_path, name):
    pack = {".gz": gzip.compress, ".zst": zstd}.get(Path(name).suffix, bytes)
    (tmp_path / name).write_bytes(pack(TABLE.encode()))
    store = PassageStore.open(tmp_path / name)
    assert [(p.id, p.title, p.text) for p in store] == [
        ("1", "One", 'He said "no" and\nleft\tsoon.'),
        ("2", "Two", "It's plain."),
        ("3", "", "No title."),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id\ttext\ttitle\n1\ta\n", r"x\.tsv:2: 2 fields instead of 3 \(id, text, title\)"),
        ('id\ttext\n1\t"a\nb"\n2\tx\ty\n', r"x\.tsv:4: 3 fields instead of 2"),
        ("1\ttext of one\tOne\n", r"x\.tsv:1: no column 'id'.*the first line names"),
        ("id\ttexts\n", r"x\.tsv:1: no column 'text' \(did you mean 'texts'"),
        ("id\ttext\ttext\n", r"x\.tsv:1: a column is named twice"),
        ("id\ttext\n\tno id\n", r"x\.tsv:2: the id is empty"),
        ('id\ttext\n1\t"open\n', r"x\.tsv:\d: .*quotation mark"),
        (b"id\ttext\n1\ta\n2\t\xff\n", r"x\.tsv:3: byte 2 \(0xff\) is not UTF-8"),
        ("id\ttext\n1\ta\n2\tb\n1\tc\n", r"x\.tsv, row 3: id '1' was used before at .*, row 1;"),
    ],
)
def test_bad_tables(tmp_path, content, message):
    path = tmp_path / "x.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        PassageStore.open(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "text": "t"}, {"id": "b", "text": None}], r"row 2: 'text' is null"),
        ([{"id": None, "text": "t"}], r"row 1: 'id' is null"),
        ([{"id": 1.5, "text": "t"}], r"row 1: 'id' is of type float"),
        ([{"id": "a", "contents": "t"}], r"no column 'text'.*the columns are id, contents"),
        ([{"id": "a", "text": "t", "x": b"\x01"}], r"row 1: column 'x' cannot be kept as JSON"),
        ([{"id": "a", "text": "t", "title": 3}], r", row 1: field 'title' is a number"),
        ([{"id": "a", "text": "t"}] * 2, r", row 2: id 'a' was used before at .*, row 1"),
    ],
)
def test_bad_rows_in_columns(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        PassageStore.open(parquet(tmp_path / "p.parquet", rows))
    with pytest.raises(InputError, match=message):
        PassageStore.open(saved(tmp_path / "dataset", rows, shards=1))


def test_values_beyond_json(tmp_path):
    path = parquet(tmp_path / "p.parquet", [{"id": 7, "text": "t", "price": Decimal("1.50")}])
    assert PassageStore.open(path)[0].metadata == {"price": 1.5}
    assert PassageStore.open(path)[0].id == "7"


def test_damaged_files_are_named(tmp_path, write, cache):
    data = zstd(write(RECORDS).read_bytes() * 50)
    for name, content, message in [
        ("a.zst", data[:-9], r"a\.zst: not a complete zst file \(cut short\)"),
        ("b.zst", b"plain", r"b\.zst: not a valid zst file"),
        ("c.parquet", b"PAR1 and more", r"c\.parquet: not a sound Parquet file"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            PassageStore.open(tmp_path / name)
    cut = saved(tmp_path / "cut", RECORDS, shards=1)
    (shard,) = cut.glob("*.arrow")
    shard.write_bytes(shard.read_bytes()[:150])
    with pytest.raises(InputError, match=r"\.arrow: damaged"):
        PassageStore.open(cut)
    shard.unlink()
    with pytest.raises(InputError, match=r"\.arrow: missing, though .*state\.json names it"):
        PassageStore.open(cut)
    assert not list(cache.rglob("*.jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.zip", b"PK\x03\x04...", "a zip archive"),
        ("x", b"BZh9", "packed with bzip2"),
        ("x.arrow", b"ARROW1", "an Arrow file"),
        ("x.csv", b"id,text\n", "a .csv file"),
        ("notes.txt", b"Some text.", "a .txt file"),
        ("x.jsonl", b"{\0}", "not text"),
    ],
)
def test_unknown_forms_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: {message}, which is not read.*\.parquet"):
        PassageStore.open(tmp_path / name)


def test_directories_that_are_no_dataset(tmp_path, write):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no state\.json\); name passage files"):
        PassageStore.open(tmp_path / "empty")
    write(RECORDS, "empty/a.jsonl")
    with pytest.raises(InputError, match=r"name its files: .*a\.jsonl"):
        PassageStore.open(tmp_path / "empty")


def test_a_changed_source_is_converted_again(tmp_path, cache):
    path = parquet(tmp_path / "p.parquet", RECORDS)
    first = PassageStore.open(path)
    (copy,) = cache.rglob("*.jsonl")
    before = copy.stat().st_mtime_ns
    PassageStore.open(path)
    assert copy.stat().st_mtime_ns == before
    parquet(path, RECORDS[:2])
    assert ids(PassageStore.open(path)) == ["a", "b"]
    assert ids(first) == ["a", "b", "c"]


def test_a_conversion_that_is_stopped_starts_anew(tmp_path, cache, monkeypatch):
    path = parquet(tmp_path / "p.parquet", RECORDS)

    def stopped(*_):
        yield b'{"id": "a", "text": "first"}\n'
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(convert.columns, "parquet_lines", stopped)
        with pytest.raises(KeyboardInterrupt):
            PassageStore.open(path)
    assert not list(cache.rglob("*.jsonl*"))
    assert ids(PassageStore.open(path)) == ["a", "b", "c"]
    (copy,) = cache.rglob("*.jsonl")
    left = copy.with_name(f".{copy.name}.killed.tmp")
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    parquet(path, RECORDS[:1])
    PassageStore.open(path)
    assert not left.exists()


def test_missing_packages_name_the_extra(tmp_path, monkeypatch):
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    (tmp_path / "p.zst").write_bytes(b"\x28\xb5\x2f\xfd")

    def absent(name: str):
        raise ImportError(name)

    monkeypatch.setattr(packed.importlib, "import_module", absent)
    for name in ("p.parquet", "p.zst"):
        with pytest.raises(InputError, match=r"pip install 'atlas-lm\[corpora\]'"):
            PassageStore.open(tmp_path / name)
