"""WHEN THE INDEX IS OLDER THAN THE RETRIEVER: measure, refresh, rerank, or train queries alone."""

from __future__ import annotations

from atlas_lm.staleness.background import BackgroundConfig
from atlas_lm.staleness.config import StalenessConfig, keep_fresh
from atlas_lm.staleness.drift import Drift, measure_drift
from atlas_lm.staleness.freshness import AlwaysFresh, Freshness, KeptIndex
from atlas_lm.staleness.live import LiveIndex
from atlas_lm.staleness.query_side import train_query_side_only
from atlas_lm.staleness.refresher import PartialConfig
from atlas_lm.staleness.rerank import rerank
from atlas_lm.staleness.schedule import RefreshSchedule

__all__ = [
    "AlwaysFresh",
    "BackgroundConfig",
    "Drift",
    "Freshness",
    "KeptIndex",
    "LiveIndex",
    "PartialConfig",
    "RefreshSchedule",
    "StalenessConfig",
    "keep_fresh",
    "measure_drift",
    "rerank",
    "train_query_side_only",
]
