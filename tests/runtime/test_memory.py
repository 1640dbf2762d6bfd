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


def test_a_control_group_bounds_what_the_machine_has(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_LIMITS", (str(tmp_path / "max"), str(tmp_path / "absent")))
    machine = usable_bytes()
    assert machine > 2**28
    (tmp_path / "max").write_text("max\n")
    assert usable_bytes() == machine
    (tmp_path / "max").write_text("123456789\n")
    assert usable_bytes() == 123_456_789
