"""Whose vectors a collection holds, what is left when a build stops, and how masks are searched."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from atlas_lm.index import FlatIndex, build, open_index, read_manifest
from atlas_lm.index.compact import refresh
from atlas_lm.index.directory import writing
from atlas_lm.index.milvus import DATABASE, VECTORS, MilvusIndex
from atlas_lm.index.settings import IndexSettings
from atlas_lm.runtime.errors import InputError
from tests.index.conftest import COUNT, DIM, make_fingerprint
from tests.index.fake_milvus import Collection, MilvusException, install

URL = "http://cluster:19530"


@pytest.fixture
def servers(monkeypatch):
    return install(monkeypatch)


def settings_of(**given: object) -> IndexSettings:
    return IndexSettings(kind="milvus", dtype="float32", recall_queries=0, **given)


def finds(index, vectors) -> bool:
    query = torch.randn((3, DIM), generator=torch.Generator().manual_seed(1))
    expected = FlatIndex(vectors, fingerprint=make_fingerprint()).search(query, 5)
    return torch.equal(index.search(query, 5).rows, expected.rows)


def test_a_collection_of_other_vectors_is_never_added_to(
    tmp_path, store, embed, vectors, fingerprint, servers
):
    mine = settings_of(url=URL, collection="mine")
    build(store, embed, tmp_path / "a", fingerprint=fingerprint, settings=mine)
    other = dataclasses.replace(fingerprint, encoder="e2")

    def never(passages):
        raise AssertionError("embedded before the collection was looked at")

    for out in ("a", "b"):
        with pytest.raises(InputError, match=r"'mine' of http.*holds 50 rows of other vectors"):
            build(store, never, tmp_path / out, fingerprint=other, settings=mine)
    assert finds(open_index(tmp_path / "a")[0], vectors)


@pytest.mark.parametrize("url", ["", URL])
def test_the_collection_before_is_dropped_or_named(
    tmp_path, store, embed, vectors, fingerprint, servers, url, capsys
):
    out = tmp_path / "a"
    first = settings_of(url=url, collection="first")
    build(store, embed, out, fingerprint=fingerprint, settings=first)
    second = build(
        store,
        lambda passages: -embed(passages),
        out,
        fingerprint=dataclasses.replace(fingerprint, encoder="e2"),
        settings=settings_of(url=url),
    )
    assert finds(second, -vectors)
    (collections,) = servers.values()
    assert ("first" in collections) == bool(url)
    assert ("uses collection 'first' no more" in " ".join(capsys.readouterr().err.split())) == bool(
        url
    )


def test_rows_of_an_index_that_was_complete_are_all_put_again(
    tmp_path, store, embed, vectors, fingerprint, servers, monkeypatch
):
    monkeypatch.setattr("atlas_lm.index.milvus.UPSERT_ROWS", 10)
    mine = settings_of(url=URL, collection="mine")
    build(store, embed, tmp_path / "a", fingerprint=fingerprint, settings=mine)
    rows = servers[URL]["mine"].rows
    rows[3]["vector"] = vectors[0].tolist()
    assert finds(
        build(store, embed, tmp_path / "a", fingerprint=fingerprint, settings=mine), vectors
    )
    del rows[3]
    assert finds(
        build(store, embed, tmp_path / "a", fingerprint=fingerprint, settings=mine), vectors
    )


def test_an_empty_collection_of_the_users_is_filled(
    tmp_path, store, embed, vectors, fingerprint, servers
):
    servers[URL] = {"mine": Collection({})}
    mine = settings_of(url=URL, collection="mine")
    assert finds(
        build(store, embed, tmp_path / "a", fingerprint=fingerprint, settings=mine), vectors
    )
    assert servers[URL]["mine"].properties[VECTORS]
    assert servers.calls[0].startswith("search")


def test_a_collection_with_more_rows_is_refused(tmp_path, store, embed, fingerprint, servers):
    mine = settings_of(url=URL, collection="mine")
    build(store, embed, tmp_path / "a", fingerprint=fingerprint, settings=mine)
    servers[URL]["mine"].rows[50] = {"row": 50, "vector": [9.0] * DIM}
    with pytest.raises(InputError, match="holds 51 rows instead of 50"):
        MilvusIndex.load(tmp_path / "a")


def test_a_refresh_keeps_the_name_that_was_given(tmp_path, store, embed, fingerprint, servers):
    mine = settings_of(url=URL, collection="mine")
    build(store, embed, tmp_path / "a", fingerprint=fingerprint, settings=mine)
    newer = dataclasses.replace(fingerprint, encoder="e2")
    refresh(tmp_path / "a", embed, fingerprint=newer)
    name = read_manifest(tmp_path / "a").settings["collection"]
    assert name.startswith("mine_")
    assert list(servers[URL]) == [name]
    assert len(servers[URL][name].rows) == COUNT
    assert not (tmp_path / "a" / DATABASE).exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MilvusException("the connection is lost")])
def test_a_filling_that_was_stopped_goes_on(
    tmp_path, store, embed, vectors, fingerprint, servers, monkeypatch, error
):
    monkeypatch.setattr("atlas_lm.index.milvus.UPSERT_ROWS", 10)

    def stop_at_30(rows):
        if 30 in rows:
            raise error

    def never(passages):
        raise AssertionError("everything was embedded already")

    out = tmp_path / "a"
    servers.before_upsert = stop_at_30
    with pytest.raises((KeyboardInterrupt, InputError)):
        build(store, embed, out, fingerprint=fingerprint, settings=settings_of())
    assert (out / DATABASE).exists()
    put: list[int] = []
    servers.before_upsert = put.extend
    index = build(store, never, out, fingerprint=fingerprint, settings=settings_of())
    assert put == list(range(30, COUNT))
    assert finds(index, vectors)


def test_an_index_of_another_kind_leaves_no_database(
    tmp_path, store, embed, fingerprint, servers, monkeypatch
):
    out = tmp_path / "a"
    with monkeypatch.context() as patch:
        patch.setattr(MilvusIndex, "_fill", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(store, embed, out, fingerprint=fingerprint, settings=settings_of())
    assert (out / DATABASE).exists()
    build(store, embed, out, fingerprint=fingerprint)
    assert not (out / DATABASE).exists()


def test_saving_over_an_index_leaves_the_old_or_the_new(
    tmp_path, store, embed, vectors, fingerprint, servers, monkeypatch
):
    build(store, embed, tmp_path / "old", fingerprint=fingerprint, settings=settings_of())
    other = dataclasses.replace(fingerprint, encoder="e2")
    index = build(
        store,
        lambda some: -embed(some),
        tmp_path / "new",
        fingerprint=other,
        settings=settings_of(),
    )
    with monkeypatch.context() as patch:
        patch.setattr("atlas_lm.index.coded.write_index", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            index.save(tmp_path / "old")
    assert finds(MilvusIndex.load(tmp_path / "old"), vectors)
    index.save(tmp_path / "old")
    assert finds(MilvusIndex.load(tmp_path / "old"), -vectors)
    assert [path.name for path in (tmp_path / "old").glob("*.db")] == ["milvus.1.db"]
    index.save(tmp_path / "old")
    servers.clear()
    assert finds(MilvusIndex.load(tmp_path / "old"), -vectors)
    assert [path.name for path in (tmp_path / "old").glob("*.db")] == [DATABASE]
    with writing(tmp_path / "old"), pytest.raises(InputError, match="is writing this index"):
        index.save(tmp_path / "old")
    (tmp_path / "notes" / DATABASE).mkdir(parents=True)
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'a\.txt'"):
        index.save(tmp_path / "notes")
    assert (tmp_path / "notes" / DATABASE).exists()


def test_masks_too_large_for_a_filter_are_searched_in_pieces(
    tmp_path, store, embed, vectors, fingerprint, servers, monkeypatch
):
    index = build(store, embed, tmp_path / "a", fingerprint=fingerprint, settings=settings_of())
    flat = FlatIndex(vectors, fingerprint=fingerprint)
    query = vectors[:2]
    worst = torch.ones(COUNT, dtype=torch.bool)
    worst[flat.search(query[:1], 30).rows[0]] = False
    excluded = [[int(worst.nonzero()[0])], []]
    expected = flat.search(query, 8, excluded, allowed_rows=worst)
    monkeypatch.setattr("atlas_lm.index.milvus.LISTED", 7)
    monkeypatch.setattr("atlas_lm.index.milvus.MOST_FOUND", 20)
    assert torch.equal(index.search(query, 8, excluded, allowed_rows=worst).rows, expected.rows)
    assert sum("row in" in call for call in servers.calls) >= 3
    names = [f"p{row}" for row in worst.nonzero()[:2, 0].tolist()]
    with pytest.raises(InputError, match="only 2 rows may be returned"):
        index.search(query, 8, allowed_rows=worst, where=f"id in {names}")
