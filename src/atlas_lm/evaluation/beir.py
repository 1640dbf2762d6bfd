"""Retrieval on folders in the format of BEIR (Thakur et al. 2021), measured by ``ir-measures``.

A folder holds ``corpus.jsonl`` ({_id, title, text}), ``queries.jsonl`` ({_id, text}) and
``qrels/SPLIT.tsv`` (query-id, corpus-id, score, with a header). As in the benchmark's own runs, a
passage with the query's own id is not counted as found.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from atlas_lm.evaluation.bootstrap import Estimate, estimate
from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.runtime.extras import library
from atlas_lm.runtime.files import atomic_path
from atlas_lm.runtime.logs import track
from atlas_lm.tasks import fields, read_rows

MEASURES = ("nDCG@10", "R@100")
"""What BEIR reports: the gain of the best ten, and the share of the relevant in the best 100."""
_HEADER = ("query-id", "corpus-id", "score")

Search = Callable[[Sequence[str], int], Sequence[tuple[Sequence[int], Sequence[float]]]]
"""Queries and how many passages each gets, to the rows and scores of each, best first."""


@dataclass(frozen=True)
class Beir:
    """The judged queries of a folder."""

    path: Path
    split: str
    queries: Mapping[str, str]
    """Text by id; every one has a judgment."""
    judgments: Mapping[str, Mapping[str, int]]
    """Grade by passage id, by query id."""

    @property
    def corpus(self) -> Path:
        """The file of passages."""
        return _existing(self.path, "corpus.jsonl")


@dataclass(frozen=True)
class BeirResult:
    """What was found in one folder."""

    name: str
    split: str
    passages: int
    not_in_corpus: int
    """Judged passages that the corpus does not have; they count as not found."""
    measures: Mapping[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "name": self.name,
            "split": self.split,
            "passages": self.passages,
            "not_in_corpus": self.not_in_corpus,
            "measures": {name: found.to_dict() for name, found in self.measures.items()},
        }


def read_beir(path: str | Path, split: str = "test") -> Beir:
    """Read queries and judgments of a folder; queries without a judgment are left out.

    Raises:
        InputError: a file is missing, a line is wrong, or a judged query has no text.
    """
    path = Path(path)
    judgments: dict[str, dict[str, int]] = {}
    for query, passage, grade in _qrels(_existing(path, f"qrels/{split}.tsv")):
        judgments.setdefault(query, {})[passage] = grade
    file = _existing(path, "queries.jsonl")
    texts: dict[str, str] = {}
    for line, row in read_rows(file):
        place = f"{file}:{line}"
        id = fields.identifier(row, "_id", place=place)
        if id in judgments:
            texts[id] = fields.text(row, "text", place=place)
    missing = next((id for id in judgments if id not in texts), None)
    if missing is not None:
        raise InputError(
            f"{path}: qrels/{split}.tsv judges query {missing!r}, which queries.jsonl does not "
            "have; give files that belong together"
        )
    return Beir(path, split, {id: texts[id] for id in judgments}, judgments)


def write_passages(corpus: Path, out: Path) -> None:
    """Write a corpus in BEIR's form as passages, atomically and as a stream.

    Raises:
        InputError: a line has no id, or its title or text is no string.
    """
    with atomic_path(out) as temporary, open(temporary, "wb") as file:
        for line, row in track(read_rows(corpus), f"Reading {corpus}"):
            place = f"{corpus}:{line}"
            passage = {
                "id": fields.identifier(row, "_id", place=place),
                "title": row.get("title") or "",
                "text": row.get("text") if row.get("text") is not None else "",
            }
            for name in ("title", "text"):
                if not isinstance(passage[name], str):
                    raise InputError(
                        f"{place}: {name} is {fields.show(passage[name])}; it must be a string"
                    )
            file.write(orjson.dumps(passage, option=orjson.OPT_APPEND_NEWLINE))


def evaluate_beir(
    beir: Beir,
    store: PassageStore,
    search: Search,
    *,
    measures: Sequence[str] = MEASURES,
    bsz: int = 64,
) -> BeirResult:
    """Return how well ``search`` finds the judged passages of every query.

    Args:
        beir: the queries.
        store: the passages; its rows are what ``search`` returns.
        search: what is measured.
        measures: names as ``ir-measures`` writes them, such as nDCG@10.
        bsz: queries at a time.

    Raises:
        InputError: a measure is unknown, or ``ir-measures`` is not installed.
    """
    wanted = parse_measures(measures)
    deepest = max(getattr(measure, "params", {}).get("cutoff") or 1000 for measure in wanted)
    topk = min(deepest + 1, len(store))
    run: dict[str, dict[str, float]] = {}
    ids = list(beir.queries)
    starts = range(0, len(ids), bsz)
    for start in track(starts, f"Searching {beir.path.name}"):
        batch = ids[start : start + bsz]
        found = search([beir.queries[id] for id in batch], topk)
        for id, (rows, scores) in zip(batch, found, strict=True):
            names = (passage.id for passage in store.passages(rows))
            others = [pair for pair in zip(names, scores, strict=True) if pair[0] != id]
            run[id] = dict(others[:deepest])
    judged = {passage for grades in beir.judgments.values() for passage in grades}
    known = len(store.rows_of(sorted(judged), missing="skip"))
    return BeirResult(
        name=beir.path.resolve().name,
        split=beir.split,
        passages=len(store),
        not_in_corpus=len(judged) - known,
        measures=_measured(wanted, beir.judgments, run),
    )


_MEASURE = re.compile(r"(?P<name>\w+)(?:\((?P<options>[^()]*)\))?(?:@(?P<cutoff>\d+))?")


def parse_measures(names: Sequence[str]) -> list[Any]:
    """Return measures of ``ir-measures`` by name.

    Raises:
        InputError: a name is unknown, or the package is not installed.
    """
    library = _library()
    found = []
    for name in names:
        try:
            found.append(_measure(library, name))
        except (AttributeError, ValueError, SyntaxError, TypeError, KeyError) as error:
            raise InputError(
                f"measure {name!r} is unknown{did_you_mean(name, MEASURES)}; write it as "
                "ir-measures does: nDCG@10, R@100, RR@10, AP@1000"
            ) from error
    return found


def _measure(library: Any, name: str) -> Any:
    """Return a measure such as ``P(rel=2)@10``; the library's own parser ends with Python 3.13."""
    parts = _MEASURE.fullmatch(name.strip())
    if parts is None:
        raise ValueError(name)
    measure = getattr(library, parts["name"])
    if not isinstance(measure, library.Measure):
        raise ValueError(name)
    options = (pair.split("=") for pair in (parts["options"] or "").split(",") if pair)
    values = {option.strip(): ast.literal_eval(value.strip()) for option, value in options}
    if unknown := values.keys() - measure.SUPPORTED_PARAMS.keys():
        raise ValueError(min(unknown))
    measure = measure(**values) if values else measure
    return measure @ int(parts["cutoff"]) if parts["cutoff"] else measure


