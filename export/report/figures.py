"""The report's charts: matplotlib on the Agg canvas, one PNG each. Nothing here knows the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from export.errors import UsageError
from export.report.cells import seeds
from export.report.results import CurvePoint, PixelFusion, Reliability, System

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
INK, FAINT, GRID = "#1b1f24", "#59636e", "#d1d9e0"
COLOURS = {
    "visible": "#0072b2", "infrared": "#d55e00", "msx": "#999999", "early": "#009e73", "late": "#cc79a7",
    "pixel": "#e69f00", "temporal": "#56b4e9",
}  # fmt: skip
"""family -> colour of Okabe and Ito's set, told apart with every kind of colour vision"""
MARKERS = {"visible": "o", "infrared": "s", "msx": "P", "early": "^", "late": "D", "pixel": "v", "temporal": "X"}


def _figure(width: float, height: float) -> Figure:
    """Raises UsageError when matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("the report's figures need matplotlib: pip install 'matplotlib>=3.8'") from None
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    return path


def _plain(axes: Any, title: str = "", x: str = "", y: str = "") -> None:
    axes.set_title(title, fontsize=9, loc="left", color=INK)
    axes.set_xlabel(x, fontsize=8, color=FAINT)
    axes.set_ylabel(y, fontsize=8, color=FAINT)
    axes.tick_params(labelsize=7.5, color=GRID, labelcolor=FAINT)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)


def curve(points: Sequence[CurvePoint], path: Path) -> Path:
    """Training loss above, accuracy on the watched rows below, over the epochs of all steps."""
    figure = _figure(4.4, 3.8)
    above, below = figure.subplots(2, 1, sharex=True)
    for step in dict.fromkeys(p.step for p in points):
        rows = [p for p in points if p.step == step]
        watched = [p for p in rows if p.watch is not None]
        (line,) = above.plot([p.epoch for p in rows], [p.loss for p in rows], lw=1.6, marker=".", ms=3, label=step)
        shares = [100 * (p.watch or 0.0) for p in watched]
        below.plot([p.epoch for p in watched], shares, lw=1.6, marker=".", ms=3, color=line.get_color())
    _plain(above, "Training loss")
    _plain(below, "Accuracy on the watched rows, %", x="epoch")
    above.legend(fontsize=7.5, frameon=False, title="step", title_fontsize=7.5)
    for axes in (above, below):
        axes.grid(axis="y", color=GRID, lw=0.6)
    return _save(figure, path)


def confusion(table: Sequence[Sequence[int]], labels: Sequence[str], path: Path) -> Path:
    """Row: true class, column: answer. Colour is the share of the row, the number the count."""
    counts = np.array(table)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = _figure(4.4, 3.8)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), n in np.ndenumerate(counts):
        ink = "white" if share[row, column] > 0.55 else INK
        axes.text(column, row, str(n), ha="center", va="center", fontsize=7, color=ink)
    _plain(axes, "Confusion (counts; colour: share of the row)", x="answer", y="true class")
    ticks = range(len(labels))
    axes.set_xticks(ticks, labels, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, labels)
    return _save(figure, path)


def reliability(bins: Reliability, ece: float, path: Path) -> Path:
    """Accuracy over confidence, one dot per bin that is not empty, its area the bin's share of the rows."""
    figure = _figure(4.4, 3.8)
    axes = figure.subplots()
    total = max(sum(bins.count), 1)
    rows = [(c, a, n) for c, a, n in zip(bins.confidence, bins.accuracy, bins.count, strict=True)]
    seen = [(c, a, n) for c, a, n in rows if c is not None and a is not None and n > 0]
    axes.plot([0, 1], [0, 1], color=FAINT, lw=1, ls="--", label="as sure as right")
    axes.plot([c for c, _, _ in seen], [a for _, a, _ in seen], color=COLOURS["visible"], lw=1.4)
    area = [12 + 900 * n / total for *_, n in seen]
    axes.scatter([c for c, *_ in seen], [a for _, a, _ in seen], s=area, color=COLOURS["visible"], alpha=0.45, lw=0)
    _plain(axes, f"Reliability (expected calibration error {ece:.3f})", x="confidence", y="accuracy")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(fontsize=7.5, frameon=False, loc="upper left")
    axes.grid(color=GRID, lw=0.6)
    return _save(figure, path)


