from __future__ import annotations

import pytest
import torch

from atlas_lm.retrieve import ContextConfig, given_passages, no_passages, retrieve
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Batch, Example, Passage
from tests.tinyworld.world import draw, open_run


def example(**fields) -> Example:
    return Example("1", "q", "t", ("a",), **fields)


def test_excluded_passages_are_never_found_and_unknown_ones_do_not_matter(tmp_path):
    atlas, _ = open_run(draw(tmp_path))
    found = atlas.retrieve("who ?", 3).passages[0]
    asked = atlas.ask("who ?").examples[0]
    without = Example(
        asked.id,
        asked.query,
        asked.target,
        excluded_passage_ids=frozenset({found[0].id, "not in this corpus"}),
    )
    again = retrieve(
        Batch((without,)),
        retriever=atlas.trained_retriever,
        index=atlas.index,
        store=atlas.store,
        topk=2,
    )
    assert [passage.id for passage in again.passages[0]] == [found[1].id, found[2].id]


def test_reranking_a_fresh_index_changes_nothing(tmp_path):
    atlas, _ = open_run(draw(tmp_path))
    batch = atlas.ask(["who ?", "where ?"])
    parts = {"retriever": atlas.trained_retriever, "index": atlas.index, "store": atlas.store}
    plain = retrieve(batch, topk=3, **parts)
    reranked = retrieve(batch, topk=3, n_rerank=10, **parts)
    assert torch.equal(plain.rows, reranked.rows)


def test_given_passages_are_the_first_ones_of_the_file():
    given = tuple(Passage(str(n), "text") for n in range(3))
    retrieved = given_passages(Batch((example(passages=given),)), 2)
    assert retrieved.passages == (given[:2],)
    assert retrieved.rows.tolist() == [[-1, -1]]


def test_too_few_given_passages_are_named_with_the_remedy():
    with pytest.raises(InputError, match=r"gives 1 passages, n_context=2.*set context\.n_context"):
        given_passages(Batch((example(passages=(Passage("1", "x"),)),)), 2)
    with pytest.raises(InputError, match="no passages given"):
        given_passages(Batch((example(),)), 2)


def test_closed_book_has_no_passages():
    assert no_passages(Batch((example(),))).passages == ((),)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"n_context": 0}, ["n_context=0"]),
        ({"n_context": 5, "retriever_n_context": 4}, ["retriever_n_context=4", "n_context=5"]),
        ({"n_rerank": 3, "retriever_n_context": 5}, ["n_rerank=3", "retriever_n_context=5"]),
    ],
)
def test_contradictions_name_both_fields(fields, names):
    with pytest.raises(InputError) as error:
        ContextConfig(**fields)
    for name in names:
        assert name in str(error.value)
