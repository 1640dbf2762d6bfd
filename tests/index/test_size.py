from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atlas_lm.index import build
from atlas_lm.index import faiss as faiss_kind
from atlas_lm.index.settings import IndexSettings
from atlas_lm.index.size import ROW_OF_STORE, default_lists, index_size, training_rows
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from tests.index.conftest import COUNT, DIM, make_fingerprint

WIDE = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def directory_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir() if file.name != "manifest.json")


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(f'{{"id": "p{row}", "text": "t{row}"}}' for row in range(COUNT)))
    return path


def built(corpus: Path, settings: IndexSettings) -> Path:
    store = PassageStore.open(corpus)
    vectors = torch.randn((COUNT, DIM), generator=torch.Generator().manual_seed(0))
    build(
        store,
        lambda passages: vectors[[int(passage.id[1:]) for passage in passages]],
        corpus.parent / "out.idx",
        fingerprint=make_fingerprint(corpus=store.fingerprint),
        settings=settings,
    )
    return corpus.parent / "out.idx"


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("first_pass", [True, False])
def test_bytes_of_a_flat_index_are_exact(corpus, dtype, first_pass):
    path = built(corpus, IndexSettings(dtype=WIDE[dtype], first_pass=first_pass))
    size = index_size(dtype, rows=COUNT, dim=DIM, first_pass=first_pass)
    assert size.disk_bytes == directory_bytes(path)
    assert size.exact


@pytest.mark.parametrize("kind", ["int8", "binary"])
@pytest.mark.parametrize("keep_vectors", [True, False])
def test_bytes_of_codes_are_exact(corpus, kind, keep_vectors):
    path = built(corpus, IndexSettings(kind=kind, keep_vectors=keep_vectors))
    size = index_size(kind, rows=COUNT, dim=DIM, keep_vectors=keep_vectors)
    assert size.disk_bytes == directory_bytes(path)
    assert size.hot_bytes < size.disk_bytes or (kind == "int8" and not keep_vectors)


def test_bytes_of_the_passage_store_are_exact(corpus, cache):
    PassageStore.open(corpus)
    sidecars = [path for path in cache.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in sidecars)
    assert 0 <= size - ROW_OF_STORE * COUNT < 2048  # the last offset and the facts


FACTORIES = [
    "IVF16,PQ8x4",
    "IVF16,SQ8",
    "IVF16,Flat",
    "PQ8x5",
    "PQ16x4fs",
    "SQ4",
    "SQ6",
    "SQfp16",
    "PCA32,IVF16,SQ8",
    "HNSW16,Flat",
    "HNSW16,SQ8",
    "RaBitQ",
    "IVF16,RaBitQ",
    "IVF16,PQ8x4,RFlat",
]


@pytest.mark.parametrize("factory", FACTORIES)
def test_bytes_of_a_factory_string_are_those_of_faiss(factory):
    faiss = pytest.importorskip("faiss")
    dim, rows = 64, 2000
    vectors = torch.randn((rows, dim), generator=torch.Generator().manual_seed(0)).numpy()
    faiss.omp_set_num_threads(1)
    index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    real = len(faiss.serialize_index(index))
    predicted = index_size(factory, rows=rows, dim=dim)
    assert predicted.kind == factory
    assert predicted.hot_bytes == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ("ivfpq64", "IVF32768,PQ64"),
        ("IVF,SQ8", "IVF32768,SQ8"),
        ("ivf4096pq64", "IVF4096,PQ64"),
        ("pq64", "PQ64"),
        ("hnsw32", "HNSW32,Flat"),
        ("OPQ64_256,IVF65536_HNSW32,PQ64x4fs", "OPQ64_256,IVF65536_HNSW32,PQ64x4fs"),
        ("FP16", "fp16"),
        ("flat", "fp16"),
    ],
)
def test_names_of_kinds(asked, kind):
    assert index_size(asked, rows=37_000_000, dim=768).kind == kind


def test_a_plan_samples_as_many_vectors_as_training_does():
    faiss = pytest.importorskip("faiss")
    settings = IndexSettings(kind="faiss", factory="IVF16,SQ8")
    assert training_rows(16) == 262_144
    assert training_rows(65536) == 39 * 65536
    seen = []

    class Trained:
        def train(self, vectors):
            seen.append(len(vectors))
            raise RuntimeError("enough")

    real, lists = faiss.index_factory, faiss_kind._lists
    try:
        faiss.index_factory, faiss_kind._lists = lambda *_: Trained(), lambda *_: 10_000
        with pytest.raises(InputError, match="enough"):
            faiss_kind.train(settings, torch.zeros(400_000, 1))
    finally:
        faiss.index_factory, faiss_kind._lists = real, lists
    planned = index_size("IVF10000,SQ8", rows=400_000, dim=1).training_bytes
    assert seen == [planned / 4] == [390_000]


def test_numbers_by_hand():
    assert default_lists(37_000_000) == 32768  # 4 sqrt(37e6) = 24331, nearest power of two
    size = index_size("IVF4096,PQ64", rows=37_000_000, dim=768)
    codebooks, centroids, ids = 768 * 256 * 4, 4096 * (768 * 4 + 8), 8
    assert size.hot_bytes == 37_000_000 * (64 + ids) + codebooks + centroids
    flat = index_size("fp16", rows=37_000_000, dim=768)
    assert flat.cold_bytes == 37_000_000 * 768 * 2
    assert flat.hot_bytes == 37_000_000 * (768 + 4)


@pytest.mark.parametrize("kind", ["qp64", "IVF,PQ64,what", ""])
def test_unknown_kinds_are_errors(kind):
    with pytest.raises(InputError, match="factory string"):
        index_size(kind, rows=1000, dim=64)


def test_parts_that_do_not_divide_are_errors():
    with pytest.raises(InputError, match="choose one of 8, 12, 16, 24, 32"):
        index_size("pq50", rows=1000, dim=96)