def darkness(systems: Sequence[System], path: Path) -> Path:
    """Accuracy over the light on the visible lens, bright to dark; colour and marker tell the family.

    The best of each family (mean over its steps) has a name and a bold line, the others a thin one.
    """
    figure = _figure(7.6, 4.4)
    axes = figure.subplots()
    named: set[str] = set()
    for s in sorted(systems, key=_in_all_light, reverse=True):
        light = sorted(s.darkness, key=lambda d: -d.gain)
        at, best = ([d.gain for d in light], [100 * d.accuracy for d in light]), s.family not in named
        look: dict[str, Any] = {
            "lw": 2.0,
            "ms": 6,
            "marker": MARKERS[s.family],
            "label": f"{s.family}: {s.key}{seeds(s)}",
        }
        axes.plot(*at, color=COLOURS[s.family], **(look if best else {"lw": 0.9, "alpha": 0.45}))
        named.add(s.family)
    _plain(axes, "Accuracy, %", x="light on the visible lens, times the picture as taken")
    gains = sorted({d.gain for s in systems for d in s.darkness}, reverse=True)
    axes.set_xscale("log")
    axes.set_xticks(gains, [f"{g:g}" for g in gains], minor=False)
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.grid(color=GRID, lw=0.6)
    axes.legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _save(figure, path)


def _in_all_light(s: System) -> float:
    return float(np.mean([d.accuracy for d in s.darkness]))


def fusion_bars(fusion: PixelFusion, path: Path) -> Path:
    """One panel per metric, one bar per method; the metrics have scales of their own."""
    metrics = list(next(iter(fusion.methods.values())))
    columns = min(4, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = _figure(2.5 * columns + 0.9, 0.9 + rows * (0.6 + 0.24 * len(fusion.methods)))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    names = list(fusion.methods)
    for axes, metric in zip(grid, metrics, strict=False):
        values = [fusion.methods[n][metric] for n in names]
        colours = [COLOURS["pixel"] if v == max(values) else COLOURS["temporal"] for v in values]
        bars = axes.barh(names, values, color=colours, height=0.68)
        axes.bar_label(bars, fmt="%.3g", fontsize=7, padding=2, color=INK)
        axes.margins(x=0.22)
        _plain(axes, metric)
    grid[0].invert_yaxis()
    for axes in grid[len(metrics) :]:
        axes.set_visible(False)
    return _save(figure, path)


def pictures(rows: Mapping[str, Sequence[npt.NDArray[np.uint8]]], titles: Sequence[str], path: Path) -> Path:
    """Pictures uint8 [S, S, 3] in a grid, one named row each, ``titles`` above the columns."""
    figure = _figure(1.15 * len(titles) + 0.8, 1.15 * len(rows) + 0.4)
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=True):
            axes.imshow(image)
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=8, color=INK)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=8, color=INK)
    return _save(figure, path)


def captioned(rows: Mapping[str, Sequence[tuple[str, npt.NDArray[np.uint8]]]], path: Path) -> Path:
    """As :func:`pictures`, with a caption above each picture; rows may differ in length."""
    wide = max(len(row) for row in rows.values())
    figure = _figure(1.25 * wide + 0.8, 1.4 * len(rows) + 0.2)
    grid = figure.subplots(len(rows), wide, squeeze=False)
    for line, (name, shown) in zip(grid, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=8, color=INK)
        for k, axes in enumerate(line):
            axes.set(xticks=[], yticks=[])
            if k < len(shown):
                axes.imshow(shown[k][1])
                axes.set_title(shown[k][0], fontsize=7, color=INK)
            else:
                axes.axis("off")
    return _save(figure, path)
