"""Curves in a terminal: each panel a few lines of Braille dots, two by four to a character."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rich.text import Text

from atlas_lm.evaluation.plot import Panel, Point, short_number

WIDTH, HEIGHT = 56, 8
"""Characters of a drawing."""
COLOURS = ("cyan", "yellow", "magenta", "green", "red", "blue")
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_EMPTY = 0x2800
Box = tuple[float, float, float, float]


def draw(panel: Panel, *, width: int = WIDTH, height: int = HEIGHT) -> Text:
    """Return a panel as text: title, the curves over steps, and a legend with the last values.

    Where two curves fall on one character it takes the colour of the later one.
    """
    series = {name: sorted(points) for name, points in panel.series.items() if points}
    box = _box([point for points in series.values() for point in points])
    cells = [[0] * width for _ in range(height)]
    colours = [[0] * width for _ in range(height)]
    for number, points in enumerate(series.values()):
        for column, row in _dots(points, box, 2 * width, 4 * height):
            cells[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
            colours[row // 4][column // 2] = number
    text = Text(f"{panel.title}", style="bold")
    text.append(f"  {panel.unit}\n" if panel.unit else "\n", style="dim")
    labels = {0: short_number(box[3]), height - 1: short_number(box[2])}
    for line in range(height):
        text.append(f"{labels.get(line, ''):>9} │", style="dim")
        for cell, colour in zip(cells[line], colours[line], strict=True):
            text.append(chr(_EMPTY + cell), style=COLOURS[colour % len(COLOURS)])
        text.append("\n")
    first, last = short_number(box[0]), short_number(box[1])
    text.append(f"{'':>9} └{'─' * width}\n", style="dim")
    text.append(f"{'':>11}{first}{last:>{max(width - len(first), 1)}}\n", style="dim")
    for number, (name, points) in enumerate(series.items()):
        text.append(f"{'':>11}● ", style=COLOURS[number % len(COLOURS)])
        text.append(f"{name} {short_number(points[-1][1])}\n")
    return text


def _box(points: Sequence[Point]) -> Box:
    """Return the ends of both axes; never a width of zero."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_low, x_high, y_low, y_high = min(xs), max(xs), min(ys), max(ys)
    if y_high == y_low:
        pad = abs(y_low) / 2 or 1.0
        y_low, y_high = y_low - pad, y_high + pad
    return x_low, x_high if x_high > x_low else x_low + 1, y_low, y_high


def _dots(points: Sequence[Point], box: Box, columns: int, rows: int) -> list[tuple[int, int]]:
    """Return the dots of a curve, every column between its first and last point once."""
    x_low, x_high, y_low, y_high = box

    def column(x: float) -> float:
        return (x - x_low) / (x_high - x_low) * (columns - 1)

    def row(y: float) -> int:
        return round((y_high - y) / (y_high - y_low) * (rows - 1))

    dots = [(round(column(x)), row(y)) for x, y in points]
    for (x, y), (next_x, next_y) in pairwise(points):
        start, end = column(x), column(next_x)
        for place in range(int(start) + 1, int(end) + 1):
            share = (place - start) / max(end - start, 1e-12)
            dots.append((place, row(y + share * (next_y - y))))
    return dots
