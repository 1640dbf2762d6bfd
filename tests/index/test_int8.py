from __future__ import annotations

import json

import pytest
import torch

from atlas_lm.index.coded import Facts
from atlas_lm.index.int8 import Int8Index
from atlas_lm.index.settings import IndexSettings
from atlas_lm.index.vectors import encode_int8
from atlas_lm.runtime.errors import InputError
from tests.index.coded import brute_force, clustered, recall, use_first_pass
from tests.index.conftest import make_fingerprint


def int8(vectors, *, keep=False) -> Int8Index:
    settings = IndexSettings(kind="int8", keep_vectors=keep)
    fingerprint = make_fingerprint(dim=vectors.shape[1])
    facts = Facts(count=len(vectors), settings=settings, fingerprint=fingerprint, step=7)
    return Int8Index(facts, encode_int8(vectors), vectors if keep else None)


@pytest.mark.parametrize("first_pass", [True, False])
@pytest.mark.parametrize("bsz", [1, 16, 64])
def test_finds_what_the_decoded_vectors_give(monkeypatch, first_pass, bsz):
    if first_pass:
        use_first_pass(monkeypatch)
    vectors, query = clustered(900, 24), clustered(bsz, 24, seed=1)
    index = int8(vectors)
    assert ("int8 codes" in index.way(bsz, 10)) == first_pass
    found = index.search(query, 10)
    scores, rows = brute_force(index.codes.at(torch.arange(900)), query, 10)
    assert recall(found.rows, rows) == 1
    torch.testing.assert_close(found.scores.double(), scores, rtol=1e-5, atol=1e-6)
    assert recall(found.rows, brute_force(vectors, query, 10)[1]) > 0.9


def test_kept_vectors_give_their_own_scores(monkeypatch):
    use_first_pass(monkeypatch)
    vectors, query = clustered(900, 24).half(), clustered(5, 24, seed=1)
    found = int8(vectors, keep=True).search(query, 10)
    scores, rows = brute_force(vectors, query, 10)
    assert found.rows.equal(rows)
    torch.testing.assert_close(found.scores.double(), scores, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("first_pass", [True, False])
def test_masks_and_exclusions(monkeypatch, first_pass):
    if first_pass:
        use_first_pass(monkeypatch)
    index, query = int8(clustered(700, 12)), clustered(2, 12, seed=1)
    best = index.search(query, 60).rows
    excluded = [best[0, :20].tolist(), []]
    allowed = torch.ones(700, dtype=torch.bool)
    allowed[best[1, :10]] = False
    found = index.search(query, 15, excluded, allowed_rows=allowed)
    for one in range(2):
        left = [r for r in best[one].tolist() if allowed[r] and r not in excluded[one]]
        assert found.rows[one].tolist() == left[:15]


@pytest.mark.parametrize("keep", [True, False])
def test_saved_without_its_vectors_and_loaded(tmp_path, keep):
    vectors, query = clustered(120, 16).half(), clustered(3, 16, seed=1)
    index = int8(vectors, keep=keep)
    index.save(tmp_path / "index")
    names = {path.name for path in (tmp_path / "index").iterdir()}
    assert ("embeddings.bin" in names) == keep
    size = sum(path.stat().st_size for path in (tmp_path / "index").iterdir())
    assert size - (tmp_path / "index" / "manifest.json").stat().st_size == (
        120 * 16 + 120 * 4 + keep * 120 * 16 * 2
    )
    for mmap in (True, False):
        loaded = Int8Index.load(tmp_path / "index", mmap=mmap, verify=True)
        assert (len(loaded), loaded.dim, loaded.step, loaded.dtype) == (120, 16, 7, torch.float16)
        found, before = loaded.search(query, 10), index.search(query, 10)
        assert found.rows.equal(before.rows)
        assert found.scores.equal(before.scores)
    loaded.save(tmp_path / "again")
    assert Int8Index.load(tmp_path / "again").search(query, 10).rows.equal(before.rows)


@pytest.mark.parametrize("name", ["codes.array", "scales.array"])
def test_damaged_files_are_named(tmp_path, name):
    int8(clustered(60, 8)).save(tmp_path / "index")
    path = tmp_path / "index" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    Int8Index.load(tmp_path / "index")  # sizes are right
    with pytest.raises(InputError, match=f"{name}: checksum differs"):
        Int8Index.load(tmp_path / "index", verify=True)
    path.write_bytes(content[:-1])
    with pytest.raises(InputError, match=f"{name}: {len(content) - 1} bytes instead of"):
        Int8Index.load(tmp_path / "index")
    path.unlink()
    with pytest.raises(InputError, match=f"{name}: missing"):
        Int8Index.load(tmp_path / "index")


def test_a_manifest_that_names_other_settings_is_refused(tmp_path):
    int8(clustered(60, 8)).save(tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["settings"]["colour"] = "red"
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="unknown setting 'colour'"):
        Int8Index.load(tmp_path / "index")


def test_wrong_queries(monkeypatch):
    index = int8(clustered(60, 8))
    with pytest.raises(InputError, match="queries of shape"):
        index.search(torch.randn(1, 9), 3)
    with pytest.raises(InputError, match="query embedding 1 is not finite"):
        index.search(torch.tensor([[0.0] * 8, [float("nan")] * 8]), 3)
    with pytest.raises(InputError, match="topk=61"):
        index.search(torch.randn(1, 8), 61)


def test_the_same_device_is_the_same_index():
    index = int8(clustered(60, 8))
    assert index.to("cpu") is index
