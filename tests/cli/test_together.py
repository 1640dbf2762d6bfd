from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from atlas_lm.cli import together
from atlas_lm.index import FlatIndex
from atlas_lm.model import Atlas
from atlas_lm.passages.store import PassageStore
from atlas_lm.retriever import BiEncoder
from atlas_lm.runtime.errors import InputError
from tests.index.conftest import DIM, make_fingerprint
from tests.index.keeping import embed, write
from tests.index.sharded_worker import run_processes
from tests.tinyworld.world import draw, open_run, questions


def built(rank: int, size: int, directory: Path, fails: bool) -> list:
    """Build; return which passages this process embedded, and what it was told."""
    together.PASSAGES_AT_A_TIME = 4
    seen, said = [], ""

    def embedded(passages):
        if fails and rank == 1 and seen:
            raise InputError("the encoder has had enough")
        seen.extend(passage.id for passage in passages)
        return embed(passages)

    model = SimpleNamespace(
        trained_retriever=SimpleNamespace(
            dim=DIM, embed_corpus=lambda passages, report: embedded(passages)
        ),
        fingerprint=lambda store: make_fingerprint(corpus=store.fingerprint),
    )
    store = PassageStore.open(directory / "corpus.jsonl")
    try:
        together.build_index(model, store, directory / "index", step=3)
    except InputError as error:
        said = str(error)
    return [seen, said]


@pytest.mark.multiprocess
@pytest.mark.slow
def test_processes_build_one_index_and_go_on_where_they_stopped(tmp_path):
    texts = {f"p{row}": f"text {row}" for row in range(21)}
    write(tmp_path / "corpus.jsonl", texts)
    first = run_processes(built, 2, tmp_path, True)
    assert all("had enough" in said for _, said in first)
    assert not (tmp_path / "index").exists()
    second = run_processes(built, 2, tmp_path, False)
    assert [len(seen) for seen, _ in second] == [6, 7]  # both had stopped at 4, of 10 and 11
    index = FlatIndex.load(tmp_path / "index")
    store = PassageStore.open(tmp_path / "corpus.jsonl")
    assert torch.equal(index.embeddings, embed(store.passages(range(21))).half())
    assert index.step == 3
    assert not list(tmp_path.glob("index.*"))


@pytest.mark.multiprocess
@pytest.mark.slow
def test_more_processes_than_passages_build(tmp_path):
    write(tmp_path / "corpus.jsonl", {"p0": "alone"})
    run_processes(built, 2, tmp_path, False)
    assert len(FlatIndex.load(tmp_path / "index")) == 1


def test_an_index_that_a_run_builds_says_how_many_passages_are_cut(tmp_path, capsys):
    tiny = draw(tmp_path)
    store = PassageStore.open(tiny.world / "passages.jsonl")
    for limit, cut in ((4, "80 passages are longer than 4 tokens"), (16, "")):
        retriever = BiEncoder.from_pretrained(
            tiny.drawn / "retriever", settings={"passage_maxlength": limit}
        )
        capsys.readouterr()
        together.build_index(Atlas(retriever, None), store, tmp_path / "own")
        said = " ".join(capsys.readouterr().err.split())
        assert cut in said
        assert bool(cut) == bool(said)


def test_a_process_may_have_none_of_its_own_gold_passages_in_the_corpus(tmp_path, monkeypatch):
    tiny = draw(tmp_path)
    atlas, _ = open_run(tiny)
    found, lost = (
        replace(example, gold_passage_ids=frozenset({id}))
        for example, id in zip(questions(tiny, atlas)[:2], (atlas.store[0].id, "gone"), strict=True)
    )
    monkeypatch.setattr(together.distributed, "gather_json", lambda value: [value])
    for rank in range(2):
        world = SimpleNamespace(rank=rank, size=2, is_main=rank == 0)
        monkeypatch.setattr(together.distributed, "world", lambda world=world: world)
        assert "gold_mrr" in together.measure_together(atlas, [found, lost], ks=(1,))
        with pytest.raises(InputError, match="'gone'"):
            together.measure_together(atlas, [lost, lost], ks=(1,))
