"""The second process of a background refresh: ``python -m atlas_lm.staleness.process DIRECTORY``.

The directory holds what both sides need: ``retriever/`` (the copied passage encoder),
``job.json`` (passage files, step, fingerprint, device), ``process.log``, and ``index/``, which is
written as `atlas-lm index build` writes it: resumable, its manifest last.
"""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from atlas_lm.index import FlatIndex, build
from atlas_lm.index.files import Fingerprint, read_manifest
from atlas_lm.passages.store import PassageStore
from atlas_lm.retriever import BiEncoder
from atlas_lm.retriever.loading import Tower
from atlas_lm.runtime.dtypes import DTYPES, name_of
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import read_json, write_json
from atlas_lm.runtime.logs import warn
from atlas_lm.staleness.background import BackgroundConfig, Job
from atlas_lm.types import Passage

JOB, LOG, LOCK = "job.json", "process.log", "lock"
RETRIEVER, INDEX = "retriever", "index"
ORPHANED = 3
"""Exit code of a process whose training process is gone."""
PASSAGES_BETWEEN_LOOKS = 1024
"""Passages between two looks at whether the training process is still there."""


class ProcessLauncher:
    """Starts refreshes in a process of their own.

    Args:
        retriever: The retriever in training.
        store: The passages of the index.
        directory: Where the files lie that both processes use; it is the launcher's alone.
        dtype: The index's.
        config: Device and threads.
    """

    def __init__(
        self,
        retriever: BiEncoder,
        store: PassageStore,
        directory: Path,
        *,
        dtype: torch.dtype,
        config: BackgroundConfig,
    ) -> None:
        self._retriever, self._store, self._directory = retriever, store, directory.resolve()
        self._dtype, self._config = dtype, config

    def copy_weights(self) -> dict[str, Tensor]:
        """Return a copy of the passage encoder's weights, on the CPU."""
        weights = self._retriever.passage_encoder.state_dict()
        return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}

    def launch(self, job: Job, *, again: bool) -> ProcessWorker:
        """Write the job and start it."""
        if not again:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._write_encoder(job)
        write_json(self._directory / JOB, self._described(job))
        return ProcessWorker(self._directory)

    def _write_encoder(self, job: Job) -> None:
        encoder = copy.deepcopy(self._retriever.passage_encoder)
        encoder.load_state_dict(dict(job.weights))
        tower = Tower(encoder, self._retriever.passage_tokenizer)
        BiEncoder(tower, self._retriever.settings).save_pretrained(self._directory / RETRIEVER)

    def _described(self, job: Job) -> dict[str, Any]:
        return {
            "passages": [str(Path(path).resolve()) for path in self._store.paths],
            "step": job.step,
            "fingerprint": asdict(job.fingerprint),
            "dtype": name_of(self._dtype),
            "device": self._config.device,
            "threads": self._config.threads or torch.get_num_threads(),
            "parent": os.getpid(),
        }


class ProcessWorker:
    """A job in a process of its own, which does not hear Ctrl-C and ends with its parent."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        command = [sys.executable, "-m", __name__, str(directory)]
        with (directory / LOG).open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )

    def is_done(self) -> bool:
        """Return whether the process has ended."""
        return self._process.poll() is not None

    def vectors(self) -> Float[Tensor, "n dim"]:
        """Return every passage's vector; where the process failed, it is all done here."""
        if self._process.wait() != 0:
            warn(
                f"the background refresh ended with exit code {self._process.returncode} "
                f"({self._last_line()}; see {self._directory / LOG}); going on with it in this "
                "process, training waits"
            )
            run_job(self._directory)
        return FlatIndex.load(self._directory / INDEX, mmap=False).embeddings

    def stop(self) -> None:
        """End the process, at once if it does not heed a request."""
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def clear(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _last_line(self) -> str:
        lines = (self._directory / LOG).read_text("utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def run_job(directory: Path) -> None:
    """Embed every passage of the job in ``directory`` into its index; what is done stays done.

    Raises:
        InputError: the job cannot be read, its encoder is not the one it names, a passage's
            embedding is not finite, or the disk is full.
    """
    with alone(directory):
        _run(directory, read_json(directory / JOB, what="the job of a background refresh"))


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Wait until no other process works in ``directory``, such as one of a run that was killed."""
    with (directory / LOCK).open("w") as lock:
        try:
            import fcntl
        except ImportError:  # not POSIX: two runs must be kept apart by hand
            pass
        else:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(directory: Path, job: Mapping[str, Any]) -> None:
    fingerprint = Fingerprint(**job["fingerprint"])
    if _is_finished(directory / INDEX, fingerprint, job["dtype"]):
        return
    store = PassageStore.open([Path(path) for path in job["passages"]], check=False)
    retriever = BiEncoder.from_pretrained(directory / RETRIEVER).to(job["device"])
    Fingerprint(**retriever.fingerprint(store.fingerprint)).check(fingerprint)

    def embed(passages: Sequence[Passage]) -> Tensor:
        if job["parent"] not in (os.getpid(), os.getppid()):
            raise SystemExit(ORPHANED)
        return retriever.embed_corpus(passages)

    build(
        store,
        embed,
        directory / INDEX,
        fingerprint=fingerprint,
        dtype=DTYPES[job["dtype"]],
        step=job["step"],
        passages_at_a_time=PASSAGES_BETWEEN_LOOKS,
    )


def _is_finished(index: Path, fingerprint: Fingerprint, dtype: str) -> bool:
    try:
        manifest = read_manifest(index)
    except InputError:
        return False
    return manifest.fingerprint == fingerprint and manifest.dtype == dtype


def main(directory: str) -> int:
    """Run the job in ``directory``; return the exit code."""
    path = Path(directory)
    try:
        torch.set_num_threads(int(read_json(path / JOB, what="a job")["threads"]))
        run_job(path)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
