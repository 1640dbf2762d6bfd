"""Line charts and intervals as inline SVG, coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]

_WIDTH, _HEIGHT = 380, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 8, 26
_MOST_POINTS = 400
_MANY = 60
_WINDOWS = 20


@dataclass(frozen=True)
class Panel:
    """One chart: what it shows and the series in it, name -> points."""

    title: str
    unit: str
    series: Mapping[str, Sequence[Point]]
    is_noisy: bool = True
    """Whether a long series is shown by its moving mean, with the points faint behind it."""


@dataclass(frozen=True)
class _Frame:
    """Data coordinates to those of the drawing."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)


def line_chart(panel: Panel) -> str:
    """Return a ``<figure>``: heading, a legend with the last values, and the curves over steps.

    A noisy series of many points is drawn faint under its moving mean.
    """
    series = {name: sorted(points) for name, points in panel.series.items() if points}
    points = [point for part in series.values() for point in part]
    y_ticks = nice_ticks(min(y for _, y in points), max(y for _, y in points))
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    frame = _Frame(x_low, x_high if x_high > x_low else x_low + 1, y_ticks[0], y_ticks[-1])
    x_ticks = [tick for tick in nice_ticks(x_low, frame.x_high) if x_low <= tick <= frame.x_high]
    curves = "".join(
        _curve(part, frame, number, name, is_noisy=panel.is_noisy)
        for number, (name, part) in enumerate(series.items(), 1)
    )
    return (
        f"<figure><figcaption><b>{escape(panel.title)}</b>"
        f'<span class="unit">{escape(panel.unit)}</span></figcaption>{_legend(series)}'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(panel.title)}">'
        f"{_grid(frame, x_ticks, y_ticks)}{curves}</svg></figure>"
    )


def interval_bar(low: float, mean: float, high: float, *, limit: float, kind: str) -> str:
    """Return a whisker from ``low`` to ``high`` around zero, on a scale of ``limit`` either way."""
    width, height = 150, 18

    def at(value: float) -> float:
        share = max(-1.0, min(1.0, value / limit if limit else 0.0))
        return round(width / 2 + share * (width / 2 - 5), 1)

    middle = height / 2
    return (
        f'<svg class="whisker {kind}" viewBox="0 0 {width} {height}" aria-hidden="true">'
        f'<line class="zero" x1="{width / 2}" y1="1" x2="{width / 2}" y2="{height - 1}"/>'
        f'<line class="reach" x1="{at(low)}" y1="{middle}" x2="{at(high)}" y2="{middle}"/>'
        f'<circle cx="{at(mean)}" cy="{middle}" r="4"/></svg>'
    )


def nice_ticks(low: float, high: float, *, most: int = 5) -> list[float]:
    """Return between two and ``most + 1`` round numbers that reach from below low to above high."""
    if high <= low:
        pad = abs(low) / 2 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / (most - 1)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(size for size in (1, 2, 2.5, 5, 10) if size * magnitude >= raw * 0.999) * magnitude
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def short_number(value: float) -> str:
    """Return a number in few characters: 0.053, 1.2k, 3e-05."""
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 1e6 or size < 1e-3:
        return f"{value:.2g}"
    if size >= 1e4:
        return f"{value / 1000:.4g}k"
    return f"{value:.4g}" if size >= 1 else f"{value:.3g}"


def _grid(frame: _Frame, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> str:
    lines = []
    for tick in y_ticks:
        y = frame.y(tick)
        lines.append(f'<line class="grid" x1="{_LEFT}" y1="{y}" x2="{_WIDTH - _RIGHT}" y2="{y}"/>')
        lines.append(
            f'<text x="{_LEFT - 6}" y="{y + 3.5}" text-anchor="end">{short_number(tick)}</text>'
        )
    for tick in x_ticks:
        lines.append(
            f'<text x="{frame.x(tick)}" y="{_HEIGHT - 9}" text-anchor="middle">'
            f"{short_number(tick)}</text>"
        )
    return "".join(lines)


def _curve(
    points: Sequence[Point], frame: _Frame, number: int, name: str, *, is_noisy: bool
) -> str:
    style = f"s{(number - 1) % 6 + 1}"
    label = f"<title>{escape(name)}</title>"
    if is_noisy and len(points) > _MANY:
        faint = _polyline(_thinned(points), frame, f"raw {style}")
        return f"<g>{label}{faint}{_polyline(_thinned(_smooth(points)), frame, style)}</g>"
    dots = "".join(
        f'<circle class="{style}" cx="{frame.x(x)}" cy="{frame.y(y)}" r="2.4">'
        f"<title>{escape(name)}, step {short_number(x)}: {short_number(y)}</title></circle>"
        for x, y in points
    )
    line = _polyline(_thinned(points), frame, style)
    return f"<g>{label}{line}{dots if len(points) <= _MANY else ''}</g>"


def _polyline(points: Sequence[Point], frame: _Frame, style: str) -> str:
    path = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in points)
    return f'<polyline class="{style}" points="{path}"/>'


def _legend(series: Mapping[str, Sequence[Point]]) -> str:
    entries = "".join(
        f'<span><i class="s{number % 6 + 1}"></i>{escape(name)} '
        f"<b>{short_number(points[-1][1])}</b></span>"
        for number, (name, points) in enumerate(series.items())
    )
    return f'<div class="legend">{entries}</div>'


def _smooth(points: Sequence[Point]) -> list[Point]:
    """Return centred moving means over a twentieth of the points, one-sided at both ends."""
    reach = max(1, len(points) // _WINDOWS // 2)
    means = []
    for middle, (x, _) in enumerate(points):
        part = points[max(0, middle - reach) : middle + reach + 1]
        means.append((x, sum(y for _, y in part) / len(part)))
    return means


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    step = math.ceil(len(points) / _MOST_POINTS)
    return points if step == 1 else [*points[::step], points[-1]]
