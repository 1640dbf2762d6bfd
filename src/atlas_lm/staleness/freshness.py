"""What the training loop asks of whoever keeps the index near the retriever, and the keepers.

The loop calls `prepare` before every update, `observe` with what it asked, `measure` for every
line of the log. When to refresh is a `Trigger`, how is a `Refresher`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from atlas_lm.index.files import Fingerprint
from atlas_lm.runtime.distributed import never
from atlas_lm.runtime.errors import InputError
from atlas_lm.staleness.drift import Drift
from atlas_lm.staleness.live import LiveIndex
from atlas_lm.staleness.probe import Probe
from atlas_lm.staleness.recent import RecentQueries
from atlas_lm.staleness.refresher import Refresher, Tensors
from atlas_lm.staleness.schedule import Trigger


class Freshness(Protocol):
    """Keeps an index near its retriever while both are trained; part of a run's state."""

    @property
    def version(self) -> int:
        """How often vectors were replaced: the same number, the same vectors."""
        ...

    def prepare(self, step: int, stopping: Callable[[], bool] = never) -> None:
        """Do what is due before the update at ``step``: refresh, begin to, or swap in.

        Raises:
            StopAsked: ``stopping`` was true in a refresh, somewhere; the next call makes it anew.
        """
        ...

    def observe(self, queries: Iterable[str]) -> None:
        """Take note of the queries of an update."""
        ...

    def measure(self, step: int) -> dict[str, float]:
        """Return how stale the index is after ``step`` updates, and what freshness has cost."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return all that is not a tensor and that an exact resume needs, ready for JSON."""
        ...

    def tensors(
        self, *, with_index: bool = True, scratch: Path | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """Return the tensors that an exact resume needs, by file.

        Args:
            with_index: Else ``index``, where it belongs to them, is there without its tensors.
            scratch: Where an index's vectors of other processes take room; see `LiveIndex.tensors`.
        """
        ...

    def restore(self, facts: Mapping[str, Any], tensors: Tensors) -> None:
        """Become what `facts` and `tensors` were taken from."""
        ...

    def close(self) -> None:
        """Stop whatever runs beside the loop."""
        ...


class AlwaysFresh:
    """No passage's vector can grow old: the passage encoder does not learn, or there is no index.

    Args:
        indexed: Whether there is an index; then the log says that it is fresh.
    """

    version = 0

    def __init__(self, *, indexed: bool = False) -> None:
        self._indexed = indexed

    def prepare(self, step: int, stopping: Callable[[], bool] = never) -> None:
        """Nothing is ever due."""

    def observe(self, queries: Iterable[str]) -> None:
        """Nothing is remembered."""

    def measure(self, step: int) -> dict[str, float]:
        """Return that nothing has moved, where there is an index."""
        if not self._indexed:
            return {}
        return {
            "steps_since_refresh": 0.0,
            "staleness_drift": 0.0,
            "staleness_topk_overlap": 1.0,
            "passages_embedded": 0.0,
        }

    def facts(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def tensors(
        self, *, with_index: bool = True, scratch: Path | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """Return nothing."""
        return {}

    def restore(self, facts: Mapping[str, Any], tensors: Tensors) -> None:
        """Refuse a run that has refreshed an index.

        Raises:
            InputError: it has.
        """
        if "index" in tensors:
            raise InputError(
                "resume: the run refreshed an index, and now none is refreshed; resume it with "
                "the index it began with and its own staleness options"
            )

    def close(self) -> None:
        """Nothing runs."""


class KeptIndex:
    """An index that is refreshed when a trigger says so, in the way of a refresher, and measured.

    Args:
        live: The index and its retriever.
        trigger: When a refresh is due.
        refresher: How one is made.
        recent: The queries asked last.
        probe: The sample that is measured; None measures nothing.
    """

    def __init__(
        self,
        live: LiveIndex,
        *,
        trigger: Trigger,
        refresher: Refresher,
        recent: RecentQueries,
        probe: Probe | None,
    ) -> None:
        self._live, self._trigger, self._refresher = live, trigger, refresher
        self._recent, self._probe = recent, probe
        self._measured: tuple[tuple[int, int], Drift] | None = None

    @property
    def version(self) -> int:
        """How often vectors were replaced."""
        return self._live.version

    def prepare(self, step: int, stopping: Callable[[], bool] = never) -> None:
        """Swap in what has become ready; then begin a refresh if one is due."""
        self._refresher.proceed(step)
        if step > 0 and self._trigger.is_due(step, lambda: self._drift(step).drift):
            self._refresher.begin(step, stopping)

    def observe(self, queries: Iterable[str]) -> None:
        """Remember the queries as the last ones asked."""
        self._recent.add(self._live.observed(list(queries)))

    def measure(self, step: int) -> dict[str, float]:
        """Return the metrics of a line in the log.

        ``staleness_drift`` and ``staleness_topk_overlap`` of the probe, ``steps_since_refresh``
        (mean age of the vectors), ``passages_embedded`` for the index and ``probe_embedded`` to
        measure, both since the run began.
        """
        metrics = {
            "steps_since_refresh": self._live.mean_age(step),
            "passages_embedded": float(self._live.embedded),
        }
        if self._probe is None:
            return metrics
        measured = self._drift(step)
        metrics["staleness_drift"] = measured.drift
        if measured.topk_overlap is not None:
            metrics["staleness_topk_overlap"] = measured.topk_overlap
        return metrics | {"probe_embedded": float(self._probe.embedded)}

    def facts(self) -> dict[str, Any]:
        """Return counts, queries, the last measurement, and of which step the vectors are."""
        measured = self._measured
        return {
            "version": self._live.version,
            "embedded": self._live.embedded,
            "probe_embedded": self._probe.embedded if self._probe else 0,
            "queries": self._recent.texts(),
            "measured": [list(measured[0]), asdict(measured[1])] if measured else None,
            "index_step": self._live.index.step,
            "fingerprint": asdict(self._live.index.fingerprint),
            "refresher": self._refresher.facts(),
        }

    def tensors(
        self, *, with_index: bool = True, scratch: Path | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """Return ``index``, vectors and row steps, once the index has been refreshed at all."""
        files = self._refresher.tensors()
        if self._live.version > 0:
            files["index"] = self._live.tensors(scratch) if with_index else {}
        return files

    def restore(self, facts: Mapping[str, Any], tensors: Tensors) -> None:
        """Become what `facts` and `tensors` were taken from.

        Raises:
            InputError: they are of another index.
        """
        if not facts:  # of a run whose passage encoder did not learn yet
            return
        if "index" in tensors:
            self._live.restore(
                tensors["index"],
                step=facts["index_step"],
                fingerprint=Fingerprint(**facts["fingerprint"]),
            )
        self._live.version, self._live.embedded = facts["version"], facts["embedded"]
        if self._probe is not None:
            self._probe.embedded = facts["probe_embedded"]
        self._recent.restore(facts["queries"])
        if facts["measured"] is not None:
            when, measured = facts["measured"]
            self._measured = (when[0], when[1]), Drift(**measured)
        self._refresher.restore(facts["refresher"], tensors)

    def close(self) -> None:
        """Stop what the refresher has running; its work can be taken up again."""
        self._refresher.close()

    def _drift(self, step: int) -> Drift:
        """Measure, once for each step and state of the index."""
        assert self._probe is not None
        when = step, self._live.version
        if self._measured is None or self._measured[0] != when:
            self._measured = when, self._probe.measure()
        return self._measured[1]
