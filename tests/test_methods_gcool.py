"""gCooL: what learns from what, the schedule, several relations, and a user's folder from end to end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import write_graph
from torch import Tensor
from torch.nn.functional import normalize

import nearfar
from nearfar.data.graph import Graph, Node
from nearfar.data.table import read_table
from nearfar.encoders.graph import GCN
from nearfar.errors import ArgumentError, NearfarError
from nearfar.methods.graph.gcool import GCooL
from nearfar.objectives import info_nce
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.fit import fit
from nearfar.verbs.measure import measure
from nearfar.verbs.search import search_table


def nodes(relations: int = 1, n: int = 12) -> list[Node]:
    random = np.random.default_rng(0)
    names = ["links"] if relations == 1 else [f"r{i}" for i in range(relations)]
    links = {}
    for name in names:
        linked = np.triu(random.random((n, n)) < 0.3, 1)
        links[name] = np.argwhere(linked | linked.T).T.copy()
    graph = Graph(random.standard_normal((n, 5)).astype(np.float32), links)
    return [Node(graph, row) for row in range(n)]


def made(relations: int = 1, **options: Any) -> GCooL:
    torch.manual_seed(0)
    names = ["links"] if relations == 1 else [f"r{i}" for i in range(relations)]
    return GCooL(GCN(5, hidden=8, dim=6, relations=names), **{"communities": 3, **options})


def terms_of(method: GCooL, cells: list[Node], step: int = 0) -> dict[str, Tensor]:
    method.get_buffer("step").fill_(step)
    batch = method.prepare({"node": cells}, torch.Generator().manual_seed(0))
    return method.contrast(method.embed(batch), batch)


def gradients(term: Tensor, method: GCooL) -> set[str]:
    method.zero_grad()
    term.backward(retain_graph=True)
    moved = {
        name for name, p in method.named_parameters() if p.grad is not None and float(p.grad.abs().sum()) > 0
    }
    return {name.split(".")[0] for name in moved}


# -- what learns from what -------------------------------------------------------------------------


@pytest.mark.parametrize("similarity", ["cosine", "rbf"])
def test_centres_learn_from_deca_alone_and_the_encoder_from_the_rest(similarity: str) -> None:
    method = made(similarity=similarity, balance=1.0)
    terms = terms_of(method, nodes(), step=20)
    assert set(terms) == {"node", "deca", "balance", "resc"}
    for name in ("node", "resc"):
        assert gradients(terms[name], method) == {"encoder", "head"}
    for name in ("deca", "balance"):
        assert gradients(terms[name], method) == {"prototypes"}


def test_weights_move_from_deca_to_resc_and_fade() -> None:
    method = made(stride=500, fade=0.2)
    assert method.weights(0) == (1.0, 0.0)
    deca, resc = method.weights(50)
    assert deca == pytest.approx(0.5 * math.exp(-0.1))
    assert deca + resc == pytest.approx(0.5)
    assert method.weights(100) == (0.0, 0.0)
    assert method.weights(400) == (0.0, 0.0)
    assert set(terms_of(method, nodes(), step=100)) == {"node"}
    assert min(made(stride=500, fade=10).weights(400)) > 0.4


def test_the_node_term_goes_both_ways() -> None:
    method, cells = made(temperature=0.05), nodes()
    batch = method.prepare({"node": cells}, torch.Generator().manual_seed(0))
    one, two = method.embed(batch).values()
    scores = one @ two.T / 0.05
    ways = [torch.nn.functional.cross_entropy(s, torch.arange(12)) for s in (scores, scores.T)]
    assert not torch.allclose(ways[0], ways[1])
    torch.testing.assert_close(method.contrast({"view 0": one, "view 1": two}, batch)["node"], sum(ways) / 2)


def test_far_communities_weigh_less_under_cosine_too() -> None:
    """The released code computes these weights under `rbf` only."""
    even, weighted = (terms_of(made(gamma=g), nodes(), step=30)["resc"].item() for g in (0.0, 3.0))
    assert weighted < even - 1e-4


def test_shares_of_the_rbf_are_those_of_squared_distances() -> None:
    method = made(similarity="rbf", temperature=0.7)
    h = normalize(torch.randn(9, 6))
    centres = normalize(method.prototypes.centres)
    expected = (-torch.cdist(h, centres).square() / 0.7**2).softmax(1)
    torch.testing.assert_close(method.prototypes(h), expected)


def test_the_whole_graph_takes_part_whichever_nodes_are_rows() -> None:
    method, cells = made(), nodes()
    everything, few = terms_of(method, cells), terms_of(method, [cells[3], cells[1]])
    assert everything == few
    batch = method.prepare({"node": cells[:2]}, torch.Generator().manual_seed(1))
    assert len(method.embed(batch)["view 0"]) == 12


def test_views_are_new_at_every_step_and_the_same_for_a_seed() -> None:
    method, cells = made(), nodes()
    one, again, other = (
        method.prepare({"node": cells}, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(one["links 0"], again["links 0"])
    assert one["links 0"].tolist() != one["links 1"].tolist()
    assert one["links 0"].tolist() != other["links 0"].tolist()


# -- several relations -----------------------------------------------------------------------------


def test_relations_are_the_views_and_every_pair_counts() -> None:
    method, cells = made(3, drop_links=0.0, drop_features=0.0), nodes(3)
    batch = method.prepare({"node": cells}, torch.Generator().manual_seed(0))
    h = method.embed(batch)
    assert set(h) == {"view 0", "view 1", "view 2"}
    graph = cells[0].graph
    for i in range(3):
        z = method.encoder.relation(
            i, torch.from_numpy(graph.features), torch.from_numpy(graph.relations[f"r{i}"])
        )
        torch.testing.assert_close(h[f"view {i}"], normalize(method.head(z)))
    pairs = [("view 0", "view 1"), ("view 0", "view 2"), ("view 1", "view 2")]
    expected = [info_nce(h[a], h[b], temperature=0.4, symmetric=True) for a, b in pairs]
    torch.testing.assert_close(method.contrast(h, batch)["node"], torch.stack(expected).mean())


def test_the_vector_of_a_node_is_the_mean_of_its_relations() -> None:
    method, cells = made(2), nodes(2)
    inputs = method.encoder.prepare(cells)
    each = [method.encoder.relation(i, inputs["features"], inputs[f"links {i}"]) for i in range(2)]
    expected = (each[0] + each[1]) / 2
    found = method.space().encode(cells, normalize=False)
    assert found == pytest.approx(expected.detach().numpy(), abs=1e-6)


# -- notes -----------------------------------------------------------------------------------------


def test_a_giant_community_is_told() -> None:
    method = made()
    assert method.notes() == []
    own = torch.tensor([0] * 19 + [2])
    h = normalize(method.prototypes.centres.detach())[own]
    method.after_step({"view 0": h}, 7, 10)
    assert method.get_buffer("step") == 7
    sizes, alarm = method.notes()
    assert sizes == "communities in the last step: 19, 1 nodes; 1 of 3 are empty"
    assert alarm.startswith("one community holds 95% of the nodes")
    method.after_step({"view 0": normalize(method.prototypes.centres.detach()).repeat(4, 1)}, 8, 10)
    assert method.notes() == ["communities in the last step: 4, 4, 4 nodes"]


@pytest.mark.parametrize(
    "wrong", [{"communities": 1}, {"temperature": 0.0}, {"drop_links": 1.5}, {"fade": 0.0}, {"balance": -1.0}]
)
def test_wrong_hyperparameters_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match=f"{next(iter(wrong))} must be between"):
        made(**wrong)


# -- a user's folder -------------------------------------------------------------------------------


def test_fit_measure_search_and_load(tmp_path: Path) -> None:
    folder = write_graph(tmp_path / "graph")
    space = fit(
        "gcool",
        folder,
        tmp_path / "space",
        learning_rate=0.01,
        steps=25,
        holdout_share=0.3,
        hyperparameters={"communities": "3"},
    )
    notes = space.card["notes"]
    assert any("links both" in note or "links, both ways" in note for note in notes)
    assert "trained on a graph of 60 nodes: the links and vectors of all, and no label" in notes
    assert "measured on 18 of these nodes" in notes
    assert any(note.startswith("communities in the last step") for note in notes)
    assert space.card["steps"] == 25
    again = Space.load(tmp_path / "space")
    table = read_table(folder)
    cells = table.column("node")
    z = again.encode(cells)
    assert np.array_equal(z, space.encode(cells))
    measured = measure(again, table)
    assert measured["knn_accuracy"].n == 60
    assert measured["knn_accuracy"].value > 0.8
    [[itself, near, *_]] = search_table(again, folder, ["5"], k=3)
    assert itself.row == 5
    assert near.row != 5
    assert near.cells["label"] == itself.cells["label"]
    assert "node" not in near.cells
    h = normalize(again.parts["projection"](torch.from_numpy(again.encode(cells, normalize=False))), dim=-1)
    shares = again.parts["communities"](h)
    assert shares.shape == (60, 3)
    torch.testing.assert_close(shares.sum(1), torch.ones(60))
    for query, message in (
        ("61", "no row 61: name a node by its row, 1 to 60"),
        ("hello", "the number of a row"),
    ):
        with pytest.raises(ArgumentError, match=message):
            search_table(again, folder, [query])


def test_a_space_of_other_features_or_relations_is_refused(tmp_path: Path) -> None:
    folder = write_graph(tmp_path / "graph", nodes=12)
    space = made(2).space()
    with pytest.raises(ArgumentError, match="12 features; this encoder takes 5"):
        measure(space, folder)
    texts = nearfar.read_table({"text": ["a b", "c d"]})
    with pytest.raises(ArgumentError, match="the space encodes node"):
        measure(space, texts)


def test_a_table_without_links_is_refused(pairs_csv: Path, tmp_path: Path) -> None:
    with pytest.raises(NearfarError, match="no links between its rows"):
        fit("gcool", pairs_csv, tmp_path / "space", steps=2)


def test_a_resumed_run_is_the_run_that_was_not(tmp_path: Path) -> None:
    table = read_table(write_graph(tmp_path / "graph", nodes=15), reads=GCooL.reads)

    def fresh() -> GCooL:
        torch.manual_seed(0)
        return GCooL(GCN(12, hidden=8, dim=6), communities=3, stride=20, fade=1.0)

    settings = Settings(steps=9, learning_rate=0.01, checkpoint_every=4)
    whole = train(fresh(), table, settings)
    train(fresh(), table, settings, folder=tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints").is_dir()
    resumed = train(fresh(), table, settings, folder=tmp_path / "run", resume=True)
    assert resumed.losses == whole.losses
    assert len(whole.losses) == 9
