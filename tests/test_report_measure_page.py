"""The measure page says what changed, and whether that is good."""

import re

import numpy as np
import pytest

from nearfar.measures.embeddings import measure_embeddings
from nearfar.measures.measurement import Measurement
from nearfar.report.evidence import gather_evidence
from nearfar.report.measure_page import change, measure_page, measurement_table, write_measure_page


def measured(value, better="higher", name="m"):
    return Measurement(name, value, 10, better, "about it")


@pytest.mark.parametrize(
    ("better", "old", "new", "tone"),
    [
        ("higher", 0.1, 0.2, "good"),
        ("higher", 0.2, 0.1, "bad"),
        ("lower", 0.2, 0.1, "good"),
        ("lower", -2.0, -1.0, "bad"),
        ("closer_to_zero", -2.0, 1.0, "good"),
        ("closer_to_zero", 1.0, -2.0, "bad"),
        ("closer_to_zero", 1.0, -1.0, "number"),
        ("neither", 1.0, 2.0, "number"),
        ("higher", 0.5, 0.5, "number"),
    ],
)
def test_better_and_worse_follow_the_direction(better, old, new, tone):
    cell = change(measured(old, better), measured(new, better))
    assert cell.tone == tone
    assert ("better" in cell.text, "worse" in cell.text) == (tone == "good", tone == "bad")


def test_the_table_has_a_line_for_every_measure_of_either_side():
    table = measurement_table(
        {"a": measured(1.0), "gone": measured(2.0)}, {"new": measured(3.0), "a": measured(4.0)}
    )
    lines = {row[0].text: [cell.text for cell in row[1:4]] for row in table.rows}
    assert lines == {
        "new": ["—", "3.0000", ""],
        "a": ["1.0000", "4.0000", "+3.0000 better"],
        "gone": ["2.0000", "—", ""],
    }
    assert measurement_table(None, {"a": measured(1.0)}).columns[:2] == ("measure", "value")


def example(seed=0, n=40):
    random = np.random.default_rng(seed)
    z = random.normal(size=(n, 6)).astype(np.float32)
    return {"text": z, "positive": z + 0.1 * random.normal(size=z.shape).astype(np.float32)}


def headings(html):
    return re.findall(r"<h[23]>(.*?)</h[23]>", html)


def test_before_and_after_have_every_picture():
    z, w = example(), example(1)
    columns = {"label": [i % 3 for i in range(40)]}
    cells = {"text": [f"text {i} <b>" for i in range(40)]}
    before, after = (measure_embeddings(e, columns, identity=cells) for e in (z, w))
    evidence = [gather_evidence(e, columns, cells) for e in (z, w)]
    html = measure_page(before, after, *evidence, notes=["Held out <40> rows."])
    assert headings(html) == [
        "Measures",
        "At a glance",
        "Measures between 0 and 1",
        "Near and far",
        "Cosines of positives and of random pairs",
        "Alignment and uniformity",
        "Use of the space",
        "Singular values",
        "Hubs",
        "Map",
        "Map of rows, before",
        "Map of rows, after",
        "Notes",
    ]
    assert "Held out &lt;40&gt; rows." in html


def test_numbers_alone_make_a_page():
    html = measure_page(None, {"m": measured(-3.0, "lower")})
    assert headings(html) == ["Measures"]


def test_what_was_left_out_is_a_note_and_no_measure():
    skipped = Measurement("left_out/sts", 3.0, 9, "neither", "no scores")
    html = measure_page(None, {"m": measured(0.5), "left_out/sts": skipped})
    assert "Left out: sts: no scores (3 of 9)" in html
    assert '<td class="">left_out' not in html
    assert "1 measure on up to 10 rows" in html


def test_a_written_page_of_two_modalities_shows_both(tmp_path):
    z = {"text": example()["text"], "image": example(3)["text"]}
    file = tmp_path / "deep" / "page.html"
    write_measure_page(file, measure_embeddings(z, {}), z, {}, {"text": [f"t{i}" for i in range(40)]})
    html = file.read_text(encoding="utf-8")
    assert {"Singular values of text", "Singular values of image", "Hubs of text"} <= set(headings(html))


def test_evidence_agrees_with_the_measures():
    z, scores = example(), {"score": [float(i % 5) for i in range(40)]}
    evidence = gather_evidence(z, scores, {"text": ["same", "same", *(f"t{i}" for i in range(38))]})
    hubs = evidence.hubs["text"]
    assert (hubs.n, len(hubs.counts), len(evidence.spectra["text"])) == (39, 39, 6)
    assert len(evidence.cosines[0]) == measure_embeddings(z, scores)["alignment"].n < 40
    assert list(evidence.spectra) == ["text"]
    assert evidence.places.shape == (40, 2)
    assert evidence.texts[:2] == ["same", "same"]


def test_evidence_of_two_modalities_labels_rows_by_role():
    z = {"text": example()["text"], "image": example(3)["text"]}
    evidence = gather_evidence(z, {"label": [0] * 40}, {"text": [f"t{i}" for i in range(40)]})
    assert evidence.labels == ["text"] * 40 + ["image"] * 40
    assert evidence.texts[39:41] == ["t39", "image, row 1"]


def test_too_few_rows_leave_pictures_out_and_a_collapsed_space_still_has_a_page():
    one = gather_evidence({"text": np.ones((1, 3), np.float32)}, {})
    assert (one.cosines, dict(one.spectra), one.places) == (None, {}, None)
    flat = {"text": np.ones((12, 3), np.float32)}
    html = measure_page(None, measure_embeddings(flat, {}), evidence_after=gather_evidence(flat, {}))
    assert "Singular values" in headings(html)
