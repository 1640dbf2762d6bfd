"""The command line: ``main`` is a table from a verb to the module that does it."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from atlas_lm.runtime.errors import InputError, did_you_mean

VERBS = {
    "quickstart": "atlas_lm.cli.quickstart",
    "prepare": "atlas_lm.cli.prepare",
    "index": "atlas_lm.cli.index",
    "train": "atlas_lm.cli.train",
    "evaluate": "atlas_lm.cli.evaluate",
    "retrieve": "atlas_lm.cli.retrieve",
    "answer": "atlas_lm.cli.answer",
    "score": "atlas_lm.cli.score",
    "inspect": "atlas_lm.cli.inspect",
    "plan": "atlas_lm.cli.plan",
    "export": "atlas_lm.cli.export",
    "doctor": "atlas_lm.cli.doctor",
    "selftest": "atlas_lm.cli.selftest",
}
"""Each module has ``HELP``, ``EXAMPLE``, ``add_arguments(parser)`` and ``run(args) -> int``."""

WITH_SUBVERBS = {"index", "prepare"}
"""Verbs with verbs of their own; all others take options and words in any order."""

SUMMARY = {
    "quickstart": "the main job on the embedded default: index, train both halves, compare, answer",
    "prepare": "make passages of documents, or task files of a benchmark's official files",
    "index": "build an index over your passages, keep it up to date, check it",
    "train": "fine-tune retriever and reader together from a recipe",
    "evaluate": "measure answers and retrieval on a file of questions",
    "retrieve": "find the passages for a file of questions",
    "answer": "ask one question and see the passages behind the answer",
    "score": "the loss lab: what each objective makes of your passages",
    "inspect": "show a run, a checkpoint, a model or an index",
    "plan": "memory, disk and time of every stage, before anything starts",
    "export": "a model to share, from any checkpoint: plain directories and a model card",
    "doctor": "check the installation and the devices, or which modules of a recipe learn",
    "selftest": "train a tiny world end to end, in under a minute",
}


def build_parser(verb: str) -> tuple[argparse.ArgumentParser, ModuleType]:
    """Return the parser of one verb and the module behind it. Imports only that module."""
    module = importlib.import_module(VERBS[verb])
    parser = argparse.ArgumentParser(
        prog=f"atlas-lm {verb}",
        description=module.HELP,
        epilog=f"example:\n  {module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser, module


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Exit codes: 0 done, 2 the user's input, 1 our fault, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from atlas_lm import __version__

        print(f"atlas-lm {__version__}")
        return 0
    verb = arguments[0]
    if verb not in VERBS:
        return _complain(f"unknown verb {verb!r}{did_you_mean(verb, VERBS)}; see atlas-lm --help")
    _quiet_libraries()
    try:
        parser, module = build_parser(verb)
        _hide_library_progress()
        parse = parser.parse_args if verb in WITH_SUBVERBS else parser.parse_intermixed_args
        return int(module.run(parse(arguments[1:])))
    except InputError as error:
        return _complain(str(error))
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        if error.filename is None:
            raise
        return _complain(f"{error.filename}: {error.strerror}; mend it, or name another place")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def _overview() -> str:
    lines = ["usage: atlas-lm VERB ...", ""]
    lines += [f"  {verb:<11} {summary}" for verb, summary in SUMMARY.items()]
    lines += ["", "atlas-lm VERB --help shows the options of a verb and an example."]
    return "\n".join(lines)


def _complain(message: str) -> int:
    print(f"atlas-lm: {message}", file=sys.stderr)
    return 2


def _hide_library_progress() -> None:
    if "transformers" in sys.modules:
        from transformers.utils import logging

        logging.disable_progress_bar()


def _quiet_libraries() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
