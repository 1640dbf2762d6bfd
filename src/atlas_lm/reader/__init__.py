"""Query and passages to answer: Fusion-in-Decoder over T5, or a decoder-only language model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_lm.reader.settings import SETTINGS_FILE, ReaderSettings
from atlas_lm.runtime.files import read_table
from atlas_lm.runtime.structure import structure

if TYPE_CHECKING:
    from atlas_lm.reader.causal import CausalReader
    from atlas_lm.reader.fid import FiDReader

__all__ = ["ReaderSettings", "open_reader"]


def open_reader(
    name_or_path: str | Path, settings: Mapping[str, Any] | None = None
) -> FiDReader | CausalReader:
    """Open a reader of either kind, with single ``settings`` in place of the saved ones.

    The kind is that of ``reader.json`` where there is one, else the model's own: an encoder-decoder
    is read by Fusion-in-Decoder, anything else as a decoder-only language model.

    Raises:
        InputError: the directory is unreadable, holds no supported model, or a setting is unknown.
    """
    saved = _saved_settings(name_or_path)
    table = {**saved, **(settings or {})}
    if _kind(name_or_path, saved) == "fid":
        from atlas_lm.reader.fid import FiDReader

        fid = structure(table, ReaderSettings, place="reader")
        return FiDReader.from_pretrained(name_or_path, fid)
    from atlas_lm.reader.causal import CausalReader
    from atlas_lm.reader.causal_settings import CausalSettings

    return CausalReader.from_pretrained(
        name_or_path, structure(table, CausalSettings, place="reader")
    )


def _saved_settings(name_or_path: str | Path) -> dict[str, Any]:
    file = Path(name_or_path) / SETTINGS_FILE
    return read_table(file, what="a reader's settings") if file.is_file() else {}


def _kind(name_or_path: str | Path, saved: Mapping[str, Any]) -> str:
    from atlas_lm.reader.loading import load_config
    from atlas_lm.runtime.packages import resolve_model_path

    if "kind" in saved:
        return str(saved["kind"])
    place = resolve_model_path(str(name_or_path))
    if isinstance(place, Path):
        is_gguf = place.suffix == ".gguf" or any(place.glob("*.gguf"))
        if is_gguf and not (place / "config.json").is_file():
            return "causal"
    return "fid" if load_config(place).is_encoder_decoder else "causal"
