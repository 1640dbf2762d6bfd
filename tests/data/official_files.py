"""Small files in the exact formats in which the data sets are published."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import orjson

from atlas_lm.data.official import PrepareSettings, prepare_official
from atlas_lm.data.official_dataset import OfficialDataset


def write(path: Path, content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".bz2":
        data = bz2.compress(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def jsonl(path: Path, *rows: Any) -> str:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    return write(path, "".join(f"{line}\n" for line in lines))


def tar(path: Path, members: dict[str, str]) -> str:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content.encode())
            archive.addfile(info, io.BytesIO(content.encode()))
    return str(path)


def made(
    dataset: OfficialDataset, sources: list[str], out: Path, **settings: Any
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Run prepare; return the manifest and the rows of every file."""
    manifest = prepare_official(dataset, sources, out, PrepareSettings(**settings))
    rows = {
        path.relative_to(out).as_posix().removesuffix(".jsonl"): [
            orjson.loads(line) for line in path.read_bytes().splitlines()
        ]
        for path in sorted(out.rglob("*.jsonl"))
    }
    return manifest, rows
