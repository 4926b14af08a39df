"""Detectors, by the formulas written out again here and by what must be true of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import eig
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from nearfar.encoders.vector import MLPVector
from nearfar.errors import ArgumentError
from nearfar.heads import make_head
from nearfar.heads.detectors import Detector, Mahalanobis, NearestNeighbour, PrincipalResidual
from nearfar.heads.discriminant import WhitenedDiscriminant
from nearfar.space import Space

D, C = 7, 4


def gaussians(
    sizes: tuple[int, ...] = (60, 25, 40, 35), dim: int = D, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Features of classes of unequal size, with a covariance far from round, and a mean far from 0."""
    drawn = np.random.default_rng(seed)
    mixing = drawn.normal(size=(dim, dim)) * np.geomspace(0.2, 3, dim)
    means = drawn.normal(size=(len(sizes), dim)) * 3 + 10
    rows = [drawn.normal(size=(n, dim)) @ mixing + mean for n, mean in zip(sizes, means, strict=True)]
    order = drawn.permutation(sum(sizes))
    labels = np.repeat(np.arange(len(sizes)), sizes)[order]
    return torch.tensor(np.concatenate(rows)[order]), torch.tensor(labels)


def probes(dim: int = D) -> Tensor:
    return torch.tensor(np.random.default_rng(9).normal(size=(30, dim)) * 6 + 8)


def fitted(**arguments: object) -> WhitenedDiscriminant:
    x, labels = gaussians()
    made = WhitenedDiscriminant(D, C, **arguments)  # type: ignore[arg-type]
    made.fit(x, labels)
    return made


def official(
    x: Tensor, labels: Tensor, queries: Tensor, directions: int, alpha: float = 1e-5
) -> tuple[np.ndarray, np.ndarray]:
    """d_g and d_h one row at a time, by the general eigenproblem and the projection of the published scorer."""
    rows, y = x.numpy(), labels.numpy()
    classes = range(y.max() + 1)
    precision = (
        EmpiricalCovariance(assume_centered=True)
        .fit(rows - np.stack([rows[y == c].mean(0) for c in classes])[y])
        .precision_
    )
    values, vectors = np.linalg.eigh(precision)
    white = vectors @ np.diag(values**0.5) @ vectors.T
    z = rows @ white.T
    means, mean = np.stack([z[y == c].mean(0) for c in classes]), z.mean(0)
    within = EmpiricalCovariance(assume_centered=True).fit(z - means[y]).covariance_
    between = EmpiricalCovariance(assume_centered=True).fit(means - mean).covariance_
    ratios, found = eig(np.linalg.inv(within + alpha * np.eye(len(within))) @ between)
    g = found.real.T[np.argsort(-ratios.real)][:directions]
    basis = np.linalg.svd(g)[2][: len(g)]
    h = np.eye(len(within)) - basis.T @ basis
    d_g, d_h = [], []
    for query in queries.numpy():
        seen = white @ query
        d_g.append(min(np.linalg.norm(g @ seen - g @ one) for one in means))
        d_h.append(np.linalg.norm(h @ seen - h @ mean))
    return np.array(d_g), np.array(d_h)


# -- whitened discriminants ------------------------------------------------------------------------


@pytest.mark.parametrize("directions", [1, 2, C - 1])
def test_the_scores_are_those_of_the_published_formulas(directions: int) -> None:
    """The classes have unequal sizes: a between-class scatter weighted by them would differ."""
    x, labels = gaussians()
    d_g, d_h = official(x, labels, probes(), directions)
    made = fitted(directions=directions, residual_weight=2.5)
    ours = made.distances(probes())
    np.testing.assert_allclose(ours[0], d_g, rtol=1e-8)
    np.testing.assert_allclose(ours[1], d_h, rtol=1e-8)
    np.testing.assert_allclose(made(probes()), -(d_g + 2.5 * d_h), rtol=1e-8)


