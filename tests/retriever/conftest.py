from __future__ import annotations

from pathlib import Path

import pytest

from atlas_lm.retriever import BiEncoder, EncoderSettings
from tests.parity.golden import write_bert

DOT = EncoderSettings(pooling="mean", similarity="dot", query_maxlength=80, passage_maxlength=80)


@pytest.fixture(scope="session")
def plain_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain transformers directory: a BERT of 2 layers and 64 components."""
    return write_bert(tmp_path_factory.mktemp("plain") / "bert")


@pytest.fixture
def encoder(plain_dir: Path) -> BiEncoder:
    return BiEncoder.from_pretrained(plain_dir, settings=DOT)
