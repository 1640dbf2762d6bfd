"""VECTORS -> ROWS: exact search over passage embeddings, and the directory they are kept in."""

from atlas_lm.index.base import Index
from atlas_lm.index.build import build
from atlas_lm.index.files import Fingerprint, Manifest, PassageFiles, read_manifest
from atlas_lm.index.flat import FlatIndex
from atlas_lm.index.opening import open_index

__all__ = [
    "Fingerprint",
    "FlatIndex",
    "Index",
    "Manifest",
    "PassageFiles",
    "build",
    "open_index",
    "read_manifest",
]
