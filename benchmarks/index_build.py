"""Peak memory of a streaming build: each size in a process of its own, with a cheap embedding.

    python benchmarks/index_build.py --counts 100000 1000000 3000000 --json

What is built is what ``index build`` makes by default: float32 vectors and their int8 codes.
``anonymous_mb`` is the peak of memory that the process itself holds (sampled); ``peak_mb`` also
counts pages of mapped files, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from passage_store import write_corpus

DIM = 256


def build(corpus: Path, kind: str) -> dict[str, float]:
    """Open the corpus for the first time and build an index of it."""
    import torch

    from atlas_lm.index.build import build as build_index
    from atlas_lm.index.files import Fingerprint
    from atlas_lm.index.settings import IndexSettings
    from atlas_lm.passages.store import PassageStore

    peak = [0.0]
    threading.Thread(target=sample, args=(peak,), daemon=True).start()
    before, began = anonymous_mb(), time.perf_counter()
    store = PassageStore.open(corpus)
    fingerprint = Fingerprint("fake", "{text}", "mean", "dot", 8, DIM, store.fingerprint)
    vectors = torch.randn(997, DIM)
    build_index(
        store,
        lambda passages: vectors[[len(passage.text) % 997 for passage in passages]],
        corpus.parent / "index",
        fingerprint=fingerprint,
        settings=IndexSettings(kind=kind, dtype="float32"),
    )
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "anonymous_before_mb": round(before),
        "anonymous_mb": round(max(peak[0], anonymous_mb())),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def sample(peak: list[float]) -> None:
    while True:
        peak[0] = max(peak[0], anonymous_mb())
        time.sleep(0.01)


def anonymous_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def measured(count: int, kind: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        corpus = Path(directory) / "corpus.jsonl"
        write_corpus(corpus, count)
        command = [sys.executable, __file__, "--worker", str(corpus), "--kind", kind]
        environment = {**os.environ, "ATLAS_LM_CACHE": f"{directory}/cache"}
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return {"count": count, **json.loads(found.stdout)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[100_000, 1_000_000, 3_000_000])
    parser.add_argument("--kind", choices=["flat", "int8", "binary"], default="flat")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(build(args.worker, args.kind)))
        return
    runs = [measured(count, args.kind) for count in args.counts]
    if args.json:
        print(json.dumps({"dim": DIM, "kind": args.kind, "runs": runs}))
        return
    print("| passages | seconds | anonymous MB before | at most | with mapped files |")
    print("| --- | --- | --- | --- | --- |")
    for run in runs:
        print("| " + " | ".join(str(value) for value in run.values()) + " |")


if __name__ == "__main__":
    main()
