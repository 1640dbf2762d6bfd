"""The run card: one HTML file that says what a training run did, without any outside resource."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from atlas_lm.evaluation.bootstrap import Comparison, Estimate
from atlas_lm.evaluation.card_examples import examples_section
from atlas_lm.evaluation.curves import flatten, panels
from atlas_lm.evaluation.page import html_page
from atlas_lm.evaluation.plot import interval_bar, line_chart, short_number
from atlas_lm.evaluation.records import AnswerRecord, Metrics
from atlas_lm.evaluation.report import display_name, show_percent
from atlas_lm.runtime.files import atomic_path

_HEADLINES = ("exact_match", "f1", "recall_at_1", "recall_at_5", "mrr")


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What else a card says about a run; an empty table is left out."""

    collapse: Mapping[str, Any] = field(default_factory=dict)
    """Whether retrieval narrowed to few passages: distinct rows, share of the commonest, ..."""
    staleness: Mapping[str, Any] = field(default_factory=dict)
    """How far the index lagged behind the retriever: refreshes, steps since, overlap, ..."""
    hardware: Mapping[str, Any] = field(default_factory=dict)
    """What the run ran on."""
    timings: Mapping[str, Any] = field(default_factory=dict)
    """How long each part took; numbers are seconds."""
    versions: Mapping[str, Any] = field(default_factory=dict)
    """Versions of the software."""


def write_run_card(
    path: str | Path,
    *,
    title: str,
    config: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    before: Metrics,
    after: Metrics,
    comparisons: Sequence[Comparison],
    examples_before_after: Sequence[tuple[AnswerRecord, AnswerRecord]],
    notes: Sequence[str],
    changed: Collection[str] = (),
    facts: RunFacts | None = None,
) -> None:
    """Write the card as one HTML file, atomically.

    Args:
        path: the ``.html`` file.
        title: what was run.
        config: the resolved options, nested or with dotted keys.
        history: rows of the metrics log; each has a ``step``.
        before: metrics before training.
        after: metrics after it, on the same examples.
        comparisons: paired differences; a metric without one is shown without a verdict.
        examples_before_after: records of the same example before and after.
        notes: paragraphs for the reader, shown first.
        changed: dotted keys of options that differ from their defaults, marked in the table.
        facts: collapse, staleness, hardware, timings, versions.
    """
    page = "".join(
        (
            f"<h1>{escape(title)}</h1>",
            _notes(notes),
            _tiles(comparisons),
            _results(before, after, comparisons),
            _curves(history),
            _facts(facts or RunFacts(), ("collapse", "staleness"), "Is it healthy?"),
            examples_section(examples_before_after),
            _settings(config, changed),
            _facts(facts or RunFacts(), ("hardware", "timings", "versions"), "How it was run"),
        )
    )
    with atomic_path(path) as temporary:
        temporary.write_text(html_page(title, page), "utf-8")


def tone(comparison: Comparison) -> str:
    """Return ``good``, ``bad``, or ``none`` for a difference inside its noise."""
    if not comparison.is_beyond_noise:
        return "none"
    return "good" if comparison.difference.mean > 0 else "bad"


def _notes(notes: Sequence[str]) -> str:
    return "".join(f'<p class="soft">{escape(note)}</p>' for note in notes)


def _tiles(comparisons: Sequence[Comparison]) -> str:
    by_name = {comparison.name: comparison for comparison in comparisons}
    tiles = [_tile(by_name[name]) for name in _HEADLINES if name in by_name]
    return f'<div class="tiles">{"".join(tiles[:4])}</div>' if tiles else ""


def _tile(comparison: Comparison) -> str:
    return (
        f'<div class="card tile"><div class="name">{escape(display_name(comparison.name))}</div>'
        f'<div class="value"><small>{show_percent(comparison.before.mean)} → </small>'
        f"{show_percent(comparison.after.mean)}</div>{_verdict(comparison)}</div>"
    )


