"""Pictures for documents are files of the right kind, the same for the same figures."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image

from nearfar.errors import ArgumentError
from nearfar.measures.intervals import Interval
from nearfar.report.pictures import NAMED_TASKS, comparison_picture, curve_picture, forgetting_picture

VALUES = {"before": [0.61, 0.62, 0.60], "simcse": [0.70, 0.71, 0.72], "dclr": [0.72, 0.73, 0.71]}
CURVES = {"a <b>": [Interval(1, 0.9, 1.1), Interval(0.5, float("nan"), float("nan"))]}


def test_comparison_is_an_svg_that_does_not_depend_on_the_day(tmp_path):
    for name in ("one.svg", "two.svg"):
        comparison_picture(VALUES, "sts", tmp_path / name, baseline="simcse")
    first = (tmp_path / "one.svg").read_bytes()
    assert first == (tmp_path / "two.svg").read_bytes()
    assert ElementTree.fromstring(first).tag.endswith("svg")
    drawn = set(re.findall(r"<!-- (.*?) -->", first.decode()))
    assert {"before", "simcse", "dclr", "sts: mean, 95% interval, seeds"} <= drawn
    assert {"−0.100", "+0.010"} <= drawn  # differences from the baseline, none for itself


def test_one_seed_has_no_interval_but_a_picture(tmp_path):
    comparison_picture({"a": [0.5], "b": [0.6]}, "m", tmp_path / "p.png", baseline="a")
    assert Image.open(tmp_path / "p.png").width > 800


def test_curves_are_drawn(tmp_path):
    curve_picture([0, 10], CURVES, tmp_path / "c.png", x_title="step", y_title="loss")
    with Image.open(tmp_path / "c.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10


def test_what_became_of_each_task_is_a_line_from_when_it_was_learned(tmp_path):
    names, rows = (
        ["cats", "$dogs$ and $"],
        {"knn_accuracy": [[0.9], [0.5, 0.8]], "recall@1": [[0.1], [0.1, 0.2]]},
    )
    forgetting_picture(names, rows, tmp_path / "f.svg")
    drawn = set(re.findall(r"<!-- (.*?) -->", (tmp_path / "f.svg").read_text()))
    assert {"cats", "$dogs$ and $", "mean", "knn accuracy", "recall@1", "tasks learned", "1", "2"} <= drawn
    many = [f"task {i}" for i in range(NAMED_TASKS + 1)]
    forgetting_picture(many, {"sts": [[0.5] * (i + 1) for i in range(len(many))]}, tmp_path / "m.svg")
    drawn = set(re.findall(r"<!-- (.*?) -->", (tmp_path / "m.svg").read_text()))
    assert "mean" in drawn
    assert not drawn & set(many)
    with pytest.raises(ArgumentError, match="one value after the first of 2 tasks"):
        forgetting_picture(names, {"sts": [[0.5]]}, tmp_path / "f.svg")


def test_pyplot_and_its_global_state_stay_out_of_it(tmp_path):
    code = (
        "import sys, matplotlib\n"
        "from nearfar.report.pictures import comparison_picture\n"
        f"comparison_picture({VALUES!r}, 'sts', {str(tmp_path / 'p.svg')!r}, baseline='simcse')\n"
        "print('matplotlib.pyplot' in sys.modules, matplotlib.rcParams['svg.hashsalt'])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False", "None"]


def test_what_is_wrong_is_said_and_nothing_is_written(tmp_path):
    with pytest.raises(ArgumentError, match="baseline 'moco' is not among before, simcse, dclr"):
        comparison_picture(VALUES, "sts", tmp_path / "p.svg", baseline="moco")
    with pytest.raises(ArgumentError, match="one value for each seed"):
        comparison_picture({"a": [1.0, 2.0], "b": [1.0]}, "m", tmp_path / "p.svg", baseline="a")
    with pytest.raises(ArgumentError, match=r"\.png or \.svg, not as '\.pdf'"):
        comparison_picture(VALUES, "sts", tmp_path / "p.pdf", baseline="simcse")
    with pytest.raises(ArgumentError, match="1 points for 2 steps"):
        curve_picture([0, 1], {"a": CURVES["a <b>"][:1]}, tmp_path / "c.svg", x_title="x", y_title="y")
    assert list(tmp_path.iterdir()) == []
