"""What of a passage is read: its beginning, as far as the reader's limit goes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from atlas_lm.runtime.logs import warn_once
from atlas_lm.types import Passage


def without_end(tokenizer: Any, passage: Passage, lost: int) -> Passage:
    """Return a passage whose text has lost its last ``lost`` tokens, none where that is below 1.

    Where the text has fewer, the heading before it is lost too.
    """
    if lost < 1:
        return passage
    ids = tokenizer(passage.text, add_special_tokens=False, verbose=False).input_ids
    if lost > len(ids):
        return replace(passage, text="", title="", section="")
    text = tokenizer.decode(ids[: len(ids) - lost], skip_special_tokens=True)
    return replace(passage, text=text)


def warn_of_cut_passages(cut: int, of: int, setting: str) -> None:
    """Say, once, how many passages of a batch are read without their end, if any are."""
    if cut:
        warn_once(
            f"passages are read without their end: {cut} of the first {of} where that happens are "
            f"longer than {setting}; raise it, or cut the corpus into shorter passages"
        )
