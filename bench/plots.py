"""The drawings of a benchmark's page, as SVG. Each says in its label what it shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.bench._svg import INK, PAGE, QUIET, canvas, inline_svg, series
from edgeseg.bench.stats import Rounds, summary_ms

__all__ = ["Bar", "Line", "Point", "Samples", "ages", "bars", "distribution", "scatter"]
__all__ += ["throughput", "time_line"]

_WIDTH_IN = 11.0
_MARKERS = "osD^vPX*"
_DASHES = ("-", "--", "-.", ":")
_BINS = 220
_MOST_POINTS = 900
"""Calls drawn one by one; of more, lowest and highest of so many groups."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Samples:
    """Latencies of a candidate, by round, and its number among the candidates."""

    name: str
    rounds: Rounds
    index: int

    @property
    def flat(self) -> Floats:
        """All of them."""
        return np.array([value for one in self.rounds for value in one], dtype=np.float64)


@dataclass(frozen=True)
class Point:
    """A labelled point, and its number among the candidates."""

    name: str
    x: float
    y: float
    index: int


@dataclass(frozen=True)
class Line:
    """A labelled line, and its number among the candidates."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    index: int


@dataclass(frozen=True)
class Bar:
    """A labelled bar.

    Attributes:
        name: what it is.
        value: its length.
        note: written beside it.
        reach: end of the thin line that goes on from it; None for no line.
    """

    name: str
    value: float
    note: str
    reach: float | None = None


def distribution(candidates: Sequence[Samples]) -> str:
    """How often each latency occurred, a row a candidate, the fastest on top."""
    ordered = sorted(candidates, key=lambda one: float(np.median(one.flat)))
    low = min(float(one.flat.min()) for one in ordered) / 1.06
    high = max(float(one.flat.max()) for one in ordered) * 1.06
    edges = np.geomspace(low, high, _BINS + 1)
    centres = np.sqrt(edges[:-1] * edges[1:])
    with canvas(_WIDTH_IN, 0.75 + 0.6 * len(ordered), "distribution") as figure:
        axes = figure.add_subplot()
        for row, one in enumerate(ordered):
            colour, floor = series(one.index), len(ordered) - 1 - row
            density = _smooth(np.histogram(one.flat, edges)[0].astype(np.float64))
            shown = density > 1e-3
            axes.fill_between(
                centres,
                floor,
                floor + 0.7 * density,
                where=shown,
                facecolor=colour,
                alpha=0.4,
                linewidth=0,
            )
            found = summary_ms(one.rounds)
            axes.plot([found["min"], found["max"]], [floor, floor], color=colour, linewidth=1)
            ends = [found["min"], found["max"]]
            axes.plot(ends, [floor, floor], "|", color=colour, markersize=5)
            axes.plot([found["p99"]], [floor], "d", color=colour, markersize=4.5)
            axes.plot([found["p50"]], [floor], "o", color=colour, markersize=6)
            axes.annotate(
                f"{found['p50']:.2f}",
                (found["p50"], floor),
                (0, -12),
                textcoords="offset points",
                ha="center",
                color=INK,
            )
        axes.set_yticks(
            range(len(ordered)), [one.name for one in reversed(ordered)], color=INK, fontsize=9
        )
        axes.set_ylim(-0.5, len(ordered) - 0.1)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        _log_x(axes, low, high)
        axes.set_xlabel("latency, ms (logarithmic)")
        medians = ", ".join(f"{one.name} {np.median(one.flat):.2f} ms" for one in ordered)
        return inline_svg(figure, f"Distribution of latencies by candidate. Medians: {medians}.")


def time_line(candidates: Sequence[Samples]) -> str:
    """Latency of every call in its order, a panel a candidate; rounds stand below one another."""
    rounds = max(len(one.rounds) for one in candidates)
    with canvas(_WIDTH_IN, 0.5 + 1.2 * len(candidates), "time line") as figure:
        panels = figure.subplots(len(candidates), 1, sharex=True, squeeze=False)[:, 0]
        for one, axes in zip(candidates, panels, strict=True):
            _calls(axes, one)
            axes.set_xlim(0, rounds)
        last = panels[-1]
        last.set_xlabel("round")
        step = max(1, math.ceil(rounds / 20))
        shown = range(0, rounds, step)
        last.set_xticks([place + 0.5 for place in shown], [str(place + 1) for place in shown])
        for axes in panels:
            axes.tick_params(axis="x", length=0)
        drift = ", ".join(f"{one.name} {_drift(one):+.1%}" for one in candidates)
        return inline_svg(
            figure,
            "Latency of every call in order, by round. Median of the last round against the "
            f"first: {drift}.",
        )


def scatter(points: Sequence[Point], y_label: str) -> str:
    """Accuracy against latency, each point with its name."""
    with canvas(_WIDTH_IN, 4.4, "accuracy") as figure:
        axes = figure.add_subplot()
        for point in points:
            axes.plot(
                [point.x],
                [point.y],
                _marker(point.index),
                color=series(point.index),
                markersize=8,
                markeredgecolor=PAGE,
            )
        low, high = min(point.x for point in points), max(point.x for point in points)
        room = (high / low) ** 0.12 * 1.05
        _log_x(axes, low / room, high * room)
        heights = [point.y for point in points]
        span = max(max(heights) - min(heights), 0.004)
        middle = (max(heights) + min(heights)) / 2
        axes.set_ylim(middle - 0.75 * span, middle + 0.75 * span)
        axes.grid(visible=True)
        axes.set_xlabel("median latency, ms (logarithmic); left is faster")
        axes.set_ylabel(y_label)
        _name_points(figure, axes, points)
        told = ", ".join(f"{one.name}: {one.x:.2f} ms, {one.y:.4f}" for one in points)
        return inline_svg(figure, f"{y_label} against median latency. {told}.")


def throughput(lines: Sequence[Line]) -> str:
    """Frames a second by the number of requests in flight."""
    with canvas(_WIDTH_IN, 3.4, "throughput") as figure:
        axes = figure.add_subplot()
        drawn = [
            axes.plot(
                line.x,
                line.y,
                _DASHES[line.index // 2 % 4],
                marker=_marker(line.index),
                color=series(line.index),
                linewidth=1.6,
                markersize=6,
                markeredgecolor=PAGE,
            )[0]
            for line in lines
        ]
        axes.set_ylim(bottom=0)
        axes.set_xticks(sorted({x for line in lines for x in line.x}))
        axes.grid(visible=True, axis="y")
        axes.set_xlabel("requests in flight")
        axes.set_ylabel("frames/s")
        by_rate = sorted(range(len(lines)), key=lambda i: -max(lines[i].y))
        axes.legend(
            [drawn[i] for i in by_rate],
            [lines[i].name for i in by_rate],
            loc="upper left",
            bbox_to_anchor=(1.01, 1.0),
            labelcolor=INK,
        )
        best = ", ".join(f"{one.name} {max(one.y):.1f}" for one in lines)
        return inline_svg(figure, f"Frames a second by requests in flight. Highest: {best}.")


def bars(items: Sequence[Bar], x_label: str, title: str) -> str:
    """Bars below one another, the first on top.

    Args:
        items: at least one.
        x_label: what their lengths are.
        title: what all of them are; its drawing is named by it, so a page uses each once.
    """
    with canvas(_WIDTH_IN, 0.6 + 0.3 * len(items), title) as figure:
        axes = figure.add_subplot()
        places = list(range(len(items)))[::-1]
        axes.barh(places, [one.value for one in items], height=0.62, color=series(0), alpha=0.75)
        end = max(max(one.value, one.reach or 0.0) for one in items)
        for place, one in zip(places, items, strict=True):
            reach = one.value if one.reach is None else one.reach
            if reach > one.value:
                axes.plot([one.value, reach], [place, place], color=INK, linewidth=0.8)
                axes.plot([reach], [place], "|", color=INK, markersize=6)
            axes.annotate(
                one.note,
                (max(reach, one.value), place),
                (6, 0),
                textcoords="offset points",
                va="center",
                color=INK,
            )
        axes.set_xlim(0, 1.22 * end if end > 0 else 1)
        axes.set_yticks(places, [one.name for one in items], color=INK, fontsize=9)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(x_label)
        told = ", ".join(f"{one.name} {one.note}" for one in items)
        return inline_svg(figure, f"{title}: {told}.")


def ages(samples_ms: Sequence[float]) -> str:
    """Histogram of the age of frames, with percentiles."""
    values = np.asarray(samples_ms, dtype=np.float64)
    marks = {f"p{p:g}": float(np.percentile(values, p)) for p in (50.0, 95.0, 99.0)}
    with canvas(_WIDTH_IN, 2.9, "ages") as figure:
        axes = figure.add_subplot()
        count, edges = np.histogram(values, bins=min(80, max(10, values.size // 8)))
        axes.stairs(count, edges, fill=True, color=series(0), alpha=0.6)
        top = float(count.max())
        for row, (name, value) in enumerate(marks.items()):
            height = top * (1.08 + 0.12 * (2 - row))
            axes.plot([value, value], [0, height], color=INK, linewidth=0.9, linestyle="--")
            axes.annotate(
                f"{name} {value:.1f} ms",
                (value, height),
                (4, -3),
                textcoords="offset points",
                va="center",
                color=INK,
            )
        axes.set_ylim(0, top * 1.42)
        axes.set_xlabel("age of the frame when its overlay was drawn, ms")
        axes.set_ylabel("frames")
        axes.grid(visible=True, axis="y")
        told = ", ".join(f"{name} {value:.1f} ms" for name, value in marks.items())
        return inline_svg(figure, f"Histogram of the age of {values.size} frames: {told}.")


def _calls(axes: Any, one: Samples) -> None:
    """One panel of the time line. Calls far beyond the rest are marked at its upper edge."""
    colour = series(one.index)
    places = np.concatenate(
        [number + (np.arange(len(calls)) + 0.5) / len(calls) for number, calls in _numbered(one)]
    )
    values = one.flat
    found = summary_ms(one.rounds)
    bottom = found["min"] - 0.05 * found["p50"]
    top = max(1.6 * found["p95"] - 0.6 * found["min"], 1.1 * found["p50"])
    above = values > top
    if values.size <= _MOST_POINTS:
        shown = places[~above], values[~above], values[~above]
    else:
        groups = np.array_split(np.arange(values.size), _MOST_POINTS // 2)
        shown = (
            np.array([places[group].mean() for group in groups]),
            np.minimum([values[group].min() for group in groups], top),
            np.minimum([values[group].max() for group in groups], top),
        )
    _strokes(axes, *shown, colour)
    for number, calls in _numbered(one):
        median = float(np.median(calls))
        axes.plot([number, number + 1], [median, median], color=INK, linewidth=1.3)
    if above.any():
        marked = np.unique(np.round(places[above] * 200 / len(one.rounds))) * len(one.rounds) / 200
        axes.plot(marked, np.full(marked.size, top), "^", color=colour, markersize=4, clip_on=False)
    beyond = f"; {int(above.sum())} above, up to {found['max']:.1f} ms" if above.any() else ""
    axes.set_title(f"{one.name}{beyond}", loc="left", color=INK, fontsize=9, pad=6)
    axes.set_ylim(bottom, top)
    axes.grid(visible=True, axis="y")
    axes.locator_params(axis="y", nbins=4)
    axes.set_ylabel("ms")


def _strokes(axes: Any, x: Floats, low: Floats, high: Floats, colour: str) -> None:
    """Upright strokes, dots where both ends are one, as a single path: thousands stay small."""
    gap = np.full(x.size, np.nan)
    axes.plot(
        np.stack([x, x, gap], axis=1).ravel(),
        np.stack([low, high, gap], axis=1).ravel(),
        color=colour,
        linewidth=2.0,
        alpha=0.8,
        solid_capstyle="round",
    )


def _numbered(one: Samples) -> list[tuple[int, Sequence[float]]]:
    return list(enumerate(one.rounds))


def _marker(index: int) -> str:
    """Colours repeat after eight: then with other markers."""
    return _MARKERS[(index + index // 8) % len(_MARKERS)]


def _drift(one: Samples) -> float:
    return float(np.median(one.rounds[-1]) / np.median(one.rounds[0])) - 1.0


def _smooth(counts: Floats) -> Floats:
    """A histogram smoothed by a Gaussian of 1.5 bins, its top at 1."""
    kernel = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    smoothed = np.convolve(counts, kernel / kernel.sum(), mode="same")
    return np.asarray(smoothed / smoothed.max(), dtype=np.float64)


def _log_x(axes: Any, low: float, high: float) -> None:
    """A logarithmic axis whose ticks are round numbers, five to ten of them where possible."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = _round_numbers(low, high)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(visible=True, axis="x")


