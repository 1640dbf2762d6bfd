"""Whose vectors a collection holds, what is left when a build stops, and how masks are searched."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from atlas_lm.index import FlatIndex, build, open_index, read_manifest
from atlas_lm.index.compact import refresh
from atlas_lm.index.milvus import DATABASE, VECTORS, MilvusIndex
from atlas_lm.index.settings import IndexSettings
from atlas_lm.runtime.errors import InputError
from tests.index.conftest import COUNT, DIM, make_fingerprint
from tests.index.fake_milvus import Collection, install

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
    index = build(store, embed, tmp_path / "a", fingerprint=fingerprint, settings=mine)
    index.update_([3], vectors[:1])
    assert finds(
        build(store, embed, tmp_path / "a", fingerprint=fingerprint, settings=mine), vectors
    )
    index.delete([3])
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
