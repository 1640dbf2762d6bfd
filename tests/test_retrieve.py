from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from atlas_lm.index import build
from atlas_lm.objectives.control import dealt_out
from atlas_lm.passages.store import PassageStore
from atlas_lm.retrieve import ContextConfig, given_passages, no_passages, retrieve
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Batch, Example, Overlap, Passage
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


def test_the_best_are_reranked_where_more_are_asked_for(tmp_path):
    atlas, _ = open_run(draw(tmp_path))
    batch = atlas.ask(["who ?", "where ?"])
    parts = {"retriever": atlas.trained_retriever, "index": atlas.index, "store": atlas.store}
    with torch.no_grad():
        for parameter in atlas.trained_retriever.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    few = retrieve(batch, topk=5, n_rerank=5, **parts)
    many = retrieve(batch, topk=12, n_rerank=5, **parts)
    plain = retrieve(batch, topk=12, **parts)
    assert torch.equal(many.rows[:, :5], few.rows)
    assert not torch.equal(few.rows, plain.rows[:, :5])
    assert torch.equal(many.rows[:, 5:], plain.rows[:, 5:])


def test_a_filter_may_leave_fewer_than_are_reranked(tmp_path):
    atlas, _ = open_run(draw(tmp_path))
    allowed = torch.zeros(len(atlas.store), dtype=torch.bool)
    allowed[:4] = True
    hidden = atlas.store.passages([2])[0].id
    asked = replace(atlas.ask("who ?").examples[0], excluded_passage_ids=frozenset({hidden}))
    parts = {"retriever": atlas.trained_retriever, "index": atlas.index, "store": atlas.store}
    found = retrieve(Batch((asked,)), topk=2, n_rerank=100, allowed_rows=allowed, **parts)
    every = retrieve(Batch((asked,)), topk=3, allowed_rows=allowed, **parts)
    assert sorted(every.rows[0].tolist()) == [0, 1, 3]
    assert torch.equal(found.rows, every.rows[:, :2])


def test_what_is_reranked_for_a_query_does_not_depend_on_the_others(tmp_path):
    atlas, _ = open_run(draw(tmp_path))
    parts = {"retriever": atlas.trained_retriever, "index": atlas.index, "store": atlas.store}
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in atlas.trained_retriever.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    allowed = torch.zeros(len(atlas.store), dtype=torch.bool)
    allowed[:12] = True
    asked, guarded = atlas.ask(["who ?", "who ?"]).examples
    guarded = replace(guarded, overlap=Overlap("not a word of it", 2))

    def found(batch):
        return retrieve(Batch(batch), topk=3, n_rerank=12, allowed_rows=allowed, **parts)

    def beside(rows):
        ids = frozenset(atlas.store[row].id for row in rows)
        return replace(atlas.ask("where ?").examples[0], excluded_passage_ids=ids)

    alone = found((asked,)).rows[0]
    stale = retrieve(Batch((asked,)), topk=3, allowed_rows=allowed, **parts).rows[0]
    assert not torch.equal(alone, stale)
    for rows in (range(12, 24), range(7), range(2, 11)):
        other = beside(rows)
        both = found((asked, other))
        assert torch.equal(both.rows[0], alone)
        assert torch.equal(both.rows[1], found((other,)).rows[0])
        assert not set(both.rows[1].tolist()) & set(rows)
        assert torch.equal(found((guarded, other)).rows, both.rows)
    with pytest.raises(InputError, match="query 1 may only get 2 passages"):
        found((asked, beside(range(10))))


def test_no_passages_at_all_are_not_retrieved(tmp_path):
    atlas, _ = open_run(draw(tmp_path))
    with pytest.raises(InputError, match="topk=0: retrieve at least one passage"):
        atlas.retrieve("who ?", 0)


@pytest.mark.parametrize("n_rerank", [0, 8])
def test_passages_are_compared_in_full_precision_under_autocast(tmp_path, n_rerank):
    atlas, _ = open_run(draw(tmp_path))
    batch = atlas.ask(["who ?", "where ?"])
    parts = {"retriever": atlas.trained_retriever, "index": atlas.index, "store": atlas.store}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = retrieve(batch, topk=8, n_rerank=n_rerank, **parts)
    assert not torch.equal(found.scores, found.scores.bfloat16().float())


def test_given_passages_are_the_first_ones_of_the_file():
    given = tuple(Passage(str(n), "text") for n in range(3))
    retrieved = given_passages(Batch((example(passages=given),)), 2)
    assert retrieved.passages == (given[:2],)
    assert retrieved.rows.tolist() == [[-1, -1]]


def test_too_few_given_passages_are_named_with_the_remedy():
    with pytest.raises(InputError, match=r"gives 1 .* 2 are .*retriever_n_context to 1"):
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


def test_filters_hold_for_retrieval_and_while_training(tmp_path):
    atlas, _ = open_run(draw(tmp_path))
    anything = atlas.retrieve("who ?", 5)
    title = anything.passages[0][3].title
    context = replace(atlas.config.context, where=f'title == "{title}"')
    filtered = atlas.with_config(replace(atlas.config, context=context))
    several = filtered.retrieve(["who ?", "where ?"], filtered.n_findable)
    assert {passage.title for passages in several.passages for passage in passages} == {title}
    assert 0 < filtered.n_findable < atlas.n_findable == len(atlas.store)
    asked = atlas.retrieve("who ?", 2, where=f'title == "{title}"')
    assert {passage.title for passage in asked.passages[0]} == {title}
    assert len(filtered.retrieve("who ?", atlas.n_findable, where="").passages[0]) == len(
        atlas.store
    )
    batch = filtered.ask("who ?")
    rows = filtered.losses(batch, train_retriever=True).rows
    assert {atlas.store[row].title for row in rows[0].tolist()} == {title}
    with pytest.raises(InputError, match="neither deleted nor filtered out"):
        filtered.retrieve("who ?", filtered.n_findable + 1)
    wrong = replace(context, where="titel == 1", as_of="")
    with pytest.raises(InputError, match=r"no passage has a field 'titel' \(did you mean 'title'"):
        atlas.with_config(replace(atlas.config, context=wrong)).retrieve("who ?")


