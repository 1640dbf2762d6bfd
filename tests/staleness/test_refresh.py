import pytest
import torch

from atlas_lm.staleness import refresh

from .world import DIM, Retriever, live_index


@pytest.fixture(autouse=True)
def three_passages_at_a_time(monkeypatch):
    monkeypatch.setattr(refresh, "PASSAGES_AT_A_TIME", 3)


def test_passages_are_embedded_a_few_at_a_time_in_order():
    live = live_index(Retriever(7))
    embeddings = refresh.embed_rows(
        live.store, live.encoder.embed_corpus, range(7), dim=DIM, dtype=torch.float16
    )
    assert live.encoder.asked == [[0, 1, 2], [3, 4, 5], [6]]
    assert torch.equal(embeddings, live.encoder.vectors.detach().half())


def test_a_renewal_that_stops_on_the_way_leaves_the_index_as_it_was():
    live = live_index(Retriever(7))
    before, embed = live.index.embeddings.clone(), live.encoder.embed_corpus
    live.encoder.move_()

    def failing(passages):
        assert torch.equal(live.index.embeddings, before), "no search sees half of a renewal"
        if passages[0].id == "6":
            raise RuntimeError("killed on the way")
        return embed(passages)

    live.encoder.embed_corpus = failing
    with pytest.raises(RuntimeError, match="killed"):
        live.renew(range(7), 1)
    assert torch.equal(live.index.embeddings, before)
