"""``atlas-lm prepare``: Minipedia, passages of documents, benchmarks from their official files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from atlas_lm.cli import prepare_official, prepare_passages, prepare_wikipedia
from atlas_lm.data.minipedia import prepare_minipedia
from atlas_lm.data.minipedia_sources import Sources
from atlas_lm.data.subsets import Subsets
from atlas_lm.runtime.logs import console, notice

HELP = "Make passages of documents, or task files of a benchmark's official files."
MINIPEDIA = "Make a benchmark's corpus and questions from the packages that ship them."
MINIPEDIA_EXAMPLE = "atlas-lm prepare minipedia --out data/minipedia"
EXAMPLE = (
    f"{MINIPEDIA_EXAMPLE}\n"
    "  atlas-lm prepare triviaqa triviaqa-unfiltered.tar.gz --out data/triviaqa"
)

_FROM_DOCUMENTS: Mapping[str, Any] = {
    "passages": prepare_passages,
    "wikipedia": prepare_wikipedia,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be made, each with its own options."""
    verbs = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    _add_minipedia_arguments(_add_parser(verbs, "minipedia", MINIPEDIA, MINIPEDIA_EXAMPLE))
    for name, made in _FROM_DOCUMENTS.items():
        made.add_arguments(_add_parser(verbs, name, made.HELP, made.EXAMPLE))
    prepare_official.add_parsers(verbs)


def _add_parser(verbs: Any, name: str, text: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Make what was asked for."""
    if args.what in prepare_official.DATASETS:
        return prepare_official.run(args)
    if args.what in _FROM_DOCUMENTS:
        return int(_FROM_DOCUMENTS[args.what].run(args))
    return _run_minipedia(args)


def _add_minipedia_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where the benchmark goes."""
    parser.add_argument(
        "--out", metavar="DIR", default="data/minipedia", help="default: data/minipedia"
    )
    parser.add_argument(
        "--force", action="store_true", help="make it again though it is there and sound"
    )
    parser.add_argument(
        "--recompute-subsets",
        action="store_true",
        help="find the answerable and supported questions again: embeds everything, takes minutes",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _run_minipedia(args: argparse.Namespace) -> int:
    """Make the benchmark, print counts and licences; with ``--json`` its manifest, directory."""
    out = Path(args.out)
    recompute = _recompute if args.recompute_subsets else None
    manifest = prepare_minipedia(out, force=args.force, recompute=recompute)
    if args.json:
        print(json.dumps({"directory": str(out), **manifest}, indent=2, ensure_ascii=False))
    else:
        console.print(counts_table(manifest["counts"]))
        for part in manifest["provenance"]:
            notice(f"{part['what']}: {part['licence']}")
        notice(f"passages: {out / 'passages.jsonl'}   questions: {out / 'supported'}")
    return 0


def counts_table(counts: Mapping[str, Any]) -> Table:
    """Return the numbers of questions: a row for each set, a column for each split and source."""
    table = Table(title=f"Minipedia: {counts['passages']:,} passages, questions by set")
    table.add_column("set")
    columns = [(split, source) for split in ("dev", "test") for source in counts["all"][split]]
    for split, source in columns:
        table.add_column(f"{split} {source}", justify="right")
    for name in ("supported", "answerable", "all"):
        numbers = [counts[name][split].get(source, 0) for split, source in columns]
        table.add_row(name, *(f"{number:,}" for number in numbers))
    return table


def _recompute(sources: Sources) -> Subsets:
    from atlas_lm.data.recompute import recompute_subsets

    return recompute_subsets(sources.passages, sources.questions, sources.inputs)
