"""A report as one HTML file that needs nothing else: it opens without a network, in light and in dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from nearfar.errors import ArgumentError
from nearfar.version import __version__

if TYPE_CHECKING:
    import plotly.graph_objects as go

Tone = Literal["", "number", "good", "bad", "muted"]

# The browser itself refuses whatever is not in the file. Plotly compiles shaders for large maps, hence eval.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; worker-src blob:"
)


@dataclass(frozen=True)
class Cell:
    """What one cell of a table says; `tone` sets how it looks."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class PageTable:
    """A table: names of columns, and rows of as many cells.

    Raises:
        ArgumentError: a row is shorter or longer than the names.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(self.columns):
                raise ArgumentError(f"row {number} has {len(row)} cells for {len(self.columns)} columns")


@dataclass(frozen=True)
class Captioned:
    """A figure and how to read it."""

    figure: go.Figure
    title: str
    caption: str


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
        heading: its title.
        text: paragraphs, parted by empty lines.
        content: a table, or figures that stand side by side where there is room.
    """

    heading: str
    text: str = ""
    content: PageTable | Sequence[Captioned] = ()


def page(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """The whole file. All text is shown as it is: markup in it has no effect.

    Args:
        title: of the page and its tab.
        sections: from top to bottom.
        subtitle: one line below the title.
    """
    numbered = list(enumerate(sections, start=1))
    drawn = any(section.content and not isinstance(section.content, PageTable) for section in sections)
    links = "".join(f'<a href="#section-{i}">{escape(section.heading)}</a>' for i, section in numbered)
    body = "\n".join(_section(i, section) for i, section in numbered)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{_asset("page.css")}
</style>
{_plotly() if drawn else ""}
</head>
<body>
<header><h1>{escape(title)}</h1>{f"<p>{escape(subtitle)}</p>" if subtitle else ""}<nav>{links}</nav></header>
<main>
{body}
</main>
<footer>nearfar {__version__}</footer>
{f"<script>{_asset('page.js')}</script>" if drawn else ""}
</body>
</html>
"""


def _section(number: int, section: Section) -> str:
    paragraphs = "".join(
        f"<p>{escape(paragraph.strip())}</p>" for paragraph in section.text.split("\n\n") if paragraph.strip()
    )
    if isinstance(section.content, PageTable):
        content = _table(section.content)
    else:
        figures = "\n".join(_figure(captioned) for captioned in section.content)
        content = f'<div class="figures">{figures}</div>' if figures else ""
    return f'<section id="section-{number}"><h2>{escape(section.heading)}</h2>{paragraphs}{content}</section>'


def _table(table: PageTable) -> str:
    first = table.rows[0] if table.rows else [Cell("")] * len(table.columns)
    numeric = [cell.tone in ("number", "good", "bad") for cell in first]
    heads = "".join(
        f'<th scope="col"{" class=number" if right else ""}>{escape(name)}</th>'
        for name, right in zip(table.columns, numeric, strict=True)
    )
    rows = "\n".join(
        "<tr>" + "".join(f'<td class="{cell.tone}">{escape(cell.text)}</td>' for cell in row) + "</tr>"
        for row in table.rows
    )
    return f'<div class="table"><table><thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'


def _figure(captioned: Captioned) -> str:
    # Inside a script element only "<" can end it or start a comment; as an escape it is still JSON.
    data = captioned.figure.to_json().replace("<", "\\u003c")
    height = int(captioned.figure.layout.height or 360)
    return (
        f"<figure><h3>{escape(captioned.title)}</h3>"
        f'<div class="plot" role="img" aria-label="{escape(captioned.title)}" style="height:{height}px">'
        f"<noscript>This picture needs JavaScript.</noscript>"
        f'<script type="application/json">{data}</script></div>'
        f"<figcaption>{escape(captioned.caption)}</figcaption></figure>"
    )


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return f"<script>{get_plotlyjs()}</script>"


def _asset(name: str) -> str:
    return files("nearfar.report").joinpath(name).read_text(encoding="utf-8")
