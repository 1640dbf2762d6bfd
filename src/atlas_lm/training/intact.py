"""Is a checkpoint what was written? Sizes and SHA-256 of its files, and of its facts themselves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import read_json, sha256_file

STATE = "state.json"
DIGEST = "sha256"


class DamagedError(InputError):
    """A file of a checkpoint is missing, cut short, or not the bytes that were written."""


def write_facts(path: Path, facts: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, str]:
    """Write ``state.json`` last, with size and SHA-256 of every safetensors file beside it.

    Args:
        path: The checkpoint's directory.
        facts: All that is not a tensor.
        known: SHA-256 of files that need not be read again.

    Returns:
        SHA-256 by file name.
    """
    files = sorted(path.rglob("*.safetensors"))
    names = {file.relative_to(path).as_posix(): file for file in files}
    digests = {name: known.get(name) or sha256_file(file) for name, file in names.items()}
    sizes = {name: file.stat().st_size for name, file in names.items()}
    whole = json.loads(json.dumps({**facts, "files": sizes, "checksums": digests}))
    text = json.dumps({**whole, DIGEST: _digest(whole)}, ensure_ascii=False)
    (path / STATE).write_text(text, "utf-8")
    return digests


def read_facts(path: Path, *, format_version: int) -> dict[str, Any]:
    """Return the facts of a checkpoint whose files are all what was written.

    Raises:
        DamagedError: one is not.
        InputError: ``path`` is no checkpoint of this format.
    """
    file = path / STATE
    try:
        facts: dict[str, Any] = read_json(file, what="a training checkpoint")
    except InputError as error:
        raise DamagedError(str(error)) from error
    if facts.get("format_version") != format_version:
        raise InputError(
            f"{path}: checkpoint format {facts.get('format_version')} is not {format_version}, "
            "the one that this version reads"
        )
    said = facts.pop(DIGEST, None)
    if said != _digest(facts):
        raise DamagedError(f"{file}: not what was written (its checksum differs)")
    for name, size in facts["files"].items():
        _check(path / name, size, facts["checksums"][name])
    return facts


def _check(file: Path, size: int, digest: str) -> None:
    if not file.is_file() or file.stat().st_size != size:
        raise DamagedError(f"{file}: missing or cut short ({size} bytes expected)")
    if sha256_file(file) != digest:
        raise DamagedError(f"{file}: not the bytes that were written (its checksum differs)")


def _digest(facts: Mapping[str, Any]) -> str:
    text = json.dumps(facts, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
