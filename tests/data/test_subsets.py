from __future__ import annotations

import gzip

import pytest

from atlas_lm.data.minipedia import shipped_subsets
from atlas_lm.data.minipedia_sources import TOPICS
from atlas_lm.data.subsets import Subsets, read_subsets, write_subsets
from atlas_lm.data.supported import Evidence, SupportRule
from atlas_lm.runtime.errors import InputError

SUBSETS = Subsets(
    {"nq-dev": {3: Evidence((1, 2), (7,)), 9: Evidence((), (0,))}, "nq-test": {}},
    {"corpus.json": "aa", "topics.txt": "bb"},
    SupportRule(topk=5),
    "package:x",
)


def test_write_then_read(tmp_path):
    write_subsets(tmp_path / "a.json.gz", SUBSETS)
    write_subsets(tmp_path / "b.json.gz", SUBSETS)
    assert read_subsets(tmp_path / "a.json.gz") == SUBSETS
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"{}"), gzip.compress(b"[]"), gzip.compress(b"x" * 99)[:20]],
)
def test_damaged_files_are_errors(tmp_path, content):
    (tmp_path / "a.json.gz").write_bytes(content)
    with pytest.raises(InputError, match="--recompute-subsets"):
        read_subsets(tmp_path / "a.json.gz")


def test_other_versions_and_missing_files_are_errors(tmp_path):
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b'{"format_version": 2}'))
    with pytest.raises(InputError, match="format_version 2"):
        read_subsets(tmp_path / "a.json.gz")
    with pytest.raises(InputError, match="no readable subsets file"):
        read_subsets(tmp_path / "b.json.gz")


def test_inputs_must_be_those_it_was_made_from():
    SUBSETS.check_inputs({"corpus.json": "aa", "topics.txt": "bb"}, place="subsets")
    with pytest.raises(InputError, match=r"another topics\.txt \(SHA-256 bb, now cc\)"):
        SUBSETS.check_inputs({"corpus.json": "aa", "topics.txt": "cc"}, place="subsets")
    with pytest.raises(InputError, match=r"another topics\.txt \(SHA-256 bb, now None\)"):
        SUBSETS.check_inputs({"corpus.json": "aa"}, place="subsets")


def test_the_file_that_ships_has_every_source_and_the_published_rule():
    shipped = read_subsets(shipped_subsets())
    assert set(shipped.evidence) == set(TOPICS)
    assert shipped.rule == SupportRule()
    assert len(shipped.evidence["triviaqa-test"]) > 3900
    supported = [item for item in shipped.evidence["triviaqa-test"].values() if item.supported]
    assert 1550 < len(supported) < 1650
