"""Opening and reading a corpus: ours against a list of dicts, each in a process of its own.

The reference-like way parses every line into a dict at start-up. Memory is what opening adds to
the process (resident, after the imports).

    python benchmarks/passage_store.py --count 1000000 --json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

READS = 100


def main() -> None:
    args = arguments()
    if args.worker:
        print(json.dumps(WORKERS[args.worker](args.corpus)))
        return
    with tempfile.TemporaryDirectory() as directory:
        corpus = Path(directory) / "corpus.jsonl"
        write_corpus(corpus, args.count)
        os.environ["ATLAS_LM_CACHE"] = str(Path(directory) / "cache")
        first = {"scan_s": in_process("unchecked", corpus)["open_ms"] / 1000}
        first["check_s"] = in_process("store", corpus)["open_ms"] / 1000
        names = ["store"] if args.alone else ["store", "dicts"]
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _ in range(args.repeats):
            for name, found in runs.items():
                found.append(in_process(name, corpus))
        report = {
            "count": args.count,
            "bytes_per_passage": round(corpus.stat().st_size / args.count),
            "first_opening": {name: round(value, 2) for name, value in first.items()},
            **{name: medians(found) for name, found in runs.items()},
        }
    print(json.dumps(report) if args.json else table(report))


def open_store(corpus: Path, *, check: bool = True) -> dict[str, float]:
    """Open and read through `PassageStore`."""
    from atlas_lm.passages.store import PassageStore

    before, began = resident_mb(), time.perf_counter()
    store = PassageStore.open(corpus, check=check)
    opened = time.perf_counter() - began
    memory = resident_mb() - before
    return timed(store.passages, len(store), opened) | {"mb": memory}


def open_dicts(corpus: Path) -> dict[str, float]:
    """Parse every line at start-up."""
    before, began = resident_mb(), time.perf_counter()
    with open(corpus, encoding="utf-8") as file:
        passages = [json.loads(line) for line in file]
    opened = time.perf_counter() - began
    memory = resident_mb() - before
    return timed(lambda rows: [passages[row] for row in rows], len(passages), opened) | {
        "mb": memory
    }


WORKERS = {
    "store": open_store,
    "unchecked": lambda corpus: open_store(corpus, check=False),
    "dicts": open_dicts,
}


def timed(read, count: int, opened: float) -> dict[str, float]:
    """Return opening time and the median time of `READS` random reads."""
    rng, times = random.Random(0), []
    for _ in range(51):
        rows = [rng.randrange(count) for _ in range(READS)]
        began = time.perf_counter()
        read(rows)
        times.append(time.perf_counter() - began)
    return {"open_ms": 1000 * opened, "reads_ms": 1000 * statistics.median(times)}


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}


def in_process(worker: str, corpus: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--worker", worker, "--corpus", str(corpus)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def write_corpus(path: Path, count: int) -> None:
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(5000)]
    texts = [" ".join(rng.choices(words, k=85)) for _ in range(1000)]
    with open(path, "w") as file:
        for row in range(count):
            passage = {"id": f"p{row}", "title": words[row % 5000], "text": texts[row % 1000]}
            file.write(json.dumps(passage) + "\n")


def table(report) -> str:
    lines = [
        f"{report['count']} passages of {report['bytes_per_passage']} bytes; first opening: "
        f"{report['first_opening']['scan_s']} s to find the lines, "
        f"{report['first_opening']['check_s']} s to check every passage\n",
        f"| | open ms | RSS MB | {READS} random reads ms |\n| --- | --- | --- | --- |",
    ]
    for name in sorted(report.keys() & WORKERS.keys()):
        found = report[name]
        lines.append(f"| {name} | {found['open_ms']} | {found['mb']} | {found['reads_ms']} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--alone",
        action="store_true",
        help="leave out the list of dicts, which 10M rows make 11 GB",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
