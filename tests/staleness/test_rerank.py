import torch

from atlas_lm.staleness import rerank
from atlas_lm.types import Passage

from .world import Store


class FakeRetriever:
    def __init__(self, vectors):
        self.vectors = vectors
        self.asked = []

    def embed_corpus(self, passages):
        self.asked.append([passage.id for passage in passages])
        return self.vectors[[int(passage.id) for passage in passages]]


STORE = Store(Passage(str(number), "text") for number in range(6))


def test_candidates_come_in_the_fresh_order_and_shared_ones_are_embedded_once():
    vectors = torch.tensor([[0.0, 1], [1, 0], [2, 0], [0, 3], [0.5, 0.5], [9, 9]])
    retriever = FakeRetriever(vectors)
    query_emb = torch.tensor([[1.0, 0], [0, 1.0]])
    rows, scores = rerank(retriever, query_emb, STORE, torch.tensor([[0, 1, 2], [1, 3, 4]]))
    assert rows.tolist() == [[2, 1, 0], [3, 4, 1]]
    assert scores.tolist() == [[2, 1, 0], [3, 0.5, 0]]
    assert retriever.asked == [["0", "1", "2", "3", "4"]]


def test_reranking_every_row_is_searching_a_fresh_index():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(6, 4, generator=generator)
    query_emb = torch.randn(3, 4, generator=generator)
    rows, scores = rerank(FakeRetriever(vectors), query_emb, STORE, torch.arange(6).expand(3, 6))
    expected = (query_emb @ vectors.T).sort(descending=True)
    assert torch.equal(rows, expected.indices)
    torch.testing.assert_close(scores, expected.values)


def test_equal_scores_keep_the_order_of_the_index():
    rows, _ = rerank(
        FakeRetriever(torch.ones(6, 2)), torch.ones(1, 2), STORE, torch.tensor([[4, 1, 3]])
    )
    assert rows.tolist() == [[4, 1, 3]]
