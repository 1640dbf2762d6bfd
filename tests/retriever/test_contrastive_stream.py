from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from atlas_lm.passages.store import PassageStore
from atlas_lm.retriever import BiEncoder, contrastive_checkpoint
from atlas_lm.retriever.contrastive import KeyQueue
from atlas_lm.retriever.contrastive_checkpoint import PretrainCheckpoints
from atlas_lm.retriever.contrastive_fit import FitConfig, fit_resumably, resume_from
from atlas_lm.retriever.contrastive_learner import ContrastiveLearner, special_frame
from atlas_lm.retriever.contrastive_sampler import PairSampler
from atlas_lm.runtime.errors import InputError
from tests.index.sharded_worker import run_processes
from tests.retriever.conftest import DOT
from tests.retriever.contrastive_worker import (
    CONTRASTIVE,
    FIT,
    contrastive_learner,
    fit_learner,
    write_corpus,
    write_questions,
)


def sampler(encoder, *stores, **options) -> PairSampler:
    return PairSampler(stores, encoder.query_tokenizer, CONTRASTIVE, 6, 0, **options)


def test_a_step_is_a_function_of_the_seed_and_of_nothing_else(encoder, tmp_path):
    store = PassageStore.open(write_corpus(tmp_path / "p.jsonl"))
    made = sampler(encoder, store)
    assert made.rows(7) == made.rows(7) != made.rows(8)
    assert len(set(made.rows(3))) == 6
    whole = made.pairs(5, range(6))
    assert whole == [*made.pairs(5, range(2)), *made.pairs(5, range(2, 6))]


def test_corpora_are_drawn_from_by_weight_and_size(encoder, tmp_path):
    large = PassageStore.open(write_corpus(tmp_path / "large.jsonl", 90))
    small = PassageStore.open(write_corpus(tmp_path / "small.jsonl", 10, prefix="s"))
    assert sampler(encoder, large, small).shares == pytest.approx([0.9, 0.1])
    alike = sampler(encoder, large, small, exponent=0.0)
    assert alike.shares == pytest.approx([0.5, 0.5])
    weighted = sampler(encoder, large, small, exponent=0.0, weights=[1.0, 3.0])
    assert weighted.shares == pytest.approx([0.25, 0.75])
    drawn = np.array([corpus for step in range(200) for corpus, _ in alike.rows(step)])
    assert 0.45 < drawn.mean() < 0.55


def test_long_passages_give_pairs_of_a_window(encoder, tmp_path):
    store = PassageStore.open(write_corpus(tmp_path / "p.jsonl"))
    cut = sampler(encoder, store, document_maxlength=5)
    lengths = [len(tokens.text) for tokens in cut._tokens(0, cut.rows(0), range(6))]
    assert lengths == [5] * 6


def test_a_passage_without_text_is_named_with_its_line(encoder, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "a", "text": "x y"}\n{"id": "b", "text": " "}\n')
    made = PairSampler([PassageStore.open(path)], encoder.query_tokenizer, CONTRASTIVE, 2, 0)
    with pytest.raises(InputError, match=r"p\.jsonl:2: passage 'b' has no text"):
        made.pairs(0, range(2))


def test_a_passage_without_text_gives_way_to_another(encoder, tmp_path):
    path = write_corpus(tmp_path / "p.jsonl", 12)
    full = path.read_text()
    plain = sampler(encoder, PassageStore.open(path))
    number, (_, row) = next((n, at) for n, at in enumerate(plain.rows(4)) if at[1])
    lines = full.splitlines()
    lines[row] = '{"id": "blank", "text": " "}'
    other = tmp_path / "q.jsonl"
    other.write_text("\n".join(lines) + "\n")
    made = sampler(encoder, PassageStore.open(other))
    pairs, expected = made.pairs(4, range(6)), plain.pairs(4, range(6))
    assert pairs[number] != expected[number]
    assert pairs[:number] + pairs[number + 1 :] == expected[:number] + expected[number + 1 :]
    assert pairs == [*made.pairs(4, range(3)), *made.pairs(4, range(3, 6))]


