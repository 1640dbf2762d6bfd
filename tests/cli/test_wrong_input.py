"""Each wrong input gets one message with the place and the remedy, exit code 2, nothing left."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from atlas_lm.cli import main
from atlas_lm.model import Atlas
from atlas_lm.reader import open_reader
from atlas_lm.retriever import BiEncoder
from atlas_lm.runtime import files
from atlas_lm.runtime.errors import InputError
from tests.cli.running import run_overrides

GOOD = [{"id": str(n), "title": "T", "text": f"text {n}"} for n in range(8)]


def complaint(capsys, *words) -> str:
    """Run a command that must fail as the user's fault; return its one message."""
    assert main(list(map(str, words))) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    complaints = [line for line in captured.err.splitlines() if line.startswith("atlas-lm: ")]
    assert len(complaints) == 1
    assert "Traceback" not in captured.err
    return complaints[0]


def write(path, rows) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def build_words(tiny, passages, out) -> list:
    retriever = tiny.drawn / "retriever"
    return ["index", "build", "--passages", passages, "--retriever", retriever, "--out", out]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": "6", "text": ', ["passages.jsonl:7", "JSON"]),
        ({"id": "6"}, ["passages.jsonl:7", "text"]),
        ({"text": "no id"}, ["passages.jsonl:7", "id"]),
        ({"id": "2", "text": "again"}, ["passages.jsonl:7", "'2'", "3"]),
        ({"id": "6", "text": 5}, ["passages.jsonl:7", "text"]),
        ("", ["passages.jsonl:7", "blank"]),
    ],
    ids=["malformed", "missing-field", "missing-id", "duplicate-id", "non-string", "blank"],
)
def test_a_wrong_passage_is_named_by_its_line(line, words, tiny, tmp_path, capsys):
    rows = [*GOOD[:6], line, *GOOD[7:]]
    passages = write(tmp_path / "passages.jsonl", rows)
    message = complaint(capsys, *build_words(tiny, passages, tmp_path / "out.idx"))
    for word in words:
        assert word in message
    assert not (tmp_path / "out.idx").exists()


@pytest.mark.parametrize("content", [None, ""], ids=["missing", "empty"])
def test_no_passages_are_no_index(content, tiny, tmp_path, capsys):
    passages = tmp_path / "passages.jsonl"
    if content is not None:
        passages.write_text(content)
    message = complaint(capsys, *build_words(tiny, passages, tmp_path / "out.idx"))
    assert "passages.jsonl" in message
    assert not (tmp_path / "out.idx").exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (None, ["q.jsonl", "no such file"]),
        ([], ["q.jsonl", "empty"]),
        ([{"question": "a", "answers": ["b"]}] * 6 + ['{"question": '], ["q.jsonl:7", "JSON"]),
        ([{"answers": ["b"]}], ["q.jsonl:1", "question"]),
        ([{"question": "a", "answers": "b"}], ["q.jsonl:1", "answers"]),
    ],
    ids=["missing", "empty", "malformed", "missing-field", "wrong-type"],
)
def test_a_wrong_question_is_named_by_its_line(rows, words, tiny, pair, tmp_path, capsys):
    data = tmp_path / "q.jsonl"
    if rows is not None:
        write(data, rows)
    message = complaint(capsys, "evaluate", *pair, "--index", tiny.index, "--data", data)
    for word in words:
        assert word in message


