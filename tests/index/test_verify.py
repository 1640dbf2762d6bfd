from __future__ import annotations

import shutil

import pytest
import torch

from atlas_lm.index import IndexSettings, add, delete
from atlas_lm.index.describe import describe
from atlas_lm.index.verify import verify
from atlas_lm.runtime.errors import InputError
from tests.index.conftest import DIM, make_fingerprint
from tests.index.fake_milvus import Client, install
from tests.index.keeping import ENCODER, built, embed, write

BASE = {f"p{row}": f"base text {row}" for row in range(30)}


@pytest.fixture
def index(tmp_path):
    settings = IndexSettings(kind="flat", dtype="float32")
    path = built(
        tmp_path / "index",
        [write(tmp_path / "base.jsonl", BASE)],
        copy_passages=True,
        settings=settings,
    )
    add(path, write(tmp_path / "more.jsonl", {"q": "more"}), embed, fingerprint=ENCODER)
    delete(path, ["p3"])
    return path


def test_a_sound_index(index):
    result = verify(index, embed=embed, fingerprint=lambda corpus: make_fingerprint(corpus=corpus))
    assert result.problems == ()
    assert (result.files, result.sampled) == (7, 30)
    assert result.lowest_cosine == pytest.approx(1.0)


@pytest.mark.parametrize("sample", [0, -1])
def test_no_sample_with_an_encoder_is_refused(index, sample):
    with pytest.raises(InputError, match=f"sample={sample}: embed at least 1 passage"):
        verify(index, embed=embed, sample=sample)


def test_every_altered_or_truncated_file_is_named(index, tmp_path):
    files = [file for file in index.rglob("*") if file.is_file() and file.name != "manifest.json"]
    assert {file.name for file in files} == {
        *("embeddings.bin", "codes.array", "scales.array", "deleted.array", "passages.jsonl"),
    }
    for file in files:
        sound = file.read_bytes()
        middle = len(sound) // 2
        for damaged, problem in [
            (sound[:-1], "truncated"),
            (sound + b"\n", "grown"),
            (sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :], "altered"),
        ]:
            file.write_bytes(damaged)
            problems = verify(index).problems
            assert len(problems) == 1
            assert problems[0].startswith(f"{file}: {problem}")
        file.unlink()
        assert verify(index).problems[0].startswith(f"{file}: missing")
        file.write_bytes(sound)
    assert verify(index).problems == ()
    shutil.rmtree(index / "part-0001")
    assert "part-0001" in verify(index).problems[0]


def test_vectors_of_another_encoder_are_found(index):
    other = verify(index, embed=lambda p: embed(p) + 3 * torch.ones(DIM))
    assert "have cosine" in other.problems[0]
    named = verify(
        index, embed=embed, fingerprint=lambda c: make_fingerprint(corpus=c, encoder="x")
    )
    assert "encoder='e1', but encoder='x' is in use" in named.problems[0]


def test_codes_alone_are_searched_for_the_sample(tmp_path):
    settings = IndexSettings(kind="int8", dtype="float32", recall_k=3)
    path = built(tmp_path / "i", [write(tmp_path / "base.jsonl", BASE)], settings=settings)
    result = verify(path, embed=embed)
    assert (result.problems, result.found_again) == ((), 1.0)
    wrong = verify(path, embed=lambda p: torch.randn(len(p), DIM).abs() * -1)
    assert "sampled passages are among the first" in wrong.problems[0]


def test_describe_counts_live_passages_by_step(index):
    described = describe(index)
    assert (described["passages"], described["rows"], described["deleted"]) == (30, 31, 1)
    assert described["rows_of_parts"] == [30, 1]
    assert described["steps"] == {"0": 1.0}
    assert described["bytes"]["vectors"] == 31 * DIM * 4
    assert described["bytes"]["deleted"] == 8
    assert described["age_hours"] < 1


def milvus_index(tmp_path, **settings):
    chosen = IndexSettings(kind="milvus", dtype="float32", recall_queries=0, **settings)
    path = built(tmp_path / "index", [write(tmp_path / "base.jsonl", BASE)], settings=chosen)
    add(path, write(tmp_path / "more.jsonl", {"q": "more"}), embed, fingerprint=ENCODER)
    return path


def test_vectors_in_a_database_are_held_against_what_searches_read(tmp_path, monkeypatch):
    servers = install(monkeypatch)
    path = milvus_index(tmp_path)
    assert verify(path).problems == ()
    (collections,) = servers.values()
    rows = next(iter(collections.values())).rows
    really = Client.search

    def flipped(self, *args, **kwargs):
        answers = really(self, *args, **kwargs)
        for hit in (hit for one in answers for hit in one if hit["row"] in (4, 9)):
            hit["distance"] += 0.01 if hit["row"] == 4 else float("nan")
        return answers

    with monkeypatch.context() as patch:
        patch.setattr(Client, "search", flipped)
        assert "2 rows (the first among rows 0 to 29) are missing" in verify(path).problems[0]
    sound = rows[7]
    rows[7] = {**sound, "vector": [2.0, *sound["vector"][1:]]}
    assert "30 rows (the first among rows 0 to 29) are missing" in verify(path).problems[0]
    rows[7] = sound
    assert verify(path).problems == ()
    rows[31] = {**rows.pop(7), "row": 31}
    assert "1 rows (the first among rows 0 to 29)" in verify(path).problems[0]


def test_rows_on_a_cluster_are_said_to_be_counted_alone(tmp_path, monkeypatch, capsys):
    install(monkeypatch)
    path = milvus_index(tmp_path, url="http://cluster:19530")
    assert verify(path).problems == ()
    assert "rows are counted, their vectors are not looked at" in " ".join(
        capsys.readouterr().err.split()
    )
