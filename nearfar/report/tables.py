"""Plain text tables, for terminals."""

from __future__ import annotations


def table(heading: list[str], rows: list[list[str]], right: int = 1, left: tuple[int, ...] = ()) -> str:
    """Align columns with spaces; those from number `right` on are flush right, except those in `left`."""
    widths = [max(len(row[i]) for row in [heading, *rows]) for i in range(len(heading))]

    def line(cells: list[str]) -> str:
        parts = [
            c.rjust(w) if i >= right and i not in left else c.ljust(w)
            for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    return "\n".join([line(heading), line(["-" * width for width in widths]), *map(line, rows)])


def markdown(heading: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def number(value: float | None) -> str:
    """Four significant digits, or nothing."""
    return "" if value is None else f"{value:.4g}" if abs(value) >= 10 else f"{value:.4f}"
