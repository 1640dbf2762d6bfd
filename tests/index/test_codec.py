from __future__ import annotations

import json

import pytest
import torch

from atlas_lm.index import IndexSettings, PartedIndex, add, build, open_index, read_manifest
from atlas_lm.index.stack import stack
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from tests.index.coded import brute_force, clustered
from tests.index.conftest import make_fingerprint

pytest.importorskip("faiss")

DIM, OLD, ALL = 16, 1100, 1200
FINGERPRINT = make_fingerprint(dim=DIM)


@pytest.fixture(scope="module")
def vectors():
    mixed = torch.randperm(ALL, generator=torch.Generator().manual_seed(1))
    return clustered(ALL, DIM, spread=0.7)[mixed]


@pytest.fixture
def embed(vectors):
    return lambda passages: vectors[[int(passage.id) for passage in passages]]


def passages(path, rows):
    path.write_text("".join(json.dumps({"id": str(r), "text": f"t{r}"}) + "\n" for r in rows))
    return path


def built(tmp_path, embed, factory, **settings):
    store = PassageStore.open(passages(tmp_path / "old.jsonl", range(OLD)))
    chosen = IndexSettings(
        kind="faiss", factory=factory, dtype="float32", recall_queries=0, **settings
    )
    fingerprint = make_fingerprint(dim=DIM, corpus=store.fingerprint)
    build(store, embed, tmp_path / "index", fingerprint=fingerprint, settings=chosen)
    return tmp_path / "index"


@pytest.mark.parametrize(
    ("factory", "settings"),
    [
        ("PQ4x4fs", {}),
        ("IVF4,PQ8x4", {"nprobe": 4}),
        ("OPQ8,PQ8x4", {}),
        ("HNSW8,SQ4", {}),
        ("RaBitQ", {}),
        ("SQ8", {}),
        ("PQ4x4fs", {"keep_vectors": True, "rescore": 20}),
    ],
)
def test_added_passages_come_first_no_more_often_than_old_ones(
    tmp_path, embed, vectors, factory, settings
):
    index = built(tmp_path, embed, factory, **settings)
    new = passages(tmp_path / "new.jsonl", range(OLD, ALL))
    add(index, new, embed, fingerprint=FINGERPRINT)
    query = vectors[::3] + 0.05 * torch.randn(400, DIM, generator=torch.Generator().manual_seed(2))
    found, _ = open_index(index)
    share = float((found.search(query, 10).rows >= OLD).double().mean())
    expected = float((brute_force(vectors, query, 10)[1] >= OLD).double().mean())
    assert share == pytest.approx(expected, rel=0.25)


def test_added_vectors_are_those_of_the_codes(tmp_path, embed, vectors):
    index = built(tmp_path, embed, "PQ4x4fs")
    add(index, passages(tmp_path / "new.jsonl", range(OLD, ALL)), embed, fingerprint=FINGERPRINT)
    found, _ = open_index(index)
    assert isinstance(found, PartedIndex)
    coded = found.parts[1].embeddings
    for number in range(4):  # each quarter of a vector is one of sixteen
        assert len(coded[:, 4 * number : 4 * number + 4].unique(dim=0)) <= 16
    assert torch.nn.functional.cosine_similarity(coded, vectors[OLD:]).mean() > 0.8


def test_without_a_codec_added_vectors_are_exact(tmp_path, embed, vectors):
    index = built(tmp_path, embed, "PCA12,HNSW8")
    add(index, passages(tmp_path / "new.jsonl", range(OLD, ALL)), embed, fingerprint=FINGERPRINT)
    found, _ = open_index(index)
    assert torch.equal(found.parts[1].embeddings, vectors[OLD:])


def test_vectors_that_cannot_be_coded_are_refused(tmp_path, embed):
    index = built(tmp_path, embed, "PQ4x4fs")
    new = passages(tmp_path / "new.jsonl", range(OLD, ALL))
    for wrong, message in [
        (lambda some: embed(some) * torch.nan, "embedding of row 0 is not finite"),
        (lambda some: embed(some)[:, :8], "the index is of dim 16"),
    ]:
        with pytest.raises(InputError, match=message):
            add(index, new, wrong, fingerprint=FINGERPRINT)
    (index / read_manifest(index).arrays["faiss"].name).write_bytes(b"x" * 100)
    with pytest.raises(InputError, match=r"faiss\.array: 100 bytes instead of"):
        add(index, new, embed, fingerprint=FINGERPRINT)


@pytest.mark.parametrize(("factory", "warned"), [("PQ4x4fs", True), ("SQ8", False)])
def test_a_stack_of_scores_that_cannot_be_compared_is_warned_of(
    tmp_path, embed, factory, warned, capsys
):
    index = built(tmp_path, embed, factory)
    store = PassageStore.open(passages(tmp_path / "new.jsonl", range(OLD, ALL)))
    fingerprint = make_fingerprint(dim=DIM, corpus=store.fingerprint)
    build(store, embed, tmp_path / "other", fingerprint=fingerprint)
    stack([index, tmp_path / "other"], tmp_path / "stack")
    said = " ".join(capsys.readouterr().err.split())
    assert ("come first too often or too seldom" in said) == warned
