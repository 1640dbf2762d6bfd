"""PNG plots of the evidence, with their data as JSON beside them (extra ``plots``: matplotlib)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atlas_lm.runtime.errors import InputError
from atlas_lm.runtime.files import write_json

Point = tuple[float, float]
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#9c6b4e", "#a463f2", "#97bbf5")


def lines(
    path: Path,
    series: Mapping[str, Sequence[tuple[float, float, float, float]]],
    *,
    title: str,
    x: str,
    y: str,
    log_x: bool = True,
) -> None:
    """Draw lines through (x, mean, low, high) with their intervals; write PNG and JSON."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=130)
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        xs = [point[0] for point in points]
        axes.plot(xs, [point[1] for point in points], marker="o", color=colour, label=name)
        lows, highs = [p[2] for p in points], [p[3] for p in points]
        axes.fill_between(xs, lows, highs, color=colour, alpha=0.15, linewidth=0)
    if log_x:
        axes.set_xscale("log")
        ticks = sorted({point[0] for points in series.values() for point in points})
        axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
        axes.minorticks_off()
    _finish(figure, axes, path, title=title, x=x, y=y)
    data = {name: [list(point) for point in points] for name, points in series.items()}
    _write(path, title=title, x=x, y=y, series=data)


def scatter(
    path: Path, series: Mapping[str, Sequence[Point]], *, title: str, x: str, y: str
) -> None:
    """Draw points; write PNG and JSON."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(6, 4.2), dpi=130)
    for number, (name, points) in enumerate(series.items()):
        axes.scatter(
            [point[0] for point in points],
            [point[1] for point in points],
            color=COLOURS[number % len(COLOURS)],
            label=name,
            alpha=0.8,
        )
    axes.axhline(0, color="#888888", linewidth=0.8)
    _finish(figure, axes, path, title=title, x=x, y=y)
    data = {name: [list(point) for point in points] for name, points in series.items()}
    _write(path, title=title, x=x, y=y, series=data)


def intervals(
    path: Path, points: Sequence[tuple[str, float, float, float]], *, title: str, x: str
) -> None:
    """Draw one line a label with its mean, low and high; write PNG and JSON."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.27 * len(points)), dpi=130)
    for place, (label, mean, low, high) in enumerate(reversed(points)):
        colour = COLOURS[1] if "control" in label else COLOURS[4 if "ceiling" in label else 0]
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot([mean], [place], marker="o", color=colour)
    axes.set_yticks(range(len(points)), [point[0] for point in reversed(points)], fontsize=8)
    axes.axvline(0, color="#888888", linewidth=0.8)
    _finish(figure, axes, path, title=title, x=x, y="")
    _write(path, title=title, x=x, points=[list(point) for point in points])


def _finish(figure: Any, axes: Any, path: Path, *, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    _pyplot().close(figure)


def _write(path: Path, **data: Any) -> None:
    write_json(path.with_suffix(".json"), data)


def _pyplot() -> Any:
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise InputError("plots need matplotlib; pip install 'atlas-lm[plots]'") from error
    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot
