"""matplotlib drawings as SVG inside a page: in the page's colours, the same bytes every time.

Colours are drawn as stand-ins and become the page's CSS variables, so that one drawing serves light
and dark. Text stays text, in the page's font.
"""

from __future__ import annotations

import contextlib
import html
import io
import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from edgeseg._optional import require

__all__ = ["INK", "LINE", "PAGE", "QUIET", "canvas", "inline_svg", "series"]

_VARIABLES = ("ink", "quiet", "line", "page", *(f"series-{index}" for index in range(8)))
_STAND_INS = {f"#0000{index:02x}": name for index, name in enumerate(_VARIABLES, start=1)}
_BY_NAME = {name: colour for colour, name in _STAND_INS.items()}

INK, QUIET, LINE, PAGE = (_BY_NAME[name] for name in ("ink", "quiet", "line", "page"))

_COLOUR = re.compile("|".join(_STAND_INS))
_PLACES = frozenset({"d", "x", "y"})
_LONG = re.compile(r"-?\d+\.\d{3,}")
_SIZE_PT = 8.5
_STYLE: dict[str, object] = {
    "svg.fonttype": "none",
    # What matplotlib brings itself, so that the layout does not depend on installed fonts.
    "font.family": ["DejaVu Sans"],
    "font.size": _SIZE_PT,
    # Dollars in a name are dollars.
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": QUIET,
    "axes.labelsize": _SIZE_PT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": _SIZE_PT,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "figure.facecolor": "none",
    "legend.frameon": False,
    # It would drop strokes of no length, which are dots.
    "path.simplify": False,
}


def series(index: int) -> str:
    """The colour of the ``index``-th thing that is compared; they repeat after eight."""
    return _BY_NAME[f"series-{index % 8}"]


@contextlib.contextmanager
def canvas(width_in: float, height_in: float, salt: str) -> Iterator[Any]:
    """Yield an empty figure; draw on it, and call `inline_svg`, within the block.

    Args:
        width_in, height_in: inches of 72 points.
        salt: name of the drawing, different from those of others on the same page.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", "bench")
    figures = require("matplotlib.figure", "bench")
    with matplotlib.rc_context():
        # A user's own matplotlibrc would change the drawing.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": salt})
        yield figures.Figure(figsize=(width_in, height_in), layout="constrained")


def inline_svg(figure: Any, label: str) -> str:
    """HTML of a drawing, which assistive technology reads as one picture with a label."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(stream.getvalue())
    _clean(root)
    view = root.attrib["viewBox"]
    root.attrib.clear()
    body = "".join(ElementTree.tostring(child, encoding="unicode") for child in root)
    body = _COLOUR.sub(lambda match: f"var(--{_STAND_INS[match.group()]})", body)
    named = f'role="img" aria-label="{html.escape(label, quote=True)}"'
    return f'<svg {named} viewBox="{view}">{body}</svg>'


def _clean(element: ElementTree.Element) -> None:
    """Drop namespaces, metadata, rules for all of the page and names that nothing refers to."""
    element.tag = _local(element.tag)
    element.attrib = {
        _local(name): _LONG.sub(_shorten, value) if name in _PLACES else value
        for name, value in element.attrib.items()
        if not (name == "id" and element.tag == "g")
    }
    for child in list(element):
        if _local(child.tag) in ("metadata", "style"):
            element.remove(child)
        else:
            _clean(child)


def _shorten(number: re.Match[str]) -> str:
    """Hundredths of a point are enough, and halve the page."""
    return f"{float(number.group()):.2f}"


def _local(name: str) -> str:
    return name.rpartition("}")[2]
