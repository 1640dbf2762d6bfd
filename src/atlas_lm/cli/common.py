"""Options that several verbs share, and how they open models, indexes and data."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from atlas_lm.cli.device import device
from atlas_lm.config import parse_override, with_overrides
from atlas_lm.model import Atlas, AtlasConfig
from atlas_lm.reader import open_reader
from atlas_lm.retrieve import ContextConfig
from atlas_lm.retriever import BiEncoder, EncoderSettings
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.logs import track
from atlas_lm.runtime.packages import packaged
from atlas_lm.tasks import (
    TASKS,
    ReaderKind,
    TaskConfig,
    find_task,
    load_examples,
    with_wording,
)
from atlas_lm.types import Batch, Example, Retrieved


def print_json(value: Any) -> None:
    """Print one JSON object on stdout, and nothing else."""
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--model`` or the pair ``--reader`` and ``--retriever`` with the encoder's settings."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="DIR",
        type=_model_place,
        help="a model saved by atlas-lm train, or package:atlas-lm/NAME",
    )
    group.add_argument(
        "--reader", metavar="NAME", help="directory, Hub id or package:NAME of a T5 or causal LM"
    )
    add_retriever_arguments(group)
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="table.key=value",
        help="change an option saved with the model: task.choices.debias=cyclic, "
        "generation.num_beams=4, reader.settings.query_maxlength=512; may be given several times",
    )
    group.add_argument(
        "--device", type=device, default="cpu", help="of the model: cpu, cuda, mps (default: cpu)"
    )


def add_retriever_arguments(group: Any) -> None:
    """Add ``--retriever`` and the settings a plain transformers directory does not say."""
    group.add_argument(
        "--retriever", metavar="NAME", help="directory, Hub id or package:NAME of an encoder"
    )
    group.add_argument("--pooling", choices=["mean", "cls", "last", "sqrt"], help=_PLAIN)
    group.add_argument("--similarity", choices=["dot", "cosine"], help=_PLAIN)
    group.add_argument("--query-maxlength", type=int, metavar="TOKENS", help=_PLAIN)
    group.add_argument("--passage-maxlength", type=int, metavar="TOKENS", help=_PLAIN)
    group.add_argument("--query-template", metavar="TEXT", help=_PLAIN)
    group.add_argument("--passage-template", metavar="TEXT", help=_PLAIN)


_PLAIN = "for a retriever directory that does not say it itself"


def add_context_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where passages come from and how many are read."""
    group = parser.add_argument_group("passages")
    add_index_arguments(group)
    group.add_argument(
        "--passages-from",
        choices=["index", "file", "none"],
        help="retrieve them, take those in the data file, or none: closed book",
    )
    group.add_argument("--n-context", type=int, metavar="N", help="passages read per question")


def add_index_arguments(group: Any, *, required: bool = False) -> None:
    """Add ``--index``, once or several times, and what passages must satisfy to be found."""
    group.add_argument(
        "--index",
        action="append",
        required=required,
        metavar="DIR",
        help="an index made by atlas-lm index build; given several times they are searched as "
        "one, where passages of a later one replace those with equal ids",
    )
    group.add_argument(
        "--index-device",
        type=device,
        default="cpu",
        metavar="DEVICE",
        help="where the index is searched; only flat and int8 know others than the default, cpu",
    )
    group.add_argument(
        "--where",
        metavar="CONDITION",
        help="find only passages that satisfy it: 'source == \"hr\" and year >= 2020'",
    )
    group.add_argument(
        "--as-of",
        metavar="DATE",
        help="find only passages valid on it by valid_from and valid_to: 2019, 2019-06, 2019-06-15",
    )


def add_data_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the questions file and how to read it."""
    group = parser.add_argument_group("data")
    group.add_argument("--data", required=required, metavar="FILE", help="the task's rows as JSONL")
    group.add_argument(
        "--task",
        metavar="NAME",
        help=f"{', '.join(name for name in TASKS if not name.startswith('kilt_'))}, kilt_<data "
        "set>, or a task of your own (default: the model's)",
    )
    group.add_argument("--limit", type=int, metavar="N", help="only the first N questions")
    group.add_argument("--bsz", type=int, default=8, metavar="N", help="questions at a time")


def encoder_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings given on the command line, by name."""
    names = [field.name for field in dataclasses.fields(EncoderSettings)]
    given = {name: getattr(args, name, None) for name in names}
    return {name: value for name, value in given.items() if value is not None}


def check_counts(args: argparse.Namespace) -> None:
    """Refuse ``--limit``, ``--bsz`` and ``--topk`` below 1.

    Raises:
        InputError: as said.
    """
    for name in ("limit", "bsz", "topk"):
        value = getattr(args, name, None)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: give at least 1")


def _check_encoder_settings(args: argparse.Namespace) -> None:
    """Refuse settings of an encoder where the encoder opened says its own."""
    if args.retriever is None and (given := encoder_settings(args)):
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"{named}: has no effect without --retriever; a model has its own")


def _model_place(name: str) -> str:
    """Return where ``--model`` is; for `argparse`."""
    try:
        return packaged(name)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def open_retriever(args: argparse.Namespace) -> BiEncoder:
    """Open ``--retriever`` or the retriever of ``--model`` on the device asked for."""
    _check_encoder_settings(args)
    if args.model is None and args.retriever is None:
        raise InputError("give --model DIR or --retriever NAME")
    if args.retriever is not None:
        retriever = BiEncoder.from_pretrained(args.retriever, settings=encoder_settings(args))
    else:
        retriever = BiEncoder.from_pretrained(f"{args.model}/retriever")
    return retriever.to(args.device)


