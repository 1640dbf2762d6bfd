"""Exact search over n vectors: ours against a plain matrix product and topk, paired in one run.

The reference-like search is what the published code does on CPU: float16 vectors, one matrix
product for the whole corpus, one topk. Equal precision stands beside it: float32 for both.
Recall counts rows of the float32 top k that were found.

    python benchmarks/exact_search.py --count 1000000 --dim 384 --threads 2 --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from atlas_lm.index import Fingerprint, FlatIndex


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn((args.count, args.dim), generator=generator)
    wide /= wide.norm(dim=1, keepdim=True)
    narrow = wide.half()
    fingerprint = Fingerprint("random", "", "mean", "cosine", 0, args.dim, "random")
    ours16 = FlatIndex(narrow, fingerprint=fingerprint)
    ours32 = FlatIndex(wide, fingerprint=fingerprint)
    results = []
    for bsz in args.batch:
        query = torch.randn((bsz, args.dim), generator=generator)
        query /= query.norm(dim=1, keepdim=True)
        variants: dict[str, Callable[[Tensor], Tensor]] = {
            "matmul + topk, fp16": lambda q: (q.half() @ narrow.T).topk(args.topk).indices,
            "matmul + topk, fp32": lambda q: (q @ wide.T).topk(args.topk).indices,
            "FlatIndex, fp16 stored": lambda q: ours16.search(q, args.topk).rows,
            "FlatIndex, fp32 stored": lambda q: ours32.search(q, args.topk).rows,
        }
        results += paired(variants, query, args.repeats)
    report = {"count": args.count, "dim": args.dim, "topk": args.topk, "threads": args.threads}
    report |= {"torch": torch.__version__, "results": results}
    print(json.dumps(report) if args.json else table(report))


def paired(
    variants: dict[str, Callable[[Tensor], Tensor]], query: Tensor, repeats: int
) -> list[dict[str, object]]:
    """Run the variants in turn, ``repeats`` times after one warm-up; return medians and ratios."""
    found = {name: run(query) for name, run in variants.items()}
    truth = [set(rows) for rows in found["matmul + topk, fp32"].tolist()]
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            began = time.perf_counter()
            run(query)
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows = []
    for name, median in medians.items():
        hits = sum(len(set(r) & t) for r, t in zip(found[name].tolist(), truth, strict=True))
        rows.append(
            {
                "bsz": len(query),
                "search": name,
                "ms": round(1000 * median, 1),
                "fastest_ms": round(1000 * min(seconds[name]), 1),
                "over_fp16": round(medians["matmul + topk, fp16"] / median, 2),
                "over_fp32": round(medians["matmul + topk, fp32"] / median, 2),
                "recall": round(hits / sum(map(len, truth)), 5),
            }
        )
        print(f"{rows[-1]}", file=sys.stderr)
    return rows


def table(report: dict[str, object]) -> str:
    """Return the report as a Markdown table."""
    head = (
        f"{report['count']} x {report['dim']}, k = {report['topk']}, {report['threads']} threads, "
        f"torch {report['torch']}\n\n"
        "| batch | search | median ms | fastest ms | over fp16 | over fp32 | recall |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    results = report["results"]
    assert isinstance(results, list)
    return head + "\n".join("| " + " | ".join(map(str, row.values())) + " |" for row in results)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--topk", type=int, default=100)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
