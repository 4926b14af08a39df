"""Rules that say which keys are near a query. Each answers for one tile of pairs at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.objectives.tile import Block, Tile


@dataclass(frozen=True, eq=False)
class Streamed:
    """A nearness that needs no tile: one near key per row, or equal labels, or none.

    Attributes:
        index: [B] the only near key of each query.
        one_to_one: each key is near at most one query.
        labels: of the queries and of the keys: equal ones are near.
        skips_self: query i and key i are one row, and ignored.
        ignores_others: keys that are not near are ignored.
    """

    index: Tensor | None = None
    one_to_one: bool = False
    labels: tuple[Tensor, Tensor] | None = None
    skips_self: bool = False
    ignores_others: bool = False


class Nearness(ABC):
    """Which keys are near, far or out of sight, before anything is ignored or weighted."""

    @property
    def divides(self) -> bool:
        """Whether the targets of a row are divided by their sum when several positives are averaged."""
        return True

    @abstractmethod
    def block(self, tile: Tile) -> Block:
        """The targets of a tile and the log-weights of its denominators."""

    def check(self, n_rows: int, n_columns: int) -> None:
        """Raise ArgumentError unless the rule can say something about n_rows x n_columns pairs."""
        return

    def keys_of_a_row(self, n_columns: int) -> int:
        """How many of `n_columns` keys can be in one row's denominator."""
        return n_columns

    def reversed(self) -> Nearness:
        """The rule, still on queries x keys, for the direction from keys to queries."""
        return self

    def streamed(self, n_rows: int, device: torch.device) -> Streamed | None:
        """What a streaming kernel needs to know; None where it must be asked for every tile."""
        return None


@dataclass(frozen=True, eq=False)
class Nothing(Nearness):
    """No key is near: all are far."""

    def streamed(self, n_rows: int, device: torch.device) -> Streamed:
        return Streamed()

    def block(self, tile: Tile) -> Block:
        shape = len(tile.rows), len(tile.columns)
        return Block(torch.zeros(shape, dtype=tile.dtype, device=tile.device))


@dataclass(frozen=True, eq=False)
class Diagonal(Nearness):
    """Key i is near query i; the others are far, or ignored."""

    others: Literal["far", "ignored"]

    def check(self, n_rows: int, n_columns: int) -> None:
        if n_rows != n_columns:
            raise ArgumentError(
                f"Pairing.diagonal() needs one key for each query, got {n_rows} and {n_columns}"
            )

    def keys_of_a_row(self, n_columns: int) -> int:
        return n_columns if self.others == "far" else 1

    def streamed(self, n_rows: int, device: torch.device) -> Streamed:
        own = torch.arange(n_rows, device=device)
        return Streamed(own, one_to_one=True, ignores_others=self.others == "ignored")

    def block(self, tile: Tile) -> Block:
        near = tile.row_index == tile.column_index
        block = Block(near.to(tile.dtype))
        return block if self.others == "far" else block.without(~near)


