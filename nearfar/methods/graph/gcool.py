"""gCooL: nodes contrasted with nodes and with communities that are learnt along with them."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nearfar.data.graph import Graph
from nearfar.data.kinds import Node
from nearfar.encoders.graph import GCN
from nearfar.errors import check_between
from nearfar.heads.projection import Projection
from nearfar.heads.soft_prototypes import SoftPrototypes
from nearfar.method import Batch, Method
from nearfar.objectives import community_means, edge_density, imbalance, info_nce, node_to_community
from nearfar.space import Space
from nearfar.views.graph import Centrality, DropWeights, drop_graph, drop_weights

GIANT = 0.9
"""Share of the nodes in one community from which the run's notes warn."""


class GCooL(Method):
    """A node is near itself in another view of its graph, and near its community; both learn together.

    The batch is one whole graph. Two views drop central links and features more rarely; the encoder gives
    z, and h = unit(head(z)) of both [n, d]. Soft communities R_v = softmax(h_v . unit(Phi) / t)  [n, K] with
    gradient to the centres Phi only, k_v = argmax R_v, C_v[k] the mean of the h_v with k_v = k. At step s

        loss = L_node + a (c L_deca + (1 - c) L_resc),   c = exp(-s / stride),  a = max(0, 1 - s / (fade stride))
        L_node = -log exp(h1_i.h2_i / t) / sum_j exp(h1_i.h2_j / t)                 mean over i, both directions
        L_deca = [l (sum F - tr F) - (n-1) tr F] / (n (n-1)) + tr(R^T R) / 2n,  F = R^T A_v R     mean over views
        L_resc = -log e(h1_i, C2[k]) / (e(h1_i, C2[k]) + sum_{m != k} w_m e(h1_i, C2[m])),  k = k_2(i),
                 e(x, y) = exp(x.y / t),  w_m = exp(-gamma |C2[k] - C2[m]|^2)       and from view 2 to view 1

    Nodes of the graph that are no rows of the training table take part too (no label is read); give several
    hundred epochs, one step each. With the paper's schedule (fade 0.2) communities stop mattering early.

    A graph with several relations has a view of each, one network a relation and shared heads; the loss is the
    mean over pairs of relations, the vector of a node the mean over its relations. That is a reconstruction:
    no code of it was released. Ours: the released cosine variant leaves w out (gamma 0 here), its "PageRank"
    is a walk without restart, it contrasts in one direction only, and decays weights within Adam; one rate of
    dropping holds for all views, as in all published settings. DeCA alone prefers one giant community: the
    run's notes say how large the communities are, and `balance` (ours) is there against it.

    Args:
        communities: K, near the number of classes one expects.
        temperature: t.
        between: l, weight of links between communities.
        gamma: how quickly the weight of a community falls with its distance from a node's own.
        stride: steps over which the weight moves from DeCA to ReSC.
        fade: share of `stride` after which both are gone.
        balance: weight of log K - H(mean R) beside DeCA.
        similarity: "cosine", or "rbf": exp(-|x - y|^2 / t^2) in R and e.
        drop_links: share of the links that a view lacks.
        drop_features: share of the features that a view lacks.
        centrality: what makes links and features important.

    Li, Jing, Tong. "Graph Communal Contrastive Learning." WWW 2022.
    """

    reads = {"node": Node}
    whole_table = True

    def __init__(
        self,
        encoder: GCN,
        communities: int = 10,
        temperature: float = 0.4,
        between: float = 1.0,
        gamma: float = 8e-5,
        stride: int = 500,
        fade: float = 0.2,
        balance: float = 0.0,
        similarity: Literal["cosine", "rbf"] = "cosine",
        drop_links: float = 0.2,
        drop_features: float = 0.1,
        centrality: Literal["pagerank", "degree", "eigenvector"] = "pagerank",
    ) -> None:
        super().__init__()
        check_between(2, math.inf, communities=communities)
        check_between(1, math.inf, stride=stride)
        check_between(1e-3, math.inf, temperature=temperature, fade=fade)
        check_between(0, math.inf, between=between, gamma=gamma, balance=balance)
        check_between(0, 1, drop_links=drop_links, drop_features=drop_features)
        self.encoder = encoder
        self.head = Projection(encoder.dim, encoder.dim, encoder.dim, kind="mlp_elu")
        # |h - c|^2 = 2 - 2 h.c of unit rows: the RBF's shares are those of cosines at another temperature.
        softness = temperature if similarity == "cosine" else temperature**2 / 2
        self.prototypes = SoftPrototypes(communities, encoder.dim, temperature=softness)
        self.temperature, self.between, self.gamma, self.balance = temperature, between, gamma, balance
        self.stride, self.fade, self.similarity = stride, fade, similarity
        self.drops = {"drop_links": drop_links, "drop_features": drop_features}
        self.centrality: Centrality = centrality
        # Two views of the only relation, or one of each of several.
        self.views = (0, 0) if len(encoder.relations) == 1 else tuple(range(len(encoder.relations)))
        self.register_buffer("step", torch.tensor(0))
        self.register_buffer("sizes", torch.zeros(communities, dtype=torch.long))
        self._read: tuple[Graph, dict[str, Tensor], list[DropWeights]] | None = None

    def negatives(self, batch_size: int) -> int:
        return 0  # the sum of three terms

    def weights(self, step: int) -> tuple[float, float]:
        """Of DeCA and of ReSC at a step, counted from 0."""
        shown, moved = max(0.0, 1 - step / (self.fade * self.stride)), math.exp(-step / self.stride)
        return shown * moved, shown * (1 - moved)

    # -- views -------------------------------------------------------------------------------------

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        graph, weights = self._of_graph(rows["node"])
        batch: Batch = {}
        for view, relation in enumerate(self.views):
            features, links = drop_graph(
                graph["features"],
                graph[f"links {relation}"],
                generator,
                weights=weights[relation],
                **self.drops,
            )
            batch[f"view {view}"] = {"features": features, "links": links}
            batch[f"links {view}"] = links
        return batch

    def _of_graph(self, nodes: list[Any]) -> tuple[dict[str, Tensor], list[DropWeights]]:
        """The tensors of the graph and how readily its parts are dropped; the same at every step."""
        if self._read is None or self._read[0] is not nodes[0].graph:
            graph = self.encoder.prepare(nodes)
            weights = [
                drop_weights(graph["features"], graph[f"links {i}"], self.centrality)
                for i in range(len(self.encoder.relations))
            ]
            self._read = nodes[0].graph, graph, weights
        return self._read[1:]

    # -- learning ----------------------------------------------------------------------------------

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return {
            f"view {view}": nn.functional.normalize(
                self.head(self.encoder.relation(relation, **batch[f"view {view}"]))
            )
            for view, relation in enumerate(self.views)
        }

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        pairs = list(combinations(range(len(self.views)), 2))
        h = [z[f"view {view}"] for view in range(len(self.views))]
        node = [info_nce(h[a], h[b], temperature=self.temperature, symmetric=True) for a, b in pairs]
        terms = {"node": torch.stack(node).mean()}
        deca_weight, resc_weight = self.weights(int(self.get_buffer("step")))
        shares = [self.prototypes(view.detach()) for view in h]
        if deca_weight:
            density = [edge_density(R, batch[f"links {view}"], self.between) for view, R in enumerate(shares)]
            terms["deca"] = deca_weight * torch.stack(density).mean()
            if self.balance:
                uneven = torch.stack([imbalance(R) for R in shares]).mean()
                terms["balance"] = deca_weight * self.balance * uneven
        if resc_weight:
            own = [R.detach().argmax(dim=1) for R in shares]
            resc = [self._resc(h[a], h[b], own[b]) for pair in pairs for a, b in (pair, pair[::-1])]
            terms["resc"] = resc_weight * torch.stack(resc).mean()
        return terms

    def _resc(self, x: Tensor, other: Tensor, own: Tensor) -> Tensor:
        means = community_means(other, own, self.prototypes.dims[0])
        similarity: Literal["dot", "rbf"] = "rbf" if self.similarity == "rbf" else "dot"
        return node_to_community(
            x, means, own, temperature=self.temperature, gamma=self.gamma, similarity=similarity
        )

    @torch.no_grad()
    def after_step(self, z: dict[str, Tensor], step: int, steps: int) -> None:
        self.get_buffer("step").fill_(step)
        own = self.prototypes(z["view 0"]).argmax(dim=1)
        self.get_buffer("sizes").copy_(torch.bincount(own, minlength=len(self.get_buffer("sizes"))))

    def notes(self) -> list[str]:
        sizes = sorted(self.get_buffer("sizes").tolist(), reverse=True)
        if not sum(sizes):
            return []
        empty = sizes.count(0)
        told = [
            f"communities in the last step: {', '.join(f'{size:,}' for size in sizes if size)} nodes"
            + (f"; {empty} of {len(sizes)} are empty" if empty else "")
        ]
        if len(sizes) > 1 and sizes[0] >= GIANT * sum(sizes):
            told.append(
                f"one community holds {sizes[0] / sum(sizes):.0%} of the nodes: they say nothing about the graph. "
                "DeCA prefers one giant community; a balance above 0 works against it"
            )
        return told

    def space(self) -> Space:
        """Nodes by z, without the head. Its parts serve R = communities(unit(projection(z)))."""
        return Space({"node": self.encoder}, parts={"projection": self.head, "communities": self.prototypes})