def _measured(
    measures: Sequence[Any],
    judgments: Mapping[str, Mapping[str, int]],
    run: Mapping[str, Mapping[str, float]],
) -> dict[str, Estimate]:
    values: dict[str, dict[str, float]] = {str(measure): {} for measure in measures}
    for metric in _library().iter_calc(list(measures), judgments, run):
        values[str(metric.measure)][metric.query_id] = metric.value
    return {
        name: estimate([by_query.get(query, 0.0) for query in judgments])
        for name, by_query in values.items()
    }


def _qrels(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield query id, passage id and grade of every line below the header."""
    empty = True
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            cells = line.rstrip("\r\n").split("\t")
            if number == 1 and len(cells) == 3 and cells[0] == _HEADER[0]:
                continue
            if len(cells) != 3 or not cells[2].strip().lstrip("-").isdigit():
                raise InputError(
                    f"{path}:{number}: {line.strip()[:60]!r}; expected query-id, corpus-id and a "
                    "whole number, separated by tabs"
                )
            empty = False
            yield cells[0], cells[1], int(cells[2])
    if empty:
        raise InputError(f"{path}: no judgment; expected lines of query-id, corpus-id, score")


def _existing(path: Path, name: str) -> Path:
    file = path / name
    if not file.is_file():
        splits = ", ".join(sorted(found.stem for found in (path / "qrels").glob("*.tsv")))
        hint = f"; there are judgments of {splits}" if splits and "qrels" in name else ""
        raise InputError(
            f"{file}: no such file{hint}; a BEIR folder holds corpus.jsonl, queries.jsonl and "
            "qrels/test.tsv"
        )
    return file


def _library() -> Any:
    needs = "BEIR's measures need the ir-measures package"
    return library("ir_measures", needs=needs, extra="evaluation")
