from __future__ import annotations

import random
import threading
import weakref

import pytest
import torch

from atlas_lm.index import FlatIndex, IndexSettings, codes, exact
from atlas_lm.index.codes import Int8Scan
from atlas_lm.index.vectors import encode_int8
from tests.index.coded import brute_force, clustered, recall, use_first_pass
from tests.index.conftest import make_fingerprint
from tests.index.keeping import built, write

NOTHING = torch.empty((0, 2), dtype=torch.int64)


def flat(vectors, *, pack=None):
    index = FlatIndex(vectors, fingerprint=make_fingerprint(dim=vectors.shape[1]))
    index.add_codes_()
    index._first_pass.scan.may_pack = pack is not False
    if pack:
        index.pack_()
    return index


@pytest.fixture(autouse=True)
def small(monkeypatch):
    use_first_pass(monkeypatch)


@pytest.fixture
def rescans(monkeypatch):
    """Queries that were scored against all vectors after all."""
    queries, scan = [], exact._scan
    monkeypatch.setattr(
        exact, "_scan", lambda v, q, *rest: queries.append(len(q)) or scan(v, q, *rest)
    )
    return queries


@pytest.mark.parametrize("pack", [True, False, None], ids=["packed", "stored", "packing"])
@pytest.mark.parametrize("bsz", [1, 16, 64])
@pytest.mark.parametrize("count", [600, 1111])
def test_twin_of_float64_brute_force(pack, bsz, count, rescans):
    vectors = clustered(count, 24).half()
    query = clustered(bsz, 24, seed=1)
    found = flat(vectors, pack=pack).search(query, 20)
    scores, rows = brute_force(vectors, query, 20)
    assert recall(found.rows, rows) == 1
    torch.testing.assert_close(found.scores.double(), scores, rtol=1e-6, atol=1e-6)
    assert sum(rescans) < bsz or bsz == 1


def test_codes_alone_are_near_by_either_way():
    vectors, query = (
        clustered(600, 64),
        clustered(5, 64, seed=3) * torch.tensor([[1e-4, 1, 7, 1e6, 0]]).T,
    )
    stored, packed = (Int8Scan(encode_int8(vectors)) for _ in range(2))
    packed.pack()
    stored.may_pack = False
    assert (stored.n_packed, packed.n_packed) == (0, 10)
    for scan in (stored, packed):
        scores, rows = scan.best(query, 600, NOTHING, None)
        exact_scores = (query @ vectors.T).gather(1, rows)
        off = (scores - exact_scores).abs().amax(dim=1) / query.norm(dim=1).clamp(min=1e-9)
        assert (off < 0.02).all()
        assert rows.sort(dim=1).values.equal(torch.arange(600).expand(5, 600))


def test_equal_scores_are_scanned_again_and_go_to_the_lower_row(rescans):
    torch.manual_seed(0)
    vectors = torch.randint(-1, 2, (700, 4)).half()
    query = torch.cat((torch.zeros(1, 4), torch.randint(-1, 2, (3, 4)).float()))
    found = flat(vectors).search(query, 30)
    scores, rows = brute_force(vectors, query, 30)
    assert found.rows.equal(rows)
    assert found.scores.double().equal(scores)
    assert sum(rescans) >= 1  # the query of zeros at least


def test_a_row_whose_code_is_poor_is_not_lost(rescans):
    # one large component makes a step so coarse that the code of what matters is zero
    vectors = clustered(700, 16) * 0.01
    vectors[:, 0] = 0
    vectors[5] = vectors[6] * 1.5
    vectors[5, 0] = 1e4
    query = vectors[6:7].clone()
    found = flat(vectors).search(query, 10)
    assert found.rows.equal(brute_force(vectors, query, 10)[1])
    assert found.rows[0, 0] == 5
    assert rescans == [1]


