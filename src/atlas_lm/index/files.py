"""What an index directory says about itself: `manifest.json`, written last."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atlas_lm.passages.store import PassageStore
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import read_table, write_json

FORMAT_VERSION = 2
"""2 added arrays, settings, recall and parts; directories of version 1 are read as they are."""
MANIFEST = "manifest.json"
MIXED = "mixed"
"""In the place of an encoder's fingerprint where rows are of several: it equals no retriever's."""


@dataclass(frozen=True)
class Fingerprint:
    """What the vectors of an index depend on. Two that are equal give equal vectors."""

    encoder: str
    """Digests of the passage encoder, "WEIGHTS-READING": of its weights, and of its configuration
    and tokenizer; indexes built by earlier releases carry the first alone."""
    template: str
    """How a passage becomes text."""
    pooling: str
    """How token states become one vector."""
    similarity: str
    """Inner product, or cosine (then the vectors are of unit length)."""
    max_length: int
    """Tokens of a passage that are embedded."""
    dim: int
    """Components of a vector."""
    corpus: str
    """Fingerprint of the passages."""

    def differences(self, other: Fingerprint) -> dict[str, tuple[Any, Any]]:
        """Return the fields that differ, with this one's value and the other's.

        Of an encoder of which one knows the weights alone, they alone are compared.
        """
        values = dataclasses.asdict(self), dataclasses.asdict(other)
        found = {name: (ours, values[1][name]) for name, ours in values[0].items()}
        return {
            name: pair
            for name, pair in found.items()
            if not (_same_encoder(*pair) if name == "encoder" else pair[0] == pair[1])
        }

    def mixed_with(self, other: Fingerprint) -> Fingerprint:
        """Return what an index carries when some of its vectors are of the one, some of the other.

        Raises:
            InputError: they differ in more than the encoder.
        """
        self.check(other, ignore={"encoder"})
        known_of_both = min(self.encoder, other.encoder, key=len)
        mixed = "encoder" in self.differences(other)
        return dataclasses.replace(self, encoder=MIXED if mixed else known_of_both)

    def check(self, other: Fingerprint, *, ignore: Collection[str] = ()) -> None:
        """Hold an index (this) against what will be used with it (other).

        Args:
            other: the fingerprint of the retriever and corpus at hand.
            ignore: fields that may differ; ``{"encoder"}`` where the index is knowingly stale.

        Raises:
            InputError: a field differs; the message names it, both values and the remedy.
        """
        for name, (ours, theirs) in self.differences(other).items():
            if name not in ignore:
                remedy = (
                    "open it with the passage files it was built from"
                    if name == "corpus"
                    else "open it with the retriever it was built with"
                )
                if name == "encoder" and ours.partition("-")[0] == theirs.partition("-")[0]:
                    remedy += " (its weights are the same, its tokenizer or config.json is not)"
                raise InputError(
                    f"the index was built with {name}={ours!r}, but {name}={theirs!r} is in use; "
                    f"rebuild it with `atlas-lm index build`, or {remedy}"
                )


def _same_encoder(one: str, other: str) -> bool:
    weights, reading = zip(one.partition("-")[::2], other.partition("-")[::2], strict=True)
    return weights[0] == weights[1] and ("" in reading or reading[0] == reading[1])


@dataclass(frozen=True)
class PassageFile:
    """One passage file of an index."""

    path: str
    """Relative to the index directory; absolute where it lies on another drive."""
    absolute: str
    """Where it was when the index was written."""
    bytes: int
    """Size of the file."""
    sha256: str
    """SHA-256 of its content, unpacked."""


@dataclass(frozen=True, kw_only=True)
class PassageFiles:
    """The passages of an index: references to files, or a copy in the directory."""

    files: tuple[PassageFile, ...]
    """The files, in order."""
    copied: bool = False
    """Whether the directory holds its own copy."""

    @classmethod
    def of(cls, store: PassageStore) -> PassageFiles:
        """Return references to the files of a store."""
        return cls(
            files=tuple(
                PassageFile(str(path), str(path.resolve()), size_of(path), sha256)
                for path, sha256 in zip(store.paths, store.sha256, strict=True)
            )
        )

    def located(self, directory: Path) -> PassageFiles:
        """Return these with the present place of every file that lies where ``path`` says."""
        places = [(directory.resolve() / file.path).resolve() for file in self.files]
        files = (
            dataclasses.replace(file, absolute=str(place)) if place.exists() else file
            for file, place in zip(self.files, places, strict=True)
        )
        return dataclasses.replace(self, files=tuple(files))

    def found_from(self, directory: Path) -> list[Path]:
        """Return where the files are now: beside the index as recorded, or where they were.

        Raises:
            InputError: a file is in neither place.
        """
        places = [Path(file.absolute) for file in self.located(directory).files]
        for file, place in zip(self.files, places, strict=True):
            if not place.exists():
                raise InputError(
                    f"{directory}: its passages are missing: neither {directory / file.path} nor "
                    f"{place} exists; put the file back ({file.bytes} bytes, sha256 "
                    f"{file.sha256[:12]}...) or name its new place"
                )
        return places


@dataclass(frozen=True, kw_only=True)
class ArrayFile:
    """One raw file of an index directory, beside its vectors: codes, deleted rows, row steps."""

    name: str
    """Name inside the directory."""
    bytes: int
    """Its size."""
    sha256: str
    """Its checksum."""


@dataclass(frozen=True, kw_only=True)
class Recall:
    """How much of the exact result a compressed or approximate index finds."""

    k: int
    """Rows asked for."""
    recall: float
    """Share of the exact top k found, in [0, 1]."""
    queries: int
    """Sampled queries it was measured with."""
    rows: int
    """Rows searched exactly for comparison: all, or a sample."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `manifest.json`."""

    kind: str
    """Which index: "flat", "int8", "binary", "faiss", "milvus", or "stack" of others."""
    dim: int
    """Components of a vector."""
    dtype: str
    """How vectors are stored: "float32", "float16" or "bfloat16"; little endian, row by row."""
    count: int
    """Number of vectors."""
    step: int
    """The retriever's step when the vectors were computed."""
    fingerprint: Fingerprint
    """What the vectors were computed with, and over."""
    embeddings: str
    """Name of the file of full-precision vectors; empty where only codes are kept."""
    embeddings_bytes: int
    """Its size."""
    embeddings_sha256: str
    """Its checksum."""
    passages: PassageFiles | None
    """The passages of the rows; None where the index was saved without."""
    created: str
    """When the vectors were written (UTC, ISO 8601); compaction and `save`, which copy them, keep
    it."""
    library_version: str
    """Version of atlas-lm that wrote it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the kind needs to know beside, such as a factory string, nprobe or a URL."""
    arrays: Mapping[str, ArrayFile] = field(default_factory=dict)
    """Further files by role, such as "codes", "scales", "faiss", "deleted", "row_steps"."""
    recall: Recall | None = None
    """Measured at build time; None for an exact index."""
    parts: tuple[str, ...] = ()
    """Names of subdirectories, each an index over passages added later; rows count on."""
    part_rows: tuple[int, ...] = ()
    """Rows of each part."""
    deleted: int = 0
    """Rows, of all parts, that are dead; their list is the array "deleted"."""
    updated: str = ""
    """When passages were last added or deleted (UTC, ISO 8601); empty if never."""
    format_version: int = FORMAT_VERSION
    """Version of this format."""

    @property
    def rows(self) -> int:
        """Rows of the index and its parts, dead ones too."""
        return self.count + sum(self.part_rows)

    @property
    def live(self) -> int:
        """Passages that can be found."""
        return self.rows - self.deleted


