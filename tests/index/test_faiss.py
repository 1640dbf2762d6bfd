from __future__ import annotations

import sys

import pytest
import torch

from atlas_lm.index.coded import Facts
from atlas_lm.index.effort import set_effort
from atlas_lm.index.faiss import FaissIndex, resolved_factory, train
from atlas_lm.index.files import read_manifest
from atlas_lm.index.flat import FlatIndex
from atlas_lm.index.settings import IndexSettings
from atlas_lm.runtime.errors import InputError
from tests.index.coded import brute_force, clustered, recall
from tests.index.conftest import make_fingerprint

pytest.importorskip("faiss")

FACTORIES = [
    "Flat",
    "SQ8",
    "IVF8,Flat",
    "IVF8,SQ8",
    "PQ8x4",
    "PQ8x4fs",
    "IVF8,PQ8x4fs",
    "HNSW8",
    "RaBitQ",
    "IVF8,RaBitQ",
    "PCA12,IVF8,SQ8",
    "SQ8,RFlat",
]
"""Of every family one, small enough to train in a moment."""


def faiss_index(vectors, factory, *, keep=False, **settings) -> FaissIndex:
    chosen = IndexSettings(kind="faiss", factory=factory, keep_vectors=keep, **settings)
    fingerprint = make_fingerprint(dim=vectors.shape[1])
    facts = Facts(count=len(vectors), settings=chosen, fingerprint=fingerprint, step=3)
    return FaissIndex(facts, train(chosen, vectors), vectors if keep else None)


@pytest.fixture(scope="module")
def vectors():
    return clustered(1200, 16).half()


@pytest.fixture(scope="module")
def query(vectors):
    return vectors[:30:6].float() + 0.1


@pytest.mark.parametrize("factory", FACTORIES)
def test_every_family_finds_saves_and_masks(factory, vectors, query, tmp_path):
    index = faiss_index(vectors, factory, nprobe=4)
    found = index.search(query, 10)
    assert recall(found.rows, brute_force(vectors, query, 10)[1]) > 0.35
    assert found.scores.equal(found.scores.sort(dim=1, descending=True).values)
    assert index.search(query, 10).rows.equal(found.rows)
    index.save(tmp_path / "index")
    assert not (tmp_path / "index" / "embeddings.bin").exists()
    for mmap in (True, False):
        loaded = FaissIndex.load(tmp_path / "index", mmap=mmap, verify=True)
        assert loaded.search(query, 10).rows.equal(found.rows)
    masked_and_excluded(loaded, query, found.rows)


def masked_and_excluded(index, query, best):
    allowed = torch.ones(len(index), dtype=torch.bool)
    allowed[best[1, :5]] = False
    excluded = [[] for _ in query]
    excluded[0] = best[0, :9].tolist()
    found = index.search(query, 10, excluded, allowed_rows=allowed).rows
    assert not set(excluded[0]) & set(found[0].tolist())
    assert allowed[found].all()
    assert all(len(set(rows)) == 10 for rows in found.tolist())
    few = torch.zeros(len(index), dtype=torch.bool)
    few[[5, 600, 700, 1199]] = True
    assert index.search(query, 4, allowed_rows=few).rows.sort().values.tolist() == (
        [[5, 600, 700, 1199]] * len(query)
    )
    with pytest.raises(InputError, match="topk=5, but 4 of 1200 passages"):
        index.search(query, 5, allowed_rows=few)


@pytest.mark.parametrize("factory", ["IVF8,SQ8", "PQ8x4fs", "HNSW8"])
def test_kept_vectors_give_their_own_scores(factory, vectors, query):
    index = faiss_index(vectors, factory, keep=True, nprobe=8, rescore=40)
    found = index.search(query, 10)
    assert recall(found.rows, brute_force(vectors, query, 10)[1]) > 0.9
    exact = (query.double() @ vectors.double().T).gather(1, found.rows)
    torch.testing.assert_close(found.scores.double(), exact, rtol=1e-6, atol=1e-6)


def test_flat_is_exact_and_ties_go_to_the_lower_row():
    vectors = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0], [0.5, 0]])
    found = faiss_index(vectors, "Flat").search(torch.tensor([[2.0, 0]]), 4)
    assert found.rows.tolist() == [[0, 2, 3, 4]]
    assert found.scores.tolist() == [[2.0, 2.0, 2.0, 1.0]]


def test_nprobe_is_saved_and_counts(vectors, query, tmp_path):
    faiss_index(vectors, "IVF16,Flat", nprobe=16).save(tmp_path / "all")
    index = FaissIndex.load(tmp_path / "all")
    assert index.search(query, 10).rows.equal(brute_force(vectors, query, 10)[1])
    assert index.way(1) == "faiss IVF16,Flat, 16 of 16 lists, on cpu"
    one = faiss_index(vectors, "IVF16,Flat")
    assert one.nprobe == 1
    assert recall(one.search(query, 150).rows, brute_force(vectors, query, 150)[1]) < 0.99


@pytest.mark.parametrize(
    ("factory", "name", "value"), [("IVF16,Flat", "nprobe", 16), ("HNSW8", "ef_search", 7)]
)
def test_how_widely_it_is_searched_can_be_set_and_is_saved(vectors, tmp_path, factory, name, value):
    index = faiss_index(vectors, factory)
    setattr(index, name, value)
    index.save(tmp_path / "index")
    assert getattr(FaissIndex.load(tmp_path / "index"), name) == value


