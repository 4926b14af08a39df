"""The graph encoder: the formula, what a node can see, and saving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nearfar.data.graph import Graph, Node, make_graph
from nearfar.data.kinds import Node as NodeKind
from nearfar.encoders import load_encoder, make_encoder
from nearfar.encoders.graph import GCN, normalised_adjacency
from nearfar.errors import ArgumentError
from nearfar.space import Space


def path_graph(n: int = 6, changed: int | None = None) -> Graph:
    features = np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32)
    if changed is not None:
        features[changed] += 1
    links = [np.array([j for j in (i - 1, i + 1) if 0 <= j < n]) for i in range(n)]
    return make_graph(list(features), {"links": links})


def nodes_of(graph: Graph) -> list[Node]:
    return [Node(graph, row) for row in range(len(graph))]


def gcn(**options: object) -> GCN:
    torch.manual_seed(0)
    return GCN(4, hidden=8, dim=5, **options).eval()  # type: ignore[arg-type]


def test_a_layer_is_the_formula() -> None:
    graph, encoder = path_graph(), gcn(layers=1)
    A = torch.eye(6)
    A[tuple(torch.from_numpy(graph.relations["links"]))] = 1
    D = A.sum(1)
    mixing = A / (D[:, None] * D[None, :]).sqrt()
    torch.testing.assert_close(
        normalised_adjacency(torch.from_numpy(graph.relations["links"]), 6).to_dense(), mixing
    )
    [layer] = encoder.networks[0]  # type: ignore[misc]
    mapped = mixing @ torch.from_numpy(graph.features) @ layer.map.weight.T + layer.map.bias
    expected = torch.where(mapped > 0, mapped, layer.bend.weight * mapped)
    torch.testing.assert_close(encoder(encoder.prepare(nodes_of(graph))).pooled, expected)


def test_a_node_sees_as_far_as_there_are_layers() -> None:
    space = Space({"node": gcn()})
    before, after = (space.encode(nodes_of(path_graph(changed=changed))) for changed in (None, 4))
    moved = np.abs(before - after).max(1) > 1e-6
    assert moved.tolist() == [False, False, True, True, True, True]


def test_some_nodes_are_encoded_as_among_all() -> None:
    space, nodes = Space({"node": gcn()}), nodes_of(path_graph())
    everything = space.encode(nodes)
    assert np.array_equal(space.encode([nodes[4], nodes[1], nodes[4]], batch_size=1), everything[[4, 1, 4]])
    others = nodes_of(path_graph(changed=0))
    mixed = space.encode([nodes[0], others[0], nodes[5]])
    assert np.array_equal(mixed, np.stack([everything[0], space.encode(others)[0], everything[5]]))


def test_the_order_of_nodes_does_not_matter() -> None:
    graph, order = path_graph(), np.array([3, 0, 5, 1, 4, 2])
    place = np.argsort(order)
    links = [np.array([place[j] for j in (i - 1, i + 1) if 0 <= j < 6]) for i in order]
    shuffled = make_graph(list(graph.features[order]), {"links": links})
    space = Space({"node": gcn()})
    assert space.encode(nodes_of(shuffled)) == pytest.approx(space.encode(nodes_of(graph))[order], abs=1e-6)


def test_bags_of_words_are_multiplied_as_sparse_to_the_same() -> None:
    graph = path_graph()
    words = Graph(np.eye(6, 4, dtype=np.float32), graph.relations)
    encoder = gcn()
    inputs = encoder.prepare(nodes_of(words))
    assert inputs["features"].is_sparse
    dense = {**inputs, "features": inputs["features"].to_dense()}
    torch.testing.assert_close(encoder(inputs).pooled, encoder(dense).pooled)
    assert not encoder.prepare(nodes_of(graph))["features"].is_sparse


def test_relations_are_tokens_and_their_mean_is_the_node() -> None:
    one = path_graph()
    far = np.array([[0, 5], [5, 0]])
    both = Graph(one.features, {"near": one.relations["links"], "far": far})
    encoder = gcn(relations=("near", "far"))
    found = encoder(encoder.prepare(nodes_of(both)))
    assert found.tokens.shape == (6, 2, 5)
    torch.testing.assert_close(found.pooled, found.tokens.mean(1))
    alone = encoder.relation(1, torch.from_numpy(both.features), torch.from_numpy(far))
    torch.testing.assert_close(found.tokens[:, 1], alone)
    with pytest.raises(ArgumentError, match=r"no relation 'near'.*it has links"):
        encoder.prepare(nodes_of(one))


def test_an_encoder_from_scratch_fits_the_graph_and_is_loaded_equal(tmp_path: Path) -> None:
    graph = path_graph()
    encoder = make_encoder("tiny", NodeKind, nodes_of(graph), seed=3)
    assert isinstance(encoder, GCN)
    assert encoder.scale == pytest.approx(float(np.sqrt((graph.features**2).mean())))
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert again.settings() == encoder.settings()
    nodes = nodes_of(graph)
    assert np.array_equal(Space({"node": encoder}).encode(nodes), Space({"node": again}).encode(nodes))
    wider = Graph(np.ones((6, 7), dtype=np.float32), graph.relations)
    with pytest.raises(ArgumentError, match="7 features; this encoder takes 4"):
        again.prepare(nodes_of(wider))
    with pytest.raises(ArgumentError, match="several graphs"):
        again.prepare([nodes[0], nodes_of(path_graph())[0]])