def open_model(args: argparse.Namespace) -> Atlas:
    """Open ``--model``, or ``--reader`` with ``--retriever``, and ``--index`` where given."""
    check_counts(args)
    _check_encoder_settings(args)
    if args.model is not None and args.reader is not None:
        raise InputError("give --model or --reader, not both")
    if getattr(args, "task", None) is not None:
        find_task(args.task)
    if args.model is not None:
        atlas = Atlas.from_pretrained(args.model)
        if settings := _reader_settings(args):
            reader = open_reader(f"{args.model}/reader", settings)
            atlas = Atlas(atlas.retriever, reader, atlas.config)
        if args.retriever is not None:
            atlas.retriever = BiEncoder.from_pretrained(
                args.retriever, settings=encoder_settings(args)
            )
    elif args.reader is not None:
        reader = open_reader(args.reader, _reader_settings(args))
        retriever = open_retriever(args) if args.retriever is not None else None
        atlas = Atlas(retriever, reader)
    else:
        raise InputError("give --model DIR, or --reader NAME with --retriever NAME")
    config = _changed(atlas.config, args)
    kind = atlas.reader.settings.kind
    config = dataclasses.replace(config, task=_task(args, config.task, kind))
    atlas = atlas.with_config(_with_set(config, args))
    atlas.to(args.device)
    if getattr(args, "index", None) is not None:
        atlas.open_index(args.index, device=args.index_device)
    elif atlas.config.context.passages_from == "index":
        raise InputError("give --index DIR, or --passages-from file or none")
    return atlas


def open_for_retrieval(args: argparse.Namespace) -> Atlas:
    """Open a retriever and its index; no reader is loaded."""
    check_counts(args)
    retriever = open_retriever(args)
    saved = Atlas.saved_config(args.model) if args.model is not None else AtlasConfig()
    context = dataclasses.replace(saved.context, passages_from="index")
    config = _changed(dataclasses.replace(saved, context=context), args)
    config = dataclasses.replace(config, task=_task(args, config.task, "fid"))
    atlas = Atlas(retriever, None, _with_set(config, args))
    atlas.open_index(args.index, device=args.index_device)
    return atlas


def load_data(
    args: argparse.Namespace, atlas: Atlas, *, require_answers: bool = True
) -> list[Example]:
    """Return the examples of ``--data`` in the words of the model's task."""
    return load_examples(args.data, atlas.task, require_answers=require_answers, limit=args.limit)


def _with_set(config: AtlasConfig, args: argparse.Namespace) -> AtlasConfig:
    """Return ``config`` with every ``--set``."""
    changes = [each for each in getattr(args, "set", []) if not each.startswith(_READER)]
    return with_overrides(config, changes, place="--set") if changes else config


def _reader_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return what ``--set reader.settings.NAME=VALUE`` says; ``settings.`` may be left out."""
    changes = [each for each in getattr(args, "set", []) if each.startswith(_READER)]
    return dict(
        parse_override(change.removeprefix(_READER).removeprefix("settings.")) for change in changes
    )


_READER = "reader."


def _task(args: argparse.Namespace, saved: TaskConfig, kind: ReaderKind) -> TaskConfig:
    """Return the task asked for, or the saved one, with its wording written out."""
    asked = getattr(args, "task", None)
    config = saved if asked in (None, saved.task) else TaskConfig(task=asked)
    return with_wording(config, find_task(config.task), kind, keep=saved)


def _changed(config: AtlasConfig, args: argparse.Namespace) -> AtlasConfig:
    """Return ``config`` with what the command line says otherwise."""
    context = config.context
    if (passages_from := getattr(args, "passages_from", None)) is not None:
        unfiltered = passages_from != "index"
        context = dataclasses.replace(
            context,
            passages_from=passages_from,
            where="" if unfiltered else context.where,
            as_of="" if unfiltered else context.as_of,
        )
    context = _filtered(context, args)
    if (n_context := getattr(args, "n_context", None)) is not None:
        context = dataclasses.replace(
            context,
            n_context=n_context,
            retriever_n_context=max(n_context, context.retriever_n_context),
        )
    return dataclasses.replace(config, context=context)


def _filtered(context: ContextConfig, args: argparse.Namespace) -> ContextConfig:
    """Return ``context`` with the filters given on the command line."""
    given = {name: getattr(args, name, None) for name in ("where", "as_of")}
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(context, **changes)


def batches(examples: Sequence[Example], bsz: int, description: str) -> Iterator[Batch]:
    """Yield batches of ``bsz`` examples in order, with a progress bar on a terminal."""
    starts = range(0, len(examples), bsz)
    for start in track(starts, description):
        yield Batch(tuple(examples[start : start + bsz]))


def passages_json(retrieved: Retrieved, query: int) -> list[dict[str, Any]]:
    """Return one query's passages as ids and scores."""
    return [
        {"id": passage.id, "score": score}
        for passage, score in zip(
            retrieved.passages[query], retrieved.scores[query].tolist(), strict=True
        )
    ]
