from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from atlas_lm.retriever import BiEncoder
from atlas_lm.retriever.contrastive import (
    KeyQueue,
    contrastive_loss,
    embed,
    fit,
    fit_embeddings,
    follow_,
    learning_rate_at,
    run_recipe,
    train,
)
from atlas_lm.retriever.contrastive_config import ContrastiveConfig
from atlas_lm.retriever.contrastive_data import (
    CLS_ID,
    PAD_ID,
    SEP_ID,
    Pair,
    PassageTokens,
    batches,
    crop,
    crop_pair,
    delete,
    pad,
    span_pair,
    title_pair,
    train_wordpiece,
    window,
)
from atlas_lm.retriever.contrastive_init import lsa_word_vectors, new_encoder
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Passage

TINY = ContrastiveConfig(
    vocab_size=200,
    dim=32,
    layers=1,
    heads=2,
    intermediate=32,
    maxlength=32,
    query_maxlength=12,
    key_maxlength=24,
    batch_size=8,
    steps=3,
    dropout=0.0,
)
ANIMALS = ("otter", "heron", "badger", "lynx", "falcon", "newt", "viper", "marten")
PLACES = ("river", "marsh", "wood", "ridge", "cliff", "pond", "heath", "forest")
PASSAGES = [
    Passage(
        id=str(row),
        title=animal,
        text=f"the {animal} lives near the {place}. every {place} has one {animal} at least, "
        f"and people who walk to the {place} early may see the {animal} there.",
    )
    for row, (animal, place) in enumerate(zip(ANIMALS, PLACES, strict=True))
]


def test_queue_drops_the_oldest_first():
    queue = KeyQueue(3, 1)
    assert queue.keys.shape == (0, 1)
    queue.push(torch.tensor([[1.0], [2.0]]))
    assert queue.keys.flatten().tolist() == [1.0, 2.0]
    queue.push(torch.tensor([[3.0], [4.0]]))
    assert sorted(queue.keys.flatten().tolist()) == [2.0, 3.0, 4.0]
    queue.push(torch.arange(5.0, 10.0)[:, None])
    assert sorted(queue.keys.flatten().tolist()) == [7.0, 8.0, 9.0]


def test_queue_holds_no_gradient():
    queue = KeyQueue(2, 1)
    queue.push(torch.ones(1, 1, requires_grad=True) * 2)
    assert not queue.keys.requires_grad


def test_momentum_by_hand():
    slow, fast = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(slow.weight, 1.0)
    nn.init.constant_(fast.weight, 3.0)
    follow_(slow, fast, momentum=0.75)
    assert slow.weight.item() == pytest.approx(1.5)
    assert fast.weight.item() == 3.0


def test_queue_loss_gives_the_momentum_encoder_no_gradient_and_fills_the_queue():
    cfg = replace(TINY, negatives="queue")
    encoder, follower = new_encoder(cfg, 50), new_encoder(cfg, 50)
    queue = KeyQueue(16, cfg.dim)
    batch = [Pair([7, 8], [8, 9]), Pair([10], [11, 12])]
    first = contrastive_loss(encoder, batch, cfg, momentum_encoder=follower, queue=queue)
    assert len(queue.keys) == 2
    second = contrastive_loss(encoder, batch, cfg, momentum_encoder=follower, queue=queue)
    second.backward()
    assert second > first  # the same keys, now twice: the own key has a rival as good as itself
    assert all(parameter.grad is None for parameter in follower.parameters())
    assert encoder.embeddings.word_embeddings.weight.grad is not None


def test_symmetric_loss_is_the_mean_of_both_directions():
    encoder = new_encoder(TINY, 50).eval()
    batch = [Pair([7, 8], [8, 9]), Pair([10], [11, 12]), Pair([20, 21], [30])]
    turned = [Pair(pair.key, pair.query) for pair in batch]
    one_way = replace(TINY, symmetric=False)
    mean = (
        contrastive_loss(encoder, batch, one_way) + contrastive_loss(encoder, turned, one_way)
    ) / 2
    torch.testing.assert_close(contrastive_loss(encoder, batch, TINY), mean)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_sequence_embeds_the_same_alone_and_in_a_batch(similarity):
    encoder = new_encoder(TINY, 50).eval()
    sequences = [[7, 8, 9, 10, 11], [12], [13, 14, 15], [16, 17]]
    together = embed(encoder, sequences, similarity=similarity, pieces=2)
    alone = torch.cat([embed(encoder, [ids], similarity=similarity) for ids in sequences])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    is_unit = bool(torch.allclose(together.norm(dim=-1), torch.ones(4)))
    assert is_unit == (similarity == "cosine")