def test_long_passages_are_cut_counted_and_said(tiny, tmp_path, capsys):
    long = {"id": "long", "text": "word " * 500}
    passages = write(tmp_path / "passages.jsonl", [*GOOD, long])
    words = build_words(tiny, passages, tmp_path / "out.idx")
    assert main([*map(str, words), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["truncated"] == 1
    assert "1 passages are longer than" in captured.err


def test_an_index_of_another_encoder_is_refused(tiny, tmp_path, capsys):
    other = tmp_path / "retriever"
    shutil.copytree(tiny.drawn / "retriever", other)
    for file in other.rglob("model.safetensors"):
        weights = load_file(file)
        name = next(iter(weights))
        weights[name] = weights[name] + 1
        save_file(weights, file, metadata={"format": "pt"})
    message = complaint(
        capsys,
        *("retrieve", "--retriever", other, "--index", tiny.index),
        *("--data", tiny.world / "test.jsonl"),
    )
    assert "encoder" in message
    assert "rebuild" in message


def test_an_index_of_another_corpus_is_refused(tiny, tmp_path, capsys):
    shutil.copytree(tiny.out / "world", tmp_path / "world")
    index = tmp_path / "own.idx"
    passages = tmp_path / "world" / "passages.jsonl"
    assert main(list(map(str, build_words(tiny, passages, index)))) == 0
    with passages.open("a") as file:
        file.write(json.dumps({"id": "new", "text": "one more"}) + "\n")
    message = complaint(
        capsys,
        *("retrieve", "--retriever", tiny.drawn / "retriever", "--index", index),
        *("--data", tiny.world / "test.jsonl"),
    )
    assert "passages" in message


def test_topk_of_nothing_is_refused(capsys):
    words = ("--retriever", "R", "--index", "I", "--data", "D", "--topk", 0)
    assert "--topk 0: give at least 1" in complaint(capsys, "retrieve", *words)


def test_topk_beyond_the_corpus_names_both_numbers(tiny, capsys):
    message = complaint(
        capsys,
        *("retrieve", "--retriever", tiny.drawn / "retriever", "--index", tiny.index),
        *("--data", tiny.world / "test.jsonl", "--topk", "100000"),
    )
    assert "100000" in message


def test_an_unknown_recipe_key_gets_the_nearest_name(tmp_path, capsys):
    out = tmp_path / "run"
    message = complaint(capsys, "train", "quickstart", "--out", out, "training.total_step=3")
    assert "'training.total_step'" in message
    assert "total_steps" in message
    assert not out.exists()


def test_an_unknown_recipe_and_verb_get_the_nearest_name(tmp_path, capsys):
    assert "quickstart" in complaint(capsys, "train", "quikstart", "--out", tmp_path / "run")
    assert "'evaluate'" in complaint(capsys, "evalute")


@pytest.mark.parametrize(
    "contradiction",
    [
        ["context.n_context=99"],
        ["staleness.refresh_schedule=10"],
        ["context.passages_from=none"],
        ["training.freeze_retriever_steps=1000"],
    ],
)
def test_contradictory_options_name_both(contradiction, tmp_path, capsys):
    message = complaint(capsys, "train", "quickstart", "--out", tmp_path / "run", *contradiction)
    assert message.count("=") >= 2
    assert not (tmp_path / "run").exists()


def test_an_unreadable_model_directory_is_named(tmp_path, capsys):
    message = complaint(capsys, "answer", "--model", tmp_path, "Who?")
    assert str(tmp_path) in message
    message = complaint(capsys, "answer", "--reader", tmp_path, "--passages-from", "none", "Who?")
    assert str(tmp_path) in message


def test_pickled_weights_are_refused(tiny, tmp_path, capsys):
    model = tmp_path / "pickled"
    shutil.copytree(tiny.drawn / "retriever", model)
    for file in model.rglob("model.safetensors"):
        file.unlink()
        torch.save({"weight": torch.ones(1)}, file.with_name("pytorch_model.bin"))
    passages = write(tmp_path / "passages.jsonl", GOOD)
    words = ["index", "build", "--passages", passages, "--retriever", model]
    message = complaint(capsys, *words, "--out", tmp_path / "out.idx")
    assert "safetensors" in message
    assert not (tmp_path / "out.idx").exists()


def test_a_full_disk_leaves_no_half_written_model(tiny, tmp_path, capsys, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    model = Atlas(
        BiEncoder.from_pretrained(tiny.drawn / "retriever"), open_reader(tiny.drawn / "reader")
    )
    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(InputError, match="disk is full"):
        model.save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_more_shots_than_questions_say_how_to_take_all(tiny, tmp_path, capsys):
    message = complaint(
        capsys,
        *("train", "tinyworld", "--out", tmp_path / "run"),
        f'reader.path="{tiny.drawn / "reader"}"',
        f'retriever.path="{tiny.drawn / "retriever"}"',
        f'data.train="{tiny.world / "test.jsonl"}"',
        f'data.index="{tiny.index}"',
        "data.shots=100000",
    )
    assert "data.shots=100000" in message
    assert "data.shots=0" in message


def test_an_out_that_is_a_file_or_must_not_be_written_is_named(tiny, tmp_path, capsys, monkeypatch):
    file = tmp_path / "README.md"
    file.touch()
    for words in (["quickstart"], ["quickstart", "--tiny"], ["quickstart", "--force"]):
        assert f"{file}: Not a directory" in complaint(capsys, *words, "--out", file)
    words = ["train", "tinyworld", *run_overrides(tiny), "training.total_steps=3"]
    assert f"{file}: File exists" in complaint(capsys, *words, "--out", file)

    def forbidden(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", forbidden)
    out = tmp_path / "run"
    assert f"{out}: Permission denied" in complaint(capsys, *words, "--out", out)


def test_set_names_a_setting_of_the_reader_as_recipes_do(pair, capsys):
    words = ["answer", *pair, "--passages-from", "none", "who?"]
    assert main([*words, "--set", "reader.settings.text_length=5"]) == 2
    assert "unknown key 'text_length' (did you mean 'text_maxlength'?)" in capsys.readouterr().err
