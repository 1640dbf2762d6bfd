"""Verbs as a user would type them, and what they are given."""

from __future__ import annotations

import json
from pathlib import Path

from atlas_lm.cli import main

ROOT = Path(__file__).parents[2]


def said(capsys, *words, code: int = 0) -> dict:
    """Run a verb with --json; return what it printed on stdout, which is JSON alone."""
    assert main([*map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_overrides(tiny) -> list[str]:
    """Return the options of a short run of joint training on the made-up world."""
    return [
        f"reader.path={tiny.drawn}/reader",
        f"retriever.path={tiny.drawn}/retriever",
        f"data.train={tiny.world}/train.jsonl",
        f'data.passages=["{tiny.world}/passages.jsonl"]',
        "training.freeze_retriever_steps=1",
        "training.retriever.warmup_steps=1",
        "training.save_every=2",
    ]
