"""Exact search over n vectors: ours against a plain matrix product and topk, paired in one run.

The reference-like search is what the published code does on CPU: float16 vectors, one matrix
product for the whole corpus, one topk. Equal precision stands beside it: float32 for both.
Recall counts rows of the top k by float64 brute force, over the same stored vectors.

Times are of the wall clock, or, with ``--cpu``, seconds of the processor, which other work on the
machine moves less (then use one thread).

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
from atlas_lm.index.codes import Int8Scan


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    narrow = made_up(args.count, args.dim, args.spread, generator)
    variants, indexes = searches(narrow, args)
    results = []
    for bsz in args.batch:
        query = made_up(bsz, args.dim, None, generator).float()
        if args.spread is not None:
            near = torch.randint(args.count, (bsz,), generator=generator)
            query = narrow[near].float() + args.spread * query
        query /= query.norm(dim=1, keepdim=True)
        results += paired(variants, query, narrow, args)
        for name, index in indexes.items():
            print(f"batch {bsz}, {name}: {index.way(bsz, args.topk)}", file=sys.stderr)
    report = {"count": args.count, "dim": args.dim, "topk": args.topk, "threads": args.threads}
    report |= {"spread": args.spread, "clock": "cpu" if args.cpu else "wall"}
    report |= {"torch": torch.__version__, "results": results}
    print(json.dumps(report) if args.json else table(report))


def made_up(count: int, dim: int, spread: float | None, generator: torch.Generator) -> Tensor:
    """Unit vectors in float16: anywhere, or around count / 500 centres at this distance."""
    made = torch.empty((count, dim), dtype=torch.float16)
    n_centres = max(count // 500, 1)
    centres = torch.randn((n_centres, dim), generator=generator) if spread is not None else None
    for start in range(0, count, 100_000):
        wide = torch.randn((min(100_000, count - start), dim), generator=generator)
        if centres is not None:
            chosen = torch.randint(n_centres, (len(wide),), generator=generator)
            wide = centres[chosen] + spread * wide
        made[start : start + 100_000] = wide / wide.norm(dim=1, keepdim=True)
    return made


def searches(
    narrow: Tensor, args: argparse.Namespace
) -> tuple[dict[str, Callable[[Tensor], Tensor]], dict[str, FlatIndex]]:
    """Return the searches by name, and those of them that are ours."""
    fingerprint = Fingerprint("random", "", "mean", "cosine", 0, args.dim, "random")
    indexes = {"float": FlatIndex(narrow, fingerprint=fingerprint)}
    for name, pack in (("int8 first, packed", True), ("int8 first, stored", False)):
        index = indexes[name] = FlatIndex(narrow, fingerprint=fingerprint)
        index.add_codes_()
        if pack:
            began = time.perf_counter()
            index.pack_()
            print(f"packing: {time.perf_counter() - began:.1f} s", file=sys.stderr)
        else:
            codes = index.codes
            assert codes is not None
            index._first_pass = index._first_pass._replace(scan=Int8Scan(codes, pack=False))
    variants: dict[str, Callable[[Tensor], Tensor]] = {
        "matmul + topk, fp16": lambda q: (q.half() @ narrow.T).topk(args.topk).indices
    }
    if not args.no_fp32:
        wide = narrow.float()
        variants["matmul + topk, fp32"] = lambda q: (q @ wide.T).topk(args.topk).indices
    for name, index in indexes.items():
        variants[f"FlatIndex, {name}"] = lambda q, index=index: index.search(q, args.topk).rows
    if args.faiss:
        variants |= faiss_searches(narrow, args)
    return variants, indexes


def faiss_searches(
    narrow: Tensor, args: argparse.Namespace
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the searches of faiss' exhaustive indexes, on as many threads."""
    import faiss

    faiss.omp_set_num_threads(args.threads)
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    for factory in ("Flat", "SQ8"):
        index = faiss.index_factory(args.dim, factory, faiss.METRIC_INNER_PRODUCT)
        index.train(narrow[:100_000].float().numpy())
        for start in range(0, args.count, 100_000):
            index.add(narrow[start : start + 100_000].float().numpy())
        found[f"faiss {factory}"] = lambda q, index=index: torch.from_numpy(
            index.search(q.numpy(), args.topk)[1]
        )
    return found


def brute_force(narrow: Tensor, query: Tensor, topk: int) -> list[set[int]]:
    """Return the rows of each query's top k in float64."""
    scores = torch.empty((len(query), len(narrow)), dtype=torch.float64)
    for start in range(0, len(narrow), 50_000):
        some = narrow[start : start + 50_000].double()
        scores[:, start : start + 50_000] = query.double() @ some.T
    return [set(rows) for rows in scores.topk(topk).indices.tolist()]


def paired(
    variants: dict[str, Callable[[Tensor], Tensor]],
    query: Tensor,
    narrow: Tensor,
    args: argparse.Namespace,
) -> list[dict[str, object]]:
    """Run the variants in turn, ``repeats`` times after one warm-up; return medians and ratios."""
    clock = time.process_time if args.cpu else time.perf_counter
    found = {name: run(query) for name, run in variants.items()}
    truth = brute_force(narrow, query, args.topk)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(args.repeats):
        for name, run in variants.items():
            began = clock()
            run(query)
            seconds[name].append(clock() - began)
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
                "recall": round(hits / sum(map(len, truth)), 5),
            }
        )
        print(f"{rows[-1]}", file=sys.stderr)
    return rows


def table(report: dict[str, object]) -> str:
    """Return the report as a Markdown table."""
    kind = "random" if report["spread"] is None else f"clustered (spread {report['spread']})"
    head = (
        f"{report['count']} x {report['dim']}, {kind}, k = {report['topk']}, "
        f"{report['threads']} threads, {report['clock']} clock, torch {report['torch']}\n\n"
        "| batch | search | median ms | fastest ms | over fp16 | recall |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
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
    parser.add_argument("--spread", type=float, help="clustered vectors, this far from centres")
    parser.add_argument("--faiss", action="store_true", help="faiss' exhaustive indexes too")
    parser.add_argument("--no-fp32", action="store_true", help="spare the float32 copy's memory")
    parser.add_argument("--cpu", action="store_true", help="processor seconds, with one thread")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