def _round_numbers(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    finer: list[float] = []
    for steps in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
        finer = [
            round(step * 10.0**decade, 9)
            for decade in decades
            for step in steps
            if low <= step * 10.0**decade <= high
        ]
        if len(finer) >= 5:
            return finer
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    while (high - low) / step > 10:
        step *= 2
    even = [
        round(number * step, 9) for number in range(math.ceil(low / step), int(high / step) + 1)
    ]
    return max(finer, even, key=len)


Box = tuple[float, float, float, float]


def _name_points(figure: Any, axes: Any, points: Sequence[Point]) -> None:
    """Put each name where it covers neither a point nor another name, as near as that allows."""
    figure.canvas.draw()
    scale = figure.dpi / 72.0
    centres = [tuple(axes.transData.transform((point.x, point.y)) / scale) for point in points]
    area = axes.bbox
    inside = (area.x0 / scale, area.y0 / scale, area.x1 / scale, area.y1 / scale)
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in centres]
    for point, (x, y) in zip(points, centres, strict=True):
        width = 5.4 * len(point.name)
        chosen = _free_place(x, y, (width, 11.0), taken, inside)
        taken.append(chosen)
        middle = ((chosen[0] + chosen[2]) / 2 - x, (chosen[1] + chosen[3]) / 2 - y)
        far = math.hypot(max(abs(middle[0]) - width / 2, 0), middle[1]) > 16
        axes.annotate(
            point.name,
            (point.x, point.y),
            middle,
            textcoords="offset points",
            ha="center",
            va="center",
            color=INK,
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": QUIET, "linewidth": 0.6} if far else None,
        )


def _free_place(
    x: float, y: float, size: tuple[float, float], taken: Sequence[Box], inside: Box
) -> Box:
    """A box of that width and height near a point: the first of several that covers nothing."""
    width, height = size
    places = []
    for distance, (across, up) in product(
        (12.0, 18.0, 28.0, 40.0, 54.0, 70.0, 88.0),
        ((1, 0), (0, 1), (0, -1), (-1, 0), (0.7, 0.7), (0.7, -0.7), (-0.7, 0.7), (-0.7, -0.7)),
    ):
        left = x + distance * across + (across - 1) * width / 2
        bottom = y + distance * up - height / 2
        places.append((left, bottom, left + width, bottom + height))
    return next(
        (
            box
            for box in places
            if inside[0] <= box[0]
            and box[2] <= inside[2]
            and inside[1] <= box[1]
            and box[3] <= inside[3]
            and not any(_overlap(box, other) for other in taken)
        ),
        places[0],
    )


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
