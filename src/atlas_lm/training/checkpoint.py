"""Checkpoints that survive: written beside their place, renamed when whole, the last k kept.

A checkpoint is the directory ``step-00000120`` with ``model.safetensors``,
``optimizer.safetensors``, ``random.safetensors``, ``index.safetensors`` (only once the index has
been refreshed), ``background.safetensors`` (the encoder of a refresh under way) and
``state.json``: step, data position, generators, freshness, configuration, file sizes.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from atlas_lm.runtime.errors import DiskFullError, InputError
from atlas_lm.runtime.files import atomic_directory, read_json
from atlas_lm.runtime.logs import warn
from atlas_lm.training.state import TrainState

FORMAT_VERSION = 2
MAY_CHANGE = ("log_every", "evaluate_every", "save_every", "keep_last")
"""Options of ``training`` that decide nothing about the weights."""


class Checkpoints:
    """The checkpoints of one run, in one directory.

    Args:
        path: Where they lie.
        config: The resolved recipe as plain tables, written into each.
        keep_last: How many are kept.
    """

    def __init__(
        self, path: str | Path, *, config: Mapping[str, Any] | None = None, keep_last: int = 2
    ) -> None:
        self.path = Path(path)
        self.config = dict(config or {})
        self.keep_last = keep_last
        self._index_file: tuple[int, Path] | None = None
        for leftover in self.path.glob(".step-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def all(self) -> list[Path]:
        """Return the whole checkpoints, oldest first."""
        return sorted(self.path.glob("step-*"))

    def latest(self) -> Path:
        """Return the newest checkpoint.

        Raises:
            InputError: there is none.
        """
        if not (found := self.all()):
            raise InputError(f"{self.path}: no checkpoint to resume from; train without --resume")
        return found[-1]

    def require_none(self) -> None:
        """Refuse to start a new run over an old one.

        Raises:
            InputError: checkpoints of an earlier run lie here.
        """
        if found := self.all():
            raise InputError(
                f"{self.path}: holds checkpoints of an earlier run, up to {found[-1].name}; "
                "resume it with --resume, or choose another directory"
            )

    def save(self, state: TrainState) -> Path:
        """Write the state; only when it is whole are older checkpoints removed.

        Raises:
            InputError: the disk is full. Nothing half-written is left, older checkpoints stay.
        """
        path = self.path / f"step-{state.step:08d}"
        files = state.tensors()
        linked = self._linkable_index(state)
        needed = sum(
            tensor.nbytes
            for name, tensors in files.items()
            if not (name == "index" and linked)
            for tensor in tensors.values()
        )
        with _full_disk_explained(path, needed):
            self.path.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.path).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with atomic_directory(path) as temporary:
                for name, tensors in files.items():
                    target = temporary / f"{name}.safetensors"
                    if name == "index" and linked:
                        _link(linked, target)
                    else:
                        save_file(_contiguous(tensors), target)
                _write_facts(temporary, state, self.config)
        if "index" in files:
            self._index_file = (state.freshness.version, path / "index.safetensors")
        self._remove_old()
        return path

    def load(self, state: TrainState, path: str | Path | None = None) -> Path:
        """Make ``state`` the one saved at ``path``, or the newest; return where it came from.

        Options that differ from the saved run's are named in a warning.

        Raises:
            InputError: nothing is there, a file is missing or cut short, or the model, the data
                or the index is another one.
        """
        path = Path(path) if path is not None else self.latest()
        facts = read_json(path / "state.json", what="a training checkpoint")
        if facts.get("format_version") != FORMAT_VERSION:
            raise InputError(
                f"{path}: checkpoint format {facts.get('format_version')} is not "
                f"{FORMAT_VERSION}, the one that this version reads"
            )
        for name, size in facts["files"].items():
            file = path / name
            if not file.is_file() or file.stat().st_size != size:
                raise InputError(
                    f"{file}: missing or cut short ({size} bytes expected); "
                    "resume from an older checkpoint"
                )
        tensors = {Path(name).stem: load_file(path / name) for name in facts["files"]}
        _warn_of_changes(facts["config"], self.config)
        state.restore(facts, tensors)
        if "index" in tensors:
            self._index_file = (state.freshness.version, path / "index.safetensors")
        return path

    def _linkable_index(self, state: TrainState) -> Path | None:
        """Return an index file written earlier with these very vectors: big files are linked."""
        if self._index_file is None or self._index_file[0] != state.freshness.version:
            return None
        return self._index_file[1] if self._index_file[1].is_file() else None

    def _remove_old(self) -> None:
        for old in self.all()[: -self.keep_last]:
            hidden = old.with_name(f".{old.name}.old")
            os.replace(old, hidden)
            shutil.rmtree(hidden, ignore_errors=True)


def _write_facts(path: Path, state: TrainState, config: Mapping[str, Any]) -> None:
    files = {file.name: file.stat().st_size for file in sorted(path.glob("*.safetensors"))}
    facts = {
        "format_version": FORMAT_VERSION,
        **state.facts(),
        "files": files,
        "config": config,
    }
    (path / "state.json").write_text(json.dumps(facts, ensure_ascii=False), "utf-8")


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that own exactly their own bytes, so that no hidden storage is written."""
    return {
        name: tensor
        if tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        else tensor.clone().contiguous()
        for name, tensor in tensors.items()
    }


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def _full_disk_explained(path: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except (DiskFullError, OSError, SafetensorError) as error:
        full = isinstance(error, DiskFullError) or getattr(error, "errno", None) in (
            errno.ENOSPC,
            errno.EDQUOT,
        )
        if not full and "os error 28" not in str(error):
            raise
        raise InputError(
            f"{path}: the disk is full; this checkpoint needs {needed / 1e6:.1f} MB. Nothing was "
            "written and older checkpoints are whole: free some space, or lower "
            "training.keep_last, and resume"
        ) from error


def _warn_of_changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    before, after = _flat(saved), _flat(now)
    may_change = {f"training.{name}" for name in MAY_CHANGE}
    changed = [
        f"{key} was {before.get(key)!r} and is {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key not in may_change
    ]
    if saved and now and changed:
        warn(f"resuming with other options than the saved run's: {'; '.join(changed)}")


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
