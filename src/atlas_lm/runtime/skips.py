"""Updates skipped because a loss or gradient is not finite: how many in a row, what is named."""

from __future__ import annotations

from collections.abc import Sequence

SKIPS_IN_ROW = 10
"""Skipped updates in a row after which a run is stopped."""
NAMED = 32
"""Examples of a skipped update that are named."""


def named(examples: Sequence[str]) -> str:
    """Return the names of a skipped update's examples, the first `NAMED`, and how many more."""
    more = f" and {len(examples) - NAMED} more" if len(examples) > NAMED else ""
    return ", ".join(examples[:NAMED]) + more
