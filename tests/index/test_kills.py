from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KILLS = 50


@pytest.mark.slow
@pytest.mark.parametrize(
    "operation", ["build", "recode", "add", "update", "delete", "compact", "refresh"]
)
def test_a_writer_killed_at_any_instant_leaves_the_old_or_the_new(tmp_path, operation):
    command = [sys.executable, "-m", "tests.index.killing", operation, str(tmp_path), str(KILLS)]
    path = f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["killed"] == KILLS
    assert counts["before"] + counts["after"] >= KILLS