def test_embeddings_of_cut_texts_equal_those_of_the_texts(encoder):
    before, after, pad_id = special_frame(encoder.query_tokenizer)
    ids = encoder.query_tokenizer("the otter", add_special_tokens=False).input_ids
    assert [*before, *ids, *after] == encoder.query_tokenizer("the otter").input_ids
    assert pad_id == encoder.query_tokenizer.pad_token_id


def test_the_queue_survives_a_checkpoint():
    queue, other = KeyQueue(3, 1), KeyQueue(3, 1)
    queue.push(torch.tensor([[1.0], [2.0]]))
    other.restore(queue.tensors())
    for each in (queue, other):
        each.push(torch.tensor([[3.0], [4.0]]))
    assert torch.equal(queue.keys, other.keys)
    with pytest.raises(InputError, match="queue_size"):
        KeyQueue(4, 1).restore(queue.tensors())


@pytest.mark.parametrize("negatives", ["in_batch", "queue"])
def test_a_run_that_stops_and_goes_on_ends_at_the_same_weights(plain_dir, tmp_path, negatives):
    write_corpus(tmp_path / "passages.jsonl")
    whole = contrastive_learner(tmp_path, plain_dir, negatives)
    kept = PretrainCheckpoints(tmp_path / "whole", {"a": 1})
    assert fit_resumably(whole, FIT, kept, log=lambda *_: None).finished
    cut = contrastive_learner(tmp_path, plain_dir, negatives)
    kept = PretrainCheckpoints(tmp_path / "cut", {"a": 1})
    asked = iter([False, False, True])
    outcome = fit_resumably(cut, FIT, kept, log=lambda *_: None, stop=lambda: next(asked))
    assert (outcome.step, outcome.finished) == (2, False)
    resumed = contrastive_learner(tmp_path, plain_dir, negatives)
    start = resume_from(resumed, kept)
    assert fit_resumably(resumed, FIT, kept, log=lambda *_: None, start=start).finished
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, resumed.module.state_dict()[name]), name
    last = kept.all()[-1].stat().st_ino
    start = resume_from(resumed, kept)
    assert fit_resumably(resumed, FIT, kept, log=lambda *_: None, start=start).finished
    assert kept.all()[-1].stat().st_ino == last  # not written anew


def test_training_lowers_the_loss_over_any_encoder(plain_dir, tmp_path):
    write_corpus(tmp_path / "passages.jsonl")
    fit = replace(FIT, steps=30, learning_rate=2e-3, save_every=0)
    learner = contrastive_learner(tmp_path, plain_dir, "in_batch", fit)
    seen: list[float] = []
    fit_resumably(
        learner,
        fit,
        PretrainCheckpoints(tmp_path / "c", {}),
        log=lambda step, metrics: seen.append(metrics["loss"]),
    )
    assert sum(seen[-5:]) < 0.85 * sum(seen[:5])


def test_a_resumed_run_refuses_another_recipe_and_a_cut_file(plain_dir, tmp_path):
    write_corpus(tmp_path / "passages.jsonl")
    learner = contrastive_learner(tmp_path, plain_dir, "queue")
    kept = PretrainCheckpoints(tmp_path / "c", {"fit": 1})
    fit_resumably(learner, replace(FIT, steps=1, warmup_steps=0), kept, log=lambda *_: None)
    with pytest.raises(InputError, match="fit was 1 and is 2"):
        PretrainCheckpoints(tmp_path / "c", {"fit": 2}).load()
    (kept.all()[-1] / "queue.safetensors").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"queue\.safetensors: missing or cut short.*no checkpoint"
    ):
        kept.load()
    assert kept.all()
    with pytest.raises(InputError, match="no checkpoint"):
        PretrainCheckpoints(tmp_path / "none", {}).load()


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before_it(tmp_path, capsys, name):
    kept = PretrainCheckpoints(tmp_path, {"fit": 1})
    for step in (1, 2):
        kept.save(step, {"model": {"weight": torch.full((3,), float(step))}})
    file = kept.all()[-1] / name
    written = file.read_bytes()
    file.write_bytes(written[:-1] + bytes([written[-1] ^ 1]))  # its size is what it was
    step, tensors = kept.load()
    assert (step, tensors["model"]["weight"].tolist()) == (1, [1.0] * 3)
    assert "step-00000001 is taken instead" in " ".join(capsys.readouterr().err.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "damaged-step-00000002",
        "step-00000001",
    ]


