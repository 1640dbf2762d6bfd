from __future__ import annotations

import json
from collections import Counter

import pytest

from atlas_lm.data.tinyworld import VERBS, TinyWorldConfig, make_tinyworld, write_tinyworld
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import TaskConfig, load_examples

CONFIG = TinyWorldConfig(people=12, lessons=400)


@pytest.fixture(scope="module")
def world():
    return make_tinyworld(CONFIG)


def test_every_answer_stands_in_its_gold_passage_and_in_no_other(world):
    for question in world.train + world.test:
        [answer] = question["answers"]
        found = [row["id"] for row in world.passages if answer in row["text"].split()]
        assert found == question["gold_passage_ids"]


def test_a_question_shares_only_the_name_with_its_passage(world):
    passages = {row["id"]: row for row in world.passages}
    for question in world.train + world.test:
        passage = passages[question["gold_passage_ids"][0]]
        text = f"{passage['title']} {passage['text']}"
        assert set(question["question"].split()) & set(text.split()) == {passage["title"]}


def test_train_and_test_are_apart_and_ask_for_every_fact_once(world):
    ids = Counter(row["id"] for row in world.train + world.test)
    assert set(ids.values()) == {1}
    assert len(ids) == len(world.passages) == 12 * len(VERBS)
    assert len(world.test) == 30


def test_every_person_and_every_relation_of_the_test_is_trained_on(world):
    trained = {word for row in world.train for word in row["question"].split()}
    assert {word for row in world.test for word in row["question"].split()} <= trained


def test_all_text_is_in_the_list_of_words(world):
    rows = [*world.passages, *world.train, *world.test]
    rows += [passage for lesson in world.lessons() for passage in lesson["passages"]]
    text = " ".join(
        value
        for row in rows
        for key in ("title", "text", "question")
        for value in [row.get(key, "")]
    )
    assert set(text.split()) <= set(world.words)
    assert len(world.words) == len(set(world.words))


def test_lessons_state_the_answer_once_or_not_at_all(world):
    stated = Counter()
    for lesson in world.lessons():
        name, verb = lesson["question"].split()
        supporting = [
            passage
            for passage in lesson["passages"]
            if passage["title"] == name and VERBS[passage["text"].split()[0]] == verb
        ]
        stated[len(supporting)] += 1
        assert len(lesson["passages"]) == 4
        if supporting:
            assert supporting[0]["text"].split()[1] == lesson["answers"][0]
    assert set(stated) == {0, 1}
    assert stated[0] / 400 == pytest.approx(CONFIG.unanswerable, abs=0.06)


def test_lessons_do_not_give_this_worlds_facts_away(world):
    facts = {row["id"]: row["text"] for row in world.passages}
    stated = [p for lesson in world.lessons() for p in lesson["passages"]]
    true = sum(facts[passage["id"]] == passage["text"] for passage in stated)
    assert true / len(stated) == pytest.approx(1 / 12, abs=0.03)


def test_one_seed_gives_one_world_and_another_seed_another(world):
    assert make_tinyworld(CONFIG) == world
    assert list(make_tinyworld(CONFIG).lessons()) == list(world.lessons())
    other = make_tinyworld(TinyWorldConfig(people=12, seed=1))
    assert other.passages != world.passages


def test_written_files_are_read_back_by_store_and_task(tmp_path, world):
    write_tinyworld(tmp_path / "world", CONFIG)
    store = PassageStore.open([tmp_path / "world" / "passages.jsonl"])
    assert [passage.id for passage in store.passages(range(len(store)))] == [
        row["id"] for row in world.passages
    ]
    test = load_examples(tmp_path / "world" / "test.jsonl", TaskConfig())
    assert [example.answers for example in test] == [tuple(row["answers"]) for row in world.test]
    lessons = load_examples(tmp_path / "world" / "lessons.jsonl", TaskConfig())
    assert len(lessons) == 400
    assert [p.id for p in lessons[0].passages] == [
        p["id"] for p in next(world.lessons())["passages"]
    ]
    assert "gold_passage_ids" not in json.loads(
        (tmp_path / "world" / "lessons.jsonl").read_text("utf-8").splitlines()[0]
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [("people", 1), ("people", 1000), ("test_share", 1.0), ("lesson_passages", 1)],
)
def test_an_impossible_size_is_refused_by_name(option, value):
    with pytest.raises(InputError, match=f"{option}={value}"):
        TinyWorldConfig(**{option: value})
