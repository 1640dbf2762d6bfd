"""ROWS -> TEXT: passages on disk, read by row."""

from atlas_lm.passages.format import format_passage
from atlas_lm.passages.store import PassageStore

__all__ = ["PassageStore", "format_passage"]
