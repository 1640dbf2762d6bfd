"""Writers killed at random instants: run as ``python -m tests.index.killing OPERATION DIR COUNT``.

One process forks a child for every trial, kills it with SIGKILL, and looks at what it left: the
index must open, verify, and answer as before or as after; doing it again must give the after.
Instants are drawn until COUNT children were killed before their end.
Prints one JSON object: how many trials ended before, after, and killed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from atlas_lm.index import (
    IndexSettings,
    add,
    build,
    compact,
    delete,
    open_index,
    read_manifest,
    refresh,
    update,
)
from atlas_lm.index.directory import named
from atlas_lm.index.parted import PartedIndex
from atlas_lm.index.verify import verify
from atlas_lm.passages.store import PassageStore
from tests.index.conftest import DIM, make_fingerprint
from tests.index.keeping import ENCODER, built, embed, found, write

BASE = {f"p{row}": f"base text {row}" for row in range(40)}
MORE = {"p3": "replaced", **{f"q{row}": f"more text {row}" for row in range(20)}}
QUERY = torch.randn(3, DIM, generator=torch.Generator().manual_seed(3))


def _build(path: Path) -> None:
    store = PassageStore.open(path.parent / "base.jsonl")
    fingerprint = make_fingerprint(corpus=store.fingerprint, encoder="e2")
    build(
        store,
        lambda passages: -embed(passages),
        path,
        fingerprint=fingerprint,
        dtype=torch.float32,
        passages_at_a_time=8,
    )


def _recode(path: Path) -> None:
    """Build an index of codes over the same passages in the place of the exact one."""
    store = PassageStore.open(path.parent / "base.jsonl")
    build(
        store,
        embed,
        path,
        fingerprint=make_fingerprint(corpus=store.fingerprint),
        settings=IndexSettings(kind="int8", dtype="float32", keep_vectors=True, recall_k=5),
        passages_at_a_time=8,
    )


def _add(path: Path) -> None:
    more = path.parent / "new.jsonl"
    add(path, more, embed, fingerprint=ENCODER, passages_at_a_time=4)


def _update(path: Path) -> None:
    more = path.parent / "more.jsonl"
    update(path, more, embed, fingerprint=ENCODER, passages_at_a_time=4)


def _refresh(path: Path) -> None:
    refresh(path, lambda passages: -embed(passages), fingerprint=make_fingerprint(encoder="e2"))


OPERATIONS: dict[str, Callable[[Path], object]] = {
    "build": _build,
    "recode": _recode,
    "add": _add,
    "update": _update,
    "delete": lambda path: delete(path, ["p1", "p2", "q5"]),
    "compact": compact,
    "refresh": _refresh,
}
AGAIN_IS_REFUSED = {"add", "delete"}
CHANGES_NO_ANSWER = {"compact"}


def main(operation: str, base: Path, count: int) -> None:
    torch.set_num_threads(1)
    sys.modules[refresh.__module__].PASSAGES_AT_A_TIME = 8  # type: ignore[attr-defined]
    index = prepared(base)
    before = answer(index)
    done = base / "done"
    shutil.copytree(index, done)
    began = time.perf_counter()
    run_in_child(OPERATIONS[operation], done)
    duration = time.perf_counter() - began
    after = answer(done)
    assert (after == before) == (operation in CHANGES_NO_ANSWER), operation
    counts = {"before": 0, "after": 0, "killed": 0}
    draw = random.Random(operation)
    while counts["killed"] < count and counts["before"] + counts["after"] < 10 * count:
        path = base / f"trial{counts['before'] + counts['after']}"
        shutil.copytree(index, path)
        killed = run_in_child(OPERATIONS[operation], path, draw.uniform(0, 1.1 * duration))
        state = check(path, before, after)
        counts[state] += 1
        counts["killed"] += killed
        if state == "before" or operation not in AGAIN_IS_REFUSED:
            OPERATIONS[operation](path)
            left = {file.name for file in path.iterdir()} - named(path) - {"manifest.json"}
            assert not left, left
        assert answer(path) == after, path
        shutil.rmtree(path)
    print(json.dumps(counts))


def prepared(base: Path) -> Path:
    """Return an index with a part, dead rows and its own passages."""
    write(base / "base.jsonl", BASE)
    write(base / "more.jsonl", {**MORE, "p9": "replaced again"})
    write(base / "first.jsonl", {i: t for i, t in MORE.items() if i != "p3"})
    write(base / "new.jsonl", {f"r{row}": f"new text {row}" for row in range(20)})
    index = built(base / "index", [base / "base.jsonl"], copy_passages=True)
    add(index, base / "first.jsonl", embed, fingerprint=ENCODER)
    delete(index, ["p0", "q7"])
    return index


def answer(path: Path) -> list[list[tuple[str, str]]]:
    index, store = open_index(path)
    live = index.live if isinstance(index, PartedIndex) else len(index)
    store.close()
    return found(path, QUERY, live)


def check(path: Path, before: object, after: object) -> str:
    """Return which of the two states the index is in."""
    problems = verify(path).problems
    assert not problems, problems
    read_manifest(path)
    now = answer(path)
    assert now in (before, after), path
    return "after" if now == after else "before"


def run_in_child(operation: Callable[[Path], object], path: Path, stop: float | None = None) -> int:
    """Run in a forked process, killed after ``stop`` seconds; return whether it was.

    One that is not killed must do what it is to do.
    """
    child = os.fork()
    if child == 0:
        try:
            operation(path)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if stop is not None:
        time.sleep(stop)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, path
    return int(os.WIFSIGNALED(status))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
