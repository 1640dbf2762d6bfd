"""Every task through the command line, as a user would type it, on a made-up world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atlas_lm.cli import main
from atlas_lm.data.tinymodels import tiny_reader

SENTINELS = [f"<extra_id_{n}>" for n in range(100)]


def said(capsys, *words) -> dict:
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words) -> str:
    assert main(list(map(str, words))) == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def reader(tiny, tmp_path_factory) -> Path:
    """A reader whose vocabulary has sentinels, labels, letters and the words of the world."""
    rows = list(map(json.loads, (tiny.world / "passages.jsonl").read_text().splitlines()))
    words = [word for row in rows for word in (row["title"], *row["text"].split())]
    path = tmp_path_factory.mktemp("reader") / "reader"
    letters = [*"ABCD", "(A)", "(B)", "(C)", "(D)"]
    labels = ["true", "false", "maybe", "SUPPORTS", "REFUTES"]
    tiny_reader([*SENTINELS, *letters, *labels, *words], seed=0).save_pretrained(path)
    return path


def recipe(tiny, reader, *words) -> list[str]:
    return [
        *("train", "tinyworld"),
        f"reader.path={reader}",
        f"retriever.path={tiny.drawn}/retriever",
        "training.total_steps=3",
        "training.bsz=4",
        "training.log_every=1",
        "training.retriever.warmup_steps=1",
        *words,
    ]


def logged(out: Path) -> list[dict]:
    return list(map(json.loads, (out / "metrics.jsonl").read_text().splitlines()))


@pytest.mark.parametrize("task", ["mlm", "lm", "section"])
def test_a_pretext_task_trains_over_the_passages(tiny, reader, tmp_path, task, capsys):
    out = tmp_path / "run"
    words = recipe(
        *(tiny, reader, "--out", out, f"task.task={task}", "task.pretext.overlap=1"),
        *("task.query_template={text}", "task.target_template={target}"),
        f'data.passages=["{tiny.world}/passages.jsonl"]',
    )
    assert said(capsys, *words)["finished"]
    steps = [line for line in logged(out) if "reader_loss" in line]
    assert len(steps) == 3
    assert all(0 <= line["leaked"] <= 1 for line in steps)
    assert all(line["retriever_loss"] > 0 for line in steps)
