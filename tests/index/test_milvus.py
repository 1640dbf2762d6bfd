from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from atlas_lm.index import FlatIndex, build, milvus, open_index
from atlas_lm.index.coded import Facts
from atlas_lm.index.describe import describe
from atlas_lm.index.files import size_of
from atlas_lm.index.milvus import DATABASE, MilvusIndex
from atlas_lm.index.milvus_client import TOKEN, connect
from atlas_lm.index.milvus_filter import server_filter
from atlas_lm.index.settings import IndexSettings
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError
from tests.index.conftest import COUNT, DIM, make_fingerprint

SETTINGS = IndexSettings(kind="milvus", dtype="float32", recall_queries=4, recall_k=5)


def needs_milvus() -> None:
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")


pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # the libraries' own
]


def vectors_of(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, DIM), generator=torch.Generator().manual_seed(seed))


def facts_of(count: int, **settings: object) -> Facts:
    made = IndexSettings(kind="milvus", dtype="float32", **settings)
    return Facts(count=count, settings=made, fingerprint=make_fingerprint())


@pytest.fixture
def index(tmp_path):
    needs_milvus()
    made = MilvusIndex.create(
        facts_of(300),
        vectors_of(300),
        None,
        tmp_path,
        metadata=lambda rows: [
            {"source": "hr" if row % 3 == 0 else "it", "year": 2000 + row % 20} for row in rows
        ],
    )
    yield made
    made.close()


def same(found, expected) -> None:
    assert torch.equal(found.rows, expected.rows)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-5, atol=1e-5)
    assert found.scores.dtype == torch.float32


def test_twin_of_flat(index, monkeypatch):
    flat = FlatIndex(vectors_of(300), fingerprint=make_fingerprint())
    query = vectors_of(3, seed=1)
    same(index.search(query, 10), flat.search(query, 10))
    excluded = [flat.search(query, 40).rows[0].tolist(), [], [5, 5, 7]]
    same(index.search(query, 10, excluded), flat.search(query, 10, excluded))
    few = torch.zeros(300, dtype=torch.bool)
    few[::7] = True
    for mask in (few, ~few):
        expected = flat.search(query, 10, excluded, allowed_rows=mask)
        same(index.search(query, 10, excluded, allowed_rows=mask), expected)
    monkeypatch.setattr(milvus, "LISTED", 3)  # masks too large for a filter: find more
    expected = flat.search(query, 10, excluded, allowed_rows=few)
    same(index.search(query, 10, excluded, allowed_rows=few), expected)


def test_too_few_rows_are_an_error_and_far_ones_are_found(index, monkeypatch):
    query = vectors_of(1, seed=1)
    with pytest.raises(InputError, match="topk=301"):
        index.search(query, 301)
    mask = torch.arange(300) < 4
    with pytest.raises(InputError, match="topk=5, but 4 of 300"):
        index.search(query, 5, allowed_rows=mask)
    with pytest.raises(InputError, match="queries of shape"):
        index.search(query[:, :3], 2)
    monkeypatch.setattr(milvus, "LISTED", 3)
    monkeypatch.setattr(milvus, "MOST_FOUND", 50)
    worst = torch.zeros(300, dtype=torch.bool)
    worst[index.search(query, 50).rows[0, 40:]] = True
    worst[(vectors_of(300) @ query[0]).argsort()[:30]] = True
    found = index.search(query, 20, allowed_rows=worst)  # in pieces
    flat = FlatIndex(vectors_of(300), fingerprint=make_fingerprint())
    same(found, flat.search(query, 20, allowed_rows=worst))


def test_conditions_are_met_by_the_server(index):
    query = vectors_of(2, seed=2)
    found = index.search(query, 8, where='source == "hr" and year >= 2010')
    rows = torch.arange(300)
    mask = (rows % 3 == 0) & (rows % 20 >= 10)
    same(found, index.search(query, 8, allowed_rows=mask))
    found = index.search(query, 8, where='source in ["it"] or startswith(source, "h")')
    same(found, index.search(query, 8))


@pytest.mark.parametrize(
    ("where", "written"),
    [
        ('source == "hr"', 'source == "hr"'),
        ('a < 3 and (b in [1, 2] or c >= "x")', '(a < 3 and (b in [1, 2] or c >= "x"))'),
        ('startswith(t, "ab")', 't like "ab%"'),
    ],
)
def test_conditions_as_milvus_writes_them(where, written):
    assert server_filter(where) == written


@pytest.mark.parametrize("where", ["a != 3", "not a == 3", "lower(a) == 'x'", "a ==", "row == 3"])
def test_other_conditions_are_refused(where):
    with pytest.raises(InputError, match="allowed_rows"):
        server_filter(where)


