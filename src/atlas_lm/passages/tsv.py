r"""DPR's passage table: tab-separated, a header ``id\ttext\ttitle``, fields in CSV's quotes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson

from atlas_lm.runtime.errors import InputError, did_you_mean


def is_table(start: bytes) -> bool:
    """Return whether a file that starts so has a first line that names ``id`` and ``text``."""
    header = start.split(b"\n", 1)[0].rstrip(b"\r").removeprefix(b"\xef\xbb\xbf").split(b"\t")
    return {b"id", b"text"} <= set(header)


def table_lines(blocks: Iterable[bytes], path: Path) -> Iterator[bytes]:
    """Yield the rows as lines of JSON; columns other than id, text, title, section are kept too.

    Raises:
        InputError: the header lacks a column, a row has other fields than the header, a quotation
            mark is not closed, or a line is not UTF-8. The message names file and line.
    """
    reader = csv.reader(_text(blocks, path), delimiter="\t", strict=True)
    try:
        header = next(reader, [])
        _check_header(header, path)
        before = reader.line_num
        for row in reader:
            if len(row) != len(header):
                raise InputError(
                    f"{path}:{before + 1}: {len(row)} fields instead of {len(header)} "
                    f"({', '.join(header)}); separate fields by one tab, and put a text that holds "
                    "tabs, newlines or leading quotation marks in quotation marks"
                )
            record = {name: value for name, value in zip(header, row, strict=True) if value}
            record.setdefault("text", "")
            if "id" not in record:
                raise InputError(f"{path}:{before + 1}: the id is empty; give every passage an id")
            yield orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
            before = reader.line_num
    except csv.Error as error:
        raise InputError(
            f"{path}:{reader.line_num}: {error}; a quotation mark that opens a field is closed at "
            'its end, and those inside are doubled (""); the field may begin on an earlier line'
        ) from error


def _check_header(header: list[str], path: Path) -> None:
    for name in ("id", "text"):
        if name not in header:
            raise InputError(
                f"{path}:1: no column {name!r}{did_you_mean(name, header)}; the first line names "
                "the columns, separated by tabs: id, text, title"
            )
    if len(set(header)) != len(header):
        raise InputError(f"{path}:1: a column is named twice ({', '.join(header)})")


def _text(blocks: Iterable[bytes], path: Path) -> Iterator[str]:
    """Yield the lines, with their ends."""
    number, tail = 0, b""
    for block in blocks:
        *complete, tail = (tail + block).split(b"\n")
        for line in complete:
            number += 1
            yield _decoded(line, path, number) + "\n"
    if tail:
        yield _decoded(tail, path, number + 1)


def _decoded(line: bytes, path: Path, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}:{number}: byte {error.start} ({line[error.start]:#04x}) is not UTF-8; "
            "save the file as UTF-8"
        ) from error
