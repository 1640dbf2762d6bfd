from __future__ import annotations

import pytest

from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import BaseTask, QATask, TaskConfig, with_wording
from atlas_lm.types import Example, Passage

ROW = {"id": "7", "question": "Who wrote Hamlet?", "answers": ["Shakespeare", "the Bard"]}


def qa(row, **options) -> Example:
    return QATask(TaskConfig(**options)).process(row, place="f.jsonl:1")


def test_the_t5_wording_is_the_default():
    example = qa(ROW)
    assert example.query == "question: Who wrote Hamlet? answer: <extra_id_0>"
    assert example.retriever_query == "Who wrote Hamlet?"
    assert example.target == "<extra_id_0> Shakespeare"
    assert example.answers == ("Shakespeare", "the Bard")
    assert example.passages is None
    assert example.metadata == {}


def test_a_decoder_only_reader_gets_plain_wording_and_it_is_saved_in_full():
    config = with_wording(TaskConfig(), QATask, "causal")
    assert (config.query_template, config.target_template) == ("{question}", "{answer}")
    example = QATask(config).process(ROW, place="f:1")
    assert (example.query, example.target) == ("Who wrote Hamlet?", "Shakespeare")


def test_wording_comes_from_the_user_then_the_model_then_the_task():
    saved = TaskConfig(query_template="Q: {question}", target_template="A: {answer}")
    config = with_wording(TaskConfig(target_template="{answer}"), QATask, "fid", keep=saved)
    assert (config.query_template, config.target_template) == ("Q: {question}", "{answer}")
    other = with_wording(TaskConfig(task="base"), BaseTask, "fid", keep=saved)
    assert (other.query_template, other.target_template) == ("{query}", "{target}")


def test_braces_in_a_question_are_text():
    assert "{answer} {0}" in qa({**ROW, "question": "{answer} {0}"}).query


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{questoin}",
            r"unknown field 'questoin' \(did you mean 'question'\?\); known: {question}",
        ),
        ("{question.__class__}", "unknown field"),
        ("{}", "unknown field ''"),
        ("{question", "expected '}'"),
    ],
)
def test_a_wrong_template_is_refused_before_any_row(template, message):
    with pytest.raises(InputError, match=message):
        QATask(TaskConfig(query_template=template))


def test_target_field_wins_over_answers_and_stands_in_for_them():
    assert qa({**ROW, "target": "Will"}).target == "<extra_id_0> Will"
    assert qa({**ROW, "target": "Will"}).answers == ("Shakespeare", "the Bard")
    assert qa({"id": 1, "question": "Who?", "target": "Will"}).answers == ("Will",)


def test_sampled_targets_follow_the_seed_and_not_the_id():
    rows = [{"id": str(n), "question": f"q{n}", "answers": ["a", "b", "c"]} for n in range(60)]
    drawn = [qa(row, sample_target=True, target_template="{answer}").target for row in rows]
    assert set(drawn) == {"a", "b", "c"}
    renumbered = [{**row, "id": f"x{row['id']}"} for row in rows]
    again = [qa(row, sample_target=True, target_template="{answer}").target for row in renumbered]
    assert again == drawn
    other = [qa(row, sample_target=True, target_template="{answer}", seed=1).target for row in rows]
    assert other != drawn


def test_given_passages_gold_ids_and_the_rest():
    example = qa(
        {
            **ROW,
            "passages": [{"id": 3, "title": "T", "text": "x", "source": "w"}, {"text": ""}],
            "gold_passage_ids": [3, "4"],
            "excluded_passage_ids": ["9"],
            "level": "hard",
        }
    )
    assert example.passages == (
        Passage("3", "x", "T", metadata={"source": "w"}),
        Passage("7/2", ""),
    )
    assert example.gold_passage_ids == {"3", "4"}
    assert example.excluded_passage_ids == {"9"}
    assert example.metadata == {"level": "hard"}
    assert qa({**ROW, "passages": []}).passages == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, "missing field 'question'"),
        ({"question": 3}, "question is a number 3; it must be a string"),
        ({"question": "  "}, "question is blank"),
        ({"answers": "x"}, r"answers is a string; write it as a list: answers: \['x'\]"),
        ({"answers": []}, "answers is an empty list"),
        ({"answers": ["x", 4]}, r"answers\[1\] is a number 4; it must be a string"),
        ({"answers": {"a": 1}}, "answers is an object"),
        ({"target": ["x"]}, "target is a list"),
        ({"id": 1.5}, "id is a number 1.5; it must be a string or whole number"),
        ({"id": True}, "id is a truth value"),
        ({"passages": "x"}, "passages is a string 'x'; it must be a list of objects"),
        ({"passages": ["x"]}, r"passages\[0\] is a string 'x'; it must be an object"),
        ({"passages": [{"title": "t"}]}, r"passages\[0\]: missing field 'text'"),
        ({"passages": [{"text": 1}]}, r"passages\[0\]: text is a number 1"),
        ({"gold_passage_ids": "4"}, "gold_passage_ids is a string '4'; it must be a list"),
        ({"gold_passage_ids": [None]}, r"gold_passage_ids\[0\] is null"),
    ],
)
def test_a_wrong_field_names_place_value_and_remedy(change, message):
    with pytest.raises(InputError, match=r"^f\.jsonl:1: .*" + message):
        qa({**ROW, **change})


def test_base_is_word_for_word():
    task = BaseTask(TaskConfig(task="base"))
    example = task.process({"id": "1", "query": "say {x}", "target": " yes"}, place="f:1")
    assert (example.query, example.target, example.answers) == ("say {x}", " yes", (" yes",))
    row = {"id": "1", "query": "q", "target": "yes", "answers": ["yes", "yeah"]}
    assert task.process(row, place="f:1").answers == ("yes", "yeah")


def test_a_question_of_ones_own_is_worded_like_those_of_a_file():
    task = QATask(TaskConfig())
    example = task.ask("Who wrote Hamlet?", id="3")
    assert example.query == "question: Who wrote Hamlet? answer: <extra_id_0>"
    assert (example.id, example.target, example.answers) == ("3", "", ())
    with pytest.raises(InputError, match="question: question is blank"):
        task.ask(" ")


@pytest.mark.parametrize(
    ("template", "written", "answer"),
    [
        (None, "<extra_id_0> Shakespeare ", "Shakespeare"),
        (None, "Shakespeare", "Shakespeare"),
        ("{answer}", " The Bard", "The Bard"),
        ("The answer is {answer}.", "The answer is Will Shakespeare.", "Will Shakespeare"),
        ("The answer is {answer}.", "Will", "Will"),
    ],
)
def test_the_answer_is_what_the_target_wording_surrounds(template, written, answer):
    assert QATask(TaskConfig(target_template=template)).answer(written) == answer
