from __future__ import annotations

import pytest

from atlas_lm.cli.tiny import TinyRun
from tests.tinyworld.world import draw


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> TinyRun:
    """A small made-up world on disk: rows, two random halves, the drawn encoder's index."""
    return draw(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def pair(tiny) -> list[str]:
    """The command-line words that open the two drawn halves."""
    return [
        *("--reader", str(tiny.drawn / "reader")),
        *("--retriever", str(tiny.drawn / "retriever")),
    ]
