import pytest
import torch

from atlas_lm.runtime.errors import InputError
from atlas_lm.staleness import refresh
from atlas_lm.types import Passage


class FakeIndex:
    def __init__(self, n, dim=2, dtype=torch.float16):
        self.embeddings = torch.zeros(n, dim, dtype=dtype)
        self.updates = 0

    def __len__(self):
        return len(self.embeddings)

    dim = property(lambda self: self.embeddings.shape[1])
    dtype = property(lambda self: self.embeddings.dtype)

    def update_(self, rows, embeddings, *, step=None, fingerprint=None):
        self.updates += 1
        self.embeddings[rows] = embeddings


class FakeStore(list):
    def passages(self, rows):
        return [self[row] for row in rows]


def numbered(n):
    return FakeStore(Passage(str(number), f"passage {number}") for number in range(n))


def embed(passages):
    return torch.tensor([[float(passage.id), 1.0] for passage in passages])


def test_every_vector_is_replaced_in_order():
    index = FakeIndex(7)
    refresh(index, numbered(7), embed, at_a_time=3)
    assert index.embeddings.tolist() == [[number, 1] for number in range(7)]
    assert index.updates == 1


def test_a_search_never_sees_half_a_refresh():
    index = FakeIndex(7)

    def failing(passages):
        assert not index.embeddings.any(), "old vectors must stand until all new ones are there"
        if passages[0].id == "6":
            raise RuntimeError("killed on the way")
        return embed(passages)

    with pytest.raises(RuntimeError, match="killed"):
        refresh(index, numbered(7), failing, at_a_time=3)
    assert not index.embeddings.any()


def test_another_corpus_is_refused():
    with pytest.raises(InputError, match="3 vectors and the passage store 4"):
        refresh(FakeIndex(3), numbered(4), embed)


def test_a_diverged_retriever_leaves_the_index_alone():
    index = FakeIndex(3)
    with pytest.raises(InputError, match="not finite"):
        refresh(index, numbered(3), lambda passages: torch.full((3, 2), torch.nan))
    assert not index.embeddings.any()
