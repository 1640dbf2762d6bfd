from __future__ import annotations

import pytest

from atlas_lm.cli.tiny import TinyRun, draw_world
from atlas_lm.data.tinyworld import TinyWorldConfig


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> TinyRun:
    """A small made-up world on disk: rows, two random halves, the drawn encoder's index."""
    run = TinyRun(tmp_path_factory.mktemp("tiny"))
    draw_world(run, seed=0, config=TinyWorldConfig(seed=0))
    return run


@pytest.fixture
def pair(tiny) -> list[str]:
    """The command-line words that open the two drawn halves."""
    return [
        *("--reader", str(tiny.drawn / "reader")),
        *("--retriever", str(tiny.drawn / "retriever")),
    ]