@pytest.mark.parametrize("directions", [1, C - 1])
def test_an_invertible_map_of_all_features_changes_no_distance(directions: int) -> None:
    x, labels = gaussians()
    drawn = np.random.default_rng(3)
    mapping = torch.tensor(drawn.normal(size=(D, D)) + 2 * np.eye(D))
    shift = torch.tensor(drawn.normal(size=D) * 5)
    one, two = fitted(directions=directions), WhitenedDiscriminant(D, C, directions)
    two.fit(x @ mapping + shift, labels)
    for before, after in zip(one.distances(probes()), two.distances(probes() @ mapping + shift), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(two.threshold, one.threshold, rtol=1e-6, atol=1e-8)


def test_both_parts_together_are_the_whole_whitened_vector() -> None:
    """With all C - 1 directions, whitening makes G orthonormal and the class means lie inside of it."""
    x, labels = gaussians()
    made, maha = fitted(), Mahalanobis(D, C)
    maha.fit(x, labels)
    d_g, d_h = made.distances(probes())
    torch.testing.assert_close(d_g.square() + d_h.square(), -maha(probes()), rtol=1e-8, atol=1e-8)


def test_the_residual_is_blind_to_what_tells_classes_apart_and_to_nothing_else() -> None:
    """A residual of principal components would be blind to the noisiest direction instead."""
    drawn = np.random.default_rng(0)
    labels = torch.tensor(np.repeat([0, 1], 400))
    x = torch.tensor(drawn.normal(size=(800, 3)) * [0.1, 1.0, 20.0])
    x[:, 0] += labels  # classes differ in the direction of least variance
    made = WhitenedDiscriminant(3, 2)
    made.fit(x, labels)
    centre = x.mean(0)
    moved = made.distances(centre + torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [0, 0, 60.0]]))
    assert moved[1][0] < 1.0
    assert moved[1][1] == pytest.approx(3, rel=0.2)
    assert moved[1][2] == pytest.approx(3, rel=0.2)
    assert moved[0][0] > 10


def test_the_sizes_of_classes_do_not_weigh_on_the_directions() -> None:
    """Rows of one class repeated: its scatter is the same and S_b too, up to where the mean of rows lies."""
    base = torch.tensor(np.random.default_rng(0).normal(size=(40, 3)))
    base -= base.mean(0)
    means = torch.tensor([[6.0, 0, 0], [-6.0, 0, 0], [0, 4.0, 0], [0, -4.0, 0]], dtype=torch.float64)
    times = [4, 4, 1, 1]  # pairs about the origin, so that the mean of rows stays 0
    x = torch.cat([(base + mean).repeat(n, 1) for mean, n in zip(means, times, strict=True)])
    labels = torch.cat([torch.full((40 * n,), c) for c, n in enumerate(times)])
    one, two = WhitenedDiscriminant(3, 4, 1), WhitenedDiscriminant(3, 4, 1)
    one.fit(x, labels)
    even = torch.cat([base + mean for mean in means])
    two.fit(even, torch.arange(4).repeat_interleave(40))
    for uneven, evened in zip(one.distances(probes(3)), two.distances(probes(3)), strict=True):
        torch.testing.assert_close(uneven, evened)


def test_fewer_rows_than_dimensions_weigh_no_direction_without_variance() -> None:
    x, labels = gaussians((5, 4, 5, 4), dim=30)
    made = WhitenedDiscriminant(30, 4)
    made.fit(x, labels)
    centred = x - torch.stack([x[labels == c].mean(0) for c in range(4)])[labels]
    null = torch.linalg.svd(centred).Vh[18 - 4 :]
    there = probes(30)
    # Their weight is exactly nothing: the largest feature direction of all is seen as no distance.
    far = there + 1000 * null[3]
    for before, after in zip(made.distances(there), made.distances(far), strict=True):
        assert bool(before.isfinite().all())
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    shrunk = WhitenedDiscriminant(30, 4, shrinkage=0.1)
    shrunk.fit(x, labels)
    assert bool((shrunk.distances(far)[1] > shrunk.distances(there)[1] + 10).all())


def test_a_dead_feature_is_no_error() -> None:
    x, labels = gaussians()
    x[:, 2] = 0
    made = WhitenedDiscriminant(D, C)
    made.fit(x.float(), labels)
    assert bool(made(probes()).isfinite().all())


def test_weight_and_directions_do_what_they_say() -> None:
    d_g, d_h = fitted().distances(probes())
    torch.testing.assert_close(fitted(residual_weight=0.0)(probes()), -d_g)
    torch.testing.assert_close(fitted(residual_weight=3.0)(probes()), -d_g - 3 * d_h)
    assert fitted().directions == C - 1
    torch.testing.assert_close(fitted(directions=3)(probes()), fitted(directions=1000)(probes()))


@pytest.mark.parametrize(
    "wrong",
    [{"classes": 1}, {"directions": 0}, {"residual_weight": -1.0}, {"shrinkage": 1.5}, {"alpha": 0.0}],
)
def test_arguments_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        WhitenedDiscriminant(**{"dim": D, "classes": C, **wrong})  # type: ignore[arg-type]


# -- the others ------------------------------------------------------------------------------------


