"""Atlas, the retrieval-augmented language model: retriever and reader fine-tuned together.

A task asks a query; the retriever embeds it; the index finds rows; passages turn rows into text;
the reader reads them all and answers. What the reader liked becomes the retriever's loss, and
training updates both while the index is kept fresh.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas_lm.model import Answer, Atlas, AtlasConfig, Source
    from atlas_lm.passages.store import PassageStore
    from atlas_lm.retriever import BiEncoder
    from atlas_lm.runtime.errors import InputError
    from atlas_lm.types import Example, Generation, Passage

try:
    __version__ = version("atlas-lm")
except PackageNotFoundError:
    __version__ = "0+unknown"

_HOME = {
    "Answer": "atlas_lm.model",
    "Atlas": "atlas_lm.model",
    "AtlasConfig": "atlas_lm.model",
    "BiEncoder": "atlas_lm.retriever",
    "Example": "atlas_lm.types",
    "Generation": "atlas_lm.types",
    "InputError": "atlas_lm.runtime.errors",
    "Passage": "atlas_lm.types",
    "PassageStore": "atlas_lm.passages.store",
    "Source": "atlas_lm.model",
}

__all__ = [
    "Answer",
    "Atlas",
    "AtlasConfig",
    "BiEncoder",
    "Example",
    "Generation",
    "InputError",
    "Passage",
    "PassageStore",
    "Source",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that ``atlas-lm --help`` does not load torch."""
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'atlas_lm' has no attribute {name!r}")