def test_what_a_kill_has_left_is_removed_by_the_next_save(tmp_path):
    for leftover in (".step-00000002.abc.tmp", ".step-00000001.old"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "model.safetensors").write_bytes(b"cut")
    kept = PretrainCheckpoints(tmp_path, {})
    assert len(list(tmp_path.iterdir())) == 2  # only a run that saves is surely alone
    kept.save(3, {"model": {"weight": torch.zeros(1)}})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_a_full_disk_is_said_with_the_room_that_a_checkpoint_needs(tmp_path, monkeypatch):
    kept = PretrainCheckpoints(tmp_path, {})
    kept.save(1, {"model": {"weight": torch.zeros(1)}})

    def full(tensors, target):
        target.write_bytes(b"cut")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(contrastive_checkpoint, "save_file", full)
    with pytest.raises(InputError, match=r"step-00000002: the disk is full.* needs 4\.0 MB"):
        kept.save(2, {"model": {"weight": torch.zeros(10**6)}})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_an_encoder_that_compares_otherwise_is_refused(plain_dir, tmp_path):
    store = PassageStore.open(write_corpus(tmp_path / "p.jsonl"))
    encoder = BiEncoder.from_pretrained(plain_dir, settings=DOT)
    made = PairSampler([store], encoder.query_tokenizer, CONTRASTIVE, 6, 0)
    with pytest.raises(InputError, match="similarity"):
        ContrastiveLearner(encoder, made, replace(CONTRASTIVE, similarity="cosine"))
    with pytest.raises(InputError, match="one tied encoder"):
        ContrastiveLearner(encoder.untie(), made, CONTRASTIVE)


def test_pieces_longer_than_the_encoder_reads_are_refused(encoder, tmp_path):
    made = sampler(encoder, PassageStore.open(write_corpus(tmp_path / "p.jsonl")))
    most = encoder.query_encoder.config.max_position_embeddings - 2
    ContrastiveLearner(encoder, made, replace(CONTRASTIVE, key_maxlength=most))
    with pytest.raises(InputError, match=rf"key_maxlength={most + 1} .*at most {most}$"):
        ContrastiveLearner(encoder, made, replace(CONTRASTIVE, key_maxlength=most + 1))


def test_learning_rate_rises_and_falls_to_zero():
    fit = FitConfig(steps=10, warmup_steps=2, learning_rate=1.0)
    assert [fit.learning_rate_at(step) for step in range(3)] == [0.5, 1.0, 1.0]
    assert fit.learning_rate_at(9) == pytest.approx(1 / 8)
    with pytest.raises(InputError, match=r"fit\.warmup_steps=20"):
        FitConfig(steps=10, warmup_steps=20)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("kind", ["in_batch", "queue", "dpr"])
def test_two_processes_make_the_updates_of_one(plain_dir, tmp_path, kind):
    write_corpus(tmp_path / "passages.jsonl")
    write_questions(tmp_path / "questions.jsonl")
    alone = fit_learner(0, 1, tmp_path, str(plain_dir), kind)
    results = run_processes(fit_learner, 2, tmp_path, str(plain_dir), kind)
    torch.testing.assert_close(results[0].pop("losses"), alone.pop("losses"), atol=1e-5, rtol=0)
    assert not results[1].pop("losses").numel()  # process 0 alone logs
    for result in results:
        for name, tensor in alone.items():
            torch.testing.assert_close(result[name], tensor, atol=1e-5, rtol=1e-5, msg=name)