def test_a_filter_without_retrieval_is_refused():
    with pytest.raises(InputError, match=r"no effect with context\.passages_from=none"):
        ContextConfig(passages_from="none", where="year == 1")
    with pytest.raises(InputError, match="invalid syntax"):
        ContextConfig(where="year =")
    with pytest.raises(InputError, match="write a date as"):
        ContextConfig(as_of="June")


def test_several_indexes_are_opened_as_one(tmp_path):
    tiny = draw(tmp_path)
    atlas, _ = open_run(tiny)
    newer = tmp_path / "newer.jsonl"
    old = atlas.store[4]
    newer.write_text(
        json.dumps({"id": old.id, "title": old.title, "text": "changed"})
        + '\n{"id": "new", "text": "brand new"}\n'
    )
    store = PassageStore.open(newer)
    retriever = atlas.trained_retriever
    fingerprint = atlas.fingerprint(store)
    build(store, retriever.embed_corpus, tmp_path / "newer.idx", fingerprint=fingerprint)
    count = len(atlas.store)
    atlas.open_index([tiny.index, tmp_path / "newer.idx"])
    assert atlas.n_findable == count + 1
    texts = {p.id: p.text for p in atlas.retrieve("who ?", count + 1).passages[0]}
    assert len(texts) == count + 1
    assert (texts[old.id], texts["new"]) == ("changed", "brand new")


def test_passages_that_repeat_the_guarded_text_give_way_to_the_next(tmp_path):
    atlas, _ = open_run(draw(tmp_path))
    parts = {"retriever": atlas.trained_retriever, "index": atlas.index, "store": atlas.store}
    asked = atlas.ask("who ?").examples[0]
    plain = retrieve(Batch((asked,)), topk=4, **parts).passages[0]
    guarded = replace(asked, overlap=Overlap(f"so {plain[1].text} it is", 2))
    batch = Batch((guarded, asked))
    found = retrieve(batch, topk=3, spare=5, **parts)
    assert [passage.id for passage in found.passages[0]] == [plain[n].id for n in (0, 2, 3)]
    assert found.rows[0].tolist() == atlas.store.rows_of(p.id for p in found.passages[0])
    assert found.passages[1] == plain[:3]
    assert found.leaked == (True, False)
    assert plain[1].id in found.repeating[0]
    assert found.first(1).repeating == found.repeating
    assert found.repeating[1] == frozenset()
    short = retrieve(batch, topk=3, **parts).passages[0]
    assert [passage.id for passage in short] == [plain[n].id for n in (0, 2, 1)]


def test_pooled_candidates_are_never_passages_that_a_query_may_not_see(tmp_path):
    pooled, _ = open_run(draw(tmp_path), "objective.pool_candidates=true")
    config = pooled.config
    alone = pooled.with_config(
        replace(config, objective=replace(config.objective, pool_candidates=False))
    )
    asked = pooled.ask("who ?").examples[0]
    first = pooled.retrieve("who ?", 2).passages[0]
    cut = replace(asked, excluded_passage_ids=frozenset({first[0].id}))
    guarded = replace(asked, overlap=Overlap(first[1].text, 2))
    with torch.no_grad():
        measured = pooled.measure(Batch((asked, cut, guarded))).measured
        found = {passage.id for passages in measured.passages for passage in passages}
        losses = [
            atlas.retriever_loss(replace(measured, withheld=withheld))[0].item()
            for atlas, withheld in (
                (alone, ()),
                (pooled, (frozenset(found),) * 3),
                (pooled, measured.withheld),
                (pooled, ()),
            )
        ]
    assert measured.withheld[:2] == (frozenset(), {first[0].id})
    assert first[1].id in measured.withheld[2]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[1] < losses[2] < losses[3]


def test_the_retriever_is_asked_what_the_example_says(tmp_path):
    atlas, _ = open_run(draw(tmp_path))
    asked = atlas.ask("who ?").examples[0]
    people = [passage.title for passage in atlas.store][:1][0]
    other = replace(asked, sought=people)
    found = atlas.retrieve(Batch((other,)), 3)
    assert torch.equal(
        found.rows, atlas.retrieve(Batch((replace(asked, query=people, sought=""),)), 3).rows
    )


def test_the_control_teaches_the_same_signals_of_other_passages(tmp_path):
    control, _ = open_run(draw(tmp_path), "objective.shuffle_signals=true")
    config = control.config
    plain = control.with_config(
        replace(config, objective=replace(config.objective, shuffle_signals=False))
    )
    with torch.no_grad():
        measured = control.measure(Batch(control.ask(["who ?", "what ?"]).examples)).measured
        dealt = replace(measured, signals=dealt_out(measured.signals, measured.ids))
        losses = [
            atlas.retriever_loss(given)[0].item()
            for atlas, given in ((control, measured), (plain, dealt), (plain, measured))
        ]
    assert losses[0] == losses[1] != losses[2]