def size_of(path: Path) -> int:
    """Return the size of a file, or of all files of a directory (a data set, a database)."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def write_manifest(directory: Path, *, created: str = "", **fields: Any) -> Manifest:
    """Write the manifest with the library's version, atomically; return it.

    Args:
        directory: the index directory.
        created: when the vectors were written; now if empty.
        fields: the manifest's other fields.
    """
    version = _library_version()
    manifest = Manifest(created=created or _now(), library_version=version, **fields)
    write_json(directory / MANIFEST, dataclasses.asdict(manifest))
    return manifest


def rewrite_manifest(directory: Path, manifest: Manifest, **changes: Any) -> Manifest:
    """Put the manifest with changes in the place of the present one, atomically; return it.

    Its ``updated`` is now, where ``changes`` do not say otherwise.
    """
    changes = {"updated": _now(), "format_version": FORMAT_VERSION, **changes}
    manifest = dataclasses.replace(manifest, **changes)
    write_json(directory / MANIFEST, dataclasses.asdict(manifest))
    return manifest


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def read_manifest(directory: str | Path, *, kind: str | None = None) -> Manifest:
    """Return the manifest of an index directory.

    Raises:
        InputError: it is missing, damaged, of a newer format, or of another kind than ``kind``.
    """
    directory = Path(directory)
    path = directory / MANIFEST
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory; build it with `atlas-lm index build`")
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; {directory} is no index or its building was cut short: "
            "run `atlas-lm index build` (again)"
        )
    values = read_table(path, what="the manifest of an index")
    version = values.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version {version}, but this atlas-lm reads up to {FORMAT_VERSION}; "
            "upgrade atlas-lm or rebuild the index"
        )
    try:
        manifest = _parsed(values)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: not the manifest of an index ({type(error).__name__}: {error}); "
            "rebuild the index with `atlas-lm index build`"
        ) from error
    if kind is not None and manifest.kind != kind:
        raise InputError(f"{path}: the index is of kind {manifest.kind!r}, not {kind!r}")
    return manifest


def _parsed(values: dict[str, Any]) -> Manifest:
    passages = values["passages"]
    if passages is not None:
        files = tuple(PassageFile(**file) for file in passages["files"])
        passages = PassageFiles(files=files, copied=passages["copied"])
    recall = values.get("recall")
    nested = {
        "passages": passages,
        "fingerprint": Fingerprint(**values["fingerprint"]),
        "arrays": {role: ArrayFile(**array) for role, array in values.get("arrays", {}).items()},
        "recall": Recall(**recall) if recall is not None else None,
        "parts": tuple(values.get("parts", ())),
        "part_rows": tuple(values.get("part_rows", ())),
    }
    manifest = Manifest(**{**values, **nested})
    for known in dataclasses.fields(manifest):
        value = getattr(manifest, known.name)
        if known.type in ("int", "str") and type(value).__name__ != known.type:
            raise TypeError(f"{known.name} is {value!r}, not {known.type}")
    return manifest


def relative_files(passages: PassageFiles, directory: Path) -> PassageFiles:
    """Return the references as they are to be written into ``directory``."""
    return dataclasses.replace(
        passages, files=tuple(_relative(file, directory.resolve()) for file in passages.files)
    )


def _relative(file: PassageFile, directory: Path) -> PassageFile:
    try:
        path = os.path.relpath(file.absolute, directory)
    except ValueError:  # another drive
        path = file.absolute
    return dataclasses.replace(file, path=path)


def _library_version() -> str:
    try:
        return importlib.metadata.version("atlas-lm")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