def test_crops_are_contiguous_and_of_the_lengths_asked_for():
    rng = np.random.default_rng(0)
    ids = list(range(100))
    lengths = set()
    for _ in range(300):
        piece = crop(ids, rng, 0.05, 0.5)
        assert piece == list(range(piece[0], piece[0] + len(piece)))
        lengths.add(len(piece))
    assert min(lengths) == 5
    assert max(lengths) == 50
    assert crop([1], rng, 0.05, 0.5) == [1]


def test_every_window_is_reached():
    rng = np.random.default_rng(0)
    assert {tuple(window([1, 2, 3], rng, 2)) for _ in range(50)} == {(1, 2), (2, 3)}
    assert window([1, 2], rng, 5) == [1, 2]


def test_deletion_keeps_order_and_at_least_one_token():
    rng = np.random.default_rng(0)
    kept = delete(list(range(1000)), rng, 0.1)
    assert kept == sorted(kept)
    assert 850 < len(kept) < 950
    assert delete([4, 5], rng, 1.0) == [4]
    assert delete([4, 5], rng, 0.0) == [4, 5]


def test_pairs_of_each_kind():
    rng = np.random.default_rng(0)
    passage = PassageTokens(title=[100, 101], text=[100, *range(1, 60)])
    cfg = replace(TINY, span_kept=0.0, deletion=0.0, span_min=5, span_max=5)
    title = title_pair(passage, cfg, rng)
    assert title.query == [100, 101]
    assert 100 not in title.key
    span = span_pair(passage, replace(cfg, key_maxlength=100), rng)
    assert len(span.query) == 5
    assert not set(span.query) & set(span.key[2:])
    assert span.key[:2] == [100, 101]
    for _ in range(20):
        pair = crop_pair(passage, cfg, rng)
        assert len(pair.query) <= cfg.query_maxlength
        assert len(pair.key) <= cfg.key_maxlength


def test_a_passage_of_its_title_alone_still_gives_a_pair():
    rng = np.random.default_rng(0)
    assert title_pair(PassageTokens([5], [5]), TINY, rng) == Pair([5], [5])
    cfg = replace(TINY, span_kept=0.0)
    assert span_pair(PassageTokens([], [5]), cfg, rng) == Pair([5], [5])


def test_no_passage_comes_twice_in_a_batch():
    passages = [PassageTokens([], [row] * 6) for row in range(20)]
    data = batches(passages, TINY, np.random.default_rng(0))
    for _ in range(6):
        batch = next(data)
        assert len(batch) == len({pair.query[0] for pair in batch}) == TINY.batch_size


def test_padding_frames_every_sequence():
    tokens = pad([[7], [8, 9]])
    assert tokens.ids.tolist() == [[CLS_ID, 7, SEP_ID, PAD_ID], [CLS_ID, 8, 9, SEP_ID]]
    assert tokens.mask.tolist() == [[True, True, True, False], [True] * 4]


def test_tokenizer_lower_cases_and_knows_its_special_tokens():
    tokenizer = train_wordpiece([p.text for p in PASSAGES], 150)
    assert tokenizer.encode("Otter").ids[0] == CLS_ID
    assert tokenizer.encode("OTTER").ids == tokenizer.encode("otter").ids
    assert tokenizer.token_to_id("[PAD]") == PAD_ID


def test_lsa_puts_words_of_like_passages_together_and_leaves_the_unseen_at_zero():
    # Words 0 and 1 share passages, words 2 and 3 share others, word 4 occurs nowhere.
    passages = [[0, 1], [0, 1], [2, 3], [2, 3]]
    vectors = lsa_word_vectors(passages, 5, 2, seed=0)
    unit = torch.nn.functional.normalize(vectors[:4], dim=-1)
    cosine = unit @ unit.T
    assert cosine[0, 1].item() == pytest.approx(1, abs=1e-4)
    assert cosine[2, 3].item() == pytest.approx(1, abs=1e-4)
    assert cosine[0, 2].item() == pytest.approx(0, abs=1e-4)
    assert vectors[4].abs().sum() == 0