@pytest.mark.parametrize("keep", [True, False])
def test_how_widely_it_is_searched_is_changed_on_disk(vectors, query, tmp_path, keep):
    path = tmp_path / "index"
    faiss_index(vectors, "IVF16,Flat", keep=keep).save(path)
    before = read_manifest(path)
    after = set_effort(path, nprobe=16)
    assert FaissIndex.load(path).search(query, 10).rows.equal(brute_force(vectors, query, 10)[1])
    assert (after.recall.recall == 1.0) if keep else (after.recall is None)
    assert (after.created, after.updated) == (before.created, before.updated)
    with pytest.raises(InputError, match="ef_search=3 has no effect"):
        set_effort(path, ef_search=3)
    with pytest.raises(InputError, match="name what to change"):
        set_effort(path)
    assert read_manifest(path) == after


def test_only_a_faiss_index_is_searched_more_or_less_widely(vectors, tmp_path):
    FlatIndex(vectors, fingerprint=make_fingerprint(dim=16)).save(tmp_path / "flat")
    with pytest.raises(InputError, match="of kind flat has no nprobe"):
        set_effort(tmp_path / "flat", nprobe=3)


def test_a_query_that_gets_too_few_is_searched_more_widely(vectors, query):
    index = faiss_index(vectors, "IVF16,Flat", nprobe=1)
    found = index.search(query, 1000)  # one list holds nothing like it
    assert all(len(set(rows)) == 1000 for rows in found.rows.tolist())
    assert torch.isfinite(found.scores).all()


def test_a_graph_that_leads_to_too_few_is_left_for_the_codes(vectors, query, monkeypatch):
    index = faiss_index(vectors, "HNSW8", ef_search=1)
    nothing = torch.full((len(query), 1200), -torch.inf), torch.zeros(len(query), 1200).long()
    monkeypatch.setattr(
        index, "_search", lambda q, k, *rest: tuple(part[: len(q), :k].clone() for part in nothing)
    )
    found = index.search(query, 10, [[3]] + [[]] * (len(query) - 1))
    scores = query.double() @ vectors.double().T
    scores[0, 3] = -torch.inf
    assert found.rows.equal(torch.sort(scores, dim=1, descending=True, stable=True)[1][:, :10])


def test_training_takes_a_sample(vectors):
    small = IndexSettings(kind="faiss", factory="IVF4,Flat", train_rows=200)
    assert train(small, vectors).ntotal == 1200


def test_lists_are_counted_where_the_factory_does_not():
    assert resolved_factory("IVF,SQ8", 1_000_000) == "IVF4096,SQ8"
    assert resolved_factory("OPQ16,IVF_HNSW32,PQ16", 10_000) == "OPQ16,IVF512_HNSW32,PQ16" or (
        resolved_factory("OPQ16,IVF_HNSW32,PQ16", 10_000) == "OPQ16,IVF256_HNSW32,PQ16"
    )
    assert resolved_factory("IVF64,Flat", 10) == "IVF64,Flat"


@pytest.mark.parametrize("factory", ["IVF4096,Flat", "Nonsense7", "PQ7"])
def test_what_faiss_cannot_build_is_said(factory, vectors):
    with pytest.raises(InputError, match=f"faiss cannot build '{factory}' over 1200 vectors of 16"):
        faiss_index(vectors, factory)


def test_no_faiss_names_the_extra(monkeypatch, vectors):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"pip install 'atlas-lm\[faiss\]'"):
        faiss_index(vectors, "Flat")


def test_a_gpu_needs_a_faiss_for_gpus(vectors, tmp_path):
    faiss_index(vectors, "Flat").save(tmp_path / "index")
    with pytest.raises(InputError, match="the installed faiss is for the CPU"):
        FaissIndex.load(tmp_path / "index", device="cuda")


def test_damaged_files_are_named(vectors, tmp_path):
    faiss_index(vectors, "SQ8").save(tmp_path / "index")
    path = tmp_path / "index" / "faiss.array"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(InputError, match=rf"faiss\.array: {len(content) - 1} bytes instead of"):
        FaissIndex.load(tmp_path / "index")
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"faiss\.array: checksum differs"):
        FaissIndex.load(tmp_path / "index", verify=True)
    path.write_bytes(b"x" * len(content))
    with pytest.raises(InputError, match=r"faiss\.array: faiss cannot read it"):
        FaissIndex.load(tmp_path / "index")


def test_a_file_of_another_index_is_refused(vectors, tmp_path, monkeypatch):
    import faiss

    index = faiss_index(vectors, "Flat")
    index.save(tmp_path / "index")
    path = tmp_path / "index" / "faiss.array"
    for other, message in (
        (faiss.IndexFlatL2(16), "no index by inner product"),
        (faiss.IndexFlatIP(32), "600 vectors of 32 components instead of 1200 of 16"),
    ):
        other.add(vectors.float().view(-1, other.d).numpy())
        faiss.write_index(other, str(path))
        with pytest.raises(InputError, match=message):
            FaissIndex.load(tmp_path / "index")


def test_what_faiss_cannot_search_is_said(vectors, monkeypatch):
    index = faiss_index(vectors, "SQ8")

    class Broken:
        def search(self, *args, **kwargs):
            raise RuntimeError("Error in void f() at f.cpp:3: Error: 'nsq == 2' failed")

    monkeypatch.setattr(index, "_index", Broken())
    monkeypatch.setattr(index, "_parameters", lambda *args: None)
    with pytest.raises(InputError, match=r"'nsq == 2' failed\); check its files with"):
        index.search(vectors[:1].float(), 3)


def test_wrong_queries(vectors):
    index = faiss_index(vectors, "SQ8")
    with pytest.raises(InputError, match="queries of shape"):
        index.search(torch.randn(1, 9), 3)
    with pytest.raises(InputError, match="not finite"):
        index.search(torch.full((1, 16), float("nan")), 3)
    assert index.search(torch.empty(0, 16), 3).rows.shape == (0, 3)