def _results(before: Metrics, after: Metrics, comparisons: Sequence[Comparison]) -> str:
    by_name = {comparison.name: comparison for comparison in comparisons}
    names = list(dict.fromkeys((*before, *after, *by_name)))
    if not names:
        return ""
    limit = max(
        (abs(end) for c in comparisons for end in (c.difference.low, c.difference.high)), default=0
    )
    rows = "".join(
        _result_row(name, before.get(name), after.get(name), by_name.get(name), limit)
        for name in names
    )
    return (
        '<h2>Before and after</h2><div class="card"><div class="scroll"><table><tr><th>metric</th>'
        '<th class="number">before</th><th class="number">after</th>'
        '<th class="number">difference</th><th></th><th>verdict</th><th class="number">examples'
        f"</th></tr>{rows}</table></div></div>"
        '<p class="caption">Times 100, with 95% bootstrap intervals over examples; differences '
        "are paired. A difference whose interval holds 0, or that rests on fewer than six "
        "examples, counts as none.</p>"
    )


def _result_row(
    name: str,
    before: Estimate | None,
    after: Estimate | None,
    comparison: Comparison | None,
    limit: float,
) -> str:
    shown = comparison.difference if comparison else None
    count = shown or after or before
    bar = ""
    if comparison is not None and shown is not None:
        bar = interval_bar(shown.low, shown.mean, shown.high, limit=limit, kind=tone(comparison))
    return (
        f'<tr><td>{escape(display_name(name))}</td><td class="number">{_estimate(before)}</td>'
        f'<td class="number">{_estimate(after)}</td>'
        f'<td class="number">{_estimate(shown, signed=True)}</td><td>{bar}</td>'
        f"<td>{_verdict(comparison) if comparison else ''}</td>"
        f'<td class="number">{count.n if count else 0:,}</td></tr>'
    )


def _estimate(estimate: Estimate | None, *, signed: bool = False) -> str:
    if estimate is None:
        return "–"
    low, high = (show_percent(end, signed=signed) for end in (estimate.low, estimate.high))
    return (
        f'{show_percent(estimate.mean, signed=signed)} <span class="range">[{low}, {high}]</span>'
    )


def _verdict(comparison: Comparison) -> str:
    return f'<span class="badge {tone(comparison)}">{escape(comparison.verdict)}</span>'


def _curves(history: Sequence[Mapping[str, Any]]) -> str:
    main, rest = panels(history)
    if not main and not rest:
        return ""
    parts = [f'<h2>Curves</h2><div class="charts">{"".join(map(line_chart, main))}</div>']
    parts.append(
        '<p class="caption">Horizontal: step, an update of both models. Noisy series are drawn '
        "faint, with their moving mean over a twentieth of the steps on top; legends show the last "
        "value.</p>"
    )
    if rest:
        charts = "".join(map(line_chart, rest))
        parts.append(
            f"<details><summary>{len(rest)} more curves</summary>"
            f'<div class="charts">{charts}</div></details>'
        )
    return "".join(parts)


def _facts(facts: RunFacts, names: Sequence[str], title: str) -> str:
    tables = [
        f'<div class="card"><h3>{name.capitalize()}</h3><table>{_fact_rows(table, name)}</table>'
        "</div>"
        for name in names
        if (table := getattr(facts, name))
    ]
    return f'<h2>{title}</h2><div class="facts">{"".join(tables)}</div>' if tables else ""


def _fact_rows(table: Mapping[str, Any], name: str) -> str:
    unit = " s" if name == "timings" else ""
    return "".join(
        f"<tr><td>{escape(key.replace('_', ' '))}</td><td>{escape(_show(value, unit))}</td></tr>"
        for key, value in flatten(table, separator=", ").items()
    )


def _settings(config: Mapping[str, Any], changed: Collection[str]) -> str:
    groups: dict[str, list[str]] = {}
    for key, value in flatten(config, separator=".").items():
        group, _, name = key.rpartition(".")
        mark = ' class="changed"' if key in changed else ""
        groups.setdefault(group, []).append(
            f'<tr{mark}><td class="key">{escape(name)}</td>'
            f'<td class="setting">{escape(_show(value))}</td></tr>'
        )
    if not groups:
        return ""
    tables = "".join(
        f"<section><h3>{escape(group) or 'run'}</h3><table>{''.join(rows)}</table></section>"
        for group, rows in groups.items()
    )
    return (
        '<h2>Options</h2><p class="caption">Marked: differs from the default.</p>'
        f'<div class="card settings">{tables}</div>'
    )


def _show(value: Any, unit: str = "") -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return short_number(value) + unit
    if isinstance(value, int):
        return f"{value:,}{unit}"
    if isinstance(value, list | tuple):
        return ", ".join(_show(item) for item in value)
    return str(value)
