"""Kinds of index compared: recall against time and bytes, on real or made-up embeddings.

- Real: the vectors of an index directory (``--index DIR`` that keeps them, such as one over the
  leads of Minipedia); every eleventh vector, or those of ``--queries FILE.safetensors``
  (tensor "queries"), is asked for and barred from finding itself.
- Made up: clustered unit vectors (``--count``, ``--dim``, ``--spread``).

Recall counts rows of the exact top k over the stored vectors. Bytes are those of the index
directory, "memory" those a search reads all or many of. Times are milliseconds a query, in
processor seconds of one thread with ``--cpu``.

    python benchmarks/index_kinds.py --count 1000000 --dim 384 --spread 0.7 --cpu --json
    python benchmarks/index_kinds.py --index minipedia.idx --cpu
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atlas_lm.index import Fingerprint, FlatIndex, IndexSettings, exact, read_manifest
from atlas_lm.index.kinds import encode
from atlas_lm.index.opening import KINDS
from atlas_lm.index.storage import write_index


def settings_of(kind: str) -> list[IndexSettings]:
    """Return what a name on the command line stands for: with and without kept vectors."""
    if kind == "flat":
        return [IndexSettings(kind="flat", first_pass=False), IndexSettings(kind="flat")]
    if kind in ("int8", "binary"):
        plain = IndexSettings(kind=kind)  # type: ignore[arg-type]
    else:
        factory, _, nprobe = kind.partition("@")
        plain = IndexSettings(
            kind="faiss", factory=factory, nprobe=int(nprobe) if nprobe else None, train_rows=50_000
        )
    return [plain, dataclasses.replace(plain, keep_vectors=True)]


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    if args.codes_from is not None:
        exact.FIRST_PASS_FROM = args.codes_from
    vectors, queries, barred = data(args)
    fingerprint = Fingerprint("made up", "", "mean", "cosine", 0, vectors.shape[1], "made up")
    flat = FlatIndex(vectors, fingerprint=fingerprint)
    truth = [set(rows) for rows in flat.search(queries, args.topk, barred).rows.tolist()]
    results = []
    for kind in args.kinds:
        for settings in settings_of(kind):
            with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
                row = measured(settings, vectors, Path(scratch), fingerprint, args)
                index = row.pop("index")
                row |= timed(index, queries, barred, truth, args)
            results.append(row)
            print(row, file=sys.stderr)
    report = {"count": len(vectors), "dim": vectors.shape[1], "topk": args.topk}
    report |= {"source": args.index or f"clustered, spread {args.spread}"}
    report |= {"threads": args.threads, "clock": "cpu" if args.cpu else "wall", "results": results}
    print(json.dumps(report) if args.json else table(report))


def data(args: argparse.Namespace) -> tuple[Tensor, Tensor, list[list[int]] | None]:
    """Return vectors, queries, and the rows that each query may not find."""
    if args.index:
        vectors = FlatIndex.load(args.index).embeddings
    else:
        vectors = clustered(args.count, args.dim, args.spread)
    if args.queries:
        from safetensors.torch import load_file

        return vectors, load_file(args.queries)["queries"][: args.n_queries].float(), None
    rows = list(range(0, len(vectors), max(len(vectors) // args.n_queries, 1)))[: args.n_queries]
    return vectors, vectors[rows].float(), [[row] for row in rows]


def clustered(count: int, dim: int, spread: float) -> Tensor:
    """Unit vectors in float16 around count / 500 centres."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn((max(count // 500, 1), dim), generator=generator)
    made = torch.empty((count, dim), dtype=torch.float16)
    for start in range(0, count, 100_000):
        size = min(100_000, count - start)
        chosen = torch.randint(len(centres), (size,), generator=generator)
        wide = centres[chosen] + spread * torch.randn((size, dim), generator=generator)
        made[start : start + size] = wide / wide.norm(dim=1, keepdim=True)
    return made


