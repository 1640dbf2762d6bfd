"""The checkpoints of a run as directories: which there are, which stay, whether one is whole.

A checkpoint is a directory ``step-...``; one being written or removed is hidden, ``.step-...``. It
is whole where sizes and SHA-256 of its files, and of its facts themselves, are what was written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import is_disk_full, read_table, sha256_file
from atlas_lm.runtime.logs import warn

STATE = "state.json"
DIGEST = "sha256"


class DamagedError(InputError):
    """A file of a checkpoint is missing, cut short, or not the bytes that were written."""


def step_directory(directory: Path, step: int) -> Path:
    """Return where a run that keeps its checkpoints in ``directory`` has that of a step."""
    return directory / f"step-{step:08d}"


def step_directories(directory: Path) -> list[Path]:
    """Return the checkpoints in ``directory``, oldest first; none where there is no directory."""
    return sorted(directory.glob("step-*"))


def drop_beyond(directory: Path, keep_last: int, *, spare: str = "") -> None:
    """Remove all checkpoints but the last ``keep_last`` and the one named ``spare``.

    Each is hidden first: a kill leaves none that is half there.
    """
    for old in step_directories(directory)[:-keep_last]:
        if old.name != spare:
            hidden = old.with_name(f".{old.name}.old")
            os.replace(old, hidden)
            shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def full_checkpoint_disk_explained(path: Path, needed: int) -> Iterator[None]:
    """Turn the error of a full disk, of whatever writer, into a message about the checkpoint.

    Raises:
        InputError: the disk was full.
    """
    try:
        yield
    except BaseException as error:  # what torch's writer of shares raises is no Exception
        if not is_disk_full(error):
            raise
        raise InputError(
            f"{path}: the disk is full; this checkpoint needs {needed / 1e6:.1f} MB. Nothing was "
            "written and older checkpoints are whole: free some space, or lower keep_last, and "
            "resume"
        ) from error


def write_facts(path: Path, facts: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, str]:
    """Write ``state.json`` last, with size and SHA-256 of every safetensors file beside it.

    Args:
        path: The checkpoint's directory.
        facts: All that is not a tensor.
        known: SHA-256 of files that need not be read again.

    Returns:
        SHA-256 by file name.
    """
    files = sorted(path.rglob("*.safetensors"))
    names = {file.relative_to(path).as_posix(): file for file in files}
    digests = {name: known.get(name) or sha256_file(file) for name, file in names.items()}
    sizes = {name: file.stat().st_size for name, file in names.items()}
    whole = json.loads(json.dumps({**facts, "files": sizes, "checksums": digests}))
    text = json.dumps({**whole, DIGEST: _digest(whole)}, ensure_ascii=False)
    (path / STATE).write_text(text, "utf-8")
    return digests


def read_facts(path: Path, *, format_version: int) -> dict[str, Any]:
    """Return the facts of a checkpoint whose files are all what was written.

    Raises:
        DamagedError: one is not.
        InputError: ``path`` is no checkpoint of this format.
    """
    file = path / STATE
    try:
        facts = read_table(file, what="a training checkpoint")
    except InputError as error:
        raise DamagedError(str(error)) from error
    if facts.get("format_version") != format_version:
        raise InputError(
            f"{path}: checkpoint format {facts.get('format_version')} is not {format_version}, "
            "the one that this version reads"
        )
    said = facts.pop(DIGEST, None)
    if said != _digest(facts):
        raise DamagedError(f"{file}: not what was written (its checksum differs)")
    for name, size in facts["files"].items():
        _check(path / name, size, facts["checksums"][name])
    return facts


def require_checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first; there is at least one.

    Raises:
        InputError: there is none.
    """
    if not (found := step_directories(directory)):
        raise InputError(f"{directory}: no checkpoint to resume from; train without --resume")
    return found


def newest_whole(directory: Path, *, format_version: int) -> tuple[Path, dict[str, Any]]:
    """Return what process 0 finds to be the newest whole checkpoint, and its facts. Collective.

    Newer ones that are damaged are set aside as ``damaged-step-...``, and this is said.

    Raises:
        DamagedError: none is whole; nothing is set aside.
        InputError: there is none, or one is of another format.
    """
    found: tuple[Path, dict[str, Any]] | None = None
    with distributed.agreed():
        if distributed.world().is_main:
            found = _newest_whole(directory, format_version)
    name = distributed.gather_json(found[0].name if found else "")[0]
    path = directory / name
    return found or (path, read_facts(path, format_version=format_version))


def sweep(directory: Path) -> None:
    """Remove what a kill has left of checkpoints, where no other process writes any."""
    for leftover in directory.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _newest_whole(directory: Path, format_version: int) -> tuple[Path, dict[str, Any]]:
    damaged: dict[Path, DamagedError] = {}
    for path in reversed(require_checkpoints(directory)):
        try:
            facts = read_facts(path, format_version=format_version)
        except DamagedError as error:
            damaged[path] = error
            continue
        for bad, reason in damaged.items():
            warn(f"{reason}; the checkpoint is set aside and {path.name} is taken instead")
            os.replace(bad, _free_name(bad.with_name(f"damaged-{bad.name}")))
        return path, facts
    newest, reason = next(iter(damaged.items()))
    raise DamagedError(
        f"{reason}; no checkpoint before {newest.name} is whole either: train anew in another "
        "directory"
    ) from reason


def _free_name(path: Path) -> Path:
    """Return ``path``, or the first of ``path-2``, ``path-3``, ... that is not taken."""
    names = (path.with_name(f"{path.name}-{number}") for number in range(2, 1000))
    return next(free for free in (path, *names) if not free.exists())


def _check(file: Path, size: int, digest: str) -> None:
    if not file.is_file() or file.stat().st_size != size:
        raise DamagedError(f"{file}: missing or cut short ({size} bytes expected)")
    if sha256_file(file) != digest:
        raise DamagedError(f"{file}: not the bytes that were written (its checksum differs)")


def _digest(facts: Mapping[str, Any]) -> str:
    text = json.dumps(facts, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
