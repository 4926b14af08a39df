"""Centroids that follow batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nearfar.batching.online_kmeans import OnlineKMeans
from nearfar.errors import ArgumentError


def waves(frequency: float) -> Tensor:
    """A fixed matrix [8, 3]."""
    return torch.sin(torch.arange(24, dtype=torch.float64) * frequency + frequency).float().view(8, 3)


def at(*degrees: float) -> Tensor:
    """Unit rows in the plane."""
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def made(*rows: Tensor, clusters: int = 3, **settings: float | str) -> OnlineKMeans:
    found = OnlineKMeans(clusters, rows[0].shape[1], **{"momentum": 0.1, **settings})
    for batch in rows:
        found.start(batch)
    return found


def test_centroids_are_those_of_the_released_code() -> None:
    """The numbers were had from `kmeans_cluster` of djz233/ClusterNS: first row chosen first, then an update."""
    found = made(waves(0.9), clusters=4, update="sum")
    first = [
        [0.7833, 0.9738, 0.4274],
        [-0.4425, -0.9775, -0.7728],
        [0.0168, 0.7937, 0.9699],
        [0.4121, -0.4575, -0.9809],
    ]
    torch.testing.assert_close(found.centroids, torch.tensor(first), atol=1e-4, rtol=0)
    found.follow(waves(1.3))
    then = [
        [0.8434, 1.0267, 0.3266],
        [-0.5232, -1.0401, -0.6564],
        [-0.1151, 0.8121, 1.0555],
        [0.4957, -0.5054, -1.0577],
    ]
    torch.testing.assert_close(found.centroids, torch.tensor(then), atol=1e-4, rtol=0)
    second = found.centroids[[3, 0, 1, 2, 2, 0, 0, 3]]
    torch.testing.assert_close(found.second(waves(1.3)), second)
    assert int(found.same_cluster(waves(1.3)).sum()) == 8


def test_each_next_centroid_is_the_row_least_like_the_last_one() -> None:
    # From 0 the farthest is 170; from 170 it is 10 again, which k-means++ would find too near to 0.
    found = made(at(0, 10, 100, 170))
    torch.testing.assert_close(found.centroids, at(0, 170, 10))


def test_no_row_is_taken_twice_and_small_batches_go_on() -> None:
    found = made(at(0, 0, 0), clusters=3)
    assert found.started
    small = made(at(0, 90), clusters=3)
    assert not small.started
    with pytest.raises(ArgumentError, match="2 of 3 centroids"):
        small.nearest(at(0))
    small.start(at(80, 300, 200))
    torch.testing.assert_close(small.centroids, at(0, 90, 300))
    assert small.started


def test_means_move_centroids_and_empty_clusters_stay() -> None:
    found = made(at(0, 120, 240))
    before = found.centroids.clone()
    rows = 2 * at(10, 20, 130)
    found.follow(rows)
    torch.testing.assert_close(found.centroids[0], 0.9 * before[0] + 0.1 * (rows[0] + rows[1]) / 2)
    place = int(found.nearest(at(120))[0])
    torch.testing.assert_close(found.centroids[place], 0.9 * before[place] + 0.1 * rows[2])
    empty = int(found.nearest(at(240))[0])
    assert torch.equal(found.centroids[empty], before[empty])


def test_nearness_is_a_cosine_not_a_distance() -> None:
    found = made(at(0, 120, 240))
    found.centroids.mul_(torch.tensor([9.0, 1.0, 1.0])[:, None])
    assert int(found.nearest(at(20))[0]) == 0, "the long centroid is far by Euclid"


def test_the_second_nearest_is_neither_the_own_centroid_nor_a_path_for_gradients() -> None:
    found = made(at(0, 120, 240))
    rows = at(10, 350, 100).requires_grad_()
    torch.testing.assert_close(found.second(rows), at(120, 240, 0))
    assert not found.second(rows).requires_grad
    found.follow(rows)
    assert not found.centroids.requires_grad
    assert list(found.parameters()) == []


def test_rows_of_one_cluster_are_fellows_but_nobody_its_own() -> None:
    found = made(at(0, 120, 240))
    fellows = found.same_cluster(at(10, 110, 350, 130))
    pairs = {(0, 2), (2, 0), (1, 3), (3, 1)}
    assert {tuple(pair) for pair in fellows.nonzero().tolist()} == pairs


def test_state_is_resumed() -> None:
    found = made(at(0, 120, 240))
    found.follow(at(10, 20))
    again = OnlineKMeans(3, 2, 0.1)
    again.load_state_dict(found.state_dict())
    assert again.started
    assert torch.equal(again.centroids, found.centroids)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ArgumentError, match="clusters"):
        OnlineKMeans(1, 2, 0.1)
    with pytest.raises(ArgumentError, match="momentum"):
        OnlineKMeans(2, 2, 1.1)
    with pytest.raises(ArgumentError, match="'mean' or 'sum'"):
        OnlineKMeans(2, 2, 0.1, "median")
