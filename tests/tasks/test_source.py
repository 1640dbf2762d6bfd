from __future__ import annotations

import gzip
import json
from collections import Counter

import pytest

from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import TaskConfig, load_examples
from atlas_lm.tasks.source import Chosen, Examples, Mixture, Part
from atlas_lm.training.batches import Batches

QA = TaskConfig()


def row(number: int) -> dict:
    return {"question": f"What is {number}?", "answers": [str(number)]}


def write(path, rows) -> str:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz"])
def test_any_example_at_random_is_the_one_of_a_full_reading(tmp_path, name):
    path = write(tmp_path / name, map(row, range(50)))
    source = Examples.open(path, QA)
    whole = load_examples(path, QA)
    assert len(source) == 50
    assert [source[n] for n in (49, 3, 3, 0)] == [whole[n] for n in (49, 3, 3, 0)]
    assert source[-1] == whole[-1]
    assert source[2:5] == whole[2:5]
    assert list(Examples.open(path, QA, limit=7)) == whole[:7]


def test_a_saved_dataset_is_read_by_row(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([row(n) for n in range(30)])
    data.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    source = Examples.open(tmp_path / "saved", QA)
    assert len(source) == 30
    assert source[17].answers == ("17",)
    assert source[17].id == "18"


def test_the_digest_tells_content_and_task_apart(tmp_path):
    path = write(tmp_path / "a.jsonl", map(row, range(5)))
    other = write(tmp_path / "b.jsonl", map(row, range(6)))
    digest = Examples.open(path, QA).digest
    assert digest == Examples.open(path, QA).digest
    assert digest != Examples.open(other, QA).digest
    assert digest != Examples.open(path, QA, limit=3).digest
    assert digest != Examples.open(path, TaskConfig(query_template="{question}")).digest


def test_a_wrong_row_is_named_before_anything_is_read(tmp_path):
    path = write(tmp_path / "a.jsonl", [row(1), {"question": 7}])
    with pytest.raises(InputError, match=r"a\.jsonl:2: question is a number 7"):
        Examples.open(path, QA)


def test_answers_missing(tmp_path):
    path = write(tmp_path / "a.jsonl", [row(1), {"question": "Why?"}])
    with pytest.raises(InputError, match=r"a\.jsonl:2: missing field 'answers'"):
        Examples.open(path, QA)
    assert len(Examples.open(path, QA, require_answers=False)) == 2


def test_an_id_used_twice_is_named(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"id": "x", **row(1)}, row(2), {"id": "x", **row(3)}])
    with pytest.raises(InputError, match=r"a\.jsonl:3: id 'x' was used at .*a\.jsonl:1 already"):
        Examples.open(path, QA)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b'{"question": "a"}\n\n', ":2: blank line"),
        (b"PAR1....", "Parquet; write the rows as JSONL"),
    ],
)
def test_other_content(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        Examples.open(path, QA, require_answers=False)


def mixture(tmp_path, *parts: tuple[str, int, float], seed: int = 0) -> Mixture:
    return Mixture(
        [
            Part(name, Examples.open(write(tmp_path / f"{name}.jsonl", map(row, range(n))), QA), w)
            for name, n, w in parts
        ],
        seed=seed,
    )


def test_a_mixture_has_the_shares_of_its_weights_and_leaves_nothing_out(tmp_path):
    mixed = mixture(tmp_path, ("large", 60, 3), ("small", 7, 1))
    names = [example.id.partition("/")[0] for example in mixed]
    assert Counter(names) == {"large": 60, "small": 20}
    counts = Counter(example.id for example in mixed)
    assert len(counts) == 67
    assert {n for name, n in counts.items() if name.startswith("small")} == {2, 3}
    assert mixed.shares == {"large": 0.75, "small": 0.25}


def test_a_mixture_is_a_function_of_seed_and_position(tmp_path):
    first = mixture(tmp_path, ("a", 11, 2), ("b", 5, 1))
    again = mixture(tmp_path, ("a", 11, 2), ("b", 5, 1))
    other = mixture(tmp_path, ("a", 11, 2), ("b", 5, 1), seed=1)
    assert [first[n].id for n in reversed(range(len(first)))] == [e.id for e in again][::-1]
    assert first.digest == again.digest != other.digest
    assert [e.id for e in first] != [e.id for e in other]


def test_a_weight_must_be_above_0(tmp_path):
    with pytest.raises(InputError, match="weight=0 of 'b'"):
        mixture(tmp_path, ("a", 3, 1), ("b", 3, 0))
    with pytest.raises(InputError, match="weight=inf of 'a'"):
        mixture(tmp_path, ("a", 3, float("inf")), ("b", 3, 1))


def test_chosen_positions(tmp_path):
    source = Examples.open(write(tmp_path / "a.jsonl", map(row, range(9))), QA)
    few = Chosen(source, [8, 2])
    assert [example.answers for example in few] == [("8",), ("2",)]
    assert few.digest != Chosen(source, [2, 8]).digest


def test_a_run_over_a_mixture_resumes_with_the_very_next_example(tmp_path):
    mixed = mixture(tmp_path, ("a", 11, 2), ("b", 5, 1))
    whole = Batches(mixed, 4, seed=3)
    ids = [example.id for batch in whole.take(9) for example in batch.examples]
    first = Batches(mixed, 4, seed=3)
    first.take(4)
    second = Batches(mixture(tmp_path, ("a", 11, 2), ("b", 5, 1)), 4, seed=3)
    second.restore(first.state)
    assert [e.id for batch in second.take(5) for e in batch.examples] == ids[16:]
    other = Batches(mixture(tmp_path, ("a", 11, 2), ("b", 5, 2)), 4, seed=3)
    with pytest.raises(InputError, match="resume"):
        other.restore(first.state)
