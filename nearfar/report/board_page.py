"""Boards as tables: for the terminal, and as the page of boards in the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nearfar.files import read_json
from nearfar.measures.intervals import holm, paired_p
from nearfar.report.tables import markdown, number

PAGE = Path("docs/boards.md")
HEAD = """\
<!-- Made by `python -m nearfar.report.methods_page` from results/boards: do not edit. -->

# Boards

Families of methods under equal conditions: the same rows, encoder, steps and seeds, as `nearfar compare` does it.
Differences are paired by seed, and their interval is over the seeds; where it holds 0, the two are not told apart. All
seeds share the training rows, the encoder that they start from, and the tests, so an interval says nothing of other
texts or other tests. None is corrected for the number of comparisons: of twenty between equals about one stands apart.
The names in bold stand apart with a correction for the number of names in their line, too (Holm, 5%). Methods are
compared with the first one only, so their order among each other has no support. Runs follow one another in one
process, which others share the machine with: seconds tell orders of magnitude."""

LOWER = ("alignment", "uniformity")
"""Figures of which less is better."""
Result = Mapping[str, Any]
"""What `nearfar reproduce boards/FAMILY` wrote."""


def read_boards(folder: Path) -> dict[str, Result]:
    """The published boards of a folder of results, by family."""
    return {file.stem: read_json(file) for file in sorted((folder / "boards").glob("*.json"))}


def board_rows(result: Result, part: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the table of one track, best first by the first figure."""
    figures = list(result["figures"])
    first, base = figures[0], part["methods"][0]
    heading = ["method", *figures, f"{first} minus {base}", "95% interval", "seconds", "peak MB"]
    rows = []
    for arm, own in sorted(part["values"].items(), key=lambda item: -sum(item[1][first])):
        means = [number(sum(own[figure]) / len(own[figure])) for figure in figures]
        gap = part["differences"].get(arm, {}).get(first)
        away = (
            ["", ""] if gap is None else [f"{gap['mean']:+.4f}", f"{gap['low']:+.4f} to {gap['high']:+.4f}"]
        )
        seconds, memory = part["seconds"].get(arm), part["peak_mb"].get(arm)
        cost = [
            f"{sum(seconds) / len(seconds):.0f}" if seconds else "",
            f"{max(memory):,.0f}" if memory else "",
        ]
        rows.append([arm, *means, *away, *cost])
    return heading, rows


def told_apart(result: Result, part: Mapping[str, Any]) -> list[str]:
    """What the intervals say of the methods and of the encoder without training, in sentences, a figure each."""
    base, *methods = part["methods"]
    others = methods + [arm for arm in part["values"] if arm == "before" or arm.startswith(f"before {base}")]
    said = []
    for figure in result["figures"]:
        values = {arm: own[figure] for arm, own in part["values"].items()}
        sure = holm([paired_p(values[arm], values[base]) for arm in others])
        words: dict[str, list[str]] = {"above": [], "below": [], "not told apart from": []}
        for arm, survives in zip(others, sure, strict=True):
            gap = part["differences"][arm][figure]
            side = "above" if gap["low"] > 0 else "below" if gap["high"] < 0 else "not told apart from"
            name = arm if arm in methods else "no training"
            words[side].append(f"{f'**{name}**' if survives else name} ({gap['mean']:+.3f})")
        parts = [f"{side} {base}: {', '.join(names) or 'none'}" for side, names in words.items()]
        lower = " (lower is better)" if figure in LOWER else ""
        said.append(f"**{figure}**{lower}: " + "; ".join(parts) + ".")
    return said


def board_section(family: str, result: Result) -> list[str]:
    """The part of the page about one board, as paragraphs."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts = [f"## {result['title']}", *result["remarks"]]
    for track, part in result["tracks"].items():
        stem = f"{family}-{track.replace(' ', '-')}"
        count = len(next(iter(part["seconds"].values())))
        parts += [
            f"### {result['title']}, {track}",
            f"{part['table'][:1].upper()}{part['table'][1:]} (`{part['fingerprint']}`), {count} seeds.",
            markdown(*board_rows(result, part)),
            _list(told_apart(result, part)),
            f"![Methods by {next(iter(result['figures']))}](images/{stem}.svg)",
            f"![Methods in the plane of {' and '.join(result['across'])}](images/{stem}-plane.svg)",
        ]
        if part["options"]:
            told = ", ".join(f"`{name}={value}`" for name, value in part["options"].items())
            parts.append(f"Other than the defaults of their papers: {told}.")
        if part["left_out"]:
            parts += ["Not in it:", _list([f"`{name}`: {why}" for name, why in part["left_out"].items()])]
    return [*parts, f"Made with {versions}, by:", f"```bash\n{result['command']}\n```"]


def boards_page(boards: Mapping[str, Result]) -> str:
    """The page in Markdown."""
    parts = [HEAD]
    for family, result in boards.items():
        parts += board_section(family, result)
    return "\n\n".join(parts) + "\n"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
