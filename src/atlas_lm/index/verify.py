"""Every file of an index held against its checksum, and a sample of vectors against fresh ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from atlas_lm.index.base import Index
from atlas_lm.index.build import Embed
from atlas_lm.index.describe import members
from atlas_lm.index.files import ArrayFile, Fingerprint, Manifest
from atlas_lm.index.member import vectors_of
from atlas_lm.index.milvus import MilvusIndex
from atlas_lm.index.opening import consistently, open_index, watched
from atlas_lm.index.parted import PartedIndex
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import sha256_file
from atlas_lm.runtime.logs import notice, progress_bar

LEAST_COSINE = 0.999
"""Between a stored vector and the fresh one; bfloat16 alone costs less than 0.0001."""
FOUND_AMONG = 10
LEAST_FOUND = 0.5
"""Share of sampled passages that an index of codes finds first by their own vector."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was looked at and what is wrong with it."""

    files: int
    """Files whose bytes were read."""
    bytes: int
    """How many bytes."""
    problems: tuple[str, ...]
    """What is wrong, each with the file; none where all is well."""
    sampled: int = 0
    """Passages embedded afresh."""
    lowest_cosine: float | None = None
    """The least cosine between a stored vector and the fresh one; None where none is kept."""
    found_again: float | None = None
    """Where only codes are kept: share of the sample found among its own first results."""


def verify(
    path: str | Path,
    *,
    embed: Embed | None = None,
    fingerprint: Callable[[str], Fingerprint] | None = None,
    sample: int = 64,
    seed: int = 0,
) -> Verified:
    """Read every file of an index and compare sizes and checksums with the manifests.

    Of an embedded Milvus database every vector is read and searched instead.

    Args:
        path: the index directory.
        embed: passages to vectors, by the encoder the index is to be used with.
        fingerprint: a corpus's fingerprint to what an index over it by this encoder carries.
        sample: passages embedded afresh, where ``embed`` is given.
        seed: which ones.

    Raises:
        InputError: ``sample`` is below 1.
    """
    if embed is not None and sample < 1:
        raise InputError(
            f"sample={sample}: embed at least 1 passage, or give no encoder to check files alone"
        )
    path = Path(path)
    try:
        return consistently(
            watched(path), lambda: _verified(path, embed, fingerprint, sample, seed)
        )
    except InputError as error:
        return Verified(files=0, bytes=0, problems=(str(error),))


def _verified(
    path: Path,
    embed: Embed | None,
    fingerprint: Callable[[str], Fingerprint] | None,
    sample: int,
    seed: int,
) -> Verified:
    problems, files, read = [], 0, 0
    todo = [job for place, manifest in members(path) for job in _jobs(place, manifest)]
    with progress_bar() as progress:
        task = progress.add_task("Verifying (MB)", total=sum(file.bytes for _, file in todo) >> 20)
        for place, file in todo:
            problem = _problem(place, file)
            problems += [problem] if problem else []
            files, read = files + 1, read + file.bytes
            progress.update(task, completed=read >> 20)
    result = Verified(files=files, bytes=read, problems=tuple(problems))
    if problems:
        return result
    try:
        index, store = open_index(path)
        if fingerprint is not None:
            index.fingerprint.check(fingerprint(store.fingerprint))
        found = [problem for one in _databases(index) for problem in _damage(one)]
        if found:
            return dataclasses.replace(result, problems=tuple(found))
        return _sampled(index, store, embed, sample, seed, result) if embed else result
    except InputError as error:
        return Verified(files=files, bytes=read, problems=(str(error),))


def _jobs(path: Path, manifest: Manifest) -> Iterator[tuple[Path, ArrayFile]]:
    """Yield the files of a directory with what they should be."""
    if manifest.embeddings:
        yield (
            path / manifest.embeddings,
            ArrayFile(
                name=manifest.embeddings,
                bytes=manifest.embeddings_bytes,
                sha256=manifest.embeddings_sha256,
            ),
        )
    for file in manifest.arrays.values():
        yield path / file.name, file
    if manifest.passages is not None:
        for passages in manifest.passages.located(path).files:
            yield (
                Path(passages.absolute),
                ArrayFile(name=passages.path, bytes=passages.bytes, sha256=passages.sha256),
            )


