"""``atlas-lm prepare wikipedia``."""

from __future__ import annotations

import argparse

from atlas_lm.cli.common import add_json_argument, print_json
from atlas_lm.data.wikipedia import WikipediaSettings, prepare_wikipedia
from atlas_lm.data.wikipedia_text import SKIPPED_SECTIONS, WikitextSettings
from atlas_lm.runtime.logs import notice, warn

HELP = "Make passages with titles, sections, lists and infoboxes of a Wikipedia dump."
EXAMPLE = "atlas-lm prepare wikipedia simplewiki-latest-pages-articles.xml.bz2 --out wiki.jsonl.gz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the dumps, where the passages go and what they hold."""
    parser.add_argument(
        "dump",
        nargs="+",
        metavar="DUMP",
        help="….xml.bz2, .xml.gz or .xml: paths or URLs, in order",
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="the passages, as .jsonl or .jsonl.gz"
    )
    parser.add_argument(
        "--words", type=int, default=100, metavar="N", help="a passage's (default: 100)"
    )
    parser.add_argument("--no-lists", action="store_true", help="leave list items out")
    parser.add_argument("--no-infoboxes", action="store_true", help="leave infoboxes out")
    parser.add_argument("--tables", action="store_true", help="keep rows of tables, as a | b")
    parser.add_argument(
        "--skip-section",
        action="append",
        default=[],
        metavar="TITLE",
        help="leave sections of this title out, besides References, See also and the like; "
        "may be given several times",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N articles")
    parser.add_argument(
        "--processes", type=int, default=0, metavar="N", help="default: one for each core"
    )
    parser.add_argument(
        "--force", action="store_true", help="download and write again though it is there and sound"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Write the passages; print the counts, with ``--json`` the manifest."""
    skipped = {" ".join(title.split()).lower() for title in args.skip_section}
    settings = WikipediaSettings(
        words=args.words,
        limit=args.limit,
        processes=args.processes,
        wikitext=WikitextSettings(
            lists=not args.no_lists,
            infoboxes=not args.no_infoboxes,
            tables=args.tables,
            skipped_sections=SKIPPED_SECTIONS | skipped,
        ),
    )
    manifest = prepare_wikipedia(args.dump, args.out, settings, force=args.force)
    if args.json:
        print_json(manifest)
        return 0
    counts = manifest["counts"]
    mean = counts["words"] / counts["passages"]
    notice(
        f"{manifest['out']}: {counts['passages']:,} passages of {mean:.0f} words on average from "
        f"{counts['articles']:,} articles"
    )
    notice(
        f"left out of {counts['pages']:,} pages: {counts['redirects']:,} redirects, "
        f"{counts['disambiguations']:,} disambiguations, {counts['other_namespaces']:,} of other "
        f"namespaces, {counts['without_text']:,} without text"
    )
    if manifest["unread"]:
        warn(f"nested too deeply to be read: {', '.join(manifest['unread'][:10])}")
    return 0
