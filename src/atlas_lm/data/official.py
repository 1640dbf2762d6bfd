"""Official files of a data set to task JSONL: streamed, counted, checksummed, whole or not at all.

The directory that is written holds a file for each split, ``shots/K-seedS.jsonl`` beside every
``train.jsonl``, and ``manifest.json`` with counts, checksums of what was read and written, and what
was left out and why.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from atlas_lm.data.official_dataset import LeftOut, OfficialDataset
from atlas_lm.data.official_files import (
    OpenedFile,
    Source,
    damage_explained,
    files_on_disk,
    locate,
    opened,
)
from atlas_lm.data.official_rows import check_text
from atlas_lm.data.official_shots import split_off, write_shots
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import atomic_directory, read_json, sha256_file, write_json
from atlas_lm.runtime.logs import notice, progress_bar

FORMAT_VERSION = 1
MALFORMED = "malformed.txt"
SPOKEN_EVERY = 512
"""Rows between two movements of the progress bar."""


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """What is made besides the splits, and what is done about malformed rows."""

    shots: tuple[int, ...] | None = None
    """Sizes of few-shot splits; None for the data set's own."""
    seeds: int = 5
    """Few-shot splits of each size."""
    dev: int = 0
    """Rows of the train split, drawn with a fixed seed, that become the dev split."""
    skip_malformed: bool = False
    """Leave malformed rows out and name them in ``malformed.txt`` instead of stopping."""

    def __post_init__(self) -> None:
        if any(k < 1 for k in self.shots or ()):
            raise InputError(f"--shots {min(self.shots or ())}: give at least 1")
        if self.seeds < 1:
            raise InputError(f"--seeds {self.seeds}: give at least 1")
        if self.dev < 0:
            raise InputError(f"--dev {self.dev}: give 0 or more")


@dataclass
class _Tally:
    """What happened to the rows, by the file they would be in."""

    rows: Counter[str] = field(default_factory=Counter)
    without_answers: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    malformed: list[str] = field(default_factory=list)
    ids: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))


def prepare_official(
    dataset: OfficialDataset,
    sources: Sequence[str],
    out: str | Path,
    settings: PrepareSettings | None = None,
    *,
    force: bool = False,
) -> dict[str, Any]:
    """Write the task JSONL of the official files into ``out`` and return its manifest.

    Where ``out`` was made from the same files with the same options and every checksum agrees,
    nothing is written.

    Args:
        dataset: what the files are.
        sources: paths, URLs or Hub ids, each as ``split=…`` where its name does not say the split.
        out: the directory; it appears, or is replaced, whole or not at all.
        settings: few-shot splits, and what is done about malformed rows.
        force: download and write again even so.

    Raises:
        InputError: a file is nowhere or damaged, a row is malformed, nothing is left to write, or
            ``out`` holds files that are not of `prepare`.
    """
    settings, out = settings or PrepareSettings(), Path(out)
    located = locate(sources, splits=dataset.splits, suffixes=_packed(dataset), force=force)
    inputs = [(source, path) for source in located for path in files_on_disk(source, dataset)]
    asked = _asked(dataset, settings, inputs)
    present = _present(out, dataset.name)
    if present and not force and asked.items() <= present.items() and _is_sound(out, present):
        notice(f"{out}: complete, every checksum agrees; --force makes it again")
        return present
    with atomic_directory(out) as temporary:
        tally = _convert(dataset, inputs, temporary, settings)
        dataset.finish(temporary)
        _draw(temporary, dataset, settings)
        manifest = {**asked, "task": dataset.task, **_told(tally), "files": _files(temporary)}
        write_json(temporary / "manifest.json", manifest)
    return manifest


def _asked(
    dataset: OfficialDataset, settings: PrepareSettings, inputs: Sequence[tuple[Source, Path]]
) -> dict[str, Any]:
    """Return what decides the directory, for its manifest."""
    options = {**dataset.options, **asdict(settings)}
    return {
        "kind": dataset.name,
        "format_version": FORMAT_VERSION,
        "options": orjson.loads(orjson.dumps(options)),
        "inputs": [_input(source, path) for source, path in inputs],
    }


def _convert(
    dataset: OfficialDataset,
    inputs: Sequence[tuple[Source, Path]],
    out: Path,
    settings: PrepareSettings,
) -> _Tally:
    tally = _Tally()
    with ExitStack() as stack:
        writers: dict[str, IO[bytes]] = {}
        for file, place, raw in _raw_rows(dataset, inputs):
            try:
                row = dataset.convert(dataset.read(raw, place=place), place=place, file=file)
                if not isinstance(raw, bytes):
                    check_text(row, place=place)
            except InputError as error:
                if not settings.skip_malformed:
                    raise InputError(f"{error} (--skip-malformed leaves such rows out)") from error
                tally.malformed.append(str(error))
                continue
            if isinstance(row, LeftOut):
                tally.left_out[file.split][row.reason] += 1
                continue
            for output in dataset.outputs(row, file):
                if output not in writers:
                    path = out / f"{output}.jsonl"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    writers[output] = stack.enter_context(open(path, "wb"))
                _write(row, output, writers[output], dataset.name, tally)
    if tally.malformed:
        (out / MALFORMED).write_text("\n".join(tally.malformed) + "\n", "utf-8")
    if not tally.rows:
        raise InputError(_nothing(inputs, tally))
    return tally


