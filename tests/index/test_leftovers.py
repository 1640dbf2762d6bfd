from __future__ import annotations

import gzip
import json
import sys

import pytest

from atlas_lm.index import IndexSettings, add, compact, delete, read_manifest, refresh
from atlas_lm.index.directory import LEFTOVERS
from atlas_lm.index.leftovers import remove_leftovers
from tests.index.conftest import make_fingerprint
from tests.index.fake_milvus import install
from tests.index.keeping import ENCODER, built, embed, write

BASE = {f"p{row}": f"base text {row}" for row in range(10)}
compacting = sys.modules[compact.__module__]


@pytest.fixture
def packed(tmp_path):
    plain = write(tmp_path / "base.jsonl", BASE)
    file = tmp_path / "base.jsonl.gz"
    file.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return file


@pytest.fixture
def killed_after_the_manifest(monkeypatch):
    """Return a call of a compaction that ends as soon as its manifest is written."""

    def call(compaction, index, **arguments):
        def killed(path):
            if read_manifest(path).deleted:  # the note of the compaction before
                return ()
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(compacting, "remove_leftovers", killed)
            compaction(index, **arguments)

    return call


def holding(text, *places):
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    return [file for file in files if f'"{text}"'.encode() in file.read_bytes()]


@pytest.mark.parametrize("then_added", [False, True])
def test_a_compaction_killed_after_its_manifest_is_finished_by_the_next(
    tmp_path, packed, cache, killed_after_the_manifest, then_added
):
    index = built(tmp_path / "index", [packed])
    delete(index, ["p7"])
    killed_after_the_manifest(compact, index)
    assert (read_manifest(index).deleted, read_manifest(index).parts) == (0, ())
    assert holding("base text 7", index, cache)
    if then_added:
        add(index, write(tmp_path / "more.jsonl", {"q": "more"}), embed, fingerprint=ENCODER)
    assert compact(index).still_in == (packed,)
    assert not holding("base text 7", index, cache)
    assert not (index / LEFTOVERS).exists()
    assert compact(index).still_in == ()


def test_a_compaction_killed_before_its_manifest_removes_nothing(
    tmp_path, packed, cache, monkeypatch
):
    index = built(tmp_path / "index", [packed])
    delete(index, ["p7"])
    with monkeypatch.context() as patch:
        patch.setattr(compacting.Partial, "publish", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            compact(index)
    assert (index / LEFTOVERS).exists()
    assert remove_leftovers(index) == ()
    assert holding("base text 7", cache)
    assert compact(index).still_in == (packed,)
    assert not holding("base text 7", index, cache)


@pytest.mark.parametrize("url", ["", "http://cluster:19530"])
@pytest.mark.parametrize("anew", [compact, refresh])
def test_the_collection_before_goes_with_the_next_compaction(
    tmp_path, monkeypatch, killed_after_the_manifest, url, anew
):
    servers = install(monkeypatch)
    settings = IndexSettings(kind="milvus", dtype="float32", recall_queries=0, url=url)
    index = built(tmp_path / "index", [write(tmp_path / "base.jsonl", BASE)], settings=settings)
    delete(index, ["p7"])
    encoder = ENCODER if anew is compact else make_fingerprint(encoder="e2")
    killed_after_the_manifest(anew, index, embed=embed, fingerprint=encoder)
    (collections,) = servers.values()
    assert len(collections) == 2
    compact(index)
    assert list(collections) == [read_manifest(index).settings["collection"]]


def test_a_note_names_files_of_the_cache_alone(tmp_path, cache):
    index = built(tmp_path / "index", [write(tmp_path / "base.jsonl", BASE)])
    mine = tmp_path / "mine.jsonl"
    mine.write_text("mine")
    fingerprint = json.loads((index / "manifest.json").read_text())["fingerprint"]
    note = {"fingerprint": fingerprint, "collection": "", "still_in": []}
    names = [str(mine), f"../../{mine.name}"]
    (index / LEFTOVERS).write_text(json.dumps({**note, "cached": names}))
    compact(index)
    assert mine.exists()
    assert not (index / LEFTOVERS).exists()
