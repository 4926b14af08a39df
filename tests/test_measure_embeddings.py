"""Which measures a table gets, and what is said of those it does not get."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from nearfar.errors import ArgumentError
from nearfar.measures.embeddings import measure_embeddings, primary_measure
from nearfar.measures.hubness import hubness
from nearfar.measures.identity import identities

ALWAYS = {
    "uniformity",
    "effective_rank",
    "effective_rank_share",
    "isotropy",
    "hubness",
    "antihubs",
    "collapse",
}


def normal(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_bare_embeddings() -> None:
    found = measure_embeddings({"vector": normal(300, 8)}, {})
    assert set(found) == ALWAYS
    assert all(name == m.name and m.about for name, m in found.items())
    assert found["collapse"].value == 0
    assert found["effective_rank_share"].value == pytest.approx(1, abs=0.05)
    assert primary_measure(found) == "uniformity"
    apart = hubness(normal(300, 8), k=10)
    assert (found["hubness"].value, found["antihubs"].value) == (apart.skewness, apart.antihubs)


def test_collapse_is_said() -> None:
    one_point = measure_embeddings({"vector": 1 + 1e-3 * normal(50, 8)}, {})["collapse"]
    assert one_point.value == 1
    assert "mean cosine" in one_point.about
    line = np.outer(normal(50, 1)[:, 0], np.arange(1, 9.0)) + 1e-3 * normal(50, 8)
    assert "directions" in measure_embeddings({"vector": line}, {})["collapse"].about
    equal = measure_embeddings({"vector": np.ones((50, 8))}, {})
    assert equal["collapse"].value == 2
    assert equal["effective_rank"].value == 0


def test_pairs_of_one_modality_are_searched_one_way() -> None:
    x = normal(40, 8)
    found = measure_embeddings({"positive": x, "text": x}, {})
    assert set(found) == ALWAYS | {"alignment", "mean_positive_cosine", "mrr@10", "recall@1", "recall@10"}
    assert found["mrr@10"].value == 1
    assert "text to positive" in found["mrr@10"].about
    assert primary_measure(found) == "mrr@10"


def test_two_modalities_are_searched_both_ways() -> None:
    x = normal(40, 8)
    y = x.copy()
    y[1:20] = x[0]  # these keys all look like the first: text finds the others, images do not find theirs
    found = measure_embeddings({"text": x, "image": y}, {})
    to, back = found["mrr@10/text-to-image"].value, found["mrr@10/image-to-text"].value
    assert to != back
    assert found["mrr@10"].value == pytest.approx((to + back) / 2)
    assert {"uniformity/text", "uniformity/image", "modality_gap", "mismatch_share"} <= set(found)
    assert "uniformity" not in found
    assert primary_measure(found) == "mrr@10"
    picture = Image.new("RGB", (2, 2))
    raw = {"text": list("abcd") * 10, "positive": [picture] * 39 + [Image.new("RGB", (3, 2))]}
    assert "modality_gap" in measure_embeddings({"text": x, "positive": y}, {}, identity=raw)
    both_texts = {"text": list("abcd") * 10, "title": list("abcde") * 8}
    assert "modality_gap" not in measure_embeddings({"text": x, "title": y}, {}, identity=both_texts)
    named = measure_embeddings({"text": x, "other": y}, {}, modalities={"text": "text", "other": "text"})
    assert "modality_gap" not in named
    assert "mrr@10/text-to-other" not in named


def test_equal_raw_cells_are_one_key_with_several_right_queries() -> None:
    captions = normal(30, 8)
    images = np.repeat(normal(6, 8, 1), 5, axis=0)
    cells = {"text": [f"caption {i}" for i in range(30)], "image": [i // 5 for i in range(30)]}
    captions += 5 * images
    found = measure_embeddings({"text": captions, "image": images}, {}, identity=cells)
    assert found["recall@1/text-to-image"].value > 0.9  # with doubled keys a fifth at most
    assert found["mrr@10/image-to-text"].n == 6
    assert found["hit@1/image-to-text"].value > 0.9
    assert found["recall@1/image-to-text"].value <= 0.2
    assert found["uniformity/image"].n == 6
    assert found["mismatch_share"].value < 0.1
    blind = measure_embeddings({"text": captions, "image": images}, {})
    assert blind["recall@1/text-to-image"].value == 0  # doubled keys tie, and ties never favour
    same = measure_embeddings({"text": captions, "image": images}, {}, identity={"image": [1] * 30})
    assert "left_out/spread/image" in same
    assert "left_out/retrieval/text-to-image" in same


def test_scored_pairs() -> None:
    x, y = normal(60, 8), normal(60, 8, 1)
    cosine = np.sum(x * y, axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    scores = 2.5 + 2.5 * cosine
    found = measure_embeddings({"text": x, "positive": y}, {"score": scores.tolist()})
    assert found["sts"].value == pytest.approx(1)
    assert primary_measure(found) == "sts"
    assert "mrr@10" not in found
    high = scores >= 0.8 * scores.max()
    assert found["alignment"].value == pytest.approx(np.mean(2 - 2 * cosine[high]), abs=1e-5)
    assert found["alignment"].n == high.sum()
    assert found["left_out/alignment"].value == 60 - high.sum()
    flat = measure_embeddings({"text": x, "positive": y}, {"score": [3.0] * 60})
    assert "sts" not in flat
    assert "equal" in flat["left_out/score"].about
    with pytest.raises(ArgumentError, match="'score': row 4"):
        measure_embeddings({"text": x, "positive": y}, {"score": [1.0, 2, 3, np.nan] + [1.0] * 56})
    assert "score" in measure_embeddings({"text": x}, {"score": scores.tolist()})["left_out/columns"].about


def test_labels() -> None:
    y = np.arange(60) % 3
    x = np.eye(8)[y] + 0.05 * normal(60, 8)
    found = measure_embeddings({"text": x}, {"label": y.tolist()})
    for name in ("knn_accuracy", "logistic_accuracy"):
        assert found[name].value == 1
    assert found["clustering_nmi"].value > 0.6
    assert primary_measure(found) == "knn_accuracy"
    single = y.copy()
    single[:2] = [8, 9]
    some = measure_embeddings({"text": x}, {"label": single.tolist()})
    assert some["left_out/label"].value == 2
    assert some["knn_accuracy"].n == 58
    for labels in ([1] * 60, list(range(60))):
        none = measure_embeddings({"text": x}, {"label": labels})
        assert none["left_out/label"].value == 60
        assert "knn_accuracy" not in none


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7])
def test_tiny_tables_are_measured(n: int) -> None:
    columns = {"label": [i % 2 for i in range(n)]}
    found = measure_embeddings({"text": normal(n, 4), "image": normal(n, 4, 1)}, columns)
    assert all(np.isfinite(m.value) for m in found.values())
    assert measure_embeddings({"text": normal(n, 4)}, {"label": [0] + [1] * (n - 1)})["uniformity"].n == n


def test_equal_cells_do_not_leak_across_folds() -> None:
    x = np.repeat(normal(30, 16), 21, axis=0)
    y = np.repeat(np.random.default_rng(1).integers(2, size=30), 21).tolist()
    cells = {"text": [i // 21 for i in range(630)]}
    assert measure_embeddings({"text": x}, {"label": y})["knn_accuracy"].value > 0.95
    assert measure_embeddings({"text": x}, {"label": y}, identity=cells)["knn_accuracy"].value < 0.8
    grouped = measure_embeddings({"text": x}, {"label": y, "group": cells["text"]})
    assert grouped["knn_accuracy"].value < 0.8


def test_triplets() -> None:
    x = np.eye(4)[[0, 0, 0]]
    negative = np.eye(4)[[1, 0, 2]]  # the second is as near as the positive: not right
    found = measure_embeddings({"text": x, "positive": x, "negative": negative}, {})
    assert found["triplet_accuracy"].value == pytest.approx(2 / 3)
    assert "left_out/negative" in measure_embeddings({"text": x, "negative": negative}, {})


def test_wrong_input_is_named() -> None:
    x = normal(10, 4)
    bad = x.copy()
    bad[6, 0] = np.inf
    with pytest.raises(ArgumentError, match="'image': row 7 holds NaN or infinity"):
        measure_embeddings({"text": x, "image": bad}, {})
    with pytest.raises(ArgumentError, match="shape of 'text'"):
        measure_embeddings({"text": x, "image": x[:5]}, {})
    with pytest.raises(ArgumentError, match="column 'label' has 3 rows"):
        measure_embeddings({"text": x}, {"label": [1, 2, 3]})
    with pytest.raises(ArgumentError, match="anchor role"):
        measure_embeddings({"positive": x}, {})
    with pytest.raises(ArgumentError, match="none of"):
        primary_measure({})


def test_a_rotation_changes_nothing() -> None:
    x, y = normal(80, 8), normal(80, 8, 1)
    turn = np.linalg.qr(normal(8, 8, 2))[0]
    columns = {"label": (np.arange(80) % 4).tolist()}
    before = measure_embeddings({"text": x, "positive": x + y}, columns)
    after = measure_embeddings({"text": x @ turn, "positive": (x + y) @ turn}, columns)
    # A probe standardises axes, k-means draws starts by rows: only these may move a little.
    for name in before.keys() - {"logistic_accuracy", "clustering_nmi", "clustering_ari"}:
        assert after[name].value == pytest.approx(before[name].value, abs=1e-4), name
    assert measure_embeddings({"text": x, "positive": x + y}, columns) == before


def test_identities_compare_content() -> None:
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    assert identities([red, blue, red.copy()]).tolist() == [0, 1, 0]
    assert identities([red, red.resize((2, 8))]).tolist() == [0, 1]
    assert identities(["a", "b", "a"]).tolist() == [0, 1, 0]
    one = np.ones(3, dtype=np.float32)
    assert identities([one, one.copy(), 2 * one]).tolist() == [0, 0, 1]
