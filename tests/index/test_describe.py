from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from atlas_lm.index import IndexSettings, add, compact, delete, open_index, read_manifest
from atlas_lm.index.describe import describe
from atlas_lm.index.stack import stack
from atlas_lm.index.verify import verify
from tests.index.keeping import ENCODER, built, embed, write

OLD = "2020-01-01T00:00:00+00:00"
YEAR = 365 * 24


def written_long_ago(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "created": OLD}))


@pytest.fixture
def old(tmp_path):
    texts = {f"p{row}": f"text {row}" for row in range(20)}
    settings = IndexSettings(dtype="float32", first_pass=False)
    index = built(tmp_path / "old", [write(tmp_path / "old.jsonl", texts)], settings=settings)
    written_long_ago(index)
    return index


def test_an_index_is_as_old_as_its_oldest_vectors(old, tmp_path):
    add(old, write(tmp_path / "new.jsonl", {"q": "new"}), embed, fingerprint=ENCODER)
    delete(old, ["p1"])
    assert describe(old)["created"] == OLD
    compact(old)
    assert read_manifest(old).created == OLD  # its vectors were copied
    assert describe(old)["age_hours"] > YEAR


def test_an_opened_index_that_is_saved_elsewhere_is_as_old(old, tmp_path):
    open_index(old)[0].save(tmp_path / "copy")
    texts = {"q": "coded"}
    settings = IndexSettings(kind="int8", dtype="float32", recall_k=1)
    coded = built(tmp_path / "coded", [write(tmp_path / "c.jsonl", texts)], settings=settings)
    written_long_ago(coded)
    open_index(coded)[0].save(tmp_path / "codes")
    delete(old, ["p1"])
    open_index(old)[0].save(tmp_path / "parts")
    for name in ("copy", "codes", "parts"):
        assert read_manifest(tmp_path / name).created == OLD, name


def test_an_index_of_new_vectors_is_new(old):
    index, _ = open_index(old)
    index.update_([0], index.embeddings[:1].clone())
    index.save(old)
    assert read_manifest(old).created == OLD
    index.update_(range(20), index.embeddings.clone())
    index.save(old)
    assert read_manifest(old).created > OLD


def test_a_stack_is_described_as_it_is_now(old, tmp_path):
    texts = {"p0": "newer", "q": "new"}
    settings = IndexSettings(kind="int8", dtype="float32", recall_k=1)
    young = built(tmp_path / "young", [write(tmp_path / "y.jsonl", texts)], settings=settings)
    stack([old, young], tmp_path / "stack")
    delete(old, ["p5", "p6"])
    described = describe(tmp_path / "stack")
    counts = [described[name] for name in ("passages", "rows", "deleted")]
    assert counts == [19, 22, 3]  # p0 of the old one is hidden by the young one's
    assert described["created"] == OLD
    assert described["age_hours"] > YEAR
    assert described["recall_of_stack"][0] is None
    assert described["recall_of_stack"][1]["k"] == 1


def test_hidden_rows_count_in_no_share_of_steps(old, tmp_path):
    texts = {f"p{row}": f"text {row}" for row in range(20)}
    young = built(tmp_path / "young", [write(tmp_path / "y.jsonl", texts)])
    manifest = json.loads((young / "manifest.json").read_text())
    (young / "manifest.json").write_text(json.dumps({**manifest, "step": 7}))
    stack([old, young], tmp_path / "stack")
    assert describe(tmp_path / "stack")["steps"] == {"7": 1.0}


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("looked_at", ["describe", "verify"])
def test_an_index_that_is_written_meanwhile_is_looked_at_again(
    old, tmp_path, monkeypatch, stacked, looked_at
):
    add(old, write(tmp_path / "new.jsonl", {"q": "new"}), embed, fingerprint=ENCODER)
    path = old
    if stacked:
        path = tmp_path / "stack"
        young = built(tmp_path / "young", [write(tmp_path / "y.jsonl", {"z": "young"})])
        stack([old, young], path)
    module = sys.modules[describe.__module__ if looked_at == "describe" else verify.__module__]
    read, calls = module.members, []

    def overtaken(of):
        listed = list(read(of))
        calls.append(of)
        if len(calls) == 1:
            delete(old, ["p1", "q"])
            compact(old)
        return listed

    monkeypatch.setattr(module, "members", overtaken)
    if looked_at == "describe":
        described = describe(path)
        assert [described[name] for name in ("passages", "deleted")] == [19 + stacked, 0]
    else:
        assert verify(path).problems == ()
    assert calls.count(path) == 2
