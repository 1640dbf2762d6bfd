"""``atlas-lm prepare nq | triviaqa | webq | fever | kilt | mmlu | templama``."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from atlas_lm.cli.common import add_json_argument, print_json
from atlas_lm.data.fever import Fever
from atlas_lm.data.kilt import Kilt
from atlas_lm.data.mmlu import Mmlu
from atlas_lm.data.nq import NaturalQuestions
from atlas_lm.data.official import MALFORMED, PrepareSettings, prepare_official
from atlas_lm.data.official_dataset import OfficialDataset
from atlas_lm.data.templama import TempLAMA
from atlas_lm.data.triviaqa import TriviaQA
from atlas_lm.data.webq import WebQuestions
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import console, notice, verbatim, warn

DATASETS: Mapping[str, type[OfficialDataset]] = {
    dataset.name: dataset
    for dataset in (NaturalQuestions, TriviaQA, WebQuestions, Fever, Kilt, Mmlu, TempLAMA)
}
"""What can be made of official files, by name."""


def add_parsers(verbs: Any) -> None:
    """Add a verb for each data set."""
    for name, dataset in DATASETS.items():
        parser = verbs.add_parser(
            name,
            help=dataset.summary,
            description=f"{dataset.summary}, as JSONL for the task {dataset.task}.",
            epilog=f"example:\n  {dataset.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _add_arguments(parser, dataset)


def run(args: argparse.Namespace) -> int:
    """Write the data set; print the counts, with ``--json`` its manifest and directory."""
    dataset = DATASETS[args.what].from_arguments(args)
    settings = PrepareSettings(
        shots=_sizes(args.shots),
        seeds=args.seeds,
        dev=args.dev,
        skip_malformed=args.skip_malformed,
    )
    out = Path(args.out or f"data/{args.what}")
    manifest = prepare_official(dataset, args.source, out, settings, force=args.force)
    if args.json:
        print_json({"directory": str(out), **manifest})
        return 0
    console.print(_table(out, manifest))
    notice(f"{manifest['kind']}, for --task {manifest['task']}")
    for name, reasons in manifest["left_out"].items():
        for reason, count in reasons.items():
            notice(f"left out of {name}: {count:,} ({reason})")
    for name, count in manifest["without_answers"].items():
        notice(f"without answers in {name}: {count:,}")
    if count := manifest["malformed"]["rows"]:
        warn(f"{count:,} malformed rows left out; all are named in {out / MALFORMED}. The first:")
        for fault in manifest["malformed"]["first"][:3]:
            warn(fault)
    return 0


def _add_arguments(parser: argparse.ArgumentParser, dataset: type[OfficialDataset]) -> None:
    parser.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="official file, directory, archive, URL, Hub id owner/name or "
        "hf://datasets/owner/name/file; with SPLIT= before it where its name does not say "
        f"which of {', '.join(dataset.splits)} it is",
    )
    parser.add_argument("--out", metavar="DIR", help=f"default: data/{dataset.name}")
    own = ",".join(map(str, dataset.shots)) or "none"
    parser.add_argument(
        "--shots",
        metavar="K,K",
        help=f"sizes of few-shot splits of train; 0 for none (default: {own})",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=5,
        metavar="N",
        help="few-shot splits of each size (default: 5)",
    )
    parser.add_argument(
        "--dev", type=int, default=0, metavar="N", help="rows of train that become the dev split"
    )
    parser.add_argument(
        "--skip-malformed",
        action="store_true",
        help=f"leave malformed rows out, counted, and named in {MALFORMED}, instead of stopping",
    )
    parser.add_argument(
        "--force", action="store_true", help="download and write again though it is there and sound"
    )
    dataset.add_arguments(parser)
    add_json_argument(parser)


def _sizes(text: str | None) -> tuple[int, ...] | None:
    """Return sizes written as ``15,65``; nothing for ``0``.

    Raises:
        InputError: a part is no whole number.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"--shots {text!r}: write sizes as 15,65, or 0 for none")
    return () if parts == ["0"] else tuple(dict.fromkeys(map(int, parts)))


def _table(out: Path, manifest: Mapping[str, Any]) -> Table:
    """Return the rows of every file, the few-shot splits of a directory in one line."""
    table = Table(title=verbatim(out, "table.title"))
    table.add_column("file")
    table.add_column("rows", justify="right")
    folded: Counter[str] = Counter()
    for name, described in manifest["files"].items():
        head, _, tail = name.rpartition("/")
        if head.endswith("shots"):
            folded[f"{head}/{tail.partition('-')[0]}-seed*.jsonl"] += 1
        elif head.startswith("subjects/"):
            folded[f"subjects/*/{tail}"] += 1
        elif name != MALFORMED:
            table.add_row(name, f"{described['rows']:,}")
    for name, count in folded.items():
        table.add_row(name, f"{count} files")
    return table
