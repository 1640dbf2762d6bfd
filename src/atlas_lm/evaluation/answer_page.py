"""An evaluation report as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from atlas_lm.evaluation.answer_report import LABELS, AnswerReport, answer_names, facts
from atlas_lm.evaluation.bootstrap import Comparison
from atlas_lm.evaluation.calibration import Calibration
from atlas_lm.evaluation.measures import is_of_answers
from atlas_lm.evaluation.page import html_page
from atlas_lm.evaluation.plot import interval_bar
from atlas_lm.evaluation.records import AnswerRecord
from atlas_lm.evaluation.report import display_name, show_estimate, show_percent
from atlas_lm.evaluation.run_card import tone
from atlas_lm.runtime.files import atomic_path

SHOWN_EXAMPLES = 12
_SIZE = 220


def write_answer_page(
    path: str | Path, report: AnswerReport, *, title: str, notes: Sequence[str] = ()
) -> None:
    """Write the report as one HTML file, atomically."""
    body = "".join(
        (
            f"<h1>{escape(title)}</h1>",
            *(f'<p class="soft">{escape(note)}</p>' for note in notes),
            _conditions(report),
            _comparisons(report),
            _retrieval(report),
            _facts(report),
            _reliability(report.calibration),
            _examples(report),
        )
    )
    with atomic_path(path) as temporary:
        temporary.write_text(html_page(title, body), "utf-8")


def _conditions(report: AnswerReport) -> str:
    names = answer_names(report.evaluations["open"])
    head = "".join(f'<th class="number">{escape(display_name(name))}</th>' for name in names)
    rows = []
    for condition, evaluation in report.evaluations.items():
        cells = "".join(
            f'<td class="number">{show_estimate(evaluation.metrics[name])}</td>'
            if name in evaluation.metrics
            else "<td></td>"
            for name in names
        )
        rows.append(f"<tr><td>{escape(LABELS[condition])}</td>{cells}</tr>")
    return (
        f"<h2>What the passages are worth</h2>{_table(f'<tr><th></th>{head}</tr>', rows)}"
        f'<p class="caption">Times 100, with 95% bootstrap intervals over questions; '
        f"{report.n_context} passages are read for each. Closed book is what the reader knows by "
        "itself; the oracle shows what it could do with a perfect retriever, random passages what "
        "reading costs where there is nothing to find.</p>"
    )


def _comparisons(report: AnswerReport) -> str:
    pairs = [
        (condition, compared)
        for condition, several in report.comparisons.items()
        for compared in several
    ]
    limit = max(
        (abs(end) for _, c in pairs for end in (c.difference.low, c.difference.high)), default=0
    )
    rows = [_comparison(condition, compared, limit) for condition, compared in pairs]
    head = (
        "<tr><th>open book against</th><th>metric</th><th class='number'>difference</th>"
        "<th></th><th>verdict</th></tr>"
    )
    return _table(head, rows) if rows else ""


def _comparison(condition: str, compared: Comparison, limit: float) -> str:
    kind, shown = tone(compared), compared.difference
    bar = interval_bar(shown.low, shown.mean, shown.high, limit=limit, kind=kind)
    return (
        f"<tr><td>{escape(LABELS[condition])}</td><td>{escape(display_name(compared.name))}</td>"
        f'<td class="number">{show_estimate(shown, signed=True)}</td><td>{bar}</td>'
        f'<td><span class="badge {kind}">{escape(compared.verdict)}</span></td></tr>'
    )


def _retrieval(report: AnswerReport) -> str:
    evaluation = report.evaluations["open"]
    rows = [
        f'<tr><td>{escape(display_name(name))}</td><td class="number">{show_estimate(value)}</td>'
        f'<td class="number">{value.n:,}</td></tr>'
        for name, value in evaluation.metrics.items()
        if not is_of_answers(name)
    ]
    head = "<tr><th>metric</th><th class='number'>value</th><th class='number'>questions</th></tr>"
    return f"<h2>Retrieval</h2>{_table(head, rows)}" if rows else ""


def _facts(report: AnswerReport) -> str:
    rows = [
        f'<tr><td>{escape(label)}</td><td class="number">{escape(value)}</td></tr>'
        for label, value in facts(report)
    ]
    return f"<h2>Where answers stand, and how sure they are</h2>{_table('', rows)}" if rows else ""


def _reliability(calibration: Calibration | None) -> str:
    if calibration is None:
        return ""
    rows = [
        f"<tr><td>{part.low:.1f} to {part.high:.1f}</td><td class='number'>{part.answers:,}</td>"
        f"<td class='number'>{show_percent(part.confidence)}</td>"
        f"<td class='number'>{show_percent(part.accuracy)}</td></tr>"
        for part in calibration.bins
    ]
    head = (
        "<tr><th>probability of the answer</th><th class='number'>answers</th>"
        "<th class='number'>mean, x100</th><th class='number'>right, x100</th></tr>"
    )
    return (
        f"<h2>Calibration</h2>{_diagram(calibration)}{_table(head, rows)}"
        '<p class="caption">The probability of an answer is that of all its tokens together. On '
        "the diagonal it is the share of right answers; below it the reader is too sure. A dot's "
        "area is its share of the answers.</p>"
    )


def _diagram(calibration: Calibration) -> str:
    def at(value: float) -> float:
        return round(10 + value * (_SIZE - 20), 1)

    dots = "".join(
        f'<circle class="s1" cx="{at(part.confidence)}" cy="{_SIZE - at(part.accuracy)}" '
        f'r="{3 + 12 * (part.answers / calibration.answers) ** 0.5:.1f}" fill-opacity="0.6">'
        f"<title>{part.answers} answers, mean probability {part.confidence:.2f}, "
        f"right {part.accuracy:.2f}</title></circle>"
        for part in calibration.bins
    )
    return (
        f'<svg viewBox="0 0 {_SIZE} {_SIZE}" width="{_SIZE}" role="img" '
        'aria-label="Share of right answers over their probability">'
        f'<line class="grid" x1="10" y1="{_SIZE - 10}" x2="{_SIZE - 10}" y2="10"/>'
        f'<line class="grid" x1="10" y1="{_SIZE - 10}" x2="{_SIZE - 10}" y2="{_SIZE - 10}"/>'
        f'<line class="grid" x1="10" y1="{_SIZE - 10}" x2="10" y2="10"/>{dots}</svg>'
    )


def _examples(report: AnswerReport) -> str:
    """Show questions on which closed and open book differ, else the first ones."""
    opened = report.evaluations["open"].records
    closed = report.evaluations["closed"].records if "closed" in report.evaluations else opened
    pairs = list(zip(closed, opened, strict=True))
    pairs.sort(key=lambda pair: _text(pair[0]) == _text(pair[1]))
    rows = [
        f"<tr><td>{escape(after.example.query)}</td>"
        f"<td>{escape('; '.join(after.example.answers[:3]))}</td>"
        f"<td>{escape(_text(before))}</td><td>{escape(_text(after))}</td></tr>"
        for before, after in pairs[:SHOWN_EXAMPLES]
    ]
    head = (
        "<tr><th>question</th><th>accepted</th><th>closed book</th><th>retrieved passages</th></tr>"
    )
    return f"<h2>Some answers</h2>{_table(head, rows)}"


def _text(record: AnswerRecord) -> str:
    return record.generated.text if record.generated else ""


def _table(head: str, rows: Sequence[str]) -> str:
    return f'<div class="card"><div class="scroll"><table>{head}{"".join(rows)}</table></div></div>'
