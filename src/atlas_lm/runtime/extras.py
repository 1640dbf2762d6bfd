"""Libraries that only some uses need: imported when they are, and named where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from atlas_lm.runtime.errors import InputError


def library(module: str, *, needs: str, extra: str, otherwise: str = "") -> Any:
    """Return the imported module.

    Args:
        module: Its name, dotted perhaps.
        needs: What needs it, in words: "BM25 needs the bm25s package".
        extra: The extra of this package that brings it.
        otherwise: What can be done instead.

    Raises:
        InputError: It is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        or_else = f", or {otherwise}" if otherwise else ""
        raise InputError(f"{needs}; run pip install 'atlas-lm[{extra}]'{or_else}") from None
