from __future__ import annotations

import pytest
import torch

from atlas_lm.index import binary
from atlas_lm.index.binary import BinaryIndex, SignScan, encode_signs
from atlas_lm.index.coded import Facts
from atlas_lm.index.settings import IndexSettings
from atlas_lm.index.vectors import encode_int8
from atlas_lm.runtime.errors import InputError
from tests.index.coded import brute_force, clustered, recall, use_first_pass
from tests.index.conftest import make_fingerprint

NOTHING = torch.empty((0, 2), dtype=torch.int64)


def signs_index(vectors, *, keep=False, rescore=None) -> BinaryIndex:
    settings = IndexSettings(kind="binary", keep_vectors=keep, rescore=rescore)
    fingerprint = make_fingerprint(dim=vectors.shape[1])
    facts = Facts(count=len(vectors), settings=settings, fingerprint=fingerprint)
    codes = None if keep else encode_int8(vectors)
    return BinaryIndex(facts, encode_signs(vectors), codes, vectors if keep else None)


def test_signs_by_hand():
    vectors = torch.tensor([[1.0, -2, 0, 3, -1, 0, 0, 0, -4], [0.0] * 9])
    signs = encode_signs(vectors)
    # bits 0, 2, 3, 5, 6, 7 are set: 1 + 4 + 8 + 32 + 64 + 128; the ninth component is negative
    assert signs.bits.tolist() == [[237, 0], [255, 1]]
    # |x|^2 = 31 and |x|_1 = 11
    torch.testing.assert_close(signs.worth, torch.tensor([31 / 11, 0.0]))


@pytest.mark.parametrize("integers", [True, False])
def test_estimates_are_the_worth_of_signs(monkeypatch, integers):
    use_first_pass(monkeypatch)
    if not integers:
        monkeypatch.setattr(binary, "supported", lambda: False)
    vectors, query = (
        clustered(200, 37),
        clustered(4, 37, seed=1) * torch.tensor([[1.0, 5, 0, 99]]).T,
    )
    signs = encode_signs(vectors)
    scores, rows = SignScan(signs, 37).best(query, 200, NOTHING, None)
    one = torch.where(vectors >= 0, 1.0, -1.0)
    slow = (query @ one.T * signs.worth).gather(1, rows)
    assert ((scores - slow).abs() <= 0.03 * query.norm(dim=1, keepdim=True)).all()
    assert rows.sort(dim=1).values.equal(torch.arange(200).expand(4, 200))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("bsz", [1, 16, 64])
def test_the_best_are_rescored(monkeypatch, keep, bsz):
    use_first_pass(monkeypatch)
    vectors = clustered(2000, 64)
    query = (vectors[:bsz] + vectors[bsz : 2 * bsz] / 4) * 3
    index = signs_index(vectors, keep=keep)
    assert index.way(bsz, 10).startswith("signs, unpacked")
    found = index.search(query, 10)
    assert recall(found.rows, brute_force(vectors, query, 10)[1]) > 0.85
    exact = (query.double() @ vectors.double().T).gather(1, found.rows)
    off = (found.scores - exact).abs().max()
    assert off < (1e-5 if keep else 0.06)
    ordered = torch.sort(found.scores, dim=1, descending=True).values
    assert found.scores.equal(ordered)


def test_rescoring_all_is_exact(monkeypatch):
    use_first_pass(monkeypatch)
    vectors, query = clustered(700, 32), clustered(3, 32, seed=1)
    found = signs_index(vectors, keep=True, rescore=30).search(query, 10)
    assert recall(found.rows, brute_force(vectors, query, 10)[1]) > 0.95


def test_masks_and_exclusions(monkeypatch):
    use_first_pass(monkeypatch)
    index, query = signs_index(clustered(700, 16)), clustered(2, 16, seed=1)
    best = index.search(query, 10).rows
    allowed = torch.ones(700, dtype=torch.bool)
    allowed[best[1, :4]] = False
    found = index.search(query, 10, [best[0, :5].tolist(), []], allowed_rows=allowed).rows
    assert not set(best[0, :5].tolist()) & set(found[0].tolist())
    assert allowed[found].all()
    assert found.shape == (2, 10)
    assert set(best[0, 5:].tolist()) - set(best[1, :4].tolist()) <= set(found[0].tolist())


@pytest.mark.parametrize("keep", [True, False])
def test_saved_and_loaded(tmp_path, keep):
    vectors, query = clustered(120, 20).half(), clustered(3, 20, seed=1)
    index = signs_index(vectors, keep=keep)
    index.save(tmp_path / "index")
    names = {path.name for path in (tmp_path / "index").iterdir()} - {"manifest.json"}
    rest = {"embeddings.bin"} if keep else {"codes.array", "scales.array"}
    assert names == {"bits.array", "worth.array"} | rest
    assert (tmp_path / "index" / "bits.array").stat().st_size == 120 * 3
    for mmap in (True, False):
        loaded = BinaryIndex.load(tmp_path / "index", mmap=mmap, verify=True)
        assert loaded.search(query, 10).rows.equal(index.search(query, 10).rows)


def test_damaged_files_are_named(tmp_path):
    signs_index(clustered(60, 8)).save(tmp_path / "index")
    path = tmp_path / "index" / "bits.array"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(InputError, match=r"bits\.array: checksum differs"):
        BinaryIndex.load(tmp_path / "index", verify=True)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"bits\.array: 0 bytes instead of 60"):
        BinaryIndex.load(tmp_path / "index")


def test_only_the_cpu(tmp_path):
    signs_index(clustered(60, 8)).save(tmp_path / "index")
    with pytest.raises(InputError, match="kind binary is searched on the CPU"):
        BinaryIndex.load(tmp_path / "index", device="cuda")
