"""Figures hold the numbers that they were given, and show texts as texts."""

import numpy as np
import pytest

from nearfar.errors import ArgumentError
from nearfar.measures.intervals import Interval
from nearfar.report import charts, figures
from nearfar.report.figure_style import shown
from nearfar.report.palette import AFTER, BEFORE, SERIES


def test_texts_are_cut_with_an_ellipsis_and_without_live_markup():
    assert shown("a  b\nc") == "a b c"
    assert shown("x" * 41) == "x" * 39 + "…"
    assert shown("x" * 40) == "x" * 40
    assert shown('<a href="javascript:f()">') == "&lt;a href=&quot;javascript:f()&quot;&gt;"


def test_bars_show_every_value_and_before_and_after_keep_their_colours():
    drawn = figures.before_after_bars({"b": 0.1}, {"a": 0.2, "b": 0.3})
    bars = {bar.name: bar for bar in drawn.data}
    assert dict(zip(bars["after"].y, bars["after"].x, strict=True)) == {"a": 0.2, "b": 0.3}
    assert dict(zip(bars["before"].y, bars["before"].x, strict=True)) == {"b": 0.1}
    assert (bars["before"].marker.color, bars["after"].marker.color) == (BEFORE, AFTER)
    assert [bar.name for bar in figures.before_after_bars({}, {"a": 1.0}).data] == ["after"]


def test_histogram_bars_are_shares_that_sum_to_one_even_at_the_ends():
    near, far = np.array([1.0, 1.0 + 1e-7, 0.999]), np.array([-1.0, 0.0, 0.5, 0.3])
    drawn = figures.cosine_histogram({"before": (far, near), "after": (near, far)})
    assert len(drawn.data) == 4
    for bars in drawn.data:
        assert sum(bars.y) == pytest.approx(1)
    assert sum(trace.showlegend for trace in drawn.data) == 2


def test_spectrum_starts_at_one_and_ends_at_zeros():
    drawn = figures.singular_spectrum({"after": [4.0, 1.0, 0.0]})
    np.testing.assert_allclose(drawn.data[0].y, [1, 0.25, np.nan])
    with pytest.raises(ArgumentError, match="'flat' is empty or all zeros"):
        figures.singular_spectrum({"flat": [0.0, 0.0]})


def test_plane_puts_uniformity_across_and_alignment_up():
    drawn = figures.alignment_uniformity_plane({"one": (0.2, -3.0), "path": [[0.5, -1], [0.3, -2]]})
    assert (drawn.data[0].x.tolist(), drawn.data[0].y.tolist()) == ([-3.0], [0.2])
    assert drawn.data[1].text[-1] == "path"
    assert len(drawn.data[1].x) == 2


def test_occurrences_are_shares_of_keys():
    drawn = figures.occurrence_histogram({"after": [0, 0, 3, 1]}, k=1)
    assert dict(zip(drawn.data[0].x, drawn.data[0].y, strict=True)) == {0: 0.5, 1: 0.25, 3: 0.25}
    assert drawn.layout.annotations[0].text == "mean 1"


def test_map_draws_every_row_once_under_its_label():
    places = np.arange(12.0).reshape(6, 2)
    drawn = charts.row_map(places, ["b", "a", "b", "<i>", "a", "b"], [f"row {i}" for i in range(6)])
    by_name = {trace.name: trace for trace in drawn.data}
    assert list(by_name) == ["&lt;i&gt;", "a", "b"]
    assert by_name["b"].x.tolist() == [0.0, 4.0, 10.0]
    assert list(by_name["b"].text) == ["row 0", "row 2", "row 5"]
    assert sum(len(trace.x) for trace in charts.row_map(places).data) == 6
    with pytest.raises(ArgumentError, match="texts has 1 entries for 6 rows"):
        charts.row_map(places, None, ["one"])


def test_map_of_many_labels_repeats_no_mark():
    n = 2 * len(SERIES) + 3
    drawn = charts.row_map(np.zeros((n, 2)), [f"{i:03}" for i in range(n)])
    assert len({(trace.marker.color, trace.marker.symbol) for trace in drawn.data}) == n


def test_heat_map_keeps_rows_with_equal_names():
    drawn = charts.heat_map([[1, 2], [3, 4], [5, 6]], ["a", "a", "b"], ["x", "<y>"], "cosine")
    assert np.asarray(drawn.data[0].z).tolist() == [[1, 2], [3, 4], [5, 6]]
    assert len(set(drawn.data[0].y)) == 3
    assert drawn.layout.xaxis.ticktext == ("x", "&lt;y&gt;")
    with pytest.raises(ArgumentError, match="2 x 2 names"):
        charts.heat_map([[1, 2]], ["a", "b"], ["x", "y"], "u")


def test_curves_have_bands_only_where_there_are_bounds():
    nan = float("nan")
    band = [Interval(1, 0, 2), Interval(2, nan, nan), Interval(3, 2, 4)]
    drawn = charts.curves([0, 1, 2], {"a": band, "b": [Interval(1, nan, nan)] * 3}, "step", "loss")
    areas = [trace for trace in drawn.data if trace.fill == "toself"]
    assert len(areas) == 1
    assert areas[0].x.tolist() == [0, 2, 2, 0]
    assert areas[0].y.tolist() == [2, 4, 2, 0]
    assert [t.y.tolist() for t in drawn.data if t.fill is None] == [[1, 2, 3], [1, 1, 1]]
    with pytest.raises(ArgumentError, match="'a' has 1 points for 2 steps"):
        charts.curves([0, 1], {"a": [Interval(1, 0, 2)]}, "step", "loss")
