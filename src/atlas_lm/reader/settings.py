"""How a Fusion-in-Decoder reader words and bounds its inputs; saved as ``reader.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import read_table, write_json
from atlas_lm.runtime.structure import structure
from atlas_lm.runtime.templates import template_pieces

SETTINGS_FILE = "reader.json"
"""The settings' file in a reader's directory."""


@dataclass(frozen=True, kw_only=True)
class ReaderSettings:
    """What a Fusion-in-Decoder reader needs to know beside its weights and its tokenizer."""

    kind: Literal["fid"] = "fid"
    """Which reader opens this directory."""
    encoder_format: str = "{query} title: {title} context: {text}"
    """What is read for each passage; fields {query}, {title} (with its section) and {text}."""
    encoder_format_untitled: str = "{query} context: {text}"
    """The same for a passage without a title; fields {query} and {text}."""
    text_maxlength: int = 512
    """Longest input in tokens: query and one passage; longer ones lose their end."""
    target_maxlength: int = 64
    """Longest target in tokens, its end-of-sequence token included."""
    encoder_chunks: int = 4
    """Runs in which passages, sorted by length, are encoded; each is padded to its own longest."""

    def __post_init__(self) -> None:
        for name in ("text_maxlength", "target_maxlength", "encoder_chunks"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        if self.kind != "fid":
            raise InputError(f"kind={self.kind!r} must be fid for a Fusion-in-Decoder reader")
        needs = ("query", "text")
        for name, known in {
            "encoder_format": ("query", "title", "text"),
            "encoder_format_untitled": needs,
        }.items():
            template_pieces(getattr(self, name), known, option=name, needs=needs)

    def save(self, path: str | Path) -> None:
        """Write the settings to ``reader.json`` in the directory ``path``."""
        write_json(Path(path) / SETTINGS_FILE, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> ReaderSettings:
        """Read ``reader.json`` from the directory ``path``.

        Raises:
            InputError: the file is missing or no JSON object, a field unknown or of a wrong type.
        """
        file = Path(path) / SETTINGS_FILE
        return structure(read_table(file, what="a reader's settings"), cls, place=str(file))
