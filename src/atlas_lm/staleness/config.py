"""What is done about an index that grows older than the retriever."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from atlas_lm.runtime.errors import InputError
from atlas_lm.staleness.background import BackgroundConfig, BackgroundRefresh, Launcher
from atlas_lm.staleness.freshness import KeptIndex
from atlas_lm.staleness.live import LiveIndex
from atlas_lm.staleness.probe import Probe
from atlas_lm.staleness.recent import RecentQueries
from atlas_lm.staleness.refresher import FullRefresh, PartialConfig, PartialRefresh, Refresher
from atlas_lm.staleness.schedule import (
    PROBE_EVERY,
    DriftBound,
    RefreshSchedule,
    Trigger,
    parse_trigger,
)

REFRESHES = ("full", "partial", "background")


@dataclass(frozen=True, kw_only=True)
class StalenessConfig:
    """How training keeps the index honest; `context.n_rerank` is one more answer."""

    refresh_schedule: str = "never"
    """When a refresh is due: at steps, "0-100:10,100-:500", "50" or "never"; or as soon as the
    index is measured to be that far off, "drift>0.05"."""
    refresh: Literal["full", "partial", "background"] = "full"
    """How: every passage while training waits; the passages in demand first, within a budget; or
    every passage in a second process while training goes on."""
    partial: PartialConfig = field(default_factory=PartialConfig)
    background: BackgroundConfig = field(default_factory=BackgroundConfig)
    probe_passages: int = 256
    """Passages embedded anew to measure staleness, with every line of the log; 0 for none."""
    probe_every: int = PROBE_EVERY
    """Steps between measurements where a drift decides when to refresh."""
    query_side: bool = False
    """Train the query encoder alone: the passage encoder is frozen, the index never stale."""

    def __post_init__(self) -> None:
        trigger, never = self.trigger(0), not self.refreshes
        if self.query_side and not never:
            raise InputError(
                f"staleness.refresh_schedule={self.refresh_schedule!r} has no effect with "
                "staleness.query_side=true, where passage embeddings never change; "
                'set refresh_schedule="never" or query_side=false'
            )
        if self.refresh not in REFRESHES:
            raise InputError(
                f"staleness.refresh={self.refresh!r}: choose one of {', '.join(REFRESHES)}"
            )
        if self.refresh != "full" and never:
            raise InputError(
                f"staleness.refresh={self.refresh!r} has no effect with "
                f"staleness.refresh_schedule={self.refresh_schedule!r}; say when to refresh, for "
                'example refresh_schedule="100" or "drift>0.05"'
            )
        if self.refresh == "partial" and not self.partial.budget:
            raise InputError(
                "staleness.partial.budget is not given; with staleness.refresh=partial say how "
                "many passages a refresh may embed, for example a tenth of the corpus"
            )
        if self.probe_every < 1:
            raise InputError(f"staleness.probe_every={self.probe_every}: give at least 1 step")
        if self.probe_passages < 0:
            raise InputError(
                f"staleness.probe_passages={self.probe_passages}: give a number of passages, or 0"
            )
        if isinstance(trigger, DriftBound) and not self.probe_passages:
            raise InputError(
                f"staleness.refresh_schedule={self.refresh_schedule!r} decides by what the probe "
                "measures, and staleness.probe_passages=0; give it some, such as 256"
            )

    @property
    def refreshes(self) -> bool:
        """Whether the index is ever refreshed."""
        trigger = self.trigger(0)
        return not isinstance(trigger, RefreshSchedule) or bool(trigger.spans)

    def trigger(self, freeze_retriever_steps: int) -> Trigger:
        """Return when to refresh, in a run whose retriever learns after so many steps."""
        return parse_trigger(
            self.refresh_schedule,
            freeze_retriever_steps=freeze_retriever_steps,
            probe_every=self.probe_every,
        )


def keep_fresh(
    live: LiveIndex,
    config: StalenessConfig,
    launcher: Launcher,
    *,
    topk: int,
    freeze_retriever_steps: int = 0,
    seed: int = 0,
) -> KeptIndex:
    """Return the keeper of an index, as configured.

    Args:
        live: The index and its retriever.
        config: What to do, and when.
        launcher: Starts background refreshes; nothing else uses it.
        topk: Passages retrieved for a query.
        freeze_retriever_steps: Steps before the retriever starts to learn.
        seed: Governs which passages are measured.
    """
    recent = RecentQueries()
    refreshers: dict[str, Refresher] = {
        "full": FullRefresh(live),
        "partial": PartialRefresh(live, recent, config.partial, topk=topk),
        "background": BackgroundRefresh(live, config.background, launcher),
    }
    probe = Probe(live, recent, passages=config.probe_passages, topk=topk, seed=seed)
    return KeptIndex(
        live,
        trigger=config.trigger(freeze_retriever_steps),
        refresher=refreshers[config.refresh],
        recent=recent,
        probe=probe if config.probe_passages else None,
    )
