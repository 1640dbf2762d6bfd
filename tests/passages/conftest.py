"""A cache of its own for every test, and corpora written as lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("ATLAS_LM_CACHE", str(directory))
    return directory


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write records, or lines given as text or bytes, to a file."""

    def write_lines(lines: Sequence[Any], name: str = "corpus.jsonl", end: str = "\n") -> Path:
        written = [
            line if isinstance(line, bytes) else _text(line).encode("utf-8") for line in lines
        ]
        path = tmp_path / name
        path.write_bytes(b"\n".join(written) + end.encode())
        return path

    return write_lines


def _text(line: Any) -> str:
    return line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)
