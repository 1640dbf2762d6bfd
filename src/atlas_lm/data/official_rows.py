"""The rows of official files, streamed: JSONL, a JSON array of any size, CSV, Parquet.

What is malformed in a row is found where the row is parsed, not here, so that one bad row need not
end the reading.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator
from typing import IO, Any

import orjson

from atlas_lm.data.official_files import OpenedFile
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.extras import library
from atlas_lm.tasks.jsonl import parse_row

BLOCK_CHARS = 1 << 20
DOCUMENT = re.compile(r'\{\s*"(Data|Domain|VerifiedEval|Version)"\s*:')
"""How a file begins that is one object with its rows in ``Data``, as TriviaQA's are."""
SLACK = 16
"""A fault so near to the end of what was read may only be the end."""


def json_rows(file: OpenedFile, *, key: str | None = None) -> Iterator[tuple[str, Any]]:
    """Yield the place and the row of JSONL (as bytes), a JSON array or Parquet (as values).

    Args:
        file: what is read; its first bytes say which of these it is.
        key: where the file may be one JSON object, the field that holds the array of rows.
    """
    if file.name.suffix == ".parquet":
        yield from parquet_rows(file)
        return
    beginning = file.content.peek(4096).decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    inside = key is not None and DOCUMENT.match(beginning) is not None
    if beginning.startswith("[") or inside:
        yield from array_rows(file.content, file.place, key if inside else None)
        return
    for number, line in enumerate(file.content, start=1):
        yield f"{file.place}:{number}", line


def parsed(raw: Any, *, place: str) -> dict[str, Any]:
    """Return a row as an object.

    Raises:
        InputError: it is none.
    """
    if isinstance(raw, bytes):
        return parse_row(raw, place=place, first=place.endswith(":1"))
    if not isinstance(raw, dict):
        raise InputError(f"{place}: {str(raw)[:60]!r} is no JSON object; every row must be one")
    return raw


def check_text(row: Any, *, place: str) -> None:
    """Refuse a row with half a character, which a JSON list may spell as an escape.

    Raises:
        InputError: as said.
    """
    try:
        orjson.dumps(row)
    except orjson.JSONEncodeError as error:
        raise InputError(f"{place}: half of a surrogate pair ({error}); mend the text") from error


def array_rows(content: IO[bytes], place: str, key: str | None) -> Iterator[tuple[str, Any]]:
    """Yield ``file:line`` and the value of each element of a JSON array, of any length.

    Args:
        content: the document.
        place: what messages call it.
        key: the field of the outermost object that holds the array; None where the document is one.

    Raises:
        InputError: the document is no such array, malformed or cut short.
    """
    text = _Text(content, place)
    opening = re.compile(rf'"{key}"\s*:\s*\[' if key else r"\s*\[")
    text.skip_through(opening, what=f'a field "{key}" with a list' if key else "a list")
    while True:
        mark = text.next_mark()
        if mark == "]":
            return
        if mark == ",":
            text.advance(1)
            continue
        yield f"{place}:{text.line}", text.value()


class _Text:
    """A document as text of which only the part being parsed is held."""

    def __init__(self, content: IO[bytes], place: str) -> None:
        self.line = 1
        self._place = place
        self._content = content
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._json = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self._ended = False

    def advance(self, count: int) -> None:
        """Go on by so many characters."""
        self.line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def next_mark(self) -> str:
        """Go to the next character that is no white space and return it."""
        while True:
            found = re.compile(r"\S").search(self._text, self._at)
            if found:
                self.advance(found.start() - self._at)
                return found.group()
            if not self._more():
                raise self._fault("it ends inside its list of rows: cut short")

    def skip_through(self, opening: re.Pattern[str], *, what: str) -> None:
        """Go behind the first match, which must be within the first 16 million characters."""
        self._more()
        while (found := opening.search(self._text, self._at)) is None:
            if len(self._text) > 16 * BLOCK_CHARS or not self._more():
                raise self._fault(f"expected {what}")
        self.advance(found.end() - self._at)

    def value(self) -> Any:
        """Return the value that begins here and go behind it."""
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                open_end = error.msg.startswith("Unterminated string")
                if (open_end or error.pos > len(self._text) - SLACK) and self._more():
                    continue
                self.advance(error.pos - self._at)
                cut = " and it ends here: cut short" if self._ended and open_end else ""
                raise self._fault(f"malformed JSON ({error.msg}){cut}") from error
            self.advance(end - self._at)
            return value

    def _more(self) -> bool:
        if self._ended:
            return False
        data = self._content.read(max(BLOCK_CHARS, len(self._text) - self._at))
        self._ended = not data
        try:
            added = self._decode(data, self._ended)
        except UnicodeDecodeError as error:
            raise self._fault(f"not UTF-8 ({error.reason})") from error
        self._text = self._text[self._at :] + added
        self._at = 0
        return bool(added) or not self._ended

    def _fault(self, why: str) -> InputError:
        return InputError(f"{self._place}:{self.line}: {why}; give the official file as it was")


def csv_rows(file: OpenedFile) -> Iterator[tuple[str, list[str]]]:
    """Yield ``file:line`` and the cells of each row of a CSV file without a header.

    Raises:
        InputError: the file is not UTF-8, or a cell is longer than any cell should be.
    """
    reader = csv.reader(
        line.decode("utf-8" if number else "utf-8-sig") for number, line in enumerate(file.content)
    )
    line = 1
    try:
        for cells in reader:
            yield f"{file.place}:{line}", cells
            line = reader.line_num + 1
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(
            f"{file.place}:{line}: not CSV ({error}); quote cells that hold commas, and write a "
            "quotation mark inside them twice"
        ) from error


def parquet_rows(file: OpenedFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``file, row n`` and the row of a Parquet file, in batches.

    Raises:
        InputError: pyarrow is not installed, or the file is damaged.
    """
    needs = f"{file.place}: reading Parquet needs the pyarrow package"
    parquet = library("pyarrow.parquet", needs=needs, extra="corpora")
    fault = library("pyarrow", needs=needs, extra="corpora").ArrowException
    number = 0
    try:
        for batch in parquet.ParquetFile(file.content).iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{file.place}, row {number}", row
    except fault as error:
        raise InputError(f"{file.place}: damaged Parquet ({error}); download it again") from error
