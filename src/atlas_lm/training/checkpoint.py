"""Checkpoints that survive: written beside their place, renamed when whole, the last k kept.

A checkpoint is the directory ``step-00000120`` with ``model.safetensors``,
``optimizer.safetensors``, ``random.safetensors``, ``index.safetensors`` (only once the index has
been refreshed), ``background.safetensors`` (the encoder of a refresh under way) and
``state.json``: step, data position, generators, freshness, configuration, and size and SHA-256 of
every file. Halves that are sharded over the processes lie, in place of the first two files, in
``shares/``, to which all processes have written (`shares`). A damaged newest checkpoint is
noticed, set aside, and the one before it is taken.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from atlas_lm.runtime import distributed
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_directory, read_table
from atlas_lm.runtime.intact import (
    STATE,
    drop_beyond,
    full_checkpoint_disk_explained,
    newest_whole,
    read_facts,
    require_checkpoints,
    step_directories,
    step_directory,
    sweep,
    write_facts,
)
from atlas_lm.runtime.logs import warn
from atlas_lm.training import shares
from atlas_lm.training.changes import warn_of_changes
from atlas_lm.training.checkpoint_files import (
    FORMAT_VERSION,
    Snapshot,
    contiguous,
    link,
    read_tensors,
)
from atlas_lm.training.state import TrainState


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
        self._index_files: deque[tuple[int, Path, str]] = deque(maxlen=min(max(keep_last, 1), 2))
        self._writer: threading.Thread | None = None
        self._failure: Exception | None = None
        self._swept = False
        self._there: Path | None = None

    def all(self) -> list[Path]:
        """Return the whole checkpoints, oldest first."""
        return step_directories(self.path)

    def latest(self) -> Path:
        """Return the newest checkpoint.

        Raises:
            InputError: there is none.
        """
        return require_checkpoints(self.path)[-1]

    def best(self) -> Path:
        """Return the checkpoint that was best by ``training.best_metric``.

        Where the newest one cannot be read, an older one says which that was.

        Raises:
            InputError: the run has none, or it is gone.
        """
        self.latest()
        named = [found["step"] for path in reversed(self.all()) if (found := known_best(path))]
        for step in named:
            if (path := step_directory(self.path, step)).is_dir():
                return path
        if named:
            gone = step_directory(self.path, named[0]).name
            raise InputError(
                f"{self.path}: the best checkpoint, {gone}, is gone; a damaged one is "
                "set aside when a run goes on without it; take the newest checkpoint"
            )
        raise InputError(
            f"{self.path}: no best checkpoint; set training.best_metric, such as "
            "exact_match, and training.evaluate_every, or take the newest checkpoint"
        )

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

    def save(self, state: TrainState, *, wait: bool = True) -> Path:
        """Write the state; only when it is whole are older checkpoints removed.

        Collective: process 0 receives what the others hold, and writes.

        Args:
            state: What is saved: as it is now, whatever becomes of it.
            wait: Return when the checkpoint is whole. Else a thread writes a copy of the state;
                `finish` waits for it, and so does the next save. Several processes always wait.

        Where a save that was not waited for has failed, that is said, and this one is waited for.
        A state that has made no step since it was loaded or saved lies there whole and is not
        written anew: a directory cannot be replaced at one stroke.

        Raises:
            InputError: the disk is full. Nothing half-written is left, older checkpoints stay.
        """
        try:
            self.finish()
        except Exception as failure:
            warn(f"a save in the background has failed ({failure}); saving anew")
            wait = True
        path = step_directory(self.path, state.step)
        best = step_directory(self.path, state.best.step).name if state.best else ""
        self._sweep()
        if path == self._there:  # its save may have been killed before older ones were removed
            if distributed.world().is_main:
                drop_beyond(self.path, self.keep_last, spare=best)
            return path
        with self._shares(state, path) as sharded:
            version = state.freshness.version
            linked = self._linkable_index(version)
            here = distributed.world().is_main and linked is not None
            with_index = not distributed.any_process(here)  # process 0 writes, so it decides
            tensors = state.tensors(whole=sharded is None, with_index=with_index, scratch=self.path)
            snapshot = Snapshot(tensors, state.facts(), version, linked, best)
            if not wait and distributed.world().size == 1:
                self._begin(path, snapshot.copy())
                return path
            with distributed.agreed():
                if distributed.world().is_main:
                    self._write(path, snapshot, sharded)
        self._there = path
        return path

    def _sweep(self) -> None:
        """Remove what a kill has left, before the first save: only then is the run surely ours.

        Collective.
        """
        if self._swept:
            return
        self._swept = True
        if distributed.world().is_main:
            sweep(self.path)
        distributed.barrier()

    def finish(self) -> None:
        """Wait for a checkpoint that is being written.

        Raises:
            InputError: the disk is full.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _begin(self, path: Path, snapshot: Snapshot) -> None:
        def write() -> None:
            try:
                self._write(path, snapshot, None)
                self._there = path
            except Exception as failure:
                self._failure = failure

        self._writer = threading.Thread(target=write, name=f"saving {path.name}")
        self._writer.start()

    @contextmanager
    def _shares(self, state: TrainState, path: Path) -> Iterator[Path | None]:
        """Give a directory, which no reader looks at, with what is sharded; None where nothing is.

        Collective. What has not been moved from there is removed in the end.
        """
        if not state.is_sharded:
            yield None
            return
        directory = path.with_name(f".{path.name}.{shares.SHARES}")
        tensors = state.shares()
        needed = sum(tensor.nbytes for tensor in tensors.values())
        try:
            with distributed.agreed(), full_checkpoint_disk_explained(path, needed):
                directory.mkdir(parents=True, exist_ok=True)
                shares.write_shares(tensors, directory)
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _write(self, path: Path, snapshot: Snapshot, sharded: Path | None) -> None:
        files, linked = snapshot.files, snapshot.index_file
        needed = sum(tensor.nbytes for tensors in files.values() for tensor in tensors.values())
        written = sum(file.stat().st_size for file in sharded.iterdir()) if sharded else 0
        with full_checkpoint_disk_explained(path, needed + written):
            self.path.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.path).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with atomic_directory(path) as temporary:
                if sharded:
                    os.replace(sharded, temporary / shares.SHARES)
                for name, tensors in files.items():
                    target = temporary / f"{name}.safetensors"
                    if name == "index" and linked:
                        link(linked, target)
                    else:
                        save_file(contiguous(tensors), target)
                known = {linked.name: self._index_files[0][2]} if linked else {}
                facts = {
                    "format_version": FORMAT_VERSION,
                    **snapshot.facts,
                    "config": self.config,
                }
                digests = write_facts(temporary, facts, known)
        self._note_index(snapshot.version, path, digests)
        drop_beyond(self.path, self.keep_last, spare=snapshot.best)

    def load(self, state: TrainState, path: str | Path | None = None) -> Path:
        """Make ``state`` the one saved at ``path``, or the newest; return where it came from.

        Where the newest is damaged, that is said, it is set aside as ``damaged-step-...``, and the
        one before it is taken. Options that differ from the saved run's are named in a warning.

        Raises:
            InputError: nothing is there, no checkpoint is whole (or not the one at ``path``), or
                the model, the data or the index is another one.
        """
        if path is not None:
            path = Path(path)
            facts = read_facts(path, format_version=FORMAT_VERSION)
        else:
            path, facts = newest_whole(self.path, format_version=FORMAT_VERSION)
        tensors = read_tensors(path, facts, state)
        warn_of_changes(facts["config"], self.config)
        state.restore(facts, tensors)
        self._note_index(state.freshness.version, path, facts["checksums"])
        self._there = path
        return path

    def _note_index(self, version: int, path: Path, digests: Mapping[str, str]) -> None:
        """Remember the file of the index's vectors: a later checkpoint may link it."""
        if (name := "index.safetensors") in digests:
            self._index_files.append((version, path / name, digests[name]))

    def _linkable_index(self, version: int) -> Path | None:
        """Return an index file with these very vectors to link, for it is big.

        It is that of the checkpoint before the last: neighbours share none, so that damage to a
        file leaves the checkpoint before it whole. Where one alone is kept, it is the last's.
        """
        if len(self._index_files) < (self._index_files.maxlen or 0):
            return None
        known_version, file, _ = self._index_files[0]
        return file if known_version == version and file.is_file() else None


def known_best(checkpoint: Path) -> dict[str, Any] | None:
    """Return metric, value and step of the best by then; None where there is none or no telling."""
    try:
        state = read_table(checkpoint / STATE, what="a checkpoint")
    except InputError:
        return None
    best: dict[str, Any] | None = state.get("best")
    return best
