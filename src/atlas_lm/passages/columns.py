"""Passages in columns, through pyarrow: Parquet files and directories of ``save_to_disk``.

``id`` and ``text`` are needed; whole-number ids become strings; the other columns are kept, as
far as JSON can say them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.runtime.extras import library
from atlas_lm.runtime.files import read_json

ROWS_AT_ONCE = 1024


def parquet_lines(path: Path) -> Iterator[bytes]:
    """Yield the rows of a Parquet file as lines of JSON.

    Raises:
        InputError: pyarrow is missing, the file is damaged, or a row is no passage.
    """
    arrow = _pyarrow(path, "Parquet")
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(file.schema_arrow.names, path)
            row = 0
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                yield from _lines(batch.to_pylist(), path, row)
                row += batch.num_rows
    except (arrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a sound Parquet file ({error}); write it again") from error


def dataset_lines(path: Path) -> Iterator[bytes]:
    """Yield the rows of a directory written by ``datasets.Dataset.save_to_disk``.

    Raises:
        InputError: as `parquet_lines`.
    """
    arrow = _pyarrow(path, "a saved dataset")
    row = 0
    for file in dataset_files(path)[1:]:
        try:
            with arrow.OSFile(str(file)) as source, arrow.ipc.open_stream(source) as stream:
                _check_columns(stream.schema.names, file)
                for batch in stream:
                    yield from _lines(batch.to_pylist(), path, row)
                    row += batch.num_rows
        except (arrow.ArrowException, OSError) as error:
            raise InputError(f"{file}: damaged ({error}); save the dataset again") from error


def dataset_files(path: Path) -> list[Path]:
    """Return the files of a saved dataset: its state, then its rows in order.

    Raises:
        InputError: the directory is none, or holds several splits.
    """
    if (path / "dataset_dict.json").is_file():
        splits = read_json(path / "dataset_dict.json", what="a dataset of splits").get("splits", [])
        raise InputError(
            f"{path}: a dataset of several splits; name one: "
            f"{', '.join(str(path / split) for split in splits)}"
        )
    state = path / "state.json"
    if not state.is_file():
        held = sorted(found for found in path.iterdir() if found.suffix in {".jsonl", ".parquet"})
        hint = f"; name its files: {' '.join(map(str, held[:3]))} ..." if held else ""
        raise InputError(
            f"{path}: is a directory, but not one of datasets.Dataset.save_to_disk "
            f"(no state.json){hint or '; name passage files'}"
        )
    try:
        names = [entry["filename"] for entry in read_json(state, what="a dataset")["_data_files"]]
    except (KeyError, TypeError) as error:
        raise InputError(f"{state}: names no data files; save the dataset again") from error
    files = [path / name for name in names]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: missing, though {state} names it; save the dataset again")
    return [state, *files]


def _lines(rows: Iterable[Mapping[str, Any]], path: Path, before: int) -> Iterator[bytes]:
    for number, row in enumerate(rows, before + 1):
        record = dict(row)
        if type(record["id"]) is int:
            record["id"] = str(record["id"])
        for name in ("id", "text"):
            if type(record[name]) is not str:
                kind = "null" if record[name] is None else f"of type {type(record[name]).__name__}"
                raise InputError(f"{path}, row {number}: {name!r} is {kind}; it must be a string")
        try:
            yield orjson.dumps(record, default=_plain, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError as error:
            name = next((name for name, value in record.items() if not _sayable(value)), "?")
            raise InputError(
                f"{path}, row {number}: column {name!r} cannot be kept as JSON ({error}); "
                "drop or convert it"
            ) from error


def _plain(value: Any) -> Any:
    from decimal import Decimal

    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"a value of type {type(value).__name__}")


def _sayable(value: Any) -> bool:
    try:
        orjson.dumps(value, default=_plain)
    except TypeError:
        return False
    return True


def _check_columns(names: Iterable[str], path: Path) -> None:
    names = list(names)
    for name in ("id", "text"):
        if name not in names:
            raise InputError(
                f"{path}: no column {name!r}{did_you_mean(name, names)}; "
                f"the columns are {', '.join(names)}; rename them to id, text, title"
            )


def _pyarrow(path: Path, what: str) -> Any:
    needs = f"{path}: reading {what} needs pyarrow"
    return library("pyarrow", needs=needs, extra="corpora", otherwise="write the passages as JSONL")
