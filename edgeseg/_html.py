"""What the pages that edgeseg writes for people have in common: one template, escaped pieces.

A page is one file that needs nothing else: styles inline, pictures inside, no scripts, no requests.
Functions whose arguments are said to be HTML take it as it is; everything else is escaped.
"""

from __future__ import annotations

import html
import importlib.resources
import string
from collections.abc import Iterable, Sequence

__all__ = ["code", "document", "facts", "figures", "table", "text"]


def text(value: object) -> str:
    """``str(value)``, escaped for content and attributes."""
    return html.escape(str(value), quote=True)


def code(value: object) -> str:
    """The same, set as code."""
    return f"<code>{text(value)}</code>"


def facts(items: Iterable[tuple[str, str]]) -> str:
    """A definition list of names and values; the values are HTML."""
    rows = "".join(f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in items)
    return f'<dl class="facts">{rows}</dl>'


def figures(boxes: Iterable[tuple[str, str, str]]) -> str:
    """Large figures side by side: name, value and a note of each."""
    cells = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}<small>{text(note)}</small></dd></div>"
        for name, value, note in boxes
    )
    return f'<dl class="figures">{cells}</dl>'


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: frozenset[int] = frozenset(),
) -> str:
    """A table whose first column heads its row; cells are HTML, ``numbers`` are right-aligned."""

    def of_class(index: int) -> str:
        return ' class="number"' if index in numbers else ""

    head = "".join(
        f'<th scope="col"{of_class(i)}>{text(column)}</th>' for i, column in enumerate(columns)
    )
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td{of_class(i)}>{cell}</td>" for i, cell in enumerate(row[1:], start=1))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" aria-label="{text(caption)}" tabindex="0"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def document(
    *,
    title: str,
    lead: str,
    version: str,
    sections: Iterable[tuple[str, str, str]],
    footer: str,
) -> str:
    """A complete page.

    Args:
        title: its heading.
        lead: the line below.
        version: of edgeseg.
        sections: key, title and HTML of each; those without any HTML are left out.
        footer: HTML of its last line.
    """
    shown = [section for section in sections if section[2]]
    links = "".join(f'<li><a href="#{key}">{text(name)}</a></li>' for key, name, _ in shown)
    template = importlib.resources.files("edgeseg") / "assets" / "page.html"
    return string.Template(template.read_text(encoding="utf-8")).substitute(
        version=text(version),
        title=text(title),
        lead=text(lead),
        navigation=f'<nav aria-label="Sections"><ul>{links}</ul></nav>',
        body="\n".join(
            f'<section id="{key}" aria-labelledby="{key}-title">'
            f'<h2 id="{key}-title">{text(name)}</h2>{body}</section>'
            for key, name, body in shown
        ),
        footer=footer,
    )
