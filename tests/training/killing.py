"""Training killed at random instants: run as ``python -m tests.training.killing DIR COUNT``.

One process forks a child for every trial, kills it with SIGKILL, and lets another one resume. The
run refreshes its index, evaluates, logs, and saves at every second step; whatever was being done,
the resumed run must end with the very bytes of the one that was never stopped. Children that have
ended before their instant do not count. Prints one JSON object: how many were killed, and how many
of them had left a checkpoint, or half of one.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

from atlas_lm.runtime import logs
from atlas_lm.staleness import StalenessConfig
from atlas_lm.training import Checkpoints, RunLog, new_state, train
from atlas_lm.training.lock import run_lock
from tests.training.tiny import FakeAtlas, config, examples

STEPS = 24
OF_THE_CLOCK = ("time", "tokens_per_second", "queries_per_second", "share_", "peak_mb_")


def go_on(path: Path) -> None:
    """Train to the end, from the newest checkpoint where there is one."""
    with run_lock(path):
        cfg = config(
            total_steps=STEPS,
            save_every=2,
            evaluate_every=3,
            best_metric="score",
            signal_round=1,
        )
        model = FakeAtlas()
        keeper = model.keeper(StalenessConfig(refresh_schedule="0-:3"), cfg)
        state = new_state(model, examples(), cfg, freshness=keeper)
        checkpoints = Checkpoints(path / "checkpoints")
        if checkpoints.all():
            checkpoints.load(state)
        with RunLog(path / "metrics.jsonl", total_steps=STEPS, first_step=state.step) as log:
            train(
                state,
                cfg,
                checkpoints=checkpoints,
                log=log,
                evaluate=lambda: {"score": float(state.step * 7 % 11)},
            )


def result(path: Path) -> dict[str, object]:
    """Return the checksums of what a run left, its facts, and its log without times."""
    checkpoints = Checkpoints(path / "checkpoints")
    states = {
        found.name: json.loads((found / "state.json").read_text()) for found in checkpoints.all()
    }
    for state in states.values():
        del state["sha256"]
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        for name in [name for name in row if name.startswith(OF_THE_CLOCK)]:
            del row[name]
        row.pop("distinct_passages", None)  # the monitor's window starts anew
    return {"states": states, "log": rows, "files": sorted(p.name for p in path.iterdir())}


def main(base: Path, count: int) -> None:
    torch.set_num_threads(1)
    logs.console.quiet = True
    in_child(base / "warm")
    began = time.perf_counter()
    in_child(base / "whole")
    duration = time.perf_counter() - began
    whole = result(base / "whole")
    assert whole["states"]
    assert len(whole["log"]) == STEPS + STEPS // 3
    counts = {"killed": 0, "with a checkpoint": 0, "in a save": 0}
    draw = random.Random(0)
    for trial in range(3 * count):
        if counts["killed"] == count:
            break
        path = base / f"trial{trial}"
        killed = in_child(path, draw.uniform(0.02, 1.0) * duration)
        saved = list((path / "checkpoints").glob("step-*"))
        counts["killed"] += killed
        if not killed or not saved:  # the machine has become faster, or slower
            duration *= 1.03 if killed else 0.95
        counts["with a checkpoint"] += bool(killed and saved)
        counts["in a save"] += bool(killed and list((path / "checkpoints").glob(".step-*")))
        assert in_child(path) == 0
        found = result(path)
        assert found == whole, path
        shutil.rmtree(path)
    print(json.dumps(counts))


def in_child(path: Path, stop: float | None = None) -> int:
    """Train in a forked process, killed after ``stop`` seconds; return whether it was."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            go_on(path)
            code = 0
        finally:
            os._exit(code)
    if stop is not None:
        time.sleep(stop)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, path
    return int(os.WIFSIGNALED(status))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
