from __future__ import annotations

import math

import pytest
import torch

from atlas_lm.data.tinymodels import tiny_reader
from atlas_lm.evaluation import measure
from atlas_lm.evaluation.choices import choose, option_probabilities
from atlas_lm.evaluation.measure import answer_batch
from atlas_lm.model import Atlas, AtlasConfig
from atlas_lm.retrieve import ContextConfig, no_passages
from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import ChoiceConfig, TaskConfig
from atlas_lm.types import Batch, Example, Generation

WORDS = [*"ABCD", *(f"({letter})" for letter in "ABCD"), "ask", "three", "four", "five", "many"]
ROW = {"id": "q", "question": "ask", "options": ["three", "four", "five", "many"], "answer": "B"}


def model(**choices) -> Atlas:
    task = TaskConfig(
        task="multiple_choice",
        query_template="{question} {options}",
        target_template="{answer}",
        choices=ChoiceConfig(**choices),
    )
    context = ContextConfig(passages_from="none")
    config = AtlasConfig(task=task, context=context, generation=Generation(max_new_tokens=3))
    return Atlas(None, tiny_reader(WORDS, seed=2), config)


def asked(atlas: Atlas, *rows: dict) -> Batch:
    return Batch(
        tuple(
            atlas.task.process({**ROW, "id": str(n), **row}, place=f"f:{n}")
            for n, row in enumerate(rows)
        )
    )


def test_options_of_equal_text_are_one_with_the_probability_of_both():
    log = [math.log(p) for p in (0.2, 0.1, 0.1, 0.1)]
    found = option_probabilities(["x", "y", "x", "z"], ["A", "B", "C", "D"], log)
    assert found == pytest.approx({"x": 0.6, "y": 0.2, "z": 0.2})
    # The same target written twice is one event.
    found = option_probabilities(["x", "y", "x"], ["x", "y", "x"], [log[0], log[1], log[0]])
    assert found == pytest.approx({"x": 2 / 3, "y": 1 / 3})


def test_no_probability_at_all_is_refused():
    with pytest.raises(InputError, match="no option of x, y has any probability"):
        option_probabilities(["x", "y"], ["A", "B"], [-math.inf, -math.inf])


def test_choices_are_the_likeliest_whole_targets():
    atlas = model(write="text")
    batch = asked(atlas, {}, {"options": ["three many", "five five five"], "answer": "A"})
    chosen = choose(atlas, batch, no_passages(batch))
    for example, choice in zip(batch.examples, chosen, strict=True):
        inputs = atlas.reader.collate([example.query], [[]])
        scores = torch.cat([atlas.reader.score(inputs, [target]) for target in example.choices])
        expected = dict(zip(example.options, scores.softmax(0).tolist(), strict=True))
        assert choice.probabilities == pytest.approx(expected, abs=1e-5)
        assert choice.text == choice.as_given == max(expected, key=expected.__getitem__)
        assert choice.n_orders == 1


def test_debiased_inference_does_not_depend_on_the_order_in_the_file():
    for kind in ("cyclic", "all"):
        atlas = model(debias=kind)
        turned = ["four", "five", "many", "three"]
        batch = asked(atlas, {}, {"options": turned, "answer": "A"})
        first, second = choose(atlas, batch, no_passages(batch))
        assert first.n_orders == {"cyclic": 4, "all": 24}[kind]
        assert first.probabilities == pytest.approx(second.probabilities, abs=1e-6)
        assert first.text == second.text
        assert sum(first.probabilities.values()) == pytest.approx(1.0)


def test_duplicated_options_count_as_one():
    atlas = model()
    batch = asked(atlas, {"options": ["four", "three", "four", "five"], "answer": "C"})
    choice = choose(atlas, batch, no_passages(batch))[0]
    assert list(choice.probabilities) == ["four", "three", "five"]


def test_accuracy_and_debiased_accuracy_are_measured():
    atlas = model(debias="cyclic")
    examples = asked(atlas, *[{"answer": letter} for letter in "ABCD"]).examples
    found = measure(atlas, examples).metrics.means()
    assert found == {"accuracy": 0.25, "debiased_accuracy": 0.25}


def test_a_batch_of_choices_and_free_answers_keeps_its_order():
    atlas = model()
    free = Example("free", "ask", "", ("four",))
    batch = Batch((free, *asked(atlas, {}).examples, free))
    answers = answer_batch(atlas, batch, no_passages(batch))
    assert [type(answer).__name__ for answer in answers] == ["Generated", "Choice", "Generated"]


def test_a_free_answer_to_a_choice_is_one_of_its_targets():
    atlas = model(write="text")
    batch = asked(atlas, {}, {"options": ["five", "many"], "answer": "A"})
    written = atlas.generate(batch, no_passages(batch))
    assert written[0].text in {"three", "four", "five", "many"}
    assert written[1].text in {"five", "many"}
