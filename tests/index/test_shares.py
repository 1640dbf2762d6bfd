import errno
import os

import pytest
import torch

from atlas_lm.index.shares import gather_vectors, mapped_room
from atlas_lm.runtime.errors import InputError


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_room_in_a_file_is_a_tensor_and_leaves_no_file(tmp_path, dtype):
    room = mapped_room(tmp_path / "new", 5, 3, dtype)
    assert list((tmp_path / "new").iterdir()) == []
    assert (room.shape, room.dtype) == ((5, 3), dtype)
    room[2:] = torch.arange(9.0).view(3, 3).to(dtype)
    assert room.sum() == 36
    assert room[:2].count_nonzero() == 0


def test_the_disk_has_room_for_the_rows_that_will_be_written_or_it_is_said(tmp_path, monkeypatch):
    asked = []

    def refused(descriptor, first, size):
        asked.append((first, size))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refused)
    with pytest.raises(InputError, match="disk is full"):
        mapped_room(tmp_path, 10, 4, torch.float16, rows=range(3, 7))
    with pytest.raises(InputError, match="disk is full"):
        gather_vectors(torch.zeros(10, 4), tmp_path)
    assert asked == [(3 * 8, 4 * 8), (0, 160)]
    assert list(tmp_path.iterdir()) == []


def test_vectors_of_all_are_gathered_into_a_file(tmp_path):
    own = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(gather_vectors(own, tmp_path), own)