@dataclass(frozen=True, eq=False)
class Twins(Nearness):
    """Rows are N first views and N second views; a row's other view is near, itself ignored."""

    def check(self, n_rows: int, n_columns: int) -> None:
        if n_rows != n_columns or n_rows % 2:
            raise ArgumentError(
                "Pairing.twins() compares one tensor of first and then second views with itself, "
                f"got {n_rows} queries and {n_columns} keys"
            )

    def keys_of_a_row(self, n_columns: int) -> int:
        return n_columns - 1

    def streamed(self, n_rows: int, device: torch.device) -> Streamed:
        partner = torch.arange(n_rows, device=device).roll(n_rows // 2)
        return Streamed(partner, one_to_one=True, skips_self=True)

    def block(self, tile: Tile) -> Block:
        partner = (tile.row_index + tile.n_rows // 2) % tile.n_rows
        near = partner == tile.column_index
        return Block(near.to(tile.dtype)).without(tile.row_index == tile.column_index)


@dataclass(frozen=True, eq=False)
class Same(Nearness):
    """Equal labels are near; without `key_labels` the keys are the queries and a row ignores itself."""

    labels: Tensor
    key_labels: Tensor | None

    def check(self, n_rows: int, n_columns: int) -> None:
        keys = self.labels if self.key_labels is None else self.key_labels
        check_length(self.labels, n_rows, "labels", "query")
        check_length(keys, n_columns, "labels" if self.key_labels is None else "key_labels", "key")

    def keys_of_a_row(self, n_columns: int) -> int:
        return n_columns if self.key_labels is not None else n_columns - 1

    def streamed(self, n_rows: int, device: torch.device) -> Streamed:
        labels = self.labels.to(device)
        if self.key_labels is None:
            return Streamed(labels=(labels, labels), skips_self=True)
        return Streamed(labels=(labels, self.key_labels.to(device)))

    def block(self, tile: Tile) -> Block:
        keys = self.labels if self.key_labels is None else self.key_labels
        near = tile.of_rows(self.labels)[:, None] == tile.of_columns(keys)[None, :]
        if self.key_labels is not None:
            return Block(near.to(tile.dtype))
        self_pair = tile.row_index == tile.column_index
        return Block((near & ~self_pair).to(tile.dtype)).without(self_pair)


@dataclass(frozen=True, eq=False)
class Index(Nearness):
    """Key targets[i] is near query i."""

    targets: Tensor

    def check(self, n_rows: int, n_columns: int) -> None:
        check_length(self.targets, n_rows, "targets", "query")
        check_range(self.targets[:, None], n_columns, "targets")

    def streamed(self, n_rows: int, device: torch.device) -> Streamed:
        return Streamed(self.targets.to(device, torch.long))

    def block(self, tile: Tile) -> Block:
        near = tile.of_rows(self.targets)[:, None] == tile.column_index
        return Block(near.to(tile.dtype))


@dataclass(frozen=True, eq=False)
class Sampled(Nearness):
    """Each query meets only the keys of its list, the first of which is near."""

    index: Tensor

    def check(self, n_rows: int, n_columns: int) -> None:
        check_length(self.index, n_rows, "index", "query")
        check_range(self.index, n_columns, "index")

    def keys_of_a_row(self, n_columns: int) -> int:
        return self.index.shape[1]

    def block(self, tile: Tile) -> Block:
        width = len(tile.columns)
        local = tile.of_rows(self.index) - tile.columns.start
        inside = (local >= 0) & (local < width)
        counts = torch.zeros(len(tile.rows), width + 1, dtype=tile.dtype, device=tile.device)
        counts.scatter_add_(1, local.where(inside, width), torch.ones_like(local, dtype=tile.dtype))
        near = tile.of_rows(self.index)[:, :1] == tile.column_index
        # A key drawn twice counts twice, as when the keys are gathered.
        return Block(near.to(tile.dtype), counts[:, :width].log())


@dataclass(frozen=True, eq=False)
class Weighted(Nearness):
    """Soft targets: key j is near query i to the degree targets[i, j]; made from `weights` [B, M]."""

    weights: Tensor
    targets: Tensor
    normalise: Literal["rows", "none"]
    backward: Literal["renormalise", "same"]

    @classmethod
    def of(
        cls, weights: Tensor, normalise: Literal["rows", "none"], backward: Literal["renormalise", "same"]
    ) -> Weighted:
        """The rule for the direction from queries to keys."""
        bad = ~(torch.isfinite(weights) & (weights >= 0)).all(dim=1)
        if bool(bad.any()):
            raise ArgumentError(
                f"W: row {int(bad.nonzero()[0]) + 1} holds a weight that is negative or not finite"
            )
        return cls(weights, _shares(weights) if normalise == "rows" else weights, normalise, backward)

    @property
    def divides(self) -> bool:
        return self.normalise == "rows"

    def check(self, n_rows: int, n_columns: int) -> None:
        check_matrix(self.weights, n_rows, n_columns, "W")

    def block(self, tile: Tile) -> Block:
        return Block(tile.of_pairs(self.targets).to(tile.dtype))

    def reversed(self) -> Nearness:
        if self.backward == "renormalise":
            turned = _shares(self.weights.mT) if self.normalise == "rows" else self.weights.mT
            return replace(self, targets=turned.mT)
        if self.weights.shape[0] != self.weights.shape[1]:
            raise ArgumentError(
                "Pairing.weighted(W, backward='same') uses one W for both directions: "
                f"it needs as many keys as queries, got {' x '.join(map(str, self.weights.shape))}"
            )
        return replace(self, targets=self.targets.mT)


def _shares(weights: Tensor) -> Tensor:
    totals = weights.sum(dim=1, keepdim=True)
    return weights / totals.where(totals > 0, 1)


def check_length(values: Tensor, n: int, name: str, whose: str) -> None:
    """Raise ArgumentError unless `values` holds one entry for each of the `n` queries or keys."""
    if values.shape[:1] != (n,):
        held = values.shape[0] if values.ndim else "a single value"
        raise ArgumentError(f"{name} must hold one entry for each {whose}: {n} expected, {held} given")


def check_range(index: Tensor, n_columns: int, name: str) -> None:
    """Raise ArgumentError unless `index` [B, C] holds numbers of keys."""
    bad = ((index < 0) | (index >= n_columns)).any(dim=1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ArgumentError(
            f"{name}: row {row + 1} names key {index[row].tolist()}; keys are numbered 0 to {n_columns - 1}"
        )


def check_matrix(values: Tensor, n_rows: int, n_columns: int, name: str) -> None:
    """Raise ArgumentError unless `values` has one entry for each pair."""
    if values.shape != (n_rows, n_columns):
        raise ArgumentError(
            f"{name} must be {n_rows} queries x {n_columns} keys, got {' x '.join(map(str, values.shape))}"
        )