def test_learning_rate_rises_and_falls_to_zero():
    cfg = replace(TINY, steps=10, warmup=0.2, learning_rate=1.0)
    rates = [learning_rate_at(step, cfg) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[-1] == pytest.approx(1 / 8)
    assert learning_rate_at(10, cfg) == 0


@pytest.mark.parametrize("negatives", ["in_batch", "queue"])
def test_training_lowers_the_loss(negatives):
    cfg = replace(TINY, steps=60, negatives=negatives, queue_size=8, momentum=0.5)
    torch.manual_seed(0)
    encoder = new_encoder(cfg, 200)
    passages = [PassageTokens([], list(range(10 * row + 5, 10 * row + 15))) for row in range(8)]
    losses = fit(encoder, batches(passages, cfg, np.random.default_rng(0)), cfg, name="test")
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_the_first_stage_moves_embeddings_alone():
    cfg = replace(TINY, embedding_steps=2)
    encoder = new_encoder(cfg, 200)
    before = {name: value.clone() for name, value in encoder.named_parameters()}
    passages = [PassageTokens([], list(range(10 * row + 5, 10 * row + 15))) for row in range(8)]
    fit_embeddings(encoder, batches(passages, cfg, np.random.default_rng(0)), cfg)
    moved = {n for n, value in encoder.named_parameters() if not torch.equal(value, before[n])}
    assert "embeddings.word_embeddings.weight" in moved
    assert all(name.startswith("embeddings.") for name in moved)


def test_a_recipe_gives_a_directory_that_opens_and_finds_its_passages(tmp_path):
    cfg = replace(TINY, embedding_steps=20, steps=20)
    state = torch.get_rng_state()
    made = run_recipe(cfg, iter(PASSAGES), tmp_path / "nano")
    assert torch.equal(state, torch.get_rng_state())
    opened = BiEncoder.from_pretrained(tmp_path / "nano")
    assert opened.settings.passage_maxlength == cfg.maxlength
    query = [f"who lives near the {place}?" for place in PLACES]
    passage_emb = opened.embed_corpus(PASSAGES)
    torch.testing.assert_close(passage_emb, made.embed_corpus(PASSAGES))
    with torch.no_grad():
        found = (opened.embed_queries(query) @ passage_emb.T).argmax(dim=-1)
    assert (found == torch.arange(len(PASSAGES))).float().mean() >= 0.75


def test_half_precision_halves_the_file(tmp_path):
    cfg = replace(TINY, steps=1)
    run_recipe(cfg, PASSAGES, tmp_path / "whole")
    run_recipe(replace(cfg, half_precision=True), PASSAGES, tmp_path / "half")
    sizes = [(tmp_path / d / "model.safetensors").stat().st_size for d in ("whole", "half")]
    assert sizes[1] < 0.65 * sizes[0]


def test_one_seed_gives_one_encoder():
    first, second = (train(PASSAGES, TINY)[0].state_dict() for _ in range(2))
    other = train(PASSAGES, replace(TINY, seed=1))[0].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"heads": 3}, "heads=3"),
        ({"crop_min": 0.6}, "crop_min=0.6"),
        ({"span_min": 20}, "span_min=20"),
        ({"crop_share": 0.9}, "sum to 1"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"batch_size": 1}, "batch_size=1"),
        ({"deletion": 1.0}, "deletion=1.0"),
        ({"momentum": 1.5}, "momentum=1.5"),
        ({"queue_size": 0}, "queue_size=0"),
        ({"key_maxlength": 0}, "key_maxlength=0"),
    ],
)
def test_impossible_options_are_refused_by_name(change, named):
    with pytest.raises(InputError, match=named):
        replace(TINY, **change)


def test_passages_that_cannot_be_contrasted_are_refused():
    with pytest.raises(InputError, match="at least 2"):
        train(PASSAGES[:1], TINY)
    with pytest.raises(InputError, match=r"'empty' \(row 1\) has no text"):
        train([PASSAGES[0], Passage(id="empty", text=" ")], TINY)
