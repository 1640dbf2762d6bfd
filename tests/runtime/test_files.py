from __future__ import annotations

import contextlib
import errno
import json
import os

import pytest

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import (
    atomic_directory,
    atomic_path,
    read_json,
    reserve,
    sha256_file,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(OSError, match="disk full"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_directory_leaves_the_old_one_whole(tmp_path):
    path = tmp_path / "model"
    with atomic_directory(path) as temporary:
        (temporary / "x").write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_directory(path) as temporary:
        (temporary / "x").write_text("new")
        raise OSError("disk full")
    assert (path / "x").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_stopped_between_its_renames_is_put_back(tmp_path, monkeypatch):
    path = tmp_path / "model"
    with atomic_directory(path) as temporary:
        (temporary / "x").write_text("old")
    rename, asked = os.replace, []

    def stopped_once(source, target):
        asked.append(target)
        if len(asked) == 2:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", stopped_once)
    with pytest.raises(KeyboardInterrupt), atomic_directory(path) as temporary:
        (temporary / "x").write_text("new")
    assert (path / "x").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_directory_replaces_the_old_one_without_remains(tmp_path):
    path = tmp_path / "model"
    for name in ("old", "new"):
        with atomic_directory(path) as temporary:
            (temporary / name).write_text(name)
    assert [file.name for file in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_directory_can_be_refused(tmp_path):
    with (
        pytest.raises(InputError, match="exists already"),
        atomic_directory(tmp_path, replace=False),
    ):
        raise AssertionError


def test_read_json_names_what_was_expected(tmp_path):
    with pytest.raises(InputError, match="no such file; expected a manifest"):
        read_json(tmp_path / "none.json", what="a manifest")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        read_json(tmp_path / "bad.json", what="a manifest")


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "abc") == known


def test_reserved_bytes_have_their_place_on_the_disk(tmp_path):
    reserve(tmp_path / "room", 1 << 16, first=1 << 20)
    found = (tmp_path / "room").stat()
    assert found.st_size == (1 << 20) + (1 << 16)
    assert 1 << 16 <= found.st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EOPNOTSUPP])
def test_a_full_disk_is_said_before_anything_is_mapped(tmp_path, monkeypatch, number):
    """And a file system that cannot reserve is used all the same."""

    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refused)
    refusal = pytest.raises(InputError, match="disk is full")
    with refusal if number == errno.ENOSPC else contextlib.nullcontext():
        reserve(tmp_path / "room", 8)
