from __future__ import annotations

import torch

from atlas_lm.retriever.tokenization import batches_by_length, tokenize
from tests.parity.golden import bert_tokenizer


def test_truncation_keeps_special_tokens_and_is_counted() -> None:
    tokenizer = bert_tokenizer()
    texts = ["the cat", "the cat " * 50, "the"]
    lists = tokenize(tokenizer, texts, maxlength=8)
    whole = tokenizer(texts)["input_ids"]
    assert lists.truncated == (len(whole[0]) > 8, True, False)
    assert [len(ids) for ids in lists.ids] == [min(len(ids), 8) for ids in whole]
    assert all(ids[0] == 2 and ids[-1] == 3 for ids in lists.ids)
    assert lists.tokens == sum(map(len, lists.ids))


def test_no_text_gives_no_tokens() -> None:
    assert len(tokenize(bert_tokenizer(), [], maxlength=8)) == 0


def test_batches_cover_every_position_once_within_the_budget() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 60, (200,), generator=generator).tolist()
    batches = list(batches_by_length(lengths, 256))
    assert sorted(position for batch in batches for position in batch) == list(range(200))
    assert all(len(b) * max(lengths[p] for p in b) <= 256 for b in batches)
    padded = sum(len(batch) * max(lengths[p] for p in batch) for batch in batches)
    assert (padded - sum(lengths)) / padded < 0.05


def test_a_text_over_the_budget_goes_alone() -> None:
    assert list(batches_by_length([5, 500, 6], 16)) == [[1], [2, 0]]


def test_a_ragged_batch_is_split_once_it_is_not_small() -> None:
    # Budget 800: [100, 100] has 200 tokens, more than an eighth, and 10 is under 4/5 of 100.
    assert list(batches_by_length([100, 10, 100, 90], 800)) == [[0, 2, 3], [1]]
    assert list(batches_by_length([50, 10], 800)) == [[0, 1]]
