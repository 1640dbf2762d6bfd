"""WHEN THE INDEX IS OLDER THAN THE RETRIEVER: refresh, rerank, or train the query side alone."""

from __future__ import annotations

from atlas_lm.staleness.config import StalenessConfig
from atlas_lm.staleness.drift import Drift, measure_drift
from atlas_lm.staleness.query_side import train_query_side_only
from atlas_lm.staleness.refresh import refresh
from atlas_lm.staleness.rerank import rerank
from atlas_lm.staleness.schedule import RefreshSchedule

__all__ = [
    "Drift",
    "RefreshSchedule",
    "StalenessConfig",
    "measure_drift",
    "refresh",
    "rerank",
    "train_query_side_only",
]