@pytest.mark.parametrize("pack", [True, False])
def test_masked_and_excluded_rows_never_appear(pack):
    rng = random.Random(0)
    for trial in range(6):
        vectors, query = clustered(650, 12, seed=trial), clustered(4, 12, seed=trial + 100)
        index = flat(vectors.half(), pack=pack)
        excluded = [rng.sample(range(650), rng.randrange(300)) for _ in range(4)]
        allowed = torch.tensor([rng.random() < 0.5 for _ in range(650)])
        found = index.search(query, 25, excluded, allowed_rows=allowed)
        scores = query.double() @ vectors.half().double().T
        scores[:, ~allowed] = -torch.inf
        for one, rows in enumerate(excluded):
            scores[one, rows] = -torch.inf
        assert found.rows.equal(torch.sort(scores, dim=1, descending=True, stable=True)[1][:, :25])


def test_few_rows_left_are_all_found():
    vectors, query = clustered(650, 12), clustered(2, 12, seed=1)
    allowed = torch.zeros(650, dtype=torch.bool)
    allowed[[3, 77, 649]] = True
    found = flat(vectors).search(query, 3, allowed_rows=allowed)
    assert found.rows.sort().values.tolist() == [[3, 77, 649]] * 2


def test_slice_of_a_batch_is_a_batch_of_slices():
    index, query = flat(clustered(1500, 24)), clustered(40, 24, seed=2)
    whole = index.search(query, 10)
    for one in range(0, 40, 7):
        single = index.search(query[one : one + 1], 10)
        assert single.rows[0].equal(whole.rows[one])
        assert single.scores[0].equal(whole.scores[one])


def test_updated_rows_are_found_by_their_new_codes():
    index, query = flat(clustered(800, 16).half(), pack=True), clustered(3, 16, seed=5)
    index.update_([7, 500], query[:2] * 3)
    assert index._first_pass.scan.n_packed == 11  # of 13 chunks, those of rows 7 and 500 are old
    assert index.search(query[:2], 1).rows.tolist() == [[7], [500]]
    index.pack_()
    assert index.search(query[:2], 1).rows.tolist() == [[7], [500]]
    fresh = clustered(800, 16, seed=9)
    index.update_(slice(None), fresh)
    assert "int8 codes" in index.way(1, 10)
    found = index.search(query, 10)
    assert found.rows.equal(brute_force(fresh.half(), query, 10)[1])


def test_the_way_is_said():
    index = flat(clustered(700, 16).half())
    assert "0 of 11 chunks packed in memory so far" in index.way(1, 10)
    assert "where they are stored" in index.way(codes.PACKED_UP_TO, 10)
    index.search(clustered(1, 16), 10)
    assert "1 of 11 chunks" in index.way(1, 10)
    index.pack_()
    assert index.way(64, 10) == (
        "int8 codes packed in memory (FBGEMM), the best 148 rescored from float16 vectors"
    )
    plain = FlatIndex(clustered(700, 16), fingerprint=make_fingerprint(dim=16))
    assert plain.way(1) == "float32 products with all float32 vectors, in chunks, on cpu"
    assert plain.codes is None
    plain.pack_()
    assert "float32 products" in index.way(1, 700)  # too many rows for a first pass


def test_without_integer_products_all_vectors_are_scored(monkeypatch):
    monkeypatch.setattr("atlas_lm.index.flat.supported", lambda: False)
    index = FlatIndex(clustered(700, 16), fingerprint=make_fingerprint(dim=16))
    index.add_codes_()
    assert index.codes is None


def test_threads_find_what_one_finds():
    index, query = flat(clustered(3000, 24), pack=False), clustered(20, 24, seed=8)
    one = index.search(query, 10)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        three = index.search(query, 10)
    finally:
        torch.set_num_threads(before)
    assert three.rows.equal(one.rows)
    assert three.scores.equal(one.scores)


def test_searches_while_all_vectors_are_replaced_see_old_or_new():
    old, new = clustered(900, 16, seed=1), clustered(900, 16, seed=2)
    index, query = flat(old), clustered(2, 16, seed=3)
    allowed = [brute_force(vectors, query, 5)[1].tolist() for vectors in (old, new)]
    stop, seen = threading.Event(), []

    def replace():
        for _ in range(20):
            index.update_(slice(None), new)
            index.update_(slice(None), old)
        stop.set()

    thread = threading.Thread(target=replace)
    thread.start()
    while not stop.is_set():
        seen.append(index.search(query, 5).rows.tolist())
    thread.join()
    assert seen
    assert all(rows in allowed for rows in seen)


