"""``atlas-lm inspect``: what a directory made by atlas-lm is and holds."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from atlas_lm.cli.common import add_json_argument, print_json
from atlas_lm.index import read_manifest
from atlas_lm.reader.settings import SETTINGS_FILE as READER_SETTINGS
from atlas_lm.retriever.saving import SETTINGS_FILE as RETRIEVER_SETTINGS
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import read_table
from atlas_lm.runtime.intact import step_directories
from atlas_lm.runtime.logs import verbatim
from atlas_lm.runtime.structure import dotted
from atlas_lm.training.run_log import LOG_FILE, read_log

HELP = "Show what a run, a checkpoint, a model, an index or a benchmark directory holds."
EXAMPLE = (
    "atlas-lm inspect runs/quickstart\n"
    "  atlas-lm inspect run runs/quickstart   # its curves, its phases, and its card"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the directory, and what it must be."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="[run|checkpoint|model|index] DIR",
        help="a directory; with the word run, its curves are drawn and its card is written",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Inspect."""
    wanted, path = _asked(args.words)
    described = describe(path)
    if wanted and described["kind"] != wanted and wanted not in described:
        raise InputError(f"{path}: is no {wanted} but a {described['kind']}")
    if wanted == "run" and not args.json:
        from atlas_lm.cli.inspect_run import show_run

        show_run(path)
        return 0
    if args.json:
        print_json(described)
        return 0
    table = Table("field", "value", title=verbatim(f"{path}: {described['kind']}", "table.title"))
    for name, value in dotted(described).items():
        if name != "kind":
            table.add_row(verbatim(name), verbatim(value))
    Console().print(table)
    return 0


def _asked(words: Sequence[str]) -> tuple[str, Path]:
    """Return the kind that was named, if any, and the directory."""
    kinds = ("run", "checkpoint", "model", "index")
    if len(words) == 1:
        return "", Path(words[0])
    if len(words) == 2 and words[0] in kinds:
        return words[0], Path(words[1])
    raise InputError(
        f"{' '.join(words)!r}: give one directory, after one of {', '.join(kinds)} or no word"
    )


def describe(path: Path) -> dict[str, Any]:
    """Return what is known of a directory, from its own files, without loading weights.

    Raises:
        InputError: it is not a directory that atlas-lm makes.
    """
    if not path.is_dir():
        raise InputError(
            f"{path}: no such directory; give a run, a model, a checkpoint or an index"
        )
    for name, kind, reader in _KINDS:
        if (path / name).is_file():
            return {"kind": kind, **reader(path)}
    raise InputError(
        f"{path}: holds none of {', '.join(name for name, _, _ in _KINDS)}; "
        "give a run, a model, a checkpoint or an index made by atlas-lm"
    )


def _model(path: Path) -> dict[str, Any]:
    parts = {
        part.name: _weights(part) for part in (path / "reader", path / "retriever") if part.is_dir()
    }
    return {**read_table(path / "atlas.json", what="a model"), "halves": parts}


def _weights(path: Path) -> dict[str, Any]:
    files = sorted(path.rglob("*.safetensors"))
    settings = [
        file for file in path.glob("*.json") if file.name in (READER_SETTINGS, RETRIEVER_SETTINGS)
    ]
    return {
        "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 1),
        "settings": {k: v for f in settings for k, v in read_table(f, what="settings").items()},
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    state = read_table(path / "state.json", what="a training checkpoint")
    return {name: value for name, value in state.items() if name != "random"}


def _run(path: Path) -> dict[str, Any]:
    rows = read_log(path / LOG_FILE)
    latest: dict[str, Any] = {}
    for row in rows:
        latest |= row
    return {
        "first_step": rows[0]["step"] if rows else None,
        "lines": len(rows),
        "latest": latest,
        "checkpoints": [part.name for part in step_directories(path / "checkpoints")],
        "model": str(path / "model") if (path / "model").is_dir() else None,
    }


def _manifest(path: Path) -> dict[str, Any]:
    manifest = read_table(path / "manifest.json", what="a manifest")
    if manifest.get("kind") == "minipedia":
        return {"benchmark": "minipedia", "counts": manifest["counts"]}
    return {"index": dataclasses.asdict(read_manifest(path))}


_KINDS: tuple[tuple[str, str, Callable[[Path], dict[str, Any]]], ...] = (
    ("atlas.json", "model", _model),
    ("state.json", "checkpoint", _checkpoint),
    (LOG_FILE, "run", _run),
    ("manifest.json", "manifest", _manifest),
)