def _problem(path: Path, file: ArrayFile) -> str | None:
    """Return what is wrong with a file; None where nothing is."""
    if not path.exists():
        return f"{path}: missing ({file.bytes} bytes)"
    if path.is_dir():
        return None
    size = path.stat().st_size
    if size != file.bytes:
        problem = "truncated" if size < file.bytes else "grown"
        return f"{path}: {problem} to {size} bytes from {file.bytes}"
    if sha256_file(_plain(path)) != file.sha256:
        return f"{path}: altered: its checksum is not the manifest's"
    return None


def _databases(index: Index) -> Iterator[MilvusIndex]:
    """Yield the parts of an index whose vectors no file of the manifest holds."""
    if isinstance(index, PartedIndex):
        for part in index.parts:
            yield from _databases(part)
    elif isinstance(index, MilvusIndex):
        yield index


def _damage(index: MilvusIndex) -> Iterator[str]:
    """Yield what is wrong with the rows of an embedded database; of a cluster nothing is read."""
    if index.facts.settings.url:
        notice(f"{index.way(1)}: its rows are counted, their vectors are not looked at")
        return
    bad, where = 0, ""
    with progress_bar() as progress:
        task = progress.add_task("Verifying (rows)", total=len(index))
        for rows, damaged in index.damaged():
            where = where or (f"rows {rows.start} to {rows.stop - 1}" if damaged else "")
            bad += damaged
            progress.advance(task, len(rows))
    if bad:
        yield (
            f"{index.way(1)}: {bad} rows (the first among {where}) are missing, altered, or not "
            "what searches read; rebuild the index"
        )


def _plain(path: Path) -> Path:
    """Return the file itself; of packed passages what they were unpacked to."""
    if path.suffix in {".bin", ".array", ".jsonl"}:
        return path
    return PassageStore.open(path, check=False).plain_paths[0]


def _sampled(
    index: Index, store: PassageStore, embed: Embed, sample: int, seed: int, result: Verified
) -> Verified:
    alive = np.ones(len(store), np.bool_)
    if store.hidden is not None:
        alive[store.hidden] = False
    live = np.flatnonzero(alive)
    chosen = np.random.default_rng(seed).choice(live, min(sample, len(live)), replace=False)
    rows = torch.from_numpy(np.sort(chosen))
    fresh = embed(store.passages(rows.numpy())).detach().float().cpu()
    try:
        stored = _stored(index, rows)
    except InputError:
        return _found_again(index, rows, fresh, result)
    cosine = cosine_similarity(stored, fresh, dim=-1)
    worst = int(cosine.argmin())
    lowest = float(cosine[worst])
    problems = []
    if not lowest >= LEAST_COSINE:
        problems.append(
            f"row {int(rows[worst])} ({store.place(int(rows[worst]))}): its vector and a fresh one "
            f"have cosine {lowest:.4f}; rebuild the index with this encoder"
        )
    return Verified(
        files=result.files,
        bytes=result.bytes,
        problems=tuple(problems),
        sampled=len(rows),
        lowest_cosine=lowest,
    )


def _stored(index: Index, rows: torch.Tensor) -> torch.Tensor:
    """Return the stored vectors of the rows, without reading all."""
    if not isinstance(index, PartedIndex):
        return vectors_of(index)[rows].float().cpu()
    found, first = [], 0
    for part in index.parts:
        mine = rows[(rows >= first) & (rows < first + len(part))] - first
        found.append(_stored(part, mine))
        first += len(part)
    return torch.cat(found)


def _found_again(
    index: Index, rows: torch.Tensor, fresh: torch.Tensor, result: Verified
) -> Verified:
    found = index.search(fresh, min(FOUND_AMONG, len(rows))).rows.cpu()
    share = float((found == rows[:, None]).any(dim=1).float().mean())
    problem = (
        f"only {share:.0%} of {len(rows)} sampled passages are among the first {FOUND_AMONG} "
        "results for their own fresh vector; rebuild the index with this encoder"
    )
    return Verified(
        files=result.files,
        bytes=result.bytes,
        problems=() if share >= LEAST_FOUND else (problem,),
        sampled=len(rows),
        found_again=share,
    )
