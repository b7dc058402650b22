"""The drawings of a session's report: SVG by hand, in the page's colours, without scripts.

All share one time axis, so that what stands below each other happened at the same time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from edgeseg._html import text
from edgeseg.workflows._event_sessions import (
    CURRENT,
    LANES,
    PREDICTED,
    UNKNOWN,
    Column,
    SessionLog,
    Spread,
)

__all__ = ["Series", "clock_words", "drops", "lanes", "lines", "order_of_states", "states"]

_LEFT, _PLOT, _RIGHT = 64.0, 1000.0, 36.0
_WIDTH = _LEFT + _PLOT + _RIGHT
_AXIS = 34.0
_TOP = 12.0
_LETTER = 6.2
"""Width of a letter in the units of the drawings, generously."""
_MAX_LABEL = 60
_STEPS_S = (
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0),
    *(60.0, 120.0, 300.0, 600.0, 900.0, 1800.0),
    *(3600.0, 7200.0, 14400.0, 21600.0, 43200.0, 86400.0),
)

_STATE_COLOURS = {
    CURRENT: ("--series-0", 1.0),
    PREDICTED: ("--series-6", 0.75),
    UNKNOWN: ("--line", 1.0),
    "starting": ("--series-7", 0.55),
    "no signal": ("--series-1", 1.0),
    "frozen picture": ("--series-4", 1.0),
    "black picture": ("--series-3", 1.0),
    "engine stalled": ("--series-5", 1.0),
    "engine failed": ("--series-5", 0.6),
    "result too old": ("--series-1", 0.55),
}
_OTHER_STATE = ("--ink", 1.0)


@dataclass(frozen=True)
class Series:
    """A line over time: the mean of each column, with its range where ``band`` is set."""

    name: str
    figure: str
    colour: int
    dashed: bool = False
    band: bool = False


def clock_words(seconds: float) -> str:
    """A time since the start: ``0:42``, ``1:02:05``; with tenths below a minute if it has any."""
    if seconds < 60.0 and abs(seconds - round(seconds)) > 1e-6:
        return f"{seconds:.2f}".rstrip("0") + " s"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def order_of_states(found: Iterable[str]) -> list[str]:
    """States in the order in which they are drawn and listed: the good ones first."""
    known = [state for state in _STATE_COLOURS if state != UNKNOWN]
    names = set(found)
    return [
        *(state for state in known if state in names),
        *sorted(names - set(_STATE_COLOURS)),
        *([UNKNOWN] if UNKNOWN in names else []),
    ]


def states(session: SessionLog) -> str:
    """The coloured band: shares of each column above, whatever was not current below.

    What lasts a moment of many hours is a hair in the upper band; in the lower one its column has
    the full colour.
    """
    top, high, gap, low = _TOP, 64.0, 8.0, 16.0
    order = order_of_states({state for column in session.line.columns for state in column.states})
    shapes: dict[str, list[str]] = {state: [] for state in order}
    for left, width, column in _columns(session):
        total_s = sum(column.states.values())
        if total_s <= 0.0:
            continue
        y = top
        for state in order:
            part = high * column.states.get(state, 0.0) / total_s
            if part > 0.0:
                shapes[state].append(_box(left, y, width, part))
                y += part
        worst = [state for state in order if state in column.states][-1]
        shapes[worst].append(_box(left, top + high + gap, width, low))
    parts = [
        f'<path style="{_fill(*_STATE_COLOURS.get(state, _OTHER_STATE))}" d="{"".join(boxes)}"/>'
        for state, boxes in shapes.items()
        if boxes
    ]
    bottom = top + high + gap + low
    parts.append(_label(_LEFT - 8, top + high / 2 + 4, "share", "end"))
    parts.append(_label(_LEFT - 8, bottom - low / 2 + 4, "worst", "end"))
    legend = [(state, *_STATE_COLOURS.get(state, _OTHER_STATE)) for state in order]
    said = ", ".join(f"{state} {100 * session.share(state):.1f} %" for state in order)
    return _svg(f"State over time: {said}", bottom, parts, session) + _legend(legend)


def lines(
    session: SessionLog,
    what: str,
    unit: str,
    series: Sequence[Series],
    *,
    limit: tuple[str, float] | None = None,
    height: float = 150.0,
) -> str:
    """Figures over time; "" if there are none.

    Args:
        session: whose.
        what: they are, for those who cannot see the drawing.
        unit: of all of them.
        series: the lines.
        limit: name and value of a line across.
        height: of the plot.
    """
    shown = [one for one in series if _values(session, one.figure)]
    if not shown:
        return ""
    highest = max(spread.high for one in shown for _, spread in _values(session, one.figure))
    if limit is not None:
        highest = max(highest, 1.05 * limit[1])
    ticks, top_value = _scale(highest)
    bottom = _TOP + height

    def at(value: float) -> float:
        return bottom - height * value / top_value

    parts = _grid(ticks, at, unit)
    for one in shown:
        colour = f"--series-{one.colour}"
        values = _values(session, one.figure)
        if one.band:
            boxes = [
                _box(x - 0.6, at(spread.high) - 0.6, 1.2, at(spread.low) - at(spread.high) + 1.2)
                for x, spread in values
            ]
            parts.append(f'<path style="{_fill(colour, 0.45)}" d="{"".join(boxes)}"/>')
            continue
        dash = ";stroke-dasharray:5 3" if one.dashed else ""
        style = f"fill:none;stroke:var({colour});stroke-width:1.6;stroke-linejoin:round{dash}"
        parts.append(f'<path style="{style}" d="{_line(values, at)}"/>')
    legend = [(one.name, f"--series-{one.colour}", 0.45 if one.band else 1.0) for one in shown]
    if limit is not None:
        style = "stroke:var(--ink);stroke-width:1.2;stroke-dasharray:2 3"
        parts.append(f'<path style="{style}" d="M{_LEFT:g} {at(limit[1]):.1f}h{_PLOT:g}"/>')
        parts.append(_label(_LEFT + _PLOT - 4, at(limit[1]) - 4, limit[0], "end"))
    said = ", ".join(
        f"{one.name} up to {max(s.high for _, s in _values(session, one.figure)):.4g} {unit}"
        for one in shown
    )
    return _svg(f"{what} over time: {said}", bottom, parts, session) + _legend(legend)


def drops(session: SessionLog, height: float = 120.0) -> str:
    """Dropped frames a second, stacked by cause; "" if none was dropped."""
    totals: dict[str, float] = {}
    for column in session.line.columns:
        for cause, count in column.drops.items():
            totals[cause] = totals.get(cause, 0.0) + count
    if not totals:
        return ""
    # Columns at the end may lie partly behind it.
    heights = [
        (left, width, column, width * session.lasted_s / _PLOT)
        for left, width, column in _columns(session)
    ]
    ticks, top_value = _scale(max(sum(c.drops.values()) / s for _, _, c, s in heights))
    bottom = _TOP + height
    parts = _grid(ticks, lambda value: bottom - height * value / top_value, "/s")
    causes = sorted(totals, key=lambda cause: -totals[cause])
    floors = [0.0] * len(heights)
    legend = []
    for index, cause in enumerate(causes):
        boxes = []
        for place, (left, width, column, seconds) in enumerate(heights):
            part = height * column.drops.get(cause, 0.0) / seconds / top_value
            if part > 0.0:
                floors[place] += part
                boxes.append(_box(left, bottom - floors[place], width, part))
        colour, opacity = f"--series-{index % 8}", 1.0 if index < 8 else 0.5
        parts.append(f'<path style="{_fill(colour, opacity)}" d="{"".join(boxes)}"/>')
        legend.append((cause, colour, opacity))
    said = ", ".join(f"{cause} {round(totals[cause])}" for cause in causes)
    return _svg(f"Dropped frames over time: {said}", bottom, parts, session) + _legend(legend)


def lanes(session: SessionLog) -> str:
    """What happened, one lane for each part of the session; "" if nothing did."""
    found = [lane for lane in LANES if any(lane in column.lanes for column in session.line.columns)]
    if not found:
        return ""
    high = 36.0
    parts = []
    for row, lane in enumerate(found):
        top = _TOP + row * high
        middle = top + 25.0
        colour = f"--series-{ {'source': 1, 'engine': 5, 'sinks': 4, 'recording': 2}.get(lane, 0) }"
        parts.append(_label(_LEFT - 8, middle + 4, lane, "end"))
        style = "stroke:var(--line);stroke-width:1"
        parts.append(f'<path style="{style}" d="M{_LEFT:g} {middle:g}h{_PLOT:g}"/>')
        held, free_from = [], 0.0
        for left, width, column in _columns(session):
            one = column.lanes.get(lane)
            if one is None:
                continue
            if one.held_s > 0.0:
                held.append(_box(left, middle - 4, width, 8))
            if not one.hits:
                continue
            more = f" (and {one.hits - 1} more)" if one.hits > 1 else ""
            x = left + width / 2
            parts.append(
                f'<path style="stroke:var({colour});stroke-width:2" '
                f'd="M{x:.1f} {middle - 8:g}v16"><title>{text(one.first + more)}</title></path>'
            )
            words = _cut(one.first, one.hits)
            length = _LETTER * len(words)
            if x >= free_from and x + length <= _WIDTH:
                parts.append(_label(x - 1, middle - 12, words, "start"))
                free_from = x + length + 8
            elif x - length >= free_from:
                # At the right edge, where it has room to the left alone.
                parts.append(_label(x + 1, middle - 12, words, "end"))
                free_from = x + 8
        if held:
            parts.append(f'<path style="{_fill(colour, 0.4)}" d="{"".join(held)}"/>')
    return _svg("What happened, by time", _TOP + len(found) * high, parts, session)


def _cut(words: str, hits: int) -> str:
    more = f" +{hits - 1}" if hits > 1 else ""
    return (words if len(words) <= _MAX_LABEL else f"{words[: _MAX_LABEL - 3]}...") + more


def _columns(session: SessionLog) -> list[tuple[float, float, Column]]:
    """Left edge and width, in the drawing, of each column, and the column."""
    line = session.line
    scale = _PLOT / session.lasted_s if session.lasted_s > 0.0 else 0.0
    placed = []
    for index, column in enumerate(line.columns):
        start_s = index * line.width_s
        end_s = min(start_s + line.width_s, session.lasted_s)
        if end_s > start_s:
            placed.append((_LEFT + scale * start_s, scale * (end_s - start_s), column))
    return placed


def _values(session: SessionLog, figure: str) -> list[tuple[float, Spread]]:
    return [
        (left + width / 2, column.figures[figure])
        for left, width, column in _columns(session)
        if figure in column.figures
    ]


def _line(values: Sequence[tuple[float, Spread]], at: Callable[[float], float]) -> str:
    """A path through the means, broken where figures are missing for long."""
    steps = sorted(b[0] - a[0] for a, b in itertools.pairwise(values))
    usual = steps[len(steps) // 2] if steps else 0.0
    path, before = [], -math.inf
    for x, spread in values:
        command = "L" if x - before <= max(3.0 * usual, 3.0) else "M"
        path.append(f"{command}{x:.1f} {at(spread.mean):.1f}")
        before = x
    if len(values) == 1:
        path.append("h1")
    return "".join(path)


def _scale(highest: float) -> tuple[list[float], float]:
    """Round values from 0 on for an axis, and its end."""
    if highest <= 0.0:
        return [0.0, 1.0], 1.0
    rough = highest / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    count = math.ceil(highest / step * 0.999)
    return [index * step for index in range(count + 1)], count * step


def _grid(ticks: Sequence[float], at: Callable[[float], float], unit: str) -> list[str]:
    style = "stroke:var(--line);stroke-width:.6"
    parts = []
    for tick in ticks:
        parts.append(f'<path style="{style}" d="M{_LEFT:g} {at(tick):.1f}h{_PLOT:g}"/>')
        words = f"{tick:g} {unit}" if tick == ticks[-1] else f"{tick:g}"
        parts.append(_label(_LEFT - 6, at(tick) + 4, words, "end"))
    return parts


def _svg(label: str, bottom: float, parts: Iterable[str], session: SessionLog) -> str:
    """A drawing with the axis of time below."""
    lasted_s = session.lasted_s
    height = bottom + _AXIS
    axis = [
        f'<path style="stroke:var(--quiet);stroke-width:1" d="M{_LEFT:g} {bottom:g}h{_PLOT:g}"/>'
    ]
    step_s = next((step for step in _STEPS_S if lasted_s / step <= 10.5), None)
    if step_s is None:
        step_s = 86400.0 * math.ceil(lasted_s / 86400.0 / 10)
    for index in range(int(lasted_s / step_s + 1e-9) + 1 if lasted_s > 0.0 else 1):
        time_s = index * step_s
        x = _LEFT + (_PLOT * time_s / lasted_s if lasted_s > 0.0 else 0.0)
        axis.append(f'<path style="stroke:var(--quiet);stroke-width:1" d="M{x:.1f} {bottom:g}v4"/>')
        axis.append(_label(x, bottom + 17, clock_words(time_s), "middle"))
    return (
        f'<svg viewBox="0 0 {_WIDTH:g} {height:g}" role="img" aria-label="{text(label)}" '
        f'font-size="11.5">{"".join(parts)}{"".join(axis)}</svg>'
    )


def _legend(items: Iterable[tuple[str, str, float]]) -> str:
    """Names beside their colours."""
    swatch = "display:inline-block;width:.85em;height:.85em;border-radius:.15em;margin-right:.4em"
    spans = "".join(
        '<span style="white-space:nowrap;margin-right:1.2em;display:inline-block">'
        f'<span style="{swatch};background:var({colour});opacity:{opacity:g}"></span>'
        f"{text(name)}</span>"
        for name, colour, opacity in items
    )
    return f'<p style="max-width:none;margin:.2rem 0 .2rem 4rem;font-size:.9rem">{spans}</p>'


def _box(x: float, y: float, width: float, height: float) -> str:
    # A little wider than it is, so that no hairs show between neighbours.
    return f"M{x:.1f} {y:.1f}h{width + 0.15:.2f}v{height:.2f}h-{width + 0.15:.2f}z"


def _fill(colour: str, opacity: float) -> str:
    return f"fill:var({colour})" + ("" if opacity == 1.0 else f";fill-opacity:{opacity:g}")


def _label(x: float, y: float, words: str, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} style="fill:var(--quiet)">{text(words)}</text>'
