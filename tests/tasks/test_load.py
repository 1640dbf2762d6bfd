from __future__ import annotations

import gzip
import json

import pytest

from atlas_lm.runtime.errors import InputError
from atlas_lm.tasks import TaskConfig, load_examples

GOOD = {"question": "Who?", "answers": ["me"]}


def write(tmp_path, *lines: str | dict):
    path = tmp_path / "data.jsonl"
    written = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(line + "\n" for line in written), "utf-8")
    return path


def test_ids_default_to_line_numbers_from_1(tmp_path):
    path = write(tmp_path, GOOD, {**GOOD, "id": "x"}, GOOD)
    assert [example.id for example in load_examples(path, TaskConfig())] == ["1", "x", "3"]


def test_gzip_byte_order_mark_and_missing_final_newline(tmp_path):
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()))
    assert len(load_examples(path, TaskConfig())) == 1


def test_packed_with_zstandard_and_a_saved_dataset(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    datasets = pytest.importorskip("datasets")
    plain = write(tmp_path, GOOD, {**GOOD, "id": "x"})
    packed = tmp_path / "data.jsonl.zst"
    packed.write_bytes(zstandard.compress(plain.read_bytes()))
    assert load_examples(packed, TaskConfig()) == load_examples(plain, TaskConfig())
    datasets.Dataset.from_list([GOOD, GOOD]).save_to_disk(str(tmp_path / "saved"))
    assert len(load_examples(tmp_path / "saved", TaskConfig(), limit=1)) == 1


def test_limit_reads_no_further(tmp_path):
    path = write(tmp_path, GOOD, GOOD, "not json")
    assert len(load_examples(path, TaskConfig(), limit=2)) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "blank line; remove it"),
        ("   ", "blank line; remove it"),
        ("{'question': 1}", "malformed JSON .* column 2"),
        ('"text"', "a string 'text'; every line must be one JSON object"),
        ("[1, 2]", "a list .* one JSON object"),
        ({"question": "Who?"}, "missing field 'answers'; the row has: question"),
        ({"question": "Who?", "answer": ["x"]}, "missing field 'answers' .did you mean 'answer'"),
        ({"answers": ["x"]}, "missing field 'question'"),
        ({**GOOD, "answers": 3}, "answers is a number 3"),
        ({**GOOD, "id": "1"}, "id '1' was used on line 1 already"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    path = write(tmp_path, {**GOOD, "id": "1"}, line, GOOD)
    with pytest.raises(InputError, match=message) as error:
        load_examples(path, TaskConfig())
    assert str(error.value).startswith(f"{path}:2: ")


def test_an_id_may_not_repeat_a_line_number(tmp_path):
    path = write(tmp_path, {**GOOD, "id": "2"}, GOOD)
    with pytest.raises(InputError, match=r":2: id '2' was used on line 1"):
        load_examples(path, TaskConfig())


def test_missing_and_empty_files_and_directories(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_examples(tmp_path / "none.jsonl", TaskConfig())
    with pytest.raises(InputError, match="is a directory"):
        load_examples(tmp_path, TaskConfig())
    with pytest.raises(InputError, match="the file is empty"):
        load_examples(write(tmp_path), TaskConfig())


def test_damaged_gzip_and_gzip_without_its_ending(tmp_path):
    whole = gzip.compress(json.dumps(GOOD).encode() * 100)
    damaged = tmp_path / "cut.jsonl.gz"
    damaged.write_bytes(whole[:-20])
    with pytest.raises(InputError, match="not a whole gzip file"):
        load_examples(damaged, TaskConfig())
    unnamed = tmp_path / "data.jsonl"
    unnamed.write_bytes(whole)
    with pytest.raises(InputError, match=r"give it the ending \.gz"):
        load_examples(unnamed, TaskConfig())


def test_one_document_over_many_lines_is_recognised(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps([GOOD], indent=2))
    with pytest.raises(InputError, match=r":1: .*not JSONL"):
        load_examples(path, TaskConfig())


def test_questions_alone_can_be_asked(tmp_path):
    path = write(tmp_path, {"question": "Who?"})
    (example,) = load_examples(path, TaskConfig(), require_answers=False)
    assert (example.answers, example.target) == ((), "")
