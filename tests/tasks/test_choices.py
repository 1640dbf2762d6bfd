"""fever and multiple_choice: labels, options, orders, demonstrations; and wrong rows."""

from __future__ import annotations

import json

import pytest

from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import ChoiceConfig, Examples, TaskConfig, make_task
from atlas_lm.tasks.multiple_choice import all_orders, nth_order

ROW = {
    "id": "q",
    "question": "What is 2 + 2?",
    "options": {"A": "3", "B": "4", "C": "5", "D": "22"},
    "answer": "B",
}
PASSAGES = [{"title": "t", "text": "given"}]


def fever(row, name="fever", **choices):
    task = make_task(TaskConfig(task=name, choices=ChoiceConfig(**choices)))
    return task.process({"id": "1", "claim": "Water is wet.", **row}, place="f:1")


def choose(row=None, **choices):
    task = make_task(TaskConfig(task="multiple_choice", choices=ChoiceConfig(**choices)))
    return task, task.process(ROW if row is None else {**ROW, **row}, place="f:1")


def test_fever_writes_a_word_for_each_label():
    example = fever({"label": "NOT ENOUGH INFO", "passages": PASSAGES})
    assert example.query == "question: Water is wet. answer: <extra_id_0>"
    assert example.target == "<extra_id_0> maybe"
    assert example.options == ("true", "false", "maybe")
    assert example.choices[0] == "<extra_id_0> true"
    assert example.answers == ("maybe",)
    assert example.sought == "Water is wet."
    assert example.passages[0].text == "given"


def test_fever_of_two_labels_and_words_of_ones_own():
    assert fever({"label": "REFUTES"}, "fever2").options == ("true", "false")
    words = {"SUPPORTS": "yes", "REFUTES": "no"}
    assert fever({"label": "SUPPORTS"}, labels=words).target == "<extra_id_0> yes"


def test_a_label_outside_the_set():
    message = r"f:1: label 'SUPORTS' is not one of SUPPORTS, .*did you mean 'SUPPORTS'"
    with pytest.raises(InputError, match=message):
        fever({"label": "SUPORTS"})
    with pytest.raises(InputError, match="label 'NOT ENOUGH INFO' is not one of SUPPORTS, REFUTES"):
        fever({"label": "NOT ENOUGH INFO"}, "fever2")


def test_a_claim_without_a_label_can_be_asked():
    assert fever({}).answers == ()
    assert make_task(TaskConfig(task="fever")).ask("Is it?").choices


def test_multiple_choice_as_given():
    task, example = choose({"passages": PASSAGES})
    assert example.query == (
        "question: What is 2 + 2? options: (A) 3 (B) 4 (C) 5 (D) 22 answer: <extra_id_0>"
    )
    assert example.target == "<extra_id_0> B"
    assert example.choices == tuple(f"<extra_id_0> {letter}" for letter in "ABCD")
    assert example.answers == ("4",)
    assert example.retriever_query == "What is 2 + 2? 3 4 5 22"
    assert example.passages[0].text == "given"
    assert task.orders(example) == [example]


def test_every_order_names_each_option_by_its_letter():
    task, example = choose(debias="cyclic")
    orders = task.orders(example)
    assert len(orders) == 4
    assert orders[0] == example
    assert "(A) 4 (B) 5 (C) 22 (D) 3" in orders[1].query
    assert orders[1].target == "<extra_id_0> A"
    assert orders[1].choices == tuple(f"<extra_id_0> {letter}" for letter in "DABC")
    task, example = choose(debias="all")
    assert len({order.query for order in task.orders(example)}) == 24


def test_training_sees_every_order_of_four_options(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({**ROW, "id": str(n)}) + "\n" for n in range(3)))
    for kind, count in (("cyclic", 4), ("all", 24)):
        config = TaskConfig(task="multiple_choice", choices=ChoiceConfig(train_permutations=kind))
        examples = Examples.open(path, config, variants=True)
        assert len(examples) == 3 * count
        for question in range(3):
            queries = {examples[draw * 3 + question].query for draw in range(count)}
            assert len(queries) == count
        assert len(Examples.open(path, config)) == 3


def test_orders():
    assert all_orders(3, "cyclic") == [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    assert [nth_order(3, "all", n) for n in range(6)] == all_orders(3, "all")
    assert nth_order(3, "all", 6) == (0, 1, 2)


def test_any_number_of_options():
    options = [f"o{n}" for n in range(26)]
    _, example = choose({"options": options, "answer": "Z"})
    assert example.target == "<extra_id_0> Z"
    assert len(example.choices) == 26
    _, example = choose({"options": ["yes", "no"], "answer": "A"})
    assert len(example.choices) == 2


def test_a_letter_that_a_saved_dataset_fills_with_null_is_no_option():
    _, example = choose({"options": {**ROW["options"], "E": None}})
    assert len(example.options) == 4
    with pytest.raises(InputError, match="lettered A, C; letter them"):
        choose({"options": {"A": "3", "B": None, "C": "5"}, "answer": "A"})


def test_options_can_be_written_out():
    _, example = choose(write="text")
    assert example.target == "<extra_id_0> 4"
    assert example.choices[3] == "<extra_id_0> 22"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"options": None}, "f:1: missing field 'options'"),
        ({"options": {"A": "x"}}, "1 options; a choice needs 2 or more"),
        ({"options": [str(n) for n in range(27)]}, "more than 26 options"),
        ({"options": {"A": "x", "C": "y"}}, "lettered A, C; letter them A to B"),
        ({"options": "3 or 4"}, "options is a string"),
        ({"answer": "E"}, "answer is 'E', but the options are A to D"),
        ({"options": {"A": "x", "B": " "}}, "f:1: options: B is blank"),
    ],
)
def test_wrong_options(row, message):
    with pytest.raises(InputError, match=message):
        choose(row)


def test_too_many_orders_are_refused():
    task, example = choose({"options": list("abcdefgh")}, debias="all")
    with pytest.raises(InputError, match=r"40,320 orders; set task\.choices\.debias=cyclic"):
        task.orders(example)


def demonstrations(tmp_path, *subjects):
    path = tmp_path / "dev.jsonl"
    rows = [
        {**ROW, "id": str(n), "question": f"Question {n}?", "subject": subject}
        for n, subject in enumerate(subjects)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_demonstrations_of_the_subject_come_first(tmp_path):
    path = demonstrations(tmp_path, "algebra", "law", "algebra", "algebra")
    _, example = choose({"subject": "algebra"}, demonstrations=path, shots=2)
    shown = example.query.split("\n\n")
    assert shown[0] == "question: Question 0? options: (A) 3 (B) 4 (C) 5 (D) 22 answer: B"
    assert "Question 2?" in shown[1]
    assert shown[2].endswith("answer: <extra_id_0>")
    assert len(shown) == 3
    assert "Question" not in example.retriever_query
    _, example = choose(demonstrations=path)
    assert example.query.count("Question") == 4


def test_a_subject_without_demonstrations(tmp_path):
    with pytest.raises(InputError, match=r"f:1: subject 'physics' has no question in .*add some"):
        choose({"subject": "physics"}, demonstrations=demonstrations(tmp_path, "law"))


def test_answers_missing_is_said_by_the_tasks_own_field(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({key: ROW[key] for key in ("question", "options")}) + "\n")
    with pytest.raises(InputError, match="missing field 'answer'"):
        Examples.open(path, TaskConfig(task="multiple_choice"))
