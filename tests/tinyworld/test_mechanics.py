"""What joint training must do whatever it learns, on a world of 80 passages in a few seconds."""

from __future__ import annotations

import json

import pytest
import torch

from atlas_lm.cli.together import build_index
from atlas_lm.staleness import LiveIndex
from atlas_lm.types import Batch

from .world import draw, open_run, questions, train_joint

QUICK = (
    "training.total_steps=6",
    "training.bsz=8",
    "training.log_every=1",
    "training.retriever.warmup_steps=0",
    "training.retriever.lr=0.01",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("mechanics") / "tiny")


def losses(out):
    lines = (out / "metrics.jsonl").read_text("utf-8").splitlines()
    names = ("step", "reader_loss", "retriever_loss", "kl", "grad_norm_retriever")
    return [{name: record[name] for name in names} for record in map(json.loads, lines)]


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def moved(before, module):
    after = module.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


@pytest.mark.parametrize("objective", ["pdist", "loop", "adist", "emdr2"])
def test_every_objective_moves_both_halves(run, tmp_path, objective):
    atlas, _ = open_run(run)
    reader, retriever = weights(atlas.reader), weights(atlas.retriever)
    trained = train_joint(
        run, tmp_path / "run", *QUICK, f"objective.objective={objective}", "training.total_steps=2"
    )
    assert moved(reader, trained.reader)
    assert moved(retriever, trained.retriever)


def test_two_runs_with_one_seed_give_identical_losses_and_weights(run, tmp_path):
    first, second = (train_joint(run, tmp_path / name, *QUICK) for name in ("first", "second"))
    assert losses(tmp_path / "first") == losses(tmp_path / "second")
    assert not moved(weights(first.reader), second.reader)
    assert not moved(weights(first.retriever), second.retriever)


def test_another_seed_gives_another_run(run, tmp_path):
    train_joint(run, tmp_path / "first", *QUICK)
    train_joint(run, tmp_path / "other", *QUICK, "training.seed=1")
    assert losses(tmp_path / "first") != losses(tmp_path / "other")


def test_query_side_training_leaves_the_passage_encoder_unchanged_bit_for_bit(run, tmp_path):
    atlas, _ = open_run(run)
    drawn, index = weights(atlas.retriever.passage_encoder), atlas.index.embeddings.clone()
    trained = train_joint(
        run,
        tmp_path / "run",
        *QUICK,
        "staleness.query_side=true",
        "staleness.refresh_schedule=never",
    )
    assert not moved(drawn, trained.retriever.passage_encoder)
    assert moved(drawn, trained.retriever.query_encoder)
    assert torch.equal(index, trained.index.embeddings)


def test_a_refresh_changes_which_rows_are_retrieved(run, tmp_path):
    stale = train_joint(run, tmp_path / "stale", *QUICK, "staleness.refresh_schedule=never")
    batch = Batch(tuple(questions(run, stale)))
    atlas, _ = open_run(run)
    atlas.retriever.load_state_dict(stale.retriever.state_dict())
    before = atlas.retrieve(batch, 8).rows
    live = LiveIndex(
        atlas.index, atlas.store, atlas.retriever, lambda: atlas.fingerprint(atlas.store)
    )
    live.renew(range(len(live)), stale.index.step)
    after = atlas.retrieve(batch, 8).rows
    assert not torch.equal(before, after)
    own = stale.retrieve(batch, 8).rows
    assert torch.equal(after, own)


def test_the_index_saved_with_the_model_is_that_of_its_last_weights(run, tmp_path):
    trained = train_joint(run, tmp_path / "run", *QUICK)
    build_index(trained, trained.store, tmp_path / "own")
    batch = Batch(tuple(questions(run, trained)))
    before = trained.retrieve(batch, 8)
    trained.open_index(tmp_path / "own")
    after = trained.retrieve(batch, 8)
    assert torch.equal(before.rows, after.rows)
    assert torch.equal(before.scores, after.scores)


def test_training_leaves_the_index_it_started_from_as_it_was(run, tmp_path):
    before = {file.name: file.read_bytes() for file in run.index.iterdir()}
    train_joint(run, tmp_path / "run", *QUICK, 'staleness.refresh_schedule="2"')
    assert before == {file.name: file.read_bytes() for file in run.index.iterdir()}
