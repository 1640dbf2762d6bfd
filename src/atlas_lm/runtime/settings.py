"""Where the program keeps what it downloads and derives. Read from the environment when asked."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the cache directory: ``ATLAS_LM_CACHE``, else ``$XDG_CACHE_HOME/atlas-lm``."""
    if explicit := os.environ.get("ATLAS_LM_CACHE"):
        return Path(explicit).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "atlas-lm"
