"""``atlas-lm train`` in several processes: faults, log, resume on another number of them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from atlas_lm.cli import main
from atlas_lm.config import save_recipe
from atlas_lm.index import open_index
from atlas_lm.model import Atlas
from atlas_lm.training.lock import run_lock
from tests.tinyworld.world import config_of, draw
from tests.training.dying import PLACES, run_together

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

STEPS = 6


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("world")
    run = draw(path / "world")
    config = config_of(
        run,
        f"training.total_steps={STEPS}",
        "training.bsz=3",
        "training.accumulation_steps=2",
        "training.log_every=1",
        "training.save_every=3",
        "training.keep_last=9",
        "training.freeze_retriever_steps=0",
        "training.reader.warmup_steps=1",
        "training.retriever.warmup_steps=1",
        "training.dropout=0.0",
        "training.timeout_minutes=0.5",
        'staleness.refresh_schedule="0-:2"',
        "training.evaluate_every=3",
    )
    asked = str(run.world / "test.jsonl")
    data = dataclasses.replace(
        config.data, index=str(run.index), passages=(), validation=asked, validation_limit=21
    )
    save_recipe(path / "recipe.toml", dataclasses.replace(config, data=data))
    return path / "recipe.toml"


@pytest.fixture(scope="module")
def alone(recipe, tmp_path_factory):
    """The same run in one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    assert main(["train", str(recipe), "--out", str(out)]) == 0
    return out


MEASURED = ("reader_loss", "retriever_loss", "kl", "recall_at_1", "recall_at_5", "exact_match")


def losses(out):
    """What every line of the log says of losses and of the evaluations."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name in MEASURED}
        for line in lines
    ]


def assert_same_run(out, alone):
    for one, other in zip(losses(out), losses(alone), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    for half in ("reader", "retriever"):
        weights, expected = (
            load_file(path / "model" / half / "model.safetensors") for path in (out, alone)
        )
        for name, tensor in expected.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4)
    index, expected = (open_index(path / "index")[0] for path in (out, alone))
    torch.testing.assert_close(
        index.embeddings.float(), expected.embeddings.float(), rtol=1e-2, atol=1e-2
    )
    assert Atlas.from_pretrained(out / "model", index=out / "index").answer("who?").sources


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_make_the_run_that_one_makes(recipe, alone, tmp_path, parallel):
    arguments = ["train", str(recipe), f"training.parallel={parallel}", "--out"]
    ended = run_together([*arguments, str(tmp_path / "run")], tmp_path / "said")
    assert ended.codes == [0, 0], ended.said
    assert_same_run(tmp_path / "run", alone)
    assert ended.said[0].count("step 1/6") == 1
    assert "step" not in ended.said[1]


def test_a_run_goes_on_with_another_number_of_processes(recipe, alone, tmp_path):
    out = tmp_path / "run"
    arguments = ["train", str(recipe), "--out", str(out)]
    ended = run_together(arguments, tmp_path / "said", strike="save", how="fail")
    assert ended.codes[0] != 0
    assert not list((out / "checkpoints").glob("step-*"))
    ended = run_together(arguments, tmp_path / "again", size=3)
    assert ended.codes == [0, 0, 0], ended.said
    for late in ("checkpoints/step-00000006", "model", "index"):
        (out / late).rename(tmp_path / late.replace("/", "-"))
    assert main([*arguments, "--resume"]) == 0
    assert_same_run(out, alone)


def test_more_processes_go_on_with_what_one_began(recipe, alone, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(alone, out)
    for late in ("checkpoints/step-00000006", "model", "index"):
        shutil.rmtree(out / late)
    arguments = ["train", str(recipe), "--out", str(out), "--resume"]
    ended = run_together(arguments, tmp_path / "said")
    assert ended.codes == [0, 0], ended.said
    assert_same_run(out, alone)


def test_a_request_to_one_process_stops_all_with_a_checkpoint(recipe, tmp_path):
    out = tmp_path / "run"
    ended = run_together(
        ["train", str(recipe), "--out", str(out)], tmp_path / "said", strike="backward", how="stop"
    )
    assert ended.codes == [0, 0], ended.said
    assert [path.name for path in (out / "checkpoints").glob("step-*")] == ["step-00000003"]
    assert "stopped after step 3 of 6" in ended.said[0]
    assert "--resume" in ended.said[0]
    assert not (out / "model").exists()


def test_torchrun_starts_it(recipe, tmp_path):
    """The very command of the documentation, for two steps."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["-m", "atlas_lm", "train", str(recipe), "--out", str(tmp_path / "run"), "--json"]
    done = subprocess.run(
        [*command, "training.total_steps=2", "training.save_every=0"],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600",
        },
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finished"]
    assert len(losses(tmp_path / "run")) == 3  # two steps, one evaluation
    assert "2 processes" in done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("phase", list(PLACES))
