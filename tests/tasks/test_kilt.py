from __future__ import annotations

import pytest

from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import TaskConfig, make_task
from atlas_lm.tasks.kilt import KILT_TASKS


def process(row, name="kilt"):
    return make_task(TaskConfig(task=name)).process({"id": "1", **row}, place="f:1")


def page(*ids):
    return [{"wikipedia_id": each, "title": "t", "start_paragraph_id": 1} for each in ids]


def test_answers_and_sets_of_pages():
    example = process(
        {
            "input": "Who wrote it?",
            "output": [
                {"answer": "Ann"},
                {"provenance": page("12", "12")},
                {"answer": "Ann", "provenance": page("7", 8)},
                {"answer": "Anna", "provenance": page("12")},
            ],
            "passages": [{"text": "given"}],
        },
        "kilt_hotpotqa",
    )
    assert example.answers == ("Ann", "Anna")
    assert example.target == "<extra_id_0> Ann"
    assert example.provenance == (frozenset({"12"}), frozenset({"7", "8"}))
    assert example.measures == ("exact_match", "f1", "recall")
    assert example.passages[0].text == "given"


def test_the_target_may_be_drawn_from_the_answers():
    task = make_task(TaskConfig(task="kilt_nq", target_template="{answer}", sample_target=True))
    output = [{"answer": answer} for answer in "xyz"]
    rows = [{"id": str(n), "input": f"q{n}", "output": output} for n in range(50)]
    drawn = [task.process(row, place="f:1").target for row in rows]
    assert set(drawn) == {"x", "y", "z"}
    assert drawn == [task.process({**row, "id": "other"}, place="f:1").target for row in rows]


def test_all_eleven_data_sets_have_their_metric():
    first = {name: task.measures[0] for name, task in KILT_TASKS.items() if name != "kilt"}
    assert first == {
        "kilt_fever": "accuracy",
        "kilt_aidayago2": "accuracy",
        "kilt_wned": "accuracy",
        "kilt_cweb": "accuracy",
        "kilt_trex": "accuracy",
        "kilt_structured_zeroshot": "accuracy",
        "kilt_nq": "exact_match",
        "kilt_hotpotqa": "exact_match",
        "kilt_triviaqa": "exact_match",
        "kilt_eli5": "rouge_l",
        "kilt_wow": "rouge_l",
    }


def test_entity_linking_asks_with_the_words_around_the_mention():
    before, after = (" ".join(f"{side}{n}" for n in range(100)) for side in "ba")
    text = f"{before} [START_ENT] Paris [END_ENT] {after}"
    example = process({"input": text, "output": [{"answer": "Paris Hilton"}]}, "kilt_wned")
    asked = example.retriever_query
    assert asked.startswith("Paris: b52")
    assert "Paris a0" in asked
    assert asked.endswith("a47")
    around = "b98 b99 [START_ENT] Paris [END_ENT] a0 a1"
    assert around in example.query
    assert {"b52", "a47"} < set(example.query.split())
    assert not {"b51", "a48"} & set(example.query.split())


def test_slot_filling_leaves_the_separator_out():
    example = process({"input": "Ann [SEP] place of birth"}, "kilt_trex")
    assert example.retriever_query == "Ann place of birth"
    assert "[SEP]" not in example.query
    assert example.answers == ()


def test_fact_checking_chooses_between_two_labels():
    example = process({"input": "A claim.", "output": [{"answer": "REFUTES"}]}, "kilt_fever")
    assert example.options == ("SUPPORTS", "REFUTES")
    with pytest.raises(InputError, match=r"f:1: answer 'REFUTE' is not one of .*'REFUTES'"):
        process({"input": "A claim.", "output": [{"answer": "REFUTE"}]}, "kilt_fever")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"answer": "x"}, "f:1: output is an object"),
        (["x"], r"f:1: output\[0\] is a string 'x'"),
        ([{"answer": 3}], r"output\[0\]: answer is a number 3"),
        ([{"answer": "x", "provenance": [{"wikipedia_id": 1.5}]}], "wikipedia_id is a number 1.5"),
        ([{"answer": "x", "provenance": "12"}], "provenance is a string"),
    ],
)
def test_wrong_outputs(output, message):
    with pytest.raises(InputError, match=message):
        process({"input": "q", "output": output})
