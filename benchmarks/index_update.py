"""Keeping a large index up to date: what 1,000 passages added, replaced or deleted cost.

Vectors are random and come from a function that takes no time, so the figures are the index's own:
what an encoder adds is 1,000 passages divided by its rate. Every step is timed with the opening and
the first search that follow it; compaction is the cost that is put off.

    python benchmarks/index_update.py --count 1000000 --json
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

CHANGED = 1000


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory(dir=args.scratch) as directory:
        os.environ["ATLAS_LM_CACHE"] = str(Path(directory) / "cache")
        report = measured(Path(directory), args.count, args.dim)
    print(json.dumps(report) if args.json else table(report))


def measured(scratch: Path, count: int, dim: int) -> dict[str, object]:
    from atlas_lm.index import add, build, compact, delete, open_index, update
    from atlas_lm.index.files import Fingerprint
    from atlas_lm.passages.store import PassageStore

    generator = torch.Generator().manual_seed(0)
    pool = torch.randn((1 << 16, dim), generator=generator)

    def embed(passages: Sequence[object]) -> torch.Tensor:
        return pool[: len(passages)]

    def fingerprint(corpus: str) -> Fingerprint:
        return Fingerprint("e", "{title} {text}", "mean", "dot", 256, dim, corpus)

    index = scratch / "index"
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        seconds[name] = time.perf_counter() - began

    def search() -> None:
        opened, store = open_index(index)
        store.passages(opened.search(pool[:1], 10).rows[0].tolist())

    base = write(scratch / "base.jsonl", range(count))
    new = write(scratch / "new.jsonl", range(count, count + CHANGED))
    other = write(scratch / "other.jsonl", range(CHANGED), text="changed")
    timed("read and check the passages", lambda: PassageStore.open(base))
    store = PassageStore.open(base)
    timed(
        "build",
        lambda: build(store, embed, index, fingerprint=fingerprint(store.fingerprint)),
    )
    search()
    timed("open and search before", search)
    given = {"embed": embed, "fingerprint": fingerprint("")}
    timed(f"add {CHANGED}", lambda: add(index, new, **given))
    timed("open and search after adding", search)
    timed(f"replace {CHANGED}", lambda: update(index, other, **given))
    timed("open and search after replacing", search)
    gone = [f"id{number}" for number in range(2 * CHANGED, 3 * CHANGED)]
    timed(f"delete {CHANGED}", lambda: delete(index, gone))
    timed("open and search after deleting", search)
    timed("compact", lambda: compact(index))
    timed("open and search after compaction", search)
    return {
        "count": count,
        "dim": dim,
        "changed": CHANGED,
        "threads": torch.get_num_threads(),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def write(path: Path, numbers: range, text: str = "text") -> Path:
    """Write passages of some 600 bytes."""
    filling = "lorem ipsum dolor sit amet " * 20
    with open(path, "w", encoding="utf-8") as file:
        for number in numbers:
            line = {"id": f"id{number}", "title": f"T{number}", "text": f"{text} {filling}"}
            file.write(json.dumps(line) + "\n")
    return path


def table(report: dict[str, object]) -> str:
    seconds = report["seconds"]
    assert isinstance(seconds, dict)
    lines = [f"{report['count']:,} x {report['dim']} in float16, {report['threads']} threads"]
    lines += [f"{name:<36} {value:8.3f} s" for name, value in seconds.items()]
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--scratch", help="directory for files (default: the system's)")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
