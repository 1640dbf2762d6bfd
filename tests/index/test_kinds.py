from __future__ import annotations

import errno
import shutil
import sys
from pathlib import Path

import pytest
import torch

from atlas_lm.index import FlatIndex, build, read_manifest
from atlas_lm.index.coded import Facts
from atlas_lm.index.faiss import FaissIndex, train
from atlas_lm.index.kinds import disk_needed, encode
from atlas_lm.index.opening import KINDS, open_index
from atlas_lm.index.settings import IndexSettings
from atlas_lm.index.storage import map_rows, write_rows
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import is_disk_full
from tests.index.coded import clustered
from tests.index.conftest import make_fingerprint
from tests.runtime.test_mapping import mapped_in_memory

EVERY = [
    IndexSettings(kind="flat"),
    IndexSettings(kind="int8", recall_k=5),
    IndexSettings(kind="int8", keep_vectors=True, recall_k=5),
    IndexSettings(kind="binary", recall_k=5),
    IndexSettings(kind="binary", keep_vectors=True, recall_k=5),
    IndexSettings(kind="faiss", factory="IVF2,SQ8", recall_k=5, nprobe=2),
    IndexSettings(kind="faiss", factory="SQ8", keep_vectors=True, recall_k=5),
]


def name(settings):
    return f"{settings.kind}{'+vectors' * settings.keep_vectors}"


@pytest.mark.parametrize("settings", EVERY, ids=name)
def test_built_opened_and_searched(settings, store, embed, fingerprint, vectors, tmp_path):
    if settings.kind == "faiss":
        pytest.importorskip("faiss")
    built = build(store, embed, tmp_path / "index", fingerprint=fingerprint, settings=settings)
    manifest = read_manifest(tmp_path / "index")
    assert (manifest.kind, manifest.count) == (settings.kind, 50)
    assert IndexSettings.from_dict(manifest.settings, place="") == settings
    assert bool(manifest.embeddings) == settings.keeps_vectors
    if settings.kind == "flat":
        assert manifest.recall is None
    else:
        assert manifest.recall.recall > 0.9
        assert (manifest.recall.k, manifest.recall.queries) == (5, 50)
    opened = open_index(tmp_path / "index", verify=True)
    exact = FlatIndex(vectors.half(), fingerprint=fingerprint).search(vectors[:4], 1)
    for index in (built, opened[0]):
        assert index.search(vectors[:4], 1).rows.equal(exact.rows)
    assert {path.name for path in (tmp_path / "index").iterdir()} == {
        "manifest.json",
        *(array.name for array in manifest.arrays.values()),
        *([manifest.embeddings] if manifest.embeddings else []),
    }


@pytest.mark.parametrize("settings", EVERY[:5], ids=name)
def test_codes_are_the_same_in_any_chunks(settings, tmp_path, monkeypatch):
    vectors = clustered(100, 12).half()
    whole = encode(settings, vectors, directory=tmp_path, fingerprint=make_fingerprint(dim=12))
    monkeypatch.setattr("atlas_lm.index.kinds.CODED_AT_ONCE", 7)
    chunked = encode(settings, vectors, directory=tmp_path, fingerprint=make_fingerprint(dim=12))
    assert whole.arrays.keys() == chunked.arrays.keys()
    assert all(whole.arrays[role].equal(chunked.arrays[role]) for role in whole.arrays)
    assert whole.recall == chunked.recall
    assert not list(tmp_path.iterdir())


def test_given_queries_are_what_recall_is_measured_with(tmp_path):
    vectors = clustered(100, 12)
    encoded = encode(
        IndexSettings(kind="int8", recall_k=3),
        vectors,
        directory=tmp_path,
        fingerprint=make_fingerprint(dim=12),
        queries=torch.randn(7, 12),
    )
    assert encoded.recall.queries == 7


def test_every_coded_kind_can_be_opened():
    assert {"flat", "int8", "binary", "faiss"} <= set(KINDS)


@pytest.mark.parametrize("kind", ["flat", "int8", "binary"])
def test_a_full_disk_is_an_error_before_codes_are_made(
    kind, store, embed, fingerprint, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(InputError, match="disk is full"):
        build(
            store,
            embed,
            tmp_path / "index",
            fingerprint=fingerprint,
            settings=IndexSettings(kind=kind, recall_queries=0),
        )
    assert not (tmp_path / "index").exists()


def test_the_room_that_codes_need_is_asked_for_beforehand(
    store, embed, fingerprint, tmp_path, monkeypatch
):
    seen = []
    usage = shutil.disk_usage(tmp_path)

    def small(path):
        seen.append(path)
        return usage._replace(free=1100 if len(seen) > 1 else usage.free)

    monkeypatch.setattr("shutil.disk_usage", small)
    with pytest.raises(InputError, match="disk is full"):
        build(
            store,
            embed,
            tmp_path / "index",
            fingerprint=fingerprint,
            settings=IndexSettings(kind="int8", recall_queries=0),
        )
    assert disk_needed(IndexSettings(kind="int8"), 50, 8) == 2 * 50 * 12
    assert disk_needed(IndexSettings(kind="binary", keep_vectors=True), 50, 8) == 2 * 50 * 5
    assert disk_needed(IndexSettings(first_pass=False), 50, 8) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_faiss_finds_full_is_no_fault_of_the_index():
    pytest.importorskip("faiss")
    vectors = clustered(4000, 16)
    settings = IndexSettings(kind="faiss", factory="Flat", recall_queries=0)
    facts = Facts(count=4000, settings=settings, fingerprint=make_fingerprint(dim=16))
    index = FaissIndex(facts, train(settings, vectors))
    with pytest.raises(RuntimeError, match="No space left") as caught:
        index.arrays()["faiss"](Path("/dev/full"))
    assert is_disk_full(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["flat", "int8", "binary"])
def test_vectors_do_not_stay_in_memory_while_codes_are_made(tmp_path, kind):
    count, dim = 65_536, 128
    with open(tmp_path / "vectors", "wb") as file:
        for _ in range(16):
            write_rows(file, torch.randn(count // 16, dim))
    vectors = map_rows(tmp_path / "vectors", torch.float32, count, dim)
    settings = IndexSettings(kind=kind, dtype="float32", recall_queries=2)
    encoded = encode(settings, vectors, directory=tmp_path, fingerprint=make_fingerprint(dim=dim))
    assert mapped_in_memory(tmp_path) < count * dim * 4 // 2
    assert encoded.recall is None or encoded.recall.recall > 0.5
