"""What the experiment of CLIPPINGS compares: names that were never seen, in other fonts, some without a match."""

from __future__ import annotations

import numpy as np
import pytest

from nearfar.data.kinds import Label, Text
from nearfar.data.table import Table
from nearfar.recipes.clippings import STRANGERS, clustered, linked, sides
from nearfar.recipes.drawn_names import CLEAN, FONTS, LENGTH, NOISY, _first_words, draw

NAMES = 24
LABELS = np.repeat(np.arange(NAMES), len(FONTS))
ROWS = np.arange(len(LABELS))
KNOWN = NAMES - NAMES // STRANGERS


def perfect(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    return (LABELS[rows][:, None] == LABELS[others]).astype(float)


def test_queries_and_exemplars_share_no_font_and_strangers_have_no_exemplar() -> None:
    asked: list[tuple[np.ndarray, np.ndarray]] = []

    def scores(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        asked.append((rows, others))
        return perfect(rows, others)

    threshold, found = linked(LABELS, ROWS, scores)
    [(queries, exemplars)] = asked
    assert not set(queries % len(FONTS)) & set(exemplars % len(FONTS))
    assert len(queries) == NAMES * (len(FONTS) - 1)
    assert len(exemplars) == len(set(LABELS[exemplars])) == KNOWN
    assert found == {"top-1": 1, "accuracy with no match": 1, "pair f1": 1}
    assert 0 < threshold < 1


def test_sides_share_no_name() -> None:
    columns = {"text": [f"scan {i}" for i in ROWS], "label": [f"name {name}" for name in LABELS]}
    table = Table.from_columns(columns, {"text": Text, "label": Label})
    parts = [set(LABELS[rows]) for rows in sides(table, 0)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == NAMES
    assert [len(part) for part in parts] == [15, 3, 6]
    assert [set(LABELS[rows]) for rows in sides(table, 1)] != parts


def test_a_threshold_that_is_given_is_not_tuned() -> None:
    threshold, found = linked(LABELS, ROWS, perfect, threshold=-1.0)
    assert threshold == -1
    assert found["top-1"] == 1
    assert found["accuracy with no match"] == pytest.approx(KNOWN / NAMES), "strangers are linked as well"
    _, nothing = linked(LABELS, ROWS, perfect, threshold=2.0)
    assert (nothing["accuracy with no match"], nothing["pair f1"]) == (pytest.approx(1 - KNOWN / NAMES), 0)


def test_strangers_are_single_records_among_those_to_cluster() -> None:
    sizes: list[int] = []

    def scores(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        sizes.extend(np.bincount(LABELS[rows], minlength=NAMES))
        return perfect(rows, others)

    threshold, ari = clustered(LABELS, ROWS, scores)
    assert ari == 1
    assert sorted(set(sizes)) == [1, len(FONTS)]
    assert sizes.count(1) == NAMES // STRANGERS
    assert clustered(LABELS, ROWS, scores, threshold=-1.0)[1] == pytest.approx(0, abs=1e-9)
    assert 0 < threshold <= 1


def test_a_noisy_scan_is_smaller_and_farther_from_what_was_drawn() -> None:
    pictures = {scan: draw("a name", FONTS[0], scan, np.random.default_rng(0)) for scan in (NOISY, CLEAN)}
    assert [picture.height for picture in pictures.values()] == [16, 32]
    corners = [np.asarray(picture, dtype=float)[:3, :3] for picture in pictures.values()]
    assert corners[0].std() > 2 * corners[1].std(), "of white paper"
    fonts = [np.asarray(draw("a name", font, CLEAN, np.random.default_rng(0))).tobytes() for font in FONTS]
    assert len(set(fonts)) == len(FONTS)


def test_titles_are_cut_between_words() -> None:
    assert _first_words("a" * 10) == "a" * 10
    assert _first_words("canon eos 40d digital slr camera") == "canon eos 40d digital"
    assert _first_words("x" * 40) == "x" * LENGTH