def test_a_killed_process_ends_the_run_on_all(recipe, tmp_path, phase):
    ended = run_together(
        ["train", str(recipe), "--out", str(tmp_path / "run")], tmp_path / "said", strike=phase
    )
    assert ended.codes[1] == -9
    assert ended.codes[0] not in (0, None), ended.said
    assert "another process of the run has gone without a word" in ended.said[0]
    assert ended.seconds < 30


@pytest.mark.parametrize("phase", list(PLACES))
def test_process_0_killed_ends_the_run_on_all(recipe, tmp_path, phase):
    """It keeps the store that all meet at, holds the lock and writes."""
    out = tmp_path / "run"
    ended = run_together(
        ["train", str(recipe), "--out", str(out)], tmp_path / "said", strike=phase, rank=0
    )
    assert ended.codes[0] == -9
    assert ended.codes[1] not in (0, None), ended.said
    assert "process 0, or the launcher that all meet at, has gone" in ended.said[1]
    assert ended.seconds < 30
    assert not list((out / "checkpoints").glob("step-*"))
    with run_lock(out):
        pass


@pytest.mark.parametrize(("phase", "rank"), [("backward", 1), ("save", 0)])
def test_a_killed_process_ends_a_sharded_run_on_all(recipe, tmp_path, phase, rank):
    ended = run_together(
        ["train", str(recipe), "training.parallel=fsdp", "--out", str(tmp_path / "run")],
        tmp_path / "said",
        strike=phase,
        rank=rank,
    )
    assert ended.codes[rank] == -9
    assert ended.codes[1 - rank] not in (0, None), ended.said
    assert "gone" in ended.said[1 - rank]
    assert ended.seconds < 30
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))


@pytest.mark.parametrize(
    ("rank", "why"),
    [
        (0, "process 0, or the launcher that all meet at, has gone or hangs"),
        (1, "gone without a word (killed, out of memory, or hanging?)"),
    ],
)
def test_a_process_that_hangs_ends_the_run_after_the_time_limit(recipe, tmp_path, rank, why):
    arguments = ["train", str(recipe), "training.timeout_minutes=0.2"]
    ended = run_together(
        [*arguments, "--out", str(tmp_path / "run")],
        tmp_path / "said",
        strike="backward",
        how="hang",
        rank=rank,
    )
    assert ended.codes[rank] is None
    assert ended.codes[1 - rank] not in (0, None), ended.said
    assert why in ended.said[1 - rank]
    assert ended.seconds < 30


@pytest.mark.parametrize("phase", ["search", "backward"])
def test_a_failing_process_ends_the_run_and_all_say_why(recipe, tmp_path, phase):
    ended = run_together(
        ["train", str(recipe), "--out", str(tmp_path / "run")],
        tmp_path / "said",
        strike=phase,
        how="fail",
    )
    assert ended.codes[0] not in (0, None)
    assert ended.codes[1] == 1
    for said in ended.said:
        assert f"the {phase} is on fire" in said
    assert "process 1" in ended.said[0]
    assert ended.seconds < 30