def test_built_saved_and_opened(tmp_path, store, embed, vectors, fingerprint):
    needs_milvus()
    out = tmp_path / "m.idx"
    built = build(store, embed, out, fingerprint=fingerprint, settings=SETTINGS)
    flat = FlatIndex(vectors, fingerprint=fingerprint)
    query = vectors_of(3, seed=4)
    same(built.search(query, 6), flat.search(query, 6))
    assert built.recall.recall == 1.0
    built.save(tmp_path / "copy.idx")
    built.close()
    for path in (out, tmp_path / "copy.idx"):
        opened, passages = open_index(path)
        assert isinstance(opened, MilvusIndex)
        assert len(passages) == len(opened) == COUNT
        same(opened.search(query, 6), flat.search(query, 6))
        assert "Milvus at" in opened.way(1)
        opened.close()
    size = describe(out)["bytes"]
    assert size["database"] == size_of(out / "milvus.db") > 0
    assert size["total"] == size["database"] + size["digests"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["kind"] == "milvus"
    assert manifest["embeddings"] == ""
    assert manifest["settings"]["collection"].startswith("atlas_")


def test_an_embedded_database_is_refused_by_several_processes(
    tmp_path, store, embed, fingerprint, monkeypatch
):
    needs_milvus()
    out = tmp_path / "m.idx"
    build(store, embed, out, fingerprint=fingerprint, settings=SETTINGS).close()
    monkeypatch.setattr(distributed, "world", lambda: distributed.World(rank=1, size=2))
    with pytest.raises(InputError, match="opens in one process, and this run has 2"):
        open_index(out)


def test_a_build_stores_what_filters_on_the_server_name(tmp_path):
    needs_milvus()
    file = tmp_path / "c.jsonl"
    rows = [
        {"id": f"p{n}", "text": f"t{n}", "title": f"T{n % 2}", "source": "hr" if n % 3 else "it"}
        | ({"row": "mine", "tags": ["a", "b"]} if n == 4 else {})
        for n in range(30)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = PassageStore.open(file)
    vectors = vectors_of(30)
    index = build(
        store,
        lambda passages: torch.stack([vectors[int(passage.id[1:])] for passage in passages]),
        tmp_path / "m.idx",
        fingerprint=make_fingerprint(corpus=store.fingerprint),
        settings=SETTINGS,
    )
    flat = FlatIndex(vectors, fingerprint=make_fingerprint())
    query = vectors_of(2, seed=1)
    allowed = torch.tensor([row["source"] == "it" and row["title"] == "T0" for row in rows])
    found = index.search(query, 4, where='source == "it" and title == "T0"')
    same(found, flat.search(query, 4, allowed_rows=allowed))
    assert index.search(query, 1, where='id in ["p4"]').rows.flatten().tolist() == [4, 4]
    index.close()


def test_missing_rows_are_named(tmp_path, store, embed, fingerprint):
    needs_milvus()
    index = build(store, embed, tmp_path / "m.idx", fingerprint=fingerprint, settings=SETTINGS)
    index.close()
    client = connect(index.facts.settings, tmp_path / "m.idx", None)
    client.delete(index.collection, ids=[3])
    client.close()
    with pytest.raises(InputError, match="holds 49 rows instead of 50"):
        MilvusIndex.load(tmp_path / "m.idx")


def test_the_token_is_never_written(tmp_path, monkeypatch):
    needs_milvus()
    seen = {}

    class Client:
        def __init__(self, uri, token):
            seen.update(uri=uri, token=token)

        def has_collection(self, name):
            return True

        def describe_collection(self, name):
            return {}

        def query(self, name, **_):
            return [{"count(*)": 0}]

        def upsert(self, name, data):
            seen["rows"] = seen.get("rows", 0) + len(data)

        def load_collection(self, name, **_):
            pass

        alter_collection_properties = flush = load_collection

    monkeypatch.setattr(importlib.import_module("pymilvus"), "MilvusClient", Client)
    monkeypatch.setenv(TOKEN, "root:secret")
    facts = facts_of(2500, url="https://cluster:19530", collection="mine")
    index = MilvusIndex.create(facts, vectors_of(2500), None, tmp_path)
    assert seen == {"uri": "https://cluster:19530", "token": "root:secret", "rows": 2500}
    index.save(tmp_path / "c.idx")
    written = (tmp_path / "c.idx" / "manifest.json").read_text()
    assert "secret" not in written
    assert "https://cluster:19530" in written
    MilvusIndex.create(facts, vectors_of(2500), None, tmp_path, token="given")
    assert seen["token"] == "given"


def test_a_database_that_is_not_there(tmp_path, store, embed, fingerprint):
    needs_milvus()
    index = build(store, embed, tmp_path / "m.idx", fingerprint=fingerprint, settings=SETTINGS)
    index.close()
    (tmp_path / "m.idx" / DATABASE).rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="missing; copy it again"):
        open_index(tmp_path / "m.idx")


@pytest.mark.parametrize("absent", ["pymilvus", "milvus_lite"])
def test_the_extra_is_named(absent, tmp_path, monkeypatch):
    if absent == "milvus_lite":
        needs_milvus()
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(InputError, match=r"atlas-lm\[milvus\]"):
        MilvusIndex.create(facts_of(3), vectors_of(3), None, tmp_path)


KILLED = """
import os, signal, sys
import torch
from pathlib import Path
from atlas_lm.index import milvus
from tests.index.test_milvus import facts_of, vectors_of
upsert, seen = milvus.MilvusIndex._upsert, []
def then_die(self, *given):
    upsert(self, *given)
    seen.append(1)
    if len(seen) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
milvus.MilvusIndex._upsert = then_die
milvus.MilvusIndex.create(facts_of(3500), vectors_of(3500), None, Path(sys.argv[1]))
"""


@pytest.mark.multiprocess
def test_a_killed_filling_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    needs_milvus()
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}"}
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, env=environment, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    rows = []
    upsert = MilvusIndex._upsert
    monkeypatch.setattr(
        MilvusIndex,
        "_upsert",
        lambda self, some, *more: (rows.append(some), upsert(self, some, *more)),
    )
    index = MilvusIndex.create(facts_of(3500), vectors_of(3500), None, tmp_path)
    assert rows[0].start == 2000
    assert "going on after 2000 rows" in capsys.readouterr().err
    assert index.rows_held() == 3500
    flat = FlatIndex(vectors_of(3500), fingerprint=make_fingerprint())
    query = vectors_of(2, seed=5)
    same(index.search(query, 9), flat.search(query, 9))
    index.close()
