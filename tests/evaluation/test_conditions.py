from __future__ import annotations

import dataclasses

import pytest

from atlas_lm.evaluation.conditions import (
    measure_conditions,
    oracle_passages,
    random_passages,
    read_given,
)
from atlas_lm.runtime.errors import InputError
from atlas_lm.types import Passage
from tests.tinyworld.world import draw, open_run, questions


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("conditions"))


@pytest.fixture(scope="module")
def atlas(world):
    return open_run(world)[0]


@pytest.fixture(scope="module")
def asked(world, atlas):
    return questions(world, atlas)[:6]


def test_every_condition_answers_every_question(atlas, asked):
    found = measure_conditions(atlas, asked, ks=(1, 5))
    assert list(found) == ["closed", "open", "oracle", "random"]
    assert all(len(each.records) == len(asked) for each in found.values())
    assert all(record.passages == () for record in found["closed"].records)
    assert found["oracle"].metrics["gold_recall_at_1"].mean == 1.0
    assert found["random"].metrics["gold_recall_at_4"].mean == 0.0
    assert "recall_at_5" in found["open"].metrics


def test_the_oracle_puts_the_gold_passage_first_and_keeps_the_number(atlas, asked):
    for example, row in zip(asked, oracle_passages(atlas, asked), strict=True):
        assert row[0].id in example.gold_passage_ids
        assert len({passage.id for passage in row}) == atlas.config.context.n_context


def test_without_gold_ids_the_oracle_takes_answer_bearing_passages(atlas, asked):
    unnamed = [dataclasses.replace(e, gold_passage_ids=frozenset()) for e in asked]
    for example, row in zip(asked, oracle_passages(atlas, unnamed), strict=True):
        assert row[0].id in example.gold_passage_ids


def test_an_answer_behind_the_readers_limit_makes_no_good_passage(atlas, asked):
    context = dataclasses.replace(atlas.config.context, passages_from="file", n_context=1)
    reading = atlas.with_config(dataclasses.replace(atlas.config, context=context))
    answer = asked[0].answers[0]
    limit = atlas.reader.settings.text_maxlength
    given = (Passage("1", f"{'a ' * limit}{answer}"), Passage("2", f"it is {answer}"))
    unnamed = dataclasses.replace(asked[0], gold_passage_ids=frozenset(), passages=given)
    assert oracle_passages(reading, [unnamed])[0][0].id == "2"


def test_pages_of_evidence_are_good_passages_and_labels_are_not_sought(atlas, asked):
    context = dataclasses.replace(atlas.config.context, passages_from="file", n_context=1)
    reading = atlas.with_config(dataclasses.replace(atlas.config, context=context))
    page = Passage("3", "nothing", metadata={"wikipedia_id": 7})
    given = (Passage("1", "nothing"), Passage("2", "SUPPORTS"), page)
    unnamed = dataclasses.replace(
        asked[0],
        answers=("SUPPORTS",),
        measures=("accuracy",),
        gold_passage_ids=frozenset(),
        passages=given,
    )
    evident = dataclasses.replace(unnamed, provenance=(frozenset({"7"}),))
    assert [row[0].id for row in oracle_passages(reading, [unnamed, evident])] == ["1", "3"]
    other = dataclasses.replace(unnamed, passages=(Passage("4", "nothing"), page))
    asking = dataclasses.replace(evident, passages=())
    third = dataclasses.replace(unnamed, passages=(Passage("5", "nothing"),))
    for seed in range(5):
        drawn = random_passages(reading, [asking, other, third], seed=seed)
        assert drawn[0][0].id in {"4", "5"}


def test_random_passages_repeat_with_the_seed_and_are_never_gold(atlas, asked):
    first = random_passages(atlas, asked, seed=1)
    assert first == random_passages(atlas, list(reversed(asked)), seed=1)[::-1]
    assert first != random_passages(atlas, asked, seed=2)
    for example, row in zip(asked, first, strict=True):
        assert not {passage.id for passage in row} & example.gold_passage_ids


def test_given_passages_are_the_pool_where_nothing_is_indexed(atlas, asked):
    context = dataclasses.replace(atlas.config.context, passages_from="file", n_context=2)
    reading = atlas.with_config(dataclasses.replace(atlas.config, context=context))
    given = [
        dataclasses.replace(
            example,
            gold_passage_ids=frozenset(),
            passages=(Passage(f"{n}/1", "nothing"), Passage(f"{n}/2", example.answers[0])),
        )
        for n, example in enumerate(asked)
    ]
    assert [row[0].id for row in oracle_passages(reading, given)] == [
        f"{n}/2" for n in range(len(asked))
    ]
    for n, row in enumerate(random_passages(reading, given, seed=0)):
        assert all(not passage.id.startswith(f"{n}/") for passage in row)
    with pytest.raises(InputError, match="to draw from"):
        random_passages(reading, given[:1], seed=0)


def test_closed_book_models_have_nothing_to_compare(atlas, asked):
    context = dataclasses.replace(atlas.config.context, passages_from="none")
    closed = atlas.with_config(dataclasses.replace(atlas.config, context=context))
    with pytest.raises(InputError, match="open an index"):
        measure_conditions(closed, asked)


def test_unequal_numbers_of_passages_are_refused(atlas, asked):
    with pytest.raises(ValueError, match="give each as many"):
        read_given(atlas, asked[:2], [[Passage("a", "b")], []])
