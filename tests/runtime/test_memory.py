from __future__ import annotations

import pytest

from atlas_lm.runtime import memory
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.memory import parse_bytes, usable_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16GB", 16 * 10**9),
        ("16g", 16 * 10**9),
        ("1.5 GiB", 3 * 2**29),
        ("500MB", 5 * 10**8),
        ("1.5 TB", 1_500_000_000_000),
        ("9", 9),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0GB", "16 GX", "1ib", "lots"])
def test_what_is_no_size(text):
    with pytest.raises(InputError, match="is no size of memory; give a size such as 64GB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("group", "limits"),
    [
        ("0::/slurm/job_7/step_0", "memory.max"),
        ("4:cpu,memory:/slurm/job_7/step_0", "memory/memory.limit_in_bytes"),
    ],
)
def test_control_groups_bound_what_the_machine_has(tmp_path, monkeypatch, group, limits):
    root, name = (tmp_path / limits).parent, (tmp_path / limits).name
    monkeypatch.setattr(memory, "_ROOT", tmp_path)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "cgroup")
    machine = usable_bytes()
    assert machine > 2**28
    (tmp_path / "cgroup").write_text(f"1:name=systemd:/\n{group}\n")
    (root / "slurm" / "job_7").mkdir(parents=True)
    for place, text, least in (
        (root, "max", machine),
        (root / "slurm" / "job_7", "123456789", 123_456_789),
        (root / "slurm", "223456789", 123_456_789),
        (root, "100000", 100_000),
    ):
        (place / name).write_text(f"{text}\n")
        assert usable_bytes() == least
