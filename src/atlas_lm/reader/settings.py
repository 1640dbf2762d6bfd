"""How a reader words and bounds its inputs; saved beside its weights as ``reader.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from atlas_lm.runtime.errors import InputError, did_you_mean
from atlas_lm.runtime.files import read_json, write_json

SETTINGS_FILE = "reader.json"
"""The settings' file in a reader's directory."""
CHOICES = {"kind": ("fid", "causal"), "reading": ("one_prompt", "fused")}
"""Fields with a fixed set of values."""


@dataclass(frozen=True, kw_only=True)
class ReaderSettings:
    """What a reader needs to know beside its weights and its tokenizer."""

    kind: Literal["fid", "causal"] = "fid"
    """Fusion-in-Decoder over an encoder-decoder, or a decoder-only language model."""
    encoder_format: str = "{query} title: {title} context: {text}"
    """What is read for each passage; fields {query}, {title} (with its section) and {text}."""
    encoder_format_untitled: str = "{query} context: {text}"
    """The same for a passage without a title; fields {query} and {text}."""
    text_maxlength: int = 512
    """Longest input in tokens: query and one passage; longer ones lose their end."""
    target_maxlength: int = 64
    """Longest target in tokens, its end-of-sequence token included."""
    encoder_chunks: int = 4
    """Passages are sorted by length and encoded in this many runs, each padded to its own longest
    (fid only)."""
    reading: Literal["one_prompt", "fused"] = "one_prompt"
    """Whether passages share one prompt or are read apart and fused (causal only)."""

    def __post_init__(self) -> None:
        for name in ("text_maxlength", "target_maxlength", "encoder_chunks"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        _check_choices({name: getattr(self, name) for name in CHOICES})
        _check_format("encoder_format", self.encoder_format, {"query", "title", "text"})
        _check_format("encoder_format_untitled", self.encoder_format_untitled, {"query", "text"})

    def save(self, path: str | Path) -> None:
        """Write the settings to ``reader.json`` in the directory ``path``."""
        write_json(Path(path) / SETTINGS_FILE, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> ReaderSettings:
        """Read ``reader.json`` from the directory ``path``.

        Raises:
            InputError: the file is missing, is not a JSON object, or has an unknown or wrong field.
        """
        file = Path(path) / SETTINGS_FILE
        values = read_json(file, what="a reader's settings")
        if not isinstance(values, dict):
            raise InputError(f"{file}: expected a JSON object, found {type(values).__name__}")
        return cls.from_dict(values, place=str(file))

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, place: str) -> ReaderSettings:
        """Check field names and types and return the settings.

        Raises:
            InputError: a field is unknown or of the wrong type; the message starts with ``place``.
        """
        defaults = {item.name: item.default for item in fields(cls)}
        for name, value in values.items():
            if name not in defaults:
                raise InputError(f"{place}: unknown setting {name!r}{did_you_mean(name, defaults)}")
            expected = type(defaults[name])
            if type(value) is not expected:
                raise InputError(f"{place}: {name}={value!r} must be of type {expected.__name__}")
        try:
            _check_choices(values)
            return cls(**values)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error


def _check_choices(values: Mapping[str, Any]) -> None:
    for name, choices in CHOICES.items():
        if values.get(name, choices[0]) not in choices:
            raise InputError(f"{name}={values[name]!r} must be one of {', '.join(choices)}")


def _check_format(name: str, template: str, known: set[str]) -> None:
    try:
        template.format(**dict.fromkeys(known, ""))
    except (KeyError, IndexError, ValueError) as error:
        listed = ", ".join(f"{{{field}}}" for field in sorted(known))
        raise InputError(f"{name}={template!r}: {error!r}; the fields are {listed}") from error
