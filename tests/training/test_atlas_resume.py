"""The loop with the real halves: BERT, Fusion-in-Decoder and an exact index, tiny."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict

import pytest
import torch

from atlas_lm.index import FlatIndex
from atlas_lm.model import Atlas, AtlasConfig
from atlas_lm.objectives import OBJECTIVES, ObjectiveConfig
from atlas_lm.passages.store import PassageStore
from atlas_lm.reader.fid import FiDReader
from atlas_lm.retrieve import ContextConfig
from atlas_lm.retriever import BiEncoder
from atlas_lm.staleness import LiveIndex, StalenessConfig, keep_fresh
from atlas_lm.training import Checkpoints, OptimConfig, TrainingConfig, new_state, train
from atlas_lm.types import Example
from tests.parity import golden
from tests.training.tiny import all_tensors


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("world")
    golden.write_t5(path / "reader")
    golden.write_bert(path / "retriever")
    rows = [passage for five in golden.golden_passages() for passage in five]
    lines = [json.dumps({**asdict(row), "metadata": {}}) for row in rows]
    (path / "passages.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return path


def open_atlas(directory, objective="pdist"):
    settings = {
        "pooling": "mean",
        "similarity": "cosine",
        "query_maxlength": 80,
        "passage_maxlength": 80,
    }
    atlas = Atlas(
        BiEncoder.from_pretrained(directory / "retriever", settings=settings),
        FiDReader.from_pretrained(directory / "reader"),
        AtlasConfig(
            context=ContextConfig(n_context=2, retriever_n_context=4),
            objective=ObjectiveConfig(
                objective=objective, temperature_score=0.1, temperature_gold=0.1
            ),
        ),
    )
    atlas.store = PassageStore.open(directory / "passages.jsonl")
    embeddings = atlas.retriever.embed_corpus(atlas.store.passages(range(len(atlas.store))))
    atlas.index = FlatIndex(embeddings, fingerprint=atlas.fingerprint(atlas.store))
    return atlas


def data():
    pairs = zip(golden.golden_queries(), golden.golden_targets(), strict=True)
    return [Example(f"q{number}", query, target) for number, (query, target) in enumerate(pairs)]


def config(**values):
    optim = OptimConfig(lr=3e-3, schedule="cosine", warmup_steps=1)
    return TrainingConfig(
        **{
            "total_steps": 4,
            "bsz": 1,
            "accumulation_steps": 2,
            "reader": optim,
            "retriever": optim,
            "dropout": 0.1,
            "log_every": 1,
            "evaluate_every": 1,
            **values,
        }
    )


def run(directory, path, *, stop=None, resume=False, objective="pdist", cfg=None, staleness=None):
    """Train; with ``stop`` a Ctrl-C arrives in the evaluation after that step."""
    atlas = open_atlas(directory, objective)
    cfg = cfg or config()
    live = LiveIndex(
        atlas.index, atlas.store, atlas.retriever, lambda: atlas.fingerprint(atlas.store)
    )
    freshness = keep_fresh(live, staleness or StalenessConfig(refresh_schedule="1"), None, topk=4)
    state = new_state(atlas, data(), cfg, freshness=freshness)
    checkpoints = Checkpoints(path)
    if resume:
        checkpoints.load(state)
    losses = {}

    def evaluate():
        if state.step == stop:
            os.kill(os.getpid(), signal.SIGINT)
        return {}

    train(
        state,
        cfg,
        checkpoints=checkpoints,
        log=lambda step, metrics: losses.setdefault(step, metrics.get("reader_loss")),
        evaluate=evaluate,
    )
    return state, losses


def test_stopped_and_resumed_equals_never_stopped_bit_for_bit(directory, tmp_path):
    whole, whole_losses = run(directory, tmp_path / "whole")
    _, first = run(directory, tmp_path / "parts", stop=2)
    torch.manual_seed(1)
    resumed, second = run(directory, tmp_path / "parts", resume=True)
    assert (list(first), list(second)) == ([1, 2], [3, 4])
    assert first | second == whole_losses
    expected, found = all_tensors(whole), all_tensors(resumed)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    assert whole.facts() == resumed.facts()


def test_what_is_tied_stays_tied_and_the_untied_head_stays_untied(directory, tmp_path):
    state, _ = run(directory, tmp_path)
    model = state.model.reader.model
    assert model.encoder.embed_tokens.weight is model.shared.weight
    assert model.lm_head.weight is not model.shared.weight
    names = state.tensors()["model"]
    assert "reader.model.lm_head.weight" in names
    assert "reader.model.encoder.embed_tokens.weight" not in names


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_both_halves(directory, tmp_path, objective):
    cfg = config(total_steps=2)
    before = open_atlas(directory)
    state, losses = run(directory, tmp_path, objective=objective, cfg=cfg)
    assert all(loss is not None for loss in losses.values())
    for half in ("reader", "retriever"):
        pairs = zip(
            getattr(before, half).named_parameters(),
            getattr(state.model, half).parameters(),
            strict=True,
        )
        still = [name for (name, old), new in pairs if torch.equal(old, new)]
        assert not still, still
    assert state.skipped == 0
