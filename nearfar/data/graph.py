"""Graphs: the rows of a table as nodes that know their neighbours."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes with features, and what links them.

    Attributes:
        features: float32 [N, d].
        relations: name -> int64 [2, E]: of each link the node and its neighbour, sorted; a link that goes both
            ways is there twice. One relation, or several over the same nodes (a multiplex graph).
    """

    features: np.ndarray = field(repr=False)
    relations: Mapping[str, np.ndarray] = field(repr=False)

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of SHA-256 over features and links."""
        digest = hashlib.sha256(np.ascontiguousarray(self.features, dtype="<f4").tobytes())
        for name, links in sorted(self.relations.items()):
            digest.update(f"{name}{links.shape}".encode())
            digest.update(np.ascontiguousarray(links, dtype="<i8").tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Node:
    """One node: which row of which graph. Its embedding depends on the graph around it."""

    graph: Graph
    row: int


def make_graph(features: Sequence[np.ndarray], relations: Mapping[str, Sequence[np.ndarray]]) -> Graph:
    """A graph of N nodes.

    Args:
        features: N vectors [d].
        relations: name -> for each node the numbers of its neighbours. A node among its own is left out.
    """
    edges = {}
    for name, links in relations.items():
        nodes = np.repeat(np.arange(len(links)), [len(neighbours) for neighbours in links])
        neighbours = np.concatenate([np.empty(0, dtype=np.int64), *links])
        pairs = np.stack([nodes, neighbours])[:, nodes != neighbours]
        edges[name] = pairs[:, np.lexsort(pairs[::-1])]
    return Graph(np.stack(features).astype(np.float32), edges)


class GraphRows:
    """The graph whose nodes the rows of a table are; made when it is first asked for.

    Args:
        make: makes the graph.
        nodes: the row of the source that each node is, increasing, [N].
    """

    def __init__(self, make: Callable[[], Graph], nodes: np.ndarray) -> None:
        self._make, self._nodes = make, nodes

    @cached_property
    def graph(self) -> Graph:
        """All nodes, whichever rows of the table were selected."""
        return self._make()

    def numbers(self, index: np.ndarray) -> np.ndarray:
        """The numbers of the nodes that these rows of the source are."""
        return np.searchsorted(self._nodes, index)

    def cells(self, index: np.ndarray) -> list[Node]:
        """The nodes that these rows of the source are."""
        graph = self.graph
        return [Node(graph, int(row)) for row in self.numbers(index)]
