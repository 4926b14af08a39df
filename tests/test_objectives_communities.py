"""Community losses: the published numbers, exact values, and where gradients go."""

from __future__ import annotations

import math
from itertools import combinations, product

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from nearfar.heads.soft_prototypes import SoftPrototypes
from nearfar.objectives import community_means, edge_density, imbalance, node_to_community

N, D, K = 12, 5, 4
RING = torch.tensor(
    [[i for i in range(N) for _ in (1, 3)], [(i + step) % N for i in range(N) for step in (1, 3)]]
)


def wave(*shape: int, phase: float) -> Tensor:
    return torch.sin(torch.arange(math.prod(shape)) * 1.7 + phase).reshape(shape)


def two_views(temperature: float) -> tuple[list[Tensor], list[Tensor]]:
    """Unit rows and shares on which the released code was run once (its figures stand below)."""
    h = [normalize(wave(N, D, phase=phase)) for phase in (0.1, 2.3)]
    prototypes = SoftPrototypes(K, D, temperature=temperature)
    prototypes.centres.data = wave(K, D, phase=0.7)
    return h, [prototypes(x).detach() for x in h]


@pytest.mark.parametrize(
    ("similarity", "gamma", "softness", "deca", "resc"),
    [
        ("dot", 0.0, 0.4, -0.2987062633, 3.7646789551),  # "cos": without weights, whatever gamma is
        ("rbf", 0.9, 0.08, -0.3163870871, 14.8424406052),
    ],
)
def test_values_are_those_of_the_released_code(
    similarity: str, gamma: float, softness: float, deca: float, resc: float
) -> None:
    h, R = two_views(softness)
    assert float(edge_density(R[0], RING, between=0.7)) == pytest.approx(deca, rel=1e-5)
    own = [shares.argmax(1) for shares in R]
    means = [community_means(x, k, K) for x, k in zip(h, own, strict=True)]
    both = [
        node_to_community(h[a], means[b], own[b], temperature=0.4, gamma=gamma, similarity=similarity)  # type: ignore[arg-type]
        for a, b in ((0, 1), (1, 0))
    ]
    assert float(torch.stack(both).mean()) == pytest.approx(resc, rel=1e-4)


def test_one_community_of_all_nodes_has_minus_two_e_over_n_plus_a_half() -> None:
    edges = list(combinations(range(5), 2))[:7]
    links = torch.tensor([*edges, *[(b, a) for a, b in edges]]).T
    assert float(edge_density(torch.ones(5, 1), links)) == pytest.approx(-2 * 7 / 5 + 0.5)


def cliques() -> tuple[Tensor, Tensor]:
    pairs = [*combinations(range(5), 2), *combinations(range(5, 10), 2), (4, 5)]
    return torch.tensor([*pairs, *[(b, a) for a, b in pairs]]).T, torch.tensor([0] * 5 + [1] * 5)


def test_two_cliques_beat_every_move_and_swap_but_not_one_giant_community() -> None:
    links, truth = cliques()

    def value(own: Tensor) -> float:
        return float(edge_density(one_hot(own, 2).float(), links))

    best = value(truth)
    for i in range(10):
        moved = truth.clone()
        moved[i] = 1 - moved[i]
        assert value(moved) > best
    for i, j in product(range(5), range(5, 10)):
        swapped = truth.clone()
        swapped[i], swapped[j] = 1, 0
        assert value(swapped) > best
    assert value(torch.zeros(10, dtype=torch.long)) < best


def test_the_last_term_does_not_balance_but_imbalance_does() -> None:
    links = torch.empty(2, 0, dtype=torch.long)
    equal, giant = one_hot(torch.arange(8) % 4).float(), one_hot(torch.zeros(8, dtype=torch.long), 4).float()
    assert float(edge_density(equal, links)) == float(edge_density(giant, links)) == 0.5
    assert float(imbalance(equal)) == pytest.approx(0, abs=1e-6)
    assert float(imbalance(giant)) == pytest.approx(math.log(4))


def test_a_far_community_repels_less_and_an_empty_one_is_at_the_origin() -> None:
    x = torch.tensor([[1.0, 0.0]])
    means = community_means(torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]), torch.tensor([0, 1, 2]), 4)
    assert means[3].tolist() == [0, 0]
    e = [math.exp(s / 0.4) for s in (1.0, 0.6, -1.0, 0.0)]
    apart = [0.0, 0.16 + 0.64, 4.0, 1.0]
    for gamma in (0.0, 1.5):
        total = sum(math.exp(-gamma * d) * s for d, s in zip(apart, e, strict=True))
        found = node_to_community(x, means, torch.tensor([0]), temperature=0.4, gamma=gamma)
        assert float(found) == pytest.approx(math.log(total / e[0]), rel=1e-5)


def test_means_get_no_gradient_and_nodes_do() -> None:
    x = normalize(wave(6, 3, phase=0.3)).requires_grad_()
    means = normalize(wave(2, 3, phase=1.0)).requires_grad_()
    node_to_community(x, means, torch.arange(6) % 2, temperature=0.4, gamma=1.0).backward()
    assert means.grad is None
    assert x.grad is not None
    assert float(x.grad.abs().min(1).values.max()) > 0
