"""A bi-encoder on disk: ordinary transformers directories and ``bi_encoder.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atlas_lm.retriever.loading import Tower, load_tower, local_directory
from atlas_lm.retriever.sentence_transformers import MODULES, sentence_transformers_settings
from atlas_lm.retriever.settings import EncoderSettings, settings_from
from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import read_table, write_json
from atlas_lm.runtime.weights import save_stock_model

FORMAT_VERSION = 1
SETTINGS_FILE = "bi_encoder.json"
TOWERS = ("query", "passage")
"""Directories of the two encoders where they are untied."""


def read_stated(path: Path) -> tuple[Path, dict[str, Any], bool]:
    """Return where tied weights lie, the settings that files state, and whether it is tied.

    Raises:
        InputError: ``bi_encoder.json`` is of another format, or a sentence-transformers directory
            has a module that is not understood.
    """
    place = path / SETTINGS_FILE
    if place.is_file():
        saved = read_table(place, what="a saved bi-encoder")
        keys = {"format_version", "tied", "settings"}
        if not keys <= saved.keys():
            raise InputError(f"{place}: expected an object with {', '.join(sorted(keys))}")
        if saved["format_version"] != FORMAT_VERSION:
            raise InputError(
                f"{place}: format_version is {saved['format_version']!r}; this release reads "
                f"{FORMAT_VERSION}"
            )
        return path, dict(saved["settings"]), bool(saved["tied"])
    if (path / MODULES).is_file():
        return *sentence_transformers_settings(path), True
    return path, {}, True


def open_towers(
    name_or_path: str | Path, given: EncoderSettings | Mapping[str, Any] | None
) -> tuple[Tower, Tower | None, EncoderSettings]:
    """Return the query tower, the passage tower (None where tied) and the settings.

    Raises:
        InputError: there is no such model, or it is not one that can be read.
    """
    path = local_directory(name_or_path)
    weights, stated, tied = read_stated(path)
    settings = settings_from(stated, given, place=str(path))
    if tied:
        return load_tower(weights, settings), None, settings
    query, passage = (load_tower(path / name, settings) for name in TOWERS)
    return query, passage, settings


def write_settings(path: Path, settings: EncoderSettings, *, tied: bool) -> None:
    """Write ``bi_encoder.json`` with every setting in it."""
    table = dataclasses.asdict(settings)
    write_json(
        path / SETTINGS_FILE, {"format_version": FORMAT_VERSION, "tied": tied, "settings": table}
    )


def save_tower(tower: Tower, path: Path) -> None:
    """Write one encoder and its tokenizer as a transformers directory."""
    save_stock_model(tower.encoder, path)
    tower.tokenizer.save_pretrained(path)
