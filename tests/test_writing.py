from __future__ import annotations

from dataclasses import replace

import pytest

from atlas_lm.data.tinymodels import tiny_reader
from atlas_lm.model import Atlas, AtlasConfig
from atlas_lm.retrieve import ContextConfig, no_passages
from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import TaskConfig
from atlas_lm.types import Batch, Example, Generation
from atlas_lm.writing import read_allowed


def model(**generation) -> Atlas:
    task = TaskConfig(task="base", query_template="{query}", target_template="{target}")
    generation = Generation(max_new_tokens=4, **generation)
    config = AtlasConfig(
        task=task, context=ContextConfig(passages_from="none"), generation=generation
    )
    return Atlas(None, tiny_reader(["ask", "red", "green", "blue"], seed=3), config)


BATCH = Batch((Example("1", "ask", ""), Example("2", "red", "")))


def test_answers_are_held_to_the_lines_of_a_file(tmp_path):
    path = tmp_path / "allowed.txt"
    path.write_text("green blue\n\nblue\ngreen blue\n")
    assert read_allowed(path) == ("green blue", "blue")
    written = model(allowed=str(path)).generate(BATCH, no_passages(BATCH))
    assert {answer.text for answer in written} <= {"green blue", "blue"}


def test_a_decoder_prompt_may_name_the_query():
    atlas = model(decoder_prompt="{query} green")
    inputs = atlas.reader.collate(BATCH.query, [(), ()])
    prompted = atlas.reader.generate(
        inputs, Generation(max_new_tokens=4), decoder_prompt=["ask green", "red green"]
    )
    written = atlas.generate(BATCH, no_passages(BATCH))
    assert [answer.token_ids for answer in written] == [answer.token_ids for answer in prompted]
    free = model().generate(BATCH, no_passages(BATCH))
    assert [answer.log_prob for answer in free] != [answer.log_prob for answer in written]


def test_choices_hold_a_batch_only_where_every_example_has_some():
    chosen = tuple(replace(example, choices=("blue",)) for example in BATCH.examples)
    batch = Batch(chosen)
    assert [answer.text for answer in model().generate(batch, no_passages(batch))] == ["blue"] * 2
    mixed = Batch((chosen[0], BATCH.examples[1]))
    free = model().generate(BATCH, no_passages(BATCH))
    assert model().generate(mixed, no_passages(mixed))[1] == free[1]


@pytest.mark.parametrize(("content", "message"), [(None, "no such file"), ("\n \n", "no answers")])
def test_a_file_without_answers(tmp_path, content, message):
    path = tmp_path / "allowed.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_allowed(path)
