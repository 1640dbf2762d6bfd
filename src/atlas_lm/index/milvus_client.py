"""A client of a Milvus database: where it is, and that it can be opened."""

from __future__ import annotations

import importlib
import logging
import os
from pathlib import Path
from typing import Any

from atlas_lm.index.settings import IndexSettings
from atlas_lm.runtime.errors import InputError, first_line

TOKEN = "ATLAS_LM_MILVUS_TOKEN"
"""Environment variable of a cluster's token, ``user:password`` or an API key."""


def pymilvus_module(*, embedded: bool) -> Any:
    """Return the pymilvus library.

    Raises:
        InputError: it is not installed, or (``embedded``) what opens a database in a file is not.
    """
    try:
        pymilvus = importlib.import_module("pymilvus")
        if embedded:
            importlib.import_module("milvus_lite")
    except ImportError as error:
        raise InputError(
            "an index of kind milvus needs pymilvus (and milvus-lite for a database in a file); "
            "run `pip install 'atlas-lm[milvus]'`"
        ) from error
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # errors are raised, and said once
    return pymilvus


def connect(settings: IndexSettings, directory: Path, token: str | None) -> Any:
    """Return a client of the settings' server, or of the database in an index directory.

    Raises:
        InputError: a library is missing, or the database cannot be opened.
    """
    pymilvus = pymilvus_module(embedded=not settings.url)
    place = place_of(settings, directory)
    try:
        return pymilvus.MilvusClient(place, token=token or os.environ.get(TOKEN, ""))
    except Exception as error:
        raise InputError(
            f"{place}: Milvus cannot be opened ({first_line(error)}); check the URL and "
            f"the token in {TOKEN}, or whether another process has the file open"
        ) from error


def place_of(settings: IndexSettings, directory: Path) -> str:
    """Return the URL of the server, or the path of the database in an index directory."""
    return settings.url or str((directory / settings.database).resolve())
