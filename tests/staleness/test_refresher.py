"""Which rows does a refresh embed?"""

import pytest
import torch

from atlas_lm.runtime.errors import InputError
from atlas_lm.staleness import PartialConfig
from atlas_lm.staleness.recent import RecentQueries
from atlas_lm.staleness.refresher import FullRefresh, PartialRefresh

from .world import Retriever, live_index


def partial(live, queries=("0",), topk=2, **config):
    recent = RecentQueries()
    recent.add(queries)
    return PartialRefresh(live, recent, PartialConfig(**config), topk=topk)


def best(live, query, k):
    """The first k rows of a query, best first."""
    scores = live.index.embeddings @ live.encoder.vectors.detach()[query]
    return scores.sort(descending=True).indices[:k].tolist()


def test_a_full_refresh_embeds_everything():
    retriever = Retriever()
    live = live_index(retriever)
    retriever.move_()
    FullRefresh(live).begin(4)
    assert torch.equal(live.index.embeddings, retriever.vectors.detach())
    assert (live.index.step, live.index.row_steps) == (4, None)


def test_what_the_last_queries_find_or_nearly_find_comes_first():
    live = live_index(Retriever())
    refresh = partial(live, depth=3, budget=6, sweep_share=0.0)
    assert refresh.in_demand() == best(live, 0, 6)
    assert refresh.due(1) == sorted(best(live, 0, 6))


def test_what_a_filter_hides_is_not_embedded_anew():
    allowed = torch.arange(20) % 4 == 1
    retriever = Retriever()
    live = live_index(retriever, allowed_rows=allowed)
    refresh = partial(live, depth=3, budget=6, sweep_share=0.5)
    assert set(refresh.in_demand()) == {1, 5, 9, 13, 17}
    retriever.move_()
    for step in (1, 2):
        refresh.begin(step)
    assert torch.equal(live.row_steps > 0, allowed)


def test_the_cost_follows_the_working_set_not_the_budget():
    live = live_index(Retriever())
    refresh = partial(live, depth=1, budget=16, sweep_share=0.25)
    assert len(refresh.due(1)) == 2 + 4


def test_the_sweep_takes_the_oldest_and_reaches_everything():
    retriever = Retriever()
    live = live_index(retriever)
    refresh = partial(live, depth=1, budget=4, sweep_share=0.5)
    retriever.move_()
    for step in range(1, 11):
        refresh.begin(step)
        assert (live.row_steps == step).sum() == 4
    assert int(live.row_steps.min()) > 0
    assert torch.equal(live.index.embeddings, retriever.vectors.detach())
    assert live.embedded == 40


def test_a_budget_smaller_than_the_working_set_goes_round_it():
    live = live_index(Retriever())
    refresh = partial(live, depth=4, budget=4, sweep_share=0.0)
    working_set = set(best(live, 0, 8))
    seen = set()
    for step in (1, 2):
        seen |= set(refresh.due(step))
        refresh.begin(step)
    assert seen == working_set


def test_no_query_yet_is_a_mere_sweep():
    live = live_index(Retriever())
    assert partial(live, queries=(), budget=8).due(1) == [0, 1]


def test_rows_of_this_very_step_are_not_embedded_twice():
    live = live_index(Retriever())
    refresh = partial(live, depth=1, budget=40, sweep_share=1.0)
    refresh.begin(3)
    assert refresh.due(3) == []
    assert live.embedded == 20


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"budget": -1}, "partial.budget=-1"),
        ({"sweep_share": 1.5}, "partial.sweep_share=1.5"),
        ({"depth": 0}, "partial.depth=0"),
    ],
)
def test_nonsense_is_refused(values, words):
    with pytest.raises(InputError, match=words):
        PartialConfig(**values)
