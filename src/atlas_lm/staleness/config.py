"""What is done about an index that grows older than the retriever."""

from __future__ import annotations

from dataclasses import dataclass

from atlas_lm.runtime.errors import InputError
from atlas_lm.staleness.schedule import RefreshSchedule


@dataclass(frozen=True, kw_only=True)
class StalenessConfig:
    """How training keeps the index honest; `context.n_rerank` is the third answer."""

    refresh_schedule: str = "never"
    """Steps at which every passage is embedded anew: "0-100:10,100-:500", "50" or "never"."""
    query_side: bool = False
    """Train the query encoder alone: the passage encoder is frozen, the index never stale."""

    def __post_init__(self) -> None:
        schedule = RefreshSchedule.parse(self.refresh_schedule)
        if self.query_side and schedule.spans:
            raise InputError(
                f"staleness.refresh_schedule={self.refresh_schedule!r} has no effect with "
                "staleness.query_side=true, where passage embeddings never change; "
                'set refresh_schedule="never" or query_side=false'
            )

    def schedule(self, freeze_retriever_steps: int) -> RefreshSchedule:
        """Return the schedule for a run whose retriever starts to learn after so many steps."""
        return RefreshSchedule.parse(
            self.refresh_schedule,
            freeze_retriever_steps=freeze_retriever_steps,
            passages_move=not self.query_side,
        )
