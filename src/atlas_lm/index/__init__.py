"""VECTORS -> ROWS: search over passage embeddings, and the directories they are kept in."""

from atlas_lm.index.base import Index
from atlas_lm.index.build import build
from atlas_lm.index.compact import Compacted, compact, refresh
from atlas_lm.index.files import Fingerprint, Manifest, PassageFiles, read_manifest
from atlas_lm.index.flat import FlatIndex
from atlas_lm.index.keep import Change, add, delete, update
from atlas_lm.index.opening import open_index
from atlas_lm.index.parted import PartedIndex
from atlas_lm.index.settings import IndexSettings

__all__ = [
    "Change",
    "Compacted",
    "Fingerprint",
    "FlatIndex",
    "Index",
    "IndexSettings",
    "Manifest",
    "PartedIndex",
    "PassageFiles",
    "add",
    "build",
    "compact",
    "delete",
    "open_index",
    "read_manifest",
    "refresh",
    "update",
]
