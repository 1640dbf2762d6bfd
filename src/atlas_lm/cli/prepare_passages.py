"""``atlas-lm prepare passages``."""

from __future__ import annotations

import argparse

from atlas_lm.cli.common import add_json_argument, print_json
from atlas_lm.passages.prepare import ChunkSettings, prepare_passages
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import notice

HELP = "Cut text, Markdown and HTML files into passages with titles and sections."
EXAMPLE = "atlas-lm prepare passages docs/ notes.txt --out corpus.jsonl --drop-duplicates exact"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the files, where the passages go and how they are cut."""
    defaults = ChunkSettings()
    parser.add_argument("files", nargs="+", metavar="FILE", help="files, or directories to walk")
    parser.add_argument("--out", required=True, metavar="FILE", help="the passages, as .jsonl")
    parser.add_argument(
        "--words", type=int, default=defaults.words, metavar="N", help="a passage's (default: 100)"
    )
    parser.add_argument(
        "--overlap",
        type=int,
        default=defaults.overlap,
        metavar="N",
        help="words repeated from the passage before (default: 0)",
    )
    parser.add_argument(
        "--drop-duplicates", choices=["exact", "near"], help="keep the first of equal passages"
    )
    parser.add_argument(
        "--similarity",
        type=float,
        metavar="SHARE",
        help="of three-word shingles shared by near duplicates (default: 0.8)",
    )
    parser.add_argument("--encoding", default=defaults.encoding, help="default: utf-8")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Write the passages; print the counts, with ``--json`` as one object."""
    if args.similarity is not None and args.drop_duplicates != "near":
        raise InputError(
            f"--similarity {args.similarity} has no effect without --drop-duplicates near; add "
            "that, or leave it out"
        )
    settings = ChunkSettings(
        words=args.words,
        overlap=args.overlap,
        drop_duplicates=args.drop_duplicates,
        similarity=ChunkSettings.similarity if args.similarity is None else args.similarity,
        encoding=args.encoding,
    )
    counts = prepare_passages(args.files, args.out, settings)
    if args.json:
        print_json(counts)
        return 0
    mean = counts["words"] / counts["passages"]
    notice(
        f"{counts['out']}: {counts['passages']:,} passages of {mean:.0f} words on average from "
        f"{counts['files']:,} files ({counts['empty_files']} without text)"
    )
    if args.drop_duplicates:
        near = f", {counts['near_duplicates']} near" if args.drop_duplicates == "near" else ""
        notice(f"duplicates dropped: {counts['exact_duplicates']} exact{near}")
    if counts["skipped_files"]:
        kinds = ", ".join(f"{n} {kind}" for kind, n in counts["skipped_files"].items())
        notice(f"files of other kinds passed over: {kinds}")
    return 0
