"""Boards: compare over a family, figures that are means of measures, and what is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import text_space

from nearfar.data.table import Table
from nearfar.errors import ArgumentError
from nearfar.experiment import Board, Track
from nearfar.measures.intervals import paired_interval
from nearfar.recipes.boards import sentence
from nearfar.report import pictures
from nearfar.report.board_page import board_rows, boards_page, told_apart
from nearfar.report.pictures import plane_picture
from nearfar.verbs import board as verb
from nearfar.verbs.board import load_board, run_board
from nearfar.verbs.reproduce import as_text, reproduce

TEXTS = [
    f"{kind} number {i} of the {place}"
    for i in range(12)
    for kind, place in (("rain", "sea"), ("snow", "hill"))
]


def made(folder: Path) -> Board:
    pairs = Table.from_columns(
        {"text": TEXTS[:12], "positive": TEXTS[12:], "score": [float(i % 5) for i in range(12)]}
    )
    labelled = Table.from_columns({"text": TEXTS, "label": ["sea", "hill"] * 12})
    space = folder / "space"
    if not space.exists():
        text_space(TEXTS).save(space)
    return Board(
        title="Tiny",
        tracks={
            "from texts": Track(Table.from_columns({"text": TEXTS}), ("simcse", "mlm"), {"other": "a reason"})
        },
        tests={"pairs": pairs, "kinds": labelled},
        encoder=space,
        settings={"steps": 2, "batch_size": 8, "learning_rate": 0.01},
        figures={
            "both": ("pairs/sts", "kinds/knn_accuracy"),
            "alignment": ("pairs/alignment",),
            "uniformity": ("pairs/uniformity",),
        },
        across=("uniformity", "alignment"),
        seeds=2,
        remarks=("a remark",),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb, "load_board", lambda name, data_dir: made(folder))
        return reproduce("boards/tiny", out=folder, data_dir="nowhere")


def test_figures_are_means_of_the_measures_they_name(result: dict[str, Any]) -> None:
    part = result["tracks"]["from texts"]
    assert part["methods"] == ["simcse", "mlm"]
    for arm, figures in part["values"].items():
        every = part["all_measures"][arm]
        expected = (np.array(every["pairs/sts"]) + np.array(every["kinds/knn_accuracy"])) / 2
        np.testing.assert_allclose(figures["both"], expected)
        assert figures["alignment"] == every["pairs/alignment"]
    gap = paired_interval(part["values"]["mlm"]["both"], part["values"]["simcse"]["both"])
    assert part["differences"]["mlm"]["both"] == gap._asdict()
    assert "simcse" not in part["differences"]


def test_the_board_is_published_with_its_pictures_and_nothing_else_is_left(
    result: dict[str, Any], folder: Path
) -> None:
    published = folder / "boards"
    assert json.loads((published / "tiny.json").read_text(encoding="utf-8")) == json.loads(json.dumps(result))
    names = {"tiny.json", "tiny-from-texts.svg", "tiny-from-texts-plane.svg"}
    assert {file.name for file in published.iterdir()} == names
    assert result["tracks"]["from texts"]["left_out"] == {"other": "a reason"}
    assert result["remarks"] == ["a remark"]
    assert all(len(seconds) == 2 for seconds in result["tracks"]["from texts"]["seconds"].values())


def test_the_table_has_the_best_first_and_every_figure(result: dict[str, Any]) -> None:
    heading, rows = board_rows(result, result["tracks"]["from texts"])
    assert heading[:4] == ["method", "both", "alignment", "uniformity"]
    assert {row[0] for row in rows} >= {"simcse", "mlm"}
    means = [float(row[1]) for row in rows]
    assert means == sorted(means, reverse=True)
    assert "Tiny: from texts" in as_text(result)


def test_an_interrupted_board_goes_on_where_it_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nearfar.verbs import compare as comparing

    runs: list[str] = []
    original = comparing.fit_rows

    def watched(method: str, *given: Any, **named: Any) -> Any:
        runs.append(method)
        if len(runs) == 3:
            raise KeyboardInterrupt
        return original(method, *given, **named)

    monkeypatch.setattr(comparing, "fit_rows", watched)
    monkeypatch.setattr(verb, "load_board", lambda name, data_dir: made(folder))
    with pytest.raises(KeyboardInterrupt):
        run_board("boards/again", out=folder, data_dir="nowhere")
    run_board("boards/again", out=folder, data_dir="nowhere")
    assert runs == ["simcse", "mlm", "simcse", "simcse", "mlm"]


def test_an_unknown_board_is_named() -> None:
    with pytest.raises(ArgumentError, match="there is no board 'boards/nothing'"):
        load_board("boards/nothing", "nowhere")


def test_names_in_a_plane_do_not_cover_each_other() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = pictures._figure(8.2, 5.2)
    axes = figure.subplots()
    points = {"one": (0.5, 0.5), "another": (0.51, 0.5), "a third": (0.5, 0.51), "far": (0.0, 0.0)}
    axes.scatter(*zip(*points.values(), strict=True))
    pictures._label(figure, axes, points)
    assert sorted(text.get_text() for text in axes.texts) == sorted(points)
    boxes = [text.get_window_extent(FigureCanvasAgg(figure).get_renderer()) for text in axes.texts]
    assert all(box.count_overlaps(boxes) == 1 for box in boxes), "only with itself"


def test_a_plane_without_points_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="without methods"):
        plane_picture({}, ("x", "y", "z"), tmp_path / "plane.svg")


def test_no_text_of_a_test_is_trained_on() -> None:
    tests = {"pairs": Table.from_columns({"text": ["A dog, running!"], "positive": ["Two cats"]})}
    rows = {"text": ["a dog running", "a dog", "rain", "snow"], "positive": ["x", "y", "two  cats.", "z"]}
    kept = sentence._apart(Table.from_columns(rows), tests)
    assert sorted(kept.column("text")) == ["a dog", "snow"]


def test_what_is_told_apart_follows_from_the_intervals() -> None:
    gaps = {
        "up": [0.2, 0.201, 0.199],
        "down": [-0.148, -0.11, -0.072],
        "same": [0.1, -0.1, 0.3],
        "before": [0.3, 0.31, 0.29],
    }
    values = {"base": {"f": [0.0] * 3}, **{name: {"f": gap} for name, gap in gaps.items()}}
    differences = {name: {"f": paired_interval(gap, [0.0] * 3)._asdict()} for name, gap in gaps.items()}
    part = {"methods": ["base", "up", "down", "same"], "differences": differences, "values": values}
    (said,) = told_apart({"figures": {"f": []}}, part)
    assert said == (
        "**f**: above base: **up** (+0.200), **no training** (+0.300); below base: down (-0.110); "
        "not told apart from base: same (+0.100)."
    )
    assert "lower is better" in told_apart({"figures": {"uniformity": []}}, _renamed(part))[0]


def _renamed(part: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(part).replace('"f"', '"uniformity"'))  # type: ignore[no-any-return]


def test_the_page_shows_every_track(result: dict[str, Any]) -> None:
    page = boards_page({"tiny": result})
    assert "### Tiny, from texts" in page
    assert "(images/tiny-from-texts-plane.svg)" in page
    assert "- `other`: a reason" in page
    assert "a remark" in page
