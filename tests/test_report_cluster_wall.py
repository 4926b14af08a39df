"""Pictures of clusters on a page, and the measures of clusters that a space brings."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image as Pictures

from nearfar.heads.decoders.layered import LayeredGenerator
from nearfar.measures.embeddings import measure_embeddings
from nearfar.report.cluster_wall import EACH, GAP, MOST, cluster_sections


def shades(n: int) -> list[Pictures.Image]:
    return [Pictures.new("RGB", (6, 6), (i, i, i)) for i in range(n)]


def test_the_wall_holds_the_rows_of_each_cluster_largest_first() -> None:
    [section] = cluster_sections([5, 2, 2, 2, 5], shades(5), None)
    [rows] = section.content
    image = rows.figure.data[0].source
    drawn = np.asarray(Pictures.open(io.BytesIO(base64.b64decode(image.split(",")[1]))))
    cell = 32 + GAP
    assert drawn.shape == (2 * cell, EACH * cell, 3)
    corners = drawn[::cell, ::cell, 0]
    assert corners[0].tolist() == [1, 2, 3] + [255] * (EACH - 3)
    assert corners[1].tolist() == [0, 4] + [255] * (EACH - 2)
    assert list(rows.figure.layout.yaxis.ticktext) == ["2 (3)", "5 (2)"]


def test_what_is_drawn_stands_beside_and_many_clusters_are_cut() -> None:
    many = MOST + 3
    generator = LayeredGenerator(many, 8, width=16)
    [section] = cluster_sections(list(range(many)), shades(many), generator)
    assert [figure.title for figure in section.content] == ["Rows in each cluster", "Drawn for each cluster"]
    assert section.text == f"The {MOST} largest of {many} clusters."
    assert cluster_sections(None, shades(2), generator) == []
    assert cluster_sections([0, 1], None, generator) == []


def test_clusters_without_labels_are_counted_and_with_labels_compared() -> None:
    z = {"image": np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)}
    clusters = [4, 4, 4, 4, 1, 1, 7, 7]
    alone = measure_embeddings(z, {"cluster": clusters})
    assert alone["own_clusters_used"].value == 3
    assert not [name for name in alone if name.startswith("own_cluster_") or name == "left_out/columns"]
    found = measure_embeddings(z, {"cluster": clusters, "label": list("aaaabbbb")})
    assert found["own_cluster_accuracy"].value == 0.75  # of clusters 1 and 7 one stays without a class
    assert found["own_cluster_purity"].value == 1.0
    assert 0 < found["own_cluster_ari"].value < 1