def test_mahalanobis_is_that_of_scikit_learn() -> None:
    x, labels = gaussians()
    made = Mahalanobis(D, C)
    made.fit(x, labels)
    means = np.stack([x[labels == c].mean(0).numpy() for c in range(C)])
    shared = EmpiricalCovariance(assume_centered=True).fit(x.numpy() - means[labels])
    expected = np.min([shared.mahalanobis(probes().numpy() - mean) for mean in means], axis=0)
    np.testing.assert_allclose(made(probes()), -expected, rtol=1e-8)


def test_the_kth_neighbour_is_that_of_scikit_learn_and_is_never_the_row_itself() -> None:
    x, _ = gaussians()
    made = NearestNeighbour(D, len(x), k=5)
    made.fit(x)
    unit = torch.nn.functional.normalize(x)
    search = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(unit.numpy())
    far, _ = search.kneighbors(torch.nn.functional.normalize(probes()).numpy())
    np.testing.assert_allclose(made(probes()), -far[:, -1], rtol=1e-6, atol=1e-7)
    own, _ = search.kneighbors()  # without the row itself
    kept = (-own[:, -1] >= made.threshold.item() - 1e-7).mean()
    assert 0.95 <= kept < 0.96


def test_the_principal_residual_is_what_pca_leaves_out() -> None:
    x, _ = gaussians()
    made = PrincipalResidual(D, 3)
    made.fit(x)
    pca = PCA(3).fit(x.numpy())
    left = probes().numpy() - pca.inverse_transform(pca.transform(probes().numpy()))
    np.testing.assert_allclose(made(probes()), -np.linalg.norm(left, axis=1), rtol=1e-8)


# -- all of them -----------------------------------------------------------------------------------

ALL = [
    WhitenedDiscriminant(D, C, directions=2, residual_weight=1.5, normalize=True, shrinkage=0.1, alpha=1e-4),
    Mahalanobis(D, C, normalize=True, shrinkage=0.2),
    NearestNeighbour(D, 160, k=3),
    PrincipalResidual(D, 4, normalize=True),
]


@pytest.mark.parametrize("made", ALL, ids=lambda made: type(made).__name__)
def test_a_detector_is_saved_with_its_space_and_scores_the_same(made: Detector, tmp_path: Path) -> None:
    again = make_head(made.settings())
    assert isinstance(again, Detector)
    assert again.settings() == made.settings()
    with pytest.raises(ArgumentError, match="not fitted"):
        again(probes())
    made.fit(*gaussians())
    space = Space({"vector": MLPVector(D, 8, D, layers=1)}, parts={"detector": made})
    space.save(tmp_path / "space")
    loaded = Space.load(tmp_path / "space").parts["detector"]
    assert torch.equal(loaded(probes()), made(probes()))
    assert made(probes()).shape == (30,)


@pytest.mark.parametrize("made", ALL, ids=lambda made: type(made).__name__)
def test_rows_of_the_fit_are_at_home_and_distant_ones_are_not(made: Detector) -> None:
    x, labels = gaussians()
    made.fit(x, labels)
    if not isinstance(made, NearestNeighbour):  # there, a row is its own neighbour
        kept = float((made(x) >= made.threshold).double().mean())
        assert 0.95 <= kept < 0.96
    away = -x if made.normalize else x + 1000
    assert bool((made(away) < made.threshold).all())
    torch.testing.assert_close(made(x[:5]), made(x)[:5])
    if made.normalize:
        torch.testing.assert_close(made(3 * x), made(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("made", ALL, ids=lambda made: type(made).__name__)
def test_wrong_embeddings_are_named(made: Detector) -> None:
    x, labels = gaussians()
    broken = x.clone()
    broken[3, 2] = torch.nan
    with pytest.raises(ArgumentError, match="embedding 4 of 160"):
        made.fit(broken, labels)
    with pytest.raises(ArgumentError, match=r"\[N, 7\]"):
        made.fit(x[:, :5], labels)
    with pytest.raises(ArgumentError, match="one label for each"):
        made.fit(x, labels[:10])


def test_missing_or_unknown_classes_are_named() -> None:
    x, labels = gaussians()
    for made in (WhitenedDiscriminant(D, C), Mahalanobis(D, C)):
        with pytest.raises(ArgumentError, match="needs the class"):
            made.fit(x)
        with pytest.raises(ArgumentError, match=r"0 \.\.\. 3"):
            made.fit(x, labels.clamp(max=2))
    with pytest.raises(ArgumentError, match="made for 9 rows"):
        NearestNeighbour(D, 9, k=2).fit(x)