def _raw_rows(
    dataset: OfficialDataset, inputs: Sequence[tuple[Source, Path]]
) -> Iterator[tuple[OpenedFile, str, Any]]:
    size = sum(path.stat().st_size for _, path in inputs)
    with progress_bar() as progress:
        task = progress.add_task(f"Reading {dataset.name} (MB)", total=-(-size >> 20))
        done = 0
        for source, path in inputs:
            for file in opened(source, path, dataset):
                with damage_explained(file.place):
                    for number, (place, raw) in enumerate(dataset.rows(file)):
                        if number % SPOKEN_EVERY == 0:
                            progress.update(task, completed=(done + file.position()) >> 20)
                        yield file, place, raw
            done += path.stat().st_size
        progress.update(task, completed=-(-size >> 20))


def _write(row: dict[str, Any], output: str, writer: IO[bytes], name: str, tally: _Tally) -> None:
    number = tally.rows[output] + tally.left_out[output].total() + 1
    given = row.get("id")
    row = {"id": str(given) if given is not None else f"{name}-{output}-{number}", **row}
    row["id"] = str(row["id"])
    key = hash(row["id"])
    if key in tally.ids[output]:
        tally.left_out[output]["id seen before"] += 1
        return
    if given is not None:
        tally.ids[output].add(key)
    tally.rows[output] += 1
    tally.without_answers[output] += not any(
        row.get(name) for name in ("answers", "answer", "label", "output")
    )
    writer.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


def _draw(out: Path, dataset: OfficialDataset, settings: PrepareSettings) -> None:
    """Split off dev and draw few-shot splits beside every train file."""
    trains = sorted(out.rglob("train.jsonl"))
    if settings.dev and not trains:
        raise InputError(f"--dev {settings.dev}: there is no train split to take rows from")
    for train in trains:
        dev = train.with_name("dev.jsonl")
        if settings.dev:
            if dev.exists():
                raise InputError(
                    f"--dev {settings.dev}: there is a dev split already; leave the option or its "
                    "file out"
                )
            split_off(train, dev, settings.dev, option=f"--dev {settings.dev}")
        write_shots(
            train,
            train.parent / "shots",
            dataset.shots if settings.shots is None else settings.shots,
            settings.seeds,
            stratum=dataset.stratum,
            required=settings.shots is not None,
        )
    if settings.shots and not trains:
        raise InputError(f"--shots: {dataset.name} has no train split here to draw from")


def _told(tally: _Tally) -> dict[str, Any]:
    return {
        "left_out": {name: dict(counts) for name, counts in tally.left_out.items() if counts},
        "without_answers": {name: n for name, n in tally.without_answers.items() if n},
        "malformed": {"rows": len(tally.malformed), "first": tally.malformed[:10]},
    }


def _files(out: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(out.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                rows = sum(1 for _ in file)
            name = path.relative_to(out).as_posix()
            found[name] = {
                "rows": rows,
                "bytes": path.stat().st_size,
                "sha256": sha256_file(path),
            }
    return found


def _nothing(inputs: Sequence[tuple[Source, Path]], tally: _Tally) -> str:
    named = ", ".join(dict.fromkeys(source.named for source, _ in inputs))
    if tally.malformed:
        return f"{named}: every row is malformed; the first: {tally.malformed[0]}"
    reasons = sum(tally.left_out.values(), Counter())
    told = "; ".join(f"{n} rows left out: {reason}" for reason, n in reasons.items())
    return f"{named}: no row to write ({told or 'the files are empty'})"


def _input(source: Source, path: Path) -> dict[str, Any]:
    name = source.named if source.path.is_file() else f"{source.named}/{path.name}"
    described = {"name": name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return described | ({"split": source.split} if source.split else {})


def _packed(dataset: OfficialDataset) -> tuple[str, ...]:
    packed = (f"{suffix}.gz" for suffix in dataset.suffixes)
    return (*dataset.suffixes, *packed, ".tar", ".tar.gz", ".zip")


def _present(out: Path, kind: str) -> dict[str, Any] | None:
    """Return the manifest in ``out``; None where ``out`` is empty or does not exist.

    Raises:
        InputError: ``out`` holds something else, which writing there would remove.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    manifest: dict[str, Any] = {}
    if (out / "manifest.json").is_file():
        manifest = read_json(out / "manifest.json", what="the manifest of prepare")
    known = {"manifest.json", *manifest.get("files", {})}
    strange = [
        path.relative_to(out).as_posix()
        for path in (sorted(out.rglob("*")) if out.is_dir() else [out])
        if path.is_file() and path.relative_to(out).as_posix() not in known
    ]
    if strange or manifest.get("kind") != kind:
        held = f"{manifest.get('kind', 'other')} files" if not strange else ", ".join(strange[:3])
        raise InputError(
            f"{out}: holds what prepare {kind} did not write and would remove ({held}); choose "
            "another directory or move it away"
        )
    return manifest


def _is_sound(out: Path, manifest: Mapping[str, Any]) -> bool:
    return all(
        (out / name).is_file() and sha256_file(out / name) == described["sha256"]
        for name, described in manifest["files"].items()
    )
