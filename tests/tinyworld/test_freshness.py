"""Whole runs under every way of keeping the index fresh, on a world of 80 passages."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch

from atlas_lm.cli.joint import run_joint, training_examples
from atlas_lm.runtime.errors import InputError

from .test_mechanics import QUICK, moved, weights
from .world import draw, open_run, train_joint

PARTIAL = (
    "staleness.refresh=partial",
    "staleness.refresh_schedule=1",
    "staleness.partial.budget=20",
)
BACKGROUND = (
    "staleness.refresh=background",
    "staleness.refresh_schedule=2",
    "staleness.background.steps=3",
    "staleness.background.threads=1",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("freshness") / "tiny")


def logged(out):
    lines = (out / "metrics.jsonl").read_text("utf-8").splitlines()
    return [record for record in map(json.loads, lines) if "staleness_drift" in record]


def test_an_index_never_refreshed_drifts_and_the_log_says_so(run, tmp_path, capsys):
    train_joint(run, tmp_path / "run", *QUICK, "staleness.refresh_schedule=never")
    began = capsys.readouterr().err.split("1/6")[0]
    assert 'staleness.refresh_schedule="never" (the default) the index keeps' in " ".join(
        began.split()
    )
    lines = logged(tmp_path / "run")
    drift = [line["staleness_drift"] for line in lines]
    assert len(drift) == 6
    assert 0.01 < drift[0] < drift[-1]
    assert lines[-1]["staleness_topk_overlap"] < 1
    assert lines[-1]["passages_embedded"] == 0
    assert [line["steps_since_refresh"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_a_bound_keeps_the_drift_near_it(run, tmp_path):
    options = ("staleness.refresh_schedule=drift>0.02", "staleness.probe_every=1")
    train_joint(run, tmp_path / "run", *QUICK, *options)
    lines = logged(tmp_path / "run")
    refreshed = [line for line in lines if line["steps_since_refresh"] == 1 and line["step"] > 1]
    assert refreshed
    assert lines[-1]["passages_embedded"] == 80 * len(refreshed)
    assert lines[-1]["steps_since_refresh"] < 6


def test_a_partial_refresh_costs_its_budget(run, tmp_path):
    train_joint(run, tmp_path / "run", *QUICK, *PARTIAL)
    last = logged(tmp_path / "run")[-1]
    assert 0 < last["passages_embedded"] <= 5 * 20
    assert 1 <= last["steps_since_refresh"] < 6


def test_a_partial_refresh_of_a_filtered_run_embeds_what_can_be_found(run, tmp_path):
    store = open_run(run)[0].store
    ids = [passage.id for passage in store.passages(range(12))]
    train_joint(run, tmp_path / "run", *QUICK, *PARTIAL, f"context.where=id in {ids}")
    last = logged(tmp_path / "run")[-1]
    assert last["passages_embedded"] == 5 * 12
    assert last["probe_embedded"] == 6 * 12


def test_query_side_training_is_always_fresh(run, tmp_path, capsys):
    options = ("staleness.query_side=true", "staleness.refresh_schedule=never")
    train_joint(run, tmp_path / "run", *QUICK, *options)
    assert "refresh_schedule" not in capsys.readouterr().err
    assert {line["staleness_drift"] for line in logged(tmp_path / "run")} == {0.0}


def test_an_index_that_cannot_follow_is_refused(run, tmp_path):
    class Compressed:
        """An index of another kind."""

    atlas, config = open_run(run, *QUICK)
    atlas.index = Compressed()
    with pytest.raises(InputError, match=r"cannot follow it.*index compact.*query_side=true"):
        run_joint(atlas, config, training_examples(config, atlas.config.task), [], tmp_path / "run")


@pytest.mark.slow
@pytest.mark.multiprocess
def test_stopped_while_another_process_embeds_and_resumed_bit_for_bit(run, tmp_path):
    overrides = (*QUICK, *BACKGROUND, "training.evaluate_every=1")
    whole, _ = joint(run, tmp_path / "whole", overrides)
    _, stopped = joint(run, tmp_path / "parts", overrides, stop_at=3)
    assert (stopped.step, stopped.finished) == (3, False)
    assert (stopped.checkpoint / "background.safetensors").is_file()
    resumed, outcome = joint(run, tmp_path / "parts", overrides, resume=True)
    assert outcome.finished
    assert not moved(weights(whole.reader), resumed.reader)
    assert not moved(weights(whole.retriever), resumed.retriever)
    assert not (tmp_path / "parts" / "background").exists()
    logs = [
        [{k: v for k, v in line.items() if not k.startswith(TIMED)} for line in logged(out)]
        for out in (tmp_path / "whole", tmp_path / "parts")
    ]
    assert logs[0] == logs[1]
    assert logs[0][-1]["passages_embedded"] == 80


TIMED = ("time", "tokens_per", "queries_per", "distinct_passages", "share_", "peak_mb_")


def joint(run, out, overrides, *, stop_at=None, resume=False):
    """Train; with ``stop_at`` a Ctrl-C arrives after that step."""
    atlas, config = open_run(run, *overrides)
    losses, calls = atlas.losses, []

    def interrupting(batch, **options):
        calls.append(batch)
        if len(calls) == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return losses(batch, **options)

    atlas.losses = interrupting
    examples = training_examples(config, atlas.config.task)
    torch.manual_seed(len(out.name))
    return atlas, run_joint(atlas, config, examples, [], out, resume=resume)
