from __future__ import annotations

from collections import Counter

import pytest

from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import (
    TaskConfig,
    find_task,
    make_task,
    sample_positions,
    sample_shots,
    shots,
    with_wording,
)
from atlas_lm.types import Example

EXAMPLES = [Example(str(n), f"q{n % 40}", f"a{n % 40}") for n in range(50)]


def said(examples):
    return [(example.query, example.target) for example in examples]


def test_the_draw_follows_content_not_order_or_ids():
    shuffled = [Example(f"x{e.id}", e.query, e.target) for e in reversed(EXAMPLES)]
    assert said(sample_shots(EXAMPLES, 20, 3)) == said(sample_shots(shuffled, 20, 3))


ROWS = {
    "qa": [{"question": f"who {n}?", "answers": [f"a{n}"]} for n in range(40)],
    "base": [{"query": f"who {n}?", "target": f"a{n}"} for n in range(40)],
    "fever": [{"claim": f"so it is {n}", "label": "SUPPORTS"} for n in range(40)],
    "kilt_wned": [
        {"input": f"near [START_ENT] {n} [END_ENT] it", "output": [{"answer": f"a{n}"}]}
        for n in range(40)
    ],
    "multiple_choice": [
        {"question": f"who {n}?", "options": ["x", "y"], "answer": "B"} for n in range(40)
    ],
}


@pytest.mark.parametrize("task", ROWS)
def test_the_draw_does_not_follow_the_wording(task):
    own = next(iter(find_task(task).query_fields))
    worded = [
        with_wording(TaskConfig(task=task), find_task(task), "causal"),
        with_wording(TaskConfig(task=task), find_task(task), "fid"),
        TaskConfig(task=task, query_template=f"Q: {{{own}}}", target_template=None),
    ]
    drawn = []
    for config in worded:
        rows = [row | {"id": str(n)} for n, row in enumerate(ROWS[task])]
        examples = [make_task(config).process(row, place="here") for row in rows]
        drawn.append([example.id for example in sample_shots(examples, 10, 0)])
    assert drawn[0] == drawn[1] == drawn[2]


def test_a_plain_question_is_drawn_as_itself():
    rows = [row | {"id": str(n)} for n, row in enumerate(ROWS["qa"])]
    asked = [make_task(TaskConfig(task="qa")).process(row, place="here") for row in rows]
    plain = [Example(row["id"], row["question"], "", tuple(row["answers"])) for row in rows]
    drawn = [[example.id for example in sample_shots(given, 10, 0)] for given in (asked, plain)]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("k", [0, 7, 5000])
def test_the_draw_is_that_of_all_keys_sorted_and_keeps_few(k, monkeypatch):
    examples = [Example(str(n), f"q{n % 4700}", f"a{n % 4700}") for n in range(5000)]
    kept = []
    offer = shots._Drawn.offer

    def watched(self, *args):
        offer(self, *args)
        kept.append(len(self._found))

    monkeypatch.setattr(shots._Drawn, "offer", watched)
    seen, keyed = Counter(), []
    for position, example in enumerate(examples):
        content = shots._content(example)
        keyed.append((shots._digest(f"3 {seen[content]}".encode() + content), position))
        seen[content] += 1
    assert sample_positions(examples, k, 3) == [position for _, position in sorted(keyed)[:k]]
    assert max(kept) <= 2 * k + 1000


def test_no_example_twice_and_all_of_them_in_the_end():
    drawn = sample_shots(EXAMPLES, 50, 0)
    assert sorted(e.id for e in drawn) == sorted(e.id for e in EXAMPLES)


def test_fewer_shots_are_the_beginning_of_more_and_seeds_differ():
    assert sample_shots(EXAMPLES, 8, 1) == sample_shots(EXAMPLES, 32, 1)[:8]
    assert sample_shots(EXAMPLES, 8, 1) != sample_shots(EXAMPLES, 8, 2)


def test_every_example_is_as_likely():
    counts = dict.fromkeys((e.id for e in EXAMPLES), 0)
    for seed in range(400):
        for example in sample_shots(EXAMPLES, 10, seed):
            counts[example.id] += 1
    # Binomial(400, 1/5): mean 80, standard deviation 8.
    assert all(40 < count < 120 for count in counts.values())


@pytest.mark.parametrize("k", [-1, 51])
def test_too_many_or_too_few_are_refused(k):
    with pytest.raises(InputError, match=f"{k} shots asked for, between 0 and 50"):
        sample_shots(EXAMPLES, k, 0)