def measured(
    settings: IndexSettings,
    vectors: Tensor,
    scratch: Path,
    fingerprint: Fingerprint,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Build the kind in ``scratch``, open it; return it with its build time and bytes."""
    began = clock(args)
    settings = dataclasses.replace(settings, recall_queries=0)
    arrays = {}
    if settings.kind != "flat" or settings.first_pass:
        encoded = encode(settings, vectors, directory=scratch, fingerprint=fingerprint)
        arrays = dict(encoded.arrays)
    seconds = clock(args) - began
    write_index(
        scratch / "index",
        vectors if settings.keeps_vectors else None,
        kind=settings.kind,
        step=0,
        fingerprint=fingerprint,
        passages=None,
        copy_passages=False,
        arrays=arrays,
        settings=settings.as_dict(),
        count=len(vectors),
        dtype=vectors.dtype,
    )
    manifest = read_manifest(scratch / "index")
    index = KINDS[settings.kind].load(scratch / "index")
    if hasattr(index, "pack_") and not args.stored:
        index.pack_()
    sizes = {role: array.bytes for role, array in manifest.arrays.items()}
    read = {"binary": ("bits", "worth"), "faiss": ("faiss",)}.get(
        settings.kind, ("codes", "scales")
    )
    memory = sum(sizes.get(role, 0) for role in read) or manifest.embeddings_bytes
    return {
        "kind": settings.factory or settings.kind,
        "nprobe": getattr(index, "nprobe", None) if settings.factory.count("IVF") else None,
        "vectors": "kept" if settings.keeps_vectors else "dropped",
        "rescored": settings.rescored(args.topk) if settings.kind != "flat" else None,
        "build_s": round(seconds, 1),
        "memory_bytes_a_vector": round(memory / len(vectors), 1),
        "disk_bytes_a_vector": round(
            (sum(sizes.values()) + manifest.embeddings_bytes) / len(vectors), 1
        ),
        "index": index,
    }


def timed(
    index: Any,
    queries: Tensor,
    barred: list[list[int]] | None,
    truth: Sequence[set[int]],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Return recall and the time a query takes in batches of each size."""
    rows = index.search(queries, args.topk, barred).rows.tolist()
    hits = sum(len(set(found) & right) for found, right in zip(rows, truth, strict=True))
    figures: dict[str, Any] = {"recall": round(hits / sum(map(len, truth)), 4)}
    for bsz in args.batch:
        starts = range(0, min(len(queries) - bsz + 1, 4 * bsz), bsz)
        began = clock(args)
        for start in starts:
            index.search(queries[start : start + bsz], args.topk)
        figures[f"ms_{bsz}"] = round(1000 * (clock(args) - began) / (len(starts) * bsz), 2)
    return figures


def clock(args: argparse.Namespace) -> float:
    return time.process_time() if args.cpu else time.perf_counter()


def table(report: dict[str, Any]) -> str:
    """Return the report as a Markdown table."""
    rows = report["results"]
    head = (
        f"{report['count']} x {report['dim']} ({report['source']}), k = {report['topk']}, "
        f"{report['threads']} threads, {report['clock']} clock\n\n"
        f"| {' | '.join(rows[0])} |\n|{' --- |' * len(rows[0])}\n"
    )
    shown = ("" if value is None else str(value) for row in rows for value in row.values())
    width = len(rows[0])
    cells = list(shown)
    return head + "\n".join(
        "| " + " | ".join(cells[start : start + width]) + " |"
        for start in range(0, len(cells), width)
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index", help="an index directory that keeps its vectors")
    parser.add_argument("--queries", help="a safetensors file with a tensor named queries")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--spread", type=float, default=0.7)
    parser.add_argument("--topk", type=int, default=100)
    parser.add_argument("--n-queries", type=int, default=256)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stored", action="store_true", help="do not pack int8 codes in memory")
    parser.add_argument(
        "--codes-from",
        type=int,
        help="search by code from so many vectors on (20,000: fewer are scored in float32)",
    )
    parser.add_argument("--scratch", help="directory for the indexes; the system's if left out")
    parser.add_argument("--cpu", action="store_true", help="processor seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=["flat", "int8", "binary", "SQ8", "IVF,SQ8", "IVF,SQ4", "IVF,PQ48x4fs", "RaBitQ"],
        help="flat, int8, binary, or faiss factory strings, as FACTORY@NPROBE if need be",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
