"""The page of methods in the documentation, made of the catalogue and of published results.

`python -m nearfar.report.methods_page`, in the root of the repository, writes docs/methods.md and docs/boards.md, and
copies the pictures that `nearfar reproduce` drew beside results.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from nearfar.errors import ArgumentError
from nearfar.files import atomic_file, read_json
from nearfar.methods import Entry, Hyperparameter, catalogue
from nearfar.report.board_page import PAGE as BOARDS_PAGE
from nearfar.report.board_page import boards_page, read_boards
from nearfar.report.tables import markdown, number

PAGE = Path("docs/methods.md")
IMAGES = PAGE.parent / "images"
RESULTS = Path("results")
NOT_YET = "not yet reproduced"
HEAD = """\
<!-- Made by `python -m nearfar.report.methods_page` from nearfar/methods and results/: do not edit. -->

# Methods

Every method that `nearfar fit` knows, with what its small experiment showed. A verdict is about that
experiment, not about the paper: *held* means that the 95% interval of the paired difference over seeds
lies on the side that the claim says, *contradicted* that it lies on the other side, *not shown* that it
holds 0. With several claims, the method's verdict is that of the first, its main one. The seeds of an experiment share
training rows, the encoder they start from, and tests, so an interval says nothing of other data; and none is corrected
for the number of claims: of twenty about what makes no difference, about one would be held or contradicted. Most
experiments shared the machine with other work: their seconds tell orders of magnitude, and peak memory holds."""

Result = Mapping[str, Any]
"""What `nearfar reproduce` wrote for one method."""


def read_results(folder: Path) -> dict[str, Result]:
    """The published result of every method of the catalogue that has one, by the method's name."""
    files = {name: folder / f"{name}.json" for name in catalogue()}
    return {name: read_json(file) for name, file in files.items() if file.exists()}


def pictured(folder: Path) -> set[str]:
    """The methods of which a picture NAME.svg is in a folder."""
    return {name for name in catalogue() if (folder / f"{name}.svg").exists()}


def methods_page(results: Mapping[str, Result], pictures: Collection[str] = ()) -> str:
    """The page in Markdown.

    Args:
        results: method -> what `nearfar reproduce` wrote.
        pictures: methods whose result has a picture, images/NAME.svg.
    """
    entries = list(catalogue().values())
    rows = [
        [f"[{e.name}](#{e.name})", e.family, e.title, e.venue, _verdict(results.get(e.name))] for e in entries
    ]
    parts = [HEAD, markdown(["method", "family", "paper", "venue", "verdict"], rows)]
    for family, members in groupby(entries, key=lambda e: e.family):
        parts.append(f"## Family: {family}")
        for entry in members:
            parts += _method(entry, results.get(entry.name))
            if entry.name in pictures:
                parts.append(f"![What the experiment of {entry.name} found](images/{entry.name}.svg)")
    return "\n\n".join(parts) + "\n"


def _method(entry: Entry, result: Result | None) -> list[str]:
    reads = ", ".join(
        f"`{role}` ({kinds.replace(' | None', '').replace(' | Missing', '').replace(' | ', ' or ').lower()}"
        f"{', empty in some rows' if 'Missing' in kinds else ''}"
        f"{', optional' if kinds.endswith('| None') else ''})"
        for role, kinds in entry.reads.items()
    )
    parts = [
        f"### {entry.name}",
        entry.summary,
        f"{entry.authors.rstrip('.')}. *{entry.title}*. {entry.venue}.",
        f"Reads {reads}. Encoders: {', '.join(f'`{name}`' for name in entry.encoders)}. "
        f"Code: `{entry.module.replace('.', '/')}.py`.",
        *_details(entry),
    ]
    if entry.hyperparameters:
        rows = [[f"`{h.name}`", _type(h), f"`{h.default}`", h.about] for h in entry.hyperparameters]
        parts.append(markdown(["hyperparameter", "type", "default", "what it is"], rows))
    return [*parts, *(_published(result) if result is not None else [f"**Result:** {NOT_YET}."])]


def _details(entry: Entry) -> list[str]:
    """The paragraphs of the docstring between its summary and its arguments; formulas stay indented."""
    body = re.split(r"^Args:$", entry.docstring, maxsplit=1, flags=re.MULTILINE)[0].rstrip()
    paragraphs = body.split("\n\n")[1:]
    return [paragraph for paragraph in paragraphs if entry.title not in re.sub(r"\s+", " ", paragraph)]


def _type(hyperparameter: Hyperparameter) -> str:
    choices = re.fullmatch(r"Literal\[(.*)\]", hyperparameter.annotation)
    return choices[1].replace("'", "") if choices else hyperparameter.annotation.replace(" | ", " or ")


def _verdict(result: Result | None) -> str:
    return NOT_YET if result is None else f"**{result['verdict']}**"


def _published(result: Result) -> list[str]:
    """What the experiment of a method found, as paragraphs and tables."""
    figures, cost = result["seeds"], result["cost"]
    names = list(dict.fromkeys(name for arm in figures.values() for name in arm))
    count = len(next(iter(next(iter(figures.values())).values())))
    data = ", ".join(f"{name} (`{fingerprint}`)" for name, fingerprint in result["data"].items())
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts = [
        f"**Result:** {_verdict(result)}, over {count} seeds.",
        markdown(
            ["claim", "verdict", "figure", "mean difference", "95% interval"],
            [_claim(c) for c in result["claims"]],
        ),
        markdown(
            [f"arm (means over {count} seeds)", *names, "seconds", "peak MB", "seconds per 1,000 examples"],
            [[arm, *_means(values, names), *_cost(cost[arm])] for arm, values in figures.items()],
        ),
        f"Data: {data}. Made with {versions}, by:",
        f"```bash\n{result['command']}\n```",
    ]
    if result["deviations"]:
        parts.append("How the experiment differs from the paper:")
        parts.append("\n".join(f"- {deviation}" for deviation in result["deviations"]))
    return parts


def _claim(claim: Mapping[str, Any]) -> list[str]:
    low, high = claim["interval"]
    return [
        claim["words"],
        f"**{claim['verdict']}**",
        f"{claim['figure']}: {claim['arm']} minus {claim['baseline']}",
        f"{claim['mean_difference']:+.4f}",
        f"{low:+.4f} to {high:+.4f}",
    ]


def _means(values: Mapping[str, list[float]], names: list[str]) -> list[str]:
    return [number(sum(values[n]) / len(values[n])) if n in values else "" for n in names]


def _cost(cost: Mapping[str, Any]) -> list[str]:
    seconds, per_thousand = cost["seconds"], cost["seconds_per_1000_examples"]
    mean = sum(seconds) / len(seconds)
    return [f"{mean:.1f}", f"{max(cost['peak_mb']):,}", "" if per_thousand is None else f"{per_thousand:.2f}"]


def main() -> None:
    """Write the pages.

    Raises:
        ArgumentError: this is not the root of the repository.
    """
    if not PAGE.parent.is_dir():
        raise ArgumentError(f"there is no folder {PAGE.parent} here: run this in the root of the repository")
    for name in pictured(RESULTS):
        shutil.copyfile(RESULTS / f"{name}.svg", IMAGES / f"{name}.svg")
    for picture in (RESULTS / "boards").glob("*.svg"):
        shutil.copyfile(picture, IMAGES / picture.name)
    pages = {
        PAGE: methods_page(read_results(RESULTS), pictured(IMAGES)),
        BOARDS_PAGE: boards_page(read_boards(RESULTS)),
    }
    for file, page in pages.items():
        with atomic_file(file) as temporary:
            temporary.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
