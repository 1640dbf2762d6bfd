"""ROWS -> TEXT: passages on disk, read by row."""

from atlas_lm.passages.format import PassageFormat, format_passage
from atlas_lm.passages.store import PassageStore

__all__ = ["PassageFormat", "PassageStore", "format_passage"]
