"""Which options a resumed run has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atlas_lm.runtime.logs import warn
from atlas_lm.runtime.structure import dotted

MAY_CHANGE = (
    "log_every",
    "evaluate_every",
    "save_every",
    "keep_last",
    "best_metric",
    "save_in_background",
)
"""Options of ``training`` that decide nothing about the weights."""


def warn_of_changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Name every option that differs from the saved run's and can matter."""
    before, after = dotted(saved), dotted(now)
    may_change = {f"training.{name}" for name in MAY_CHANGE}
    changed = [
        f"{key} was {before.get(key)!r} and is {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key not in may_change
    ]
    if saved and now and changed:
        warn(f"resuming with other options than the saved run's: {'; '.join(changed)}")
