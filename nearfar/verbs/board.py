"""Boards: a family of methods under equal conditions, run by `compare` and published like a result."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nearfar.errors import ArgumentError
from nearfar.experiment import Board, DataFolder, Track
from nearfar.files import write_json
from nearfar.measures.intervals import paired_interval
from nearfar.verbs.compare import Comparison, compare
from nearfar.versions import own_code, versions

BOARDS = "boards/"
"""How the names of boards begin."""


def run_board(
    name: str, *, out: Path | str, data_dir: Path | str, seeds: int | None = None, fresh: bool = False
) -> dict[str, Any]:
    """Run a board and write `OUT/NAME.json` and its pictures; see `reproduce`.

    Finished runs are kept in a folder beside the result until all is done.

    Raises:
        ArgumentError: there is no such board, or its data are not there.
    """
    board = load_board(name, data_dir)
    count = board.seeds if seeds is None else seeds
    file = Path(out) / f"{name}.json"
    kept = file.parent / f".{file.stem}"
    if fresh and kept.exists():
        shutil.rmtree(kept)
    code, tracks = own_code(), {}
    for track, part in board.tracks.items():
        found = compare(
            part.methods,
            part.table,
            seeds=count,
            measure=next(iter(board.figures.values()))[0],
            out=kept / track.replace(" ", "-"),
            encoder=str(board.encoder),
            measure_on=dict(board.tests),
            options=part.options,
            **board.settings,
        )
        tracks[track] = _track(found, board, part)
    result = {
        "board": name,
        "title": board.title,
        "tracks": tracks,
        "figures": {figure: list(measures) for figure, measures in board.figures.items()},
        "across": list(board.across),
        "encoder": board.encoder.name,
        "settings": dict(board.settings),
        "seeds": count,
        "remarks": list(board.remarks),
        "command": f"nearfar reproduce {name}" + (f" --seeds {count}" if count != board.seeds else ""),
        "versions": versions(),
        "code": code,
    }
    write_json(file, result)
    _draw(result, file)
    shutil.rmtree(kept)
    return result


def load_board(name: str, data_dir: Path | str) -> Board:
    """The recipe of a board.

    Raises:
        ArgumentError: there is none.
    """
    module = f"nearfar.recipes.{name.replace('-', '_').replace('/', '.')}"
    if importlib.util.find_spec(module) is None:
        raise ArgumentError(f"there is no board {name!r}: add {module.replace('.', '/')}.py with board(data)")
    made: Board = importlib.import_module(module).board(DataFolder(data_dir))
    return made


def _track(found: Comparison, board: Board, part: Track) -> dict[str, Any]:
    """Figures of every arm and seed, differences from the first method, and cost."""
    values = {
        arm: {
            figure: [sum(seed) / len(seed) for seed in zip(*(measured[m] for m in measures), strict=True)]
            for figure, measures in board.figures.items()
        }
        for arm, measured in found.values.items()
    }
    base = values[found.methods[0]]
    return {
        "methods": found.methods,
        "values": values,
        "differences": {
            arm: {figure: paired_interval(own[figure], base[figure])._asdict() for figure in own}
            for arm, own in values.items()
            if arm != found.methods[0]
        },
        "seconds": found.seconds,
        "peak_mb": found.peak_mb,
        "left_out": dict(part.left_out),
        "options": dict(part.options),
        "table": found.facts["table"],
        "fingerprint": found.facts["fingerprint"],
        "all_measures": asdict(found)["values"],
    }


def _draw(result: Mapping[str, Any], file: Path) -> None:
    from nearfar.report.pictures import comparison_picture, plane_picture

    first = next(iter(result["figures"]))
    for track, part in result["tracks"].items():
        stem = f"{file.stem}-{track.replace(' ', '-')}"
        values = {arm: own[first] for arm, own in part["values"].items()}
        comparison_picture(values, first, file.with_name(f"{stem}.svg"), baseline=part["methods"][0])
        x, y = result["across"]
        points = {
            arm: tuple(sum(own[figure]) / len(own[figure]) for figure in (x, y, first))
            for arm, own in part["values"].items()
        }
        plane_picture(points, (x, y, first), file.with_name(f"{stem}-plane.svg"))


def as_text(result: Mapping[str, Any]) -> str:
    """The board for people: a table for each track."""
    from nearfar.report.board_page import board_rows
    from nearfar.report.tables import table

    lines = []
    for track, part in result["tracks"].items():
        lines += [f"{result['title']}: {track} ({part['table']})", table(*board_rows(result, part)), ""]
    return "\n".join(lines).rstrip()
