from __future__ import annotations

from pathlib import Path

import pytest

from atlas_lm.tasks import TASKS

DOCS = Path(__file__).parents[2] / "docs" / "tasks.md"


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_its_row_with_a_command(name):
    rows = [line for line in DOCS.read_text("utf-8").splitlines() if line.startswith(f"| `{name}`")]
    assert len(rows) == 1
    assert f"--task {name} " in rows[0]
