from __future__ import annotations

import pytest

from atlas_lm.planning import Machine, make_plan
from atlas_lm.planning.advice import refusal
from tests.planning.small import request
from tests.planning.test_stages import ONE


def plan(machine: Machine, **fields):
    return make_plan(request(**fields), machine, ONE)


def test_what_fits_needs_no_advice():
    made = plan(Machine(ram_bytes=10**10, disk_bytes=10**12))
    assert not made.shortages
    assert not made.changes


def test_a_large_index_is_told_to_shrink():
    machine = Machine(ram_bytes=6 * 10**9, disk_bytes=10**13)
    made = plan(machine, passages=10**8, reader=None, objective="none")
    assert {short.what for short in made.shortages} == {"RAM with the mapped index"}
    fits = {change.options for change in made.changes if change.fits}
    assert "--index binary" in fits
    assert "--index int8" not in fits  # as much to scan as the first pass of fp32


def test_codes_that_cannot_follow_the_passage_encoder_are_refused():
    made = plan(Machine(ram_bytes=10**10, disk_bytes=10**12), index="int8")
    assert not made.shortages
    assert not made.fits
    assert made.refused == refusal(made.request)
    options = {change.options for change in made.changes if change.fits}
    assert {"--query-side", "--index flat", "--index binary --query-side"} <= options
    assert "--index binary" not in options


@pytest.mark.parametrize("index", ["int8", "binary", "ivfpq8", "milvus"])
def test_only_a_passage_encoder_that_learns_needs_a_flat_index(index):
    assert "--query-side" in refusal(request(index=index))
    for fields in ({"query_side": True}, {"objective": "none"}, {"reader": None}):
        assert not refusal(request(index=index, **fields))
    assert not refusal(request(index="fp16"))


def test_codes_are_no_remedy_where_the_passage_encoder_learns():
    machine = Machine(ram_bytes=6 * 10**9, disk_bytes=10**13)
    made = plan(machine, passages=10**8)
    fits = {change.options for change in made.changes if change.fits}
    assert "--index binary --query-side" in fits
    assert "--index binary" not in fits


def test_a_full_disk_is_named():
    made = plan(Machine(ram_bytes=10**13, disk_bytes=10**9), passages=10**8, reader=None)
    assert "disk" in {short.what for short in made.shortages}
    assert all(short.needed_bytes > short.there_bytes for short in made.shortages)


def test_activations_are_told_to_be_recomputed():
    generous = Machine(ram_bytes=10**12, disk_bytes=10**12)
    wide = {"n_context": 64, "passage_tokens": 128}
    need = {stage.name: stage.ram_bytes for stage in plan(generous, **wide).stages}["train step"]
    tight = Machine(ram_bytes=int(need * 0.95), disk_bytes=10**12)
    made = plan(tight, **wide)
    assert {short.stage for short in made.shortages} == {"train step"}
    assert any(c.fits and c.options == "--gradient-checkpointing" for c in made.changes)
    assert any(c.fits and c.options.startswith("--bsz 1 --acc") for c in made.changes)


def test_where_nothing_alone_is_enough_changes_add_up():
    made = plan(Machine(ram_bytes=5 * 10**8, disk_bytes=10**9), n_context=64, passages=10**7)
    assert made.changes
    assert not any(change.fits for change in made.changes[:-1])
