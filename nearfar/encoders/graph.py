"""Nodes of a graph to features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from nearfar.data.graph import Node
from nearfar.data.kinds import Node as NodeKind
from nearfar.encoders.encoder import Features
from nearfar.encoders.settings import MadeOfSettings
from nearfar.errors import ArgumentError

SPARSE = 0.25
"""Features of which at most this share is not 0, such as bags of words, are kept and multiplied as sparse."""


class GCN(MadeOfSettings):
    """Graph convolutions: each layer mixes a node with its neighbours, then maps and bends.

        H' = prelu(D^-1/2 (A + I) D^-1/2 H W + b),  A_ij = 1 where i lists j, D_ii = 1 + sum_j A_ij

    A node's vector depends on the graph around it, as far as there are layers. So the whole graph is encoded
    whichever of its nodes are asked for; a batch of nodes is of one graph. A multiplex graph has a network for
    each relation: their vectors are the tokens of a node, and their mean is its pooled vector.

    Kipf, Welling. "Semi-Supervised Classification with Graph Convolutional Networks." ICLR 2017.

    Args:
        width: features of a node.
        hidden: units of each layer but the last.
        dim: width of the vectors.
        layers: at least 1.
        relations: names of the relations read, in the order of the tokens.
        scale: size of the features, by which they are divided.
    """

    kind = NodeKind

    def __init__(
        self,
        width: int,
        hidden: int = 256,
        dim: int = 128,
        layers: int = 2,
        relations: Sequence[str] = ("links",),
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if layers < 1 or not relations:
            raise ArgumentError(f"a GCN needs a layer and a relation, got {layers} and {list(relations)}")
        self._settings = {
            "width": width,
            "hidden": hidden,
            "dim": dim,
            "layers": layers,
            "relations": list(relations),
            "scale": scale,
        }
        self.width, self.dim, self.relations, self.scale = width, dim, tuple(relations), scale
        widths = [width, *[hidden] * (layers - 1), dim]
        self.networks = nn.ModuleList(
            nn.ModuleList(_Convolution(*pair) for pair in pairwise(widths)) for _ in relations
        )

    @classmethod
    def fitted(cls, examples: Sequence[Node], hidden: int = 256, dim: int = 128) -> Self:
        """An encoder for graphs like that of `examples`: its relations, the root mean square of its features.

        Raises:
            ArgumentError: there are no examples.
        """
        if not examples:
            raise ArgumentError("a graph encoder cannot be fitted to no nodes")
        graph = examples[0].graph
        size = float((graph.features.astype("f8") ** 2).mean() ** 0.5)
        return cls(graph.features.shape[1], hidden, dim, relations=tuple(graph.relations), scale=size or 1.0)

    def prepare(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """The graph of B nodes.

        Returns:
            "features" [N, width], sparse where most are 0; for each relation its links, int64 [2, E], as
            "links 0" and so on; and "rows", int64 [B], which nodes are asked for.

        Raises:
            ArgumentError: nodes of several graphs, features of another width, or a relation is missing.
        """
        graph = rows[0].graph
        if any(node.graph is not graph for node in rows):
            raise ArgumentError("nodes of several graphs cannot be prepared together")
        if graph.features.shape[1] != self.width:
            raise ArgumentError(
                f"the nodes have {graph.features.shape[1]} features; this encoder takes {self.width}"
            )
        if missing := [name for name in self.relations if name not in graph.relations]:
            raise ArgumentError(
                f"the graph has no relation {missing[0]!r}, which this encoder reads; it has "
                f"{', '.join(graph.relations)}"
            )
        features = torch.from_numpy(graph.features)
        if (features != 0).float().mean() <= SPARSE:
            features = features.to_sparse()
        links = {
            f"links {i}": torch.from_numpy(graph.relations[name]) for i, name in enumerate(self.relations)
        }
        return {"features": features, **links, "rows": torch.tensor([node.row for node in rows])}

    def batches(
        self, rows: Sequence[Any], batch_size: int
    ) -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
        """All nodes of a graph at once: the work is that of the whole graph in any case."""
        of_graph: dict[int, list[int]] = {}
        for position, node in enumerate(rows):
            of_graph.setdefault(id(node.graph), []).append(position)
        for positions in of_graph.values():
            yield positions, self.prepare([rows[position] for position in positions])

    def relation(self, number: int, features: Tensor, links: Tensor) -> Tensor:
        """All nodes by one relation, or a view of it: [N, dim].

        Args:
            number: of the relation, from 0.
            features: [N, width], dense or sparse.
            links: [2, E].
        """
        mixing = normalised_adjacency(links, len(features))
        x = features / self.scale
        for layer in cast(nn.ModuleList, self.networks[number]):
            x = layer(x, mixing)
        return x

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """Encode what `prepare` returned; one token for each relation."""
        by_relation = [
            self.relation(i, inputs["features"], inputs[f"links {i}"])[inputs["rows"]]
            for i in range(len(self.relations))
        ]
        tokens = torch.stack(by_relation, dim=1)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return Features(tokens, mask, tokens.mean(1))


class _Convolution(nn.Module):
    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, dim)
        self.bend = nn.PReLU()

    def forward(self, x: Tensor, mixing: Tensor) -> Tensor:
        # Mapped before it is mixed: a product with a sparse x never becomes a dense [N, width].
        mapped = torch.sparse.mm(x, self.map.weight.T) if x.is_sparse else x @ self.map.weight.T
        return self.bend(torch.sparse.mm(mixing, mapped) + self.map.bias)


def normalised_adjacency(links: Tensor, n: int) -> Tensor:
    """D^-1/2 (A + I) D^-1/2 as a sparse matrix [n, n].

    Args:
        links: int64 [2, E], each pair once, no node with itself.
        n: nodes.
    """
    self_loops = torch.arange(n, device=links.device).expand(2, n)
    indices = torch.cat([links, self_loops], dim=1)
    scale = (torch.bincount(links[0], minlength=n) + 1).rsqrt()
    values = scale[indices[0]] * scale[indices[1]]
    return torch.sparse_coo_tensor(indices, values, (n, n), check_invariants=False).coalesce()
