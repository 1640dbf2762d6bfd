"""Query and passages to answer: Fusion-in-Decoder over T5, or a decoder-only language model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from atlas_lm.reader.settings import SETTINGS_FILE, ReaderSettings

if TYPE_CHECKING:
    from atlas_lm.reader.causal import CausalReader
    from atlas_lm.reader.fid import FiDReader

__all__ = ["ReaderSettings", "open_reader"]


def open_reader(name_or_path: str | Path) -> FiDReader | CausalReader:
    """Open a reader of either kind.

    The kind is that of ``reader.json`` where there is one, else the model's own: an encoder-decoder
    is read by Fusion-in-Decoder, anything else as a decoder-only language model.

    Raises:
        InputError: the directory is unreadable, or holds no supported model.
    """
    if _kind(name_or_path) == "fid":
        from atlas_lm.reader.fid import FiDReader

        return FiDReader.from_pretrained(name_or_path)
    from atlas_lm.reader.causal import CausalReader

    return CausalReader.from_pretrained(name_or_path)


def _kind(name_or_path: str | Path) -> str:
    from atlas_lm.runtime.packages import resolve_model_path

    place = resolve_model_path(str(name_or_path))
    if isinstance(place, Path):
        if (place / SETTINGS_FILE).is_file():
            return ReaderSettings.load(place).kind
        if not (place / "config.json").is_file() and any(place.glob("*.gguf")):
            return "causal"
    from atlas_lm.reader.loading import load_config

    return "fid" if load_config(place).is_encoder_decoder else "causal"
