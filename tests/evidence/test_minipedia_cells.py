"""Every cell of the Minipedia scripts, once, on 144 passages with a reader of random weights."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

from tests.reader.causal_toys import toy_reader

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "evidence"
WORDS = [a + b for a in ("ri", "sto", "la", "cro") for b in ("ver", "ne", "mp")]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Minipedia's files, made up: a question names the title of the passage with its answer."""
    out = tmp_path_factory.mktemp("minipedia")
    draw = random.Random(0)
    titles = [f"{a.title()} {b}" for a in WORDS for b in WORDS]
    passages = [
        {"id": f"lead-{n}", "title": title, "text": f"{title} is a {draw.choice(WORDS)} of old."}
        for n, title in enumerate(titles)
    ]
    rows = [
        {
            "id": f"q-{n}",
            "question": f"What is {passage['title']}?",
            "answers": [passage["text"].split()[-3]],
            "gold_passage_ids": [passage["id"]],
        }
        for n, passage in enumerate(passages)
    ]
    (out / "supported").mkdir()
    files = {
        "passages": passages,
        "supported/train": rows[:36],
        "supported/validation": rows[36:46],
        "supported/test": rows[46:66],
    }
    for name, lines in files.items():
        (out / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in lines))
    return out


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("toy") / "reader"
    toy_reader().save_pretrained(path)
    return path


@pytest.fixture
def run(data, reader, tmp_path, monkeypatch):
    """Run a script's ``main`` with these words; the strong encoder is stood in for."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def main(script: str, *words: str) -> Path:
        import minipedia_setup

        nano = minipedia_setup.STARTS["nano"]
        monkeypatch.setattr(minipedia_setup, "STARTS", {"nano": nano, "minilm": nano})
        module = __import__(script)
        setting = [
            *("--data", str(data), "--questions", "3"),
            *("--override", f"reader.path={reader}"),
            *("--override", "reader.settings.trainable_layers=1"),
        ]
        out = tmp_path / script
        monkeypatch.setattr(sys, "argv", [script, *words, "--out", str(out), *setting])
        module.main()
        return out

    return main


@pytest.mark.slow
def test_every_cell_runs_and_is_in_the_tables(run, tmp_path):
    pytest.importorskip("bm25s")
    pytest.importorskip("matplotlib")
    shots = ("--shots", "24")
    joint = run("minipedia_joint", *shots, "--objectives", "loop", "emdr2")
    at = ("--joint", str(joint))
    context = run("n_context", "minipedia", *at, "--teacher", "s24-0-nano")
    lab = run("loss_lab", "minipedia", *at, *shots)
    import tables
    import write_tables

    cells = tables.read_cells([joint, context, lab])
    kinds = {name.partition("/")[0] for name in cells}
    assert kinds >= {"retrieval", "prompt", "teacher", "control", "control-prompted", "read"}
    assert kinds >= {"tune", "learn", "joint", "towers", "variant", "n_context", "loss_lab"}
    assert cells["learn/supported-test/s24-0-nano/control-loop"]["shots"] == 24
    made = {name for name, (table, _) in write_tables.tables(cells).items() if table}
    assert {"retrieval supported-test", "controls supported-test", "chosen"} <= made
    assert {"answers supported-test-q3", "variants supported-test-q3", "n_context"} <= made
    write_tables.draw(tmp_path / "figures", cells)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"gains_supported-test.png", "loss_lab_minipedia.png"} <= names