def test_one_thread_packs_at_a_time(monkeypatch):
    """Threads that search one index share the room that codes are prepared in."""
    vectors, query = clustered(900, 16), clustered(3, 16, seed=3)
    scan = Int8Scan(encode_int8(vectors), pack=True)
    entered, finished, packed = threading.Event(), threading.Event(), codes._packed

    def slow(signed, scales):
        if not entered.is_set():
            entered.set()
            finished.wait(timeout=0.3)
        return packed(signed, scales)

    def pack_too():
        entered.wait(timeout=10)
        scan.pack()
        finished.set()

    monkeypatch.setattr(codes, "_packed", slow)
    other = threading.Thread(target=pack_too)
    other.start()
    scan.pack()
    other.join()
    stored = Int8Scan(encode_int8(vectors), pack=False)
    scores, rows = scan.best(query, 900, NOTHING, None)
    expected, its_rows = stored.best(query, 900, NOTHING, None)
    by_row = scores.gather(1, rows.argsort(dim=1))
    torch.testing.assert_close(
        by_row, expected.gather(1, its_rows.argsort(dim=1)), rtol=0, atol=0.2
    )


def test_the_scans_of_a_process_pack_within_one_allowance(monkeypatch):
    vectors, query = clustered(900, 16), clustered(3, 16, seed=3)
    room = codes.packed_bytes(900, 16)
    monkeypatch.setattr(codes, "usable_bytes", lambda: codes.PACKED_SHARE * 3 * room // 2)
    monkeypatch.setattr(codes, "_PACKED", weakref.WeakSet())
    first, second = (Int8Scan(encode_int8(vectors)) for _ in range(2))
    for scan in (first, second):
        assert scan.may_pack
        scan.best(query, 10, NOTHING, None)
    assert (first.n_packed, second.n_packed) == (1, 0)
    del first
    second.best(query, 10, NOTHING, None)
    assert second.n_packed == 1


@pytest.mark.parametrize("unpacked", [False, True])
def test_an_index_chosen_for_little_memory_is_never_packed(tmp_path, unpacked):
    settings = IndexSettings(kind="flat", unpacked=unpacked)
    texts = {f"p{row}": "t" for row in range(700)}
    path = built(tmp_path / "index", [write(tmp_path / "c.jsonl", texts)], settings=settings)
    index = FlatIndex.load(path)
    assert ("so far" in index.way(1, 10)) is not unpacked
    index.update_(slice(None), index.embeddings.clone())
    assert ("so far" in index.way(1, 10)) is not unpacked


def test_saved_codes_are_loaded_mapped_and_searched(tmp_path):
    vectors, query = clustered(700, 16).half(), clustered(3, 16, seed=2)
    flat(vectors).save(tmp_path / "index")
    loaded = FlatIndex.load(tmp_path / "index", verify=True)
    assert loaded.codes is not None
    assert "int8 codes" in loaded.way(1, 10)
    assert loaded.search(query, 10).rows.equal(brute_force(vectors, query, 10)[1])
    loaded.update_([3], query[:1] * 2)  # what was mapped is copied, not written to
    assert loaded.search(query[:1], 1).rows.tolist() == [[3]]
    again = FlatIndex.load(tmp_path / "index", mmap=False, verify=True)
    assert again.search(query, 10).rows.equal(brute_force(vectors, query, 10)[1])


def test_a_share_has_its_codes():
    vectors, query = clustered(1400, 16), clustered(3, 16, seed=2)
    part = flat(vectors).share(range(600, 1300))
    assert part.codes is not None
    assert part.search(query, 10).rows.equal(brute_force(vectors[600:1300], query, 10)[1])


@pytest.mark.parametrize("spread", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("bsz", [1, 16, 64])
def test_recall_at_100_of_clustered_vectors_as_shipped(monkeypatch, spread, bsz):
    use_first_pass(monkeypatch, count=20_000, rows=16_384)
    vectors = clustered(40_000, 48, spread=spread).half()
    query = vectors[:bsz].float() + 0.2 * clustered(bsz, 48, seed=7)
    for pack in (True, False):
        found = flat(vectors, pack=pack).search(query, 100)
        assert recall(found.rows, brute_force(vectors, query, 100)[1]) >= 0.999
