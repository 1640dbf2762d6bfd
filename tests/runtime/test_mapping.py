from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from atlas_lm.runtime.mapping import let_go, map_file

SIZE = 32 << 20


def mapped_in_memory(folder: Path) -> int:
    """Return the bytes of mapped files of a folder, deleted ones too, that are in memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = str(folder) in line
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_leave_memory_and_are_read_again(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)) * (SIZE // 256))
    mapped = map_file(tmp_path / "file")
    view = mapped.view(torch.int32)[:]  # any view of it does
    total = int(view.sum())
    assert mapped_in_memory(tmp_path) == SIZE
    let_go(view)
    assert mapped_in_memory(tmp_path) == 0
    assert int(view.sum()) == total


def test_what_is_written_stays_where_it_was(tmp_path):
    (tmp_path / "file").write_bytes(bytes(10_000))
    mapped = map_file(tmp_path / "file", writable=True)
    mapped[5000:] = 7
    let_go(mapped)
    assert mapped.sum() == 5000 * 7
    assert (tmp_path / "file").read_bytes() == bytes(5000) + b"\7" * 5000


def test_other_memory_stays_as_it_is():
    own = torch.ones(100_000)
    let_go(own)
    assert bool((own == 1).all())
