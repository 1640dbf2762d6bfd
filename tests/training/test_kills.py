from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRIALS = 50


@pytest.mark.slow
def test_a_run_killed_at_any_instant_ends_with_the_same_bytes(tmp_path):
    command = [sys.executable, "-m", "tests.training.killing", str(tmp_path), str(TRIALS)]
    path = f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["killed"] == TRIALS
    assert counts["with a checkpoint"] > TRIALS // 10
