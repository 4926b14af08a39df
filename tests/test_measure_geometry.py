"""Spread, alignment, hubness and the modality gap: identities, limits, invariances."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy.special import hyp0f1

from nearfar.errors import ArgumentError
from nearfar.measures import rows as rows_module
from nearfar.measures.alignment import (
    alignment,
    alignment_uniformity,
    mean_positive_cosine,
    positive_margin,
    sampled_uniformity,
    uniformity,
)
from nearfar.measures.hubness import hubness
from nearfar.measures.maps import pca_map, positive_negative_cosines
from nearfar.measures.modality import modality_gap
from nearfar.measures.spread import isotropy, spectrum


def sphere(n: int, d: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def rotation(d: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(9).normal(size=(d, d)))[0].astype(np.float32)


def test_uniformity_is_the_mean_over_distinct_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(37, 5)).astype(np.float32)
    unit = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float64)
    kernel = [np.exp(-3 * np.sum((unit[i] - unit[j]) ** 2)) for i in range(37) for j in range(i)]
    assert uniformity(x, t=3) == pytest.approx(np.log(np.mean(kernel)), abs=1e-6)
    monkeypatch.setattr(rows_module, "BLOCK_CELLS", 37 * 4)  # ten blocks, the last of one row
    assert uniformity(x, t=3) == pytest.approx(np.log(np.mean(kernel)), abs=1e-6)


def test_uniformity_limits() -> None:
    t, d = 2.0, 16
    even = sampled_uniformity(sphere(4000, d), t)
    assert even.n == 4000
    assert even.value == pytest.approx(-2 * t + np.log(hyp0f1(d / 2, t * t)), abs=1e-2)
    assert uniformity(np.ones((5, 3))) == pytest.approx(0, abs=1e-6)
    assert uniformity(np.array([[1.0, 0], [-1, 0]]), t=500) == pytest.approx(-2000)  # no underflow


def test_uniformity_says_that_it_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[sampled_uniformity.__module__], "EXACT_ROWS", 50)
    x = sphere(200, 4)
    assert sampled_uniformity(x, seed=1).n == 50
    assert sampled_uniformity(x, seed=1) == sampled_uniformity(x, seed=1)
    assert uniformity(x, seed=1) != uniformity(x, seed=2)


def test_alignment_is_a_squared_distance_of_unit_rows() -> None:
    x, y = 3 * sphere(20, 6, 1), sphere(20, 6, 2)
    assert alignment(x, y) == pytest.approx(2 - 2 * mean_positive_cosine(x, y), abs=1e-6)
    assert alignment(x, -x, alpha=1) == pytest.approx(2, abs=1e-6)
    both = alignment_uniformity(x, y)
    assert both.uniformity == pytest.approx((uniformity(x) + uniformity(y)) / 2)
    assert (both.d, both.t, both.n) == (6, 2, 20)
    assert alignment_uniformity(x).alignment is None


def test_positive_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sphere(15, 4, 1), sphere(15, 4, 2)
    scores = x @ y.T
    expected = [scores[i, i] - max(scores[i, j] for j in range(15) if j != i) for i in range(15)]
    monkeypatch.setattr(rows_module, "BLOCK_CELLS", 15 * 4)
    found = positive_margin(x, y)
    np.testing.assert_allclose(found.margins, expected, atol=1e-6)
    assert found.mismatched == np.mean(np.array(expected) <= 0)
    assert positive_margin(np.eye(4), np.eye(4)).mismatched == 0
    assert positive_margin(np.eye(4)[[0, 0, 0]], np.eye(4)[[0, 0, 0]]).mismatched == 1  # ties are no match
    doubled = np.repeat(np.eye(4), 2, axis=0)
    assert positive_margin(doubled, doubled).mismatched == 1
    assert positive_margin(doubled, doubled, key_ids=np.repeat(range(4), 2)).mismatched == 0


def test_spectrum() -> None:
    x = np.random.default_rng(0).normal(size=(20_000, 12)).astype(np.float32)
    assert spectrum(x).effective_rank == pytest.approx(12, abs=0.01)
    line = np.outer(np.random.default_rng(1).normal(size=50), np.ones(7)) + 4
    assert spectrum(line).effective_rank == pytest.approx(1, abs=1e-4)
    assert spectrum(np.full((9, 5), 0.1)).effective_rank == 0
    assert spectrum(np.full((5, 9), 0.1)).effective_rank == 0
    two = np.concatenate([np.eye(6)[:2], -np.eye(6)[:2]])  # variance in two directions, evenly
    assert spectrum(two).effective_rank == pytest.approx(2)


@pytest.mark.parametrize("shape", [(40, 7), (7, 40)])
def test_spectrum_agrees_with_svd(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=shape) + 2
    found = spectrum(x)
    np.testing.assert_allclose(found.singular_values, np.linalg.svd(x, compute_uv=False), rtol=1e-5)
    covariance = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1][: min(shape)]
    np.testing.assert_allclose(found.eigenvalues, covariance, atol=1e-5)


def test_isotropy_closed_form_is_the_mean_over_pairs() -> None:
    x = np.random.default_rng(0).normal(size=(30, 4)) + 0.5
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    off_diagonal = (unit @ unit.T)[~np.eye(30, dtype=bool)]
    assert isotropy(x) == pytest.approx(1 - off_diagonal.mean(), abs=1e-6)
    assert isotropy(np.ones((4, 3))) == pytest.approx(0, abs=1e-6)
    assert isotropy([[1.0, 0], [-1, 0]]) == pytest.approx(2)


def test_a_planted_hub_is_seen() -> None:
    d = 64
    spread = np.eye(d, dtype=np.float32)
    hub = np.ones((1, d), dtype=np.float32)
    found = hubness(np.concatenate([spread, hub]), k=1)
    assert found.counts[-1] == d  # every other row is orthogonal to all but the hub
    assert found.skewness > 5
    assert found.antihubs == pytest.approx((d - 1) / (d + 1))
    ring = np.stack([[np.cos(a), np.sin(a)] for a in np.linspace(0, 2 * np.pi, 40, endpoint=False) + 0.1])
    even = hubness(ring, k=2)
    assert (even.skewness, even.antihubs) == (0, 0)
    assert (even.counts == 2).all()


def test_hubness_between_queries_and_keys_counts_every_key() -> None:
    found = hubness(np.eye(5), keys=np.eye(5), k=1)
    assert found.counts.tolist() == [1] * 5  # a query may find the key at its own position
    with pytest.raises(ArgumentError, match=r"1 \.\.\. 4"):
        hubness(np.eye(5), k=5)


def test_modality_gap_of_a_known_shift() -> None:
    g, u, v = 0.3, sphere(400, 15, 1), sphere(400, 15, 2)

    def shifted(rows: np.ndarray, by: float) -> np.ndarray:
        return np.concatenate([np.sqrt(1 - g * g) * rows, np.full((len(rows), 1), by)], axis=1)

    apart = modality_gap(shifted(u, g), shifted(v, -g))
    assert apart.distance >= 2 * g
    assert apart.separability == 1
    same_centre = modality_gap(shifted(u, g), shifted(u, -g))
    assert same_centre.distance == pytest.approx(2 * g, abs=1e-6)
    assert same_centre.paired_cosine == pytest.approx(1 - 2 * g * g, abs=1e-6)
    assert same_centre.mismatched == 0
    # Both of a pair are in one fold: apart, each would teach the probe the wrong answer for the other.
    assert modality_gap(u[:60], u[:60]).separability == 0.5
    mixed = modality_gap(u, v)
    assert mixed.distance < 0.12
    assert abs(mixed.separability - 0.5) < 0.1
    assert mixed.mismatched > 0.95


def test_measures_do_not_change_with_a_rotation_or_torch() -> None:
    x, y, turn = sphere(60, 8, 1) + 0.2, sphere(60, 8, 2), rotation(8)
    for measure in (lambda a, b: uniformity(a), alignment, lambda a, b: isotropy(a)):
        assert measure(x @ turn, y @ turn) == pytest.approx(measure(x, y), abs=1e-5)
    for measure in (
        lambda a, b: spectrum(a).effective_rank,
        lambda a, b: hubness(a, k=5).skewness,
        lambda a, b: modality_gap(a, b).distance,
        lambda a, b: positive_margin(a, b).mismatched,
    ):
        assert measure(x @ turn, y @ turn) == pytest.approx(measure(x, y), rel=1e-4)
    as_tensor = torch.tensor(x, requires_grad=True)
    assert isotropy(as_tensor) == isotropy(x)
    assert isotropy(torch.eye(3, dtype=torch.bfloat16)) == pytest.approx(1)


@pytest.mark.parametrize("measure", [uniformity, isotropy, spectrum, hubness, pca_map])
def test_bad_rows_are_named(measure: object) -> None:
    x = np.ones((20, 3))
    x[16, 1] = np.nan
    with pytest.raises(ArgumentError, match="row 17 holds NaN"):
        measure(x)  # type: ignore[operator]


def test_rows_without_direction_and_wrong_shapes_are_named() -> None:
    x = sphere(5, 3)
    x[2] = 0
    with pytest.raises(ArgumentError, match="row 3 is all zeros"):
        isotropy(x)
    with pytest.raises(ArgumentError, match="row-aligned"):
        alignment(sphere(4, 3), sphere(5, 3))
    with pytest.raises(ArgumentError, match="matrix"):
        uniformity(np.ones(4))
    with pytest.raises(ArgumentError, match="two rows"):
        uniformity(np.ones((1, 4)))


def test_negative_cosines_never_hold_a_positive() -> None:
    x = np.eye(30)
    positive, negative = positive_negative_cosines(x, x, n=1000)
    assert len(positive) == len(negative) == 30
    assert (positive == 1).all()
    assert (negative == 0).all()
    assert len(positive_negative_cosines(x, x, n=7)[0]) == 7


def test_pca_map_keeps_distances_of_a_plane() -> None:
    plane = np.random.default_rng(0).normal(size=(50, 2)) * [3, 1] @ rotation(6)[:2]
    coordinates, rows = pca_map(plane)
    assert rows.tolist() == list(range(50))
    before = np.linalg.norm(plane[:, None] - plane[None], axis=2)
    after = np.linalg.norm(coordinates[:, None] - coordinates[None], axis=2)
    np.testing.assert_allclose(after, before, atol=1e-4)
    assert coordinates[:, 0].var() > coordinates[:, 1].var()
    assert pca_map(np.arange(6.0)[:, None])[0].shape == (6, 2)
    many, kept = pca_map(np.random.default_rng(0).normal(size=(6000, 3)), seed=3)
    assert len(many) == len(kept) == 5000
