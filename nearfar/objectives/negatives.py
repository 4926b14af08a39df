"""How many keys compete with a positive: what makes losses of different batches comparable."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.objectives.pairing import Pairing
from nearfar.objectives.row_loss import Denominator
from nearfar.objectives.tile import Tile
from nearfar.ops.row_chunks import row_chunks


def number_of_negatives(
    pairing: Pairing | None,
    n_queries: int,
    n_keys: int,
    *,
    extra_pairing: Pairing | None = None,
    n_extra: int = 0,
    denominator: Denominator = "all",
) -> float:
    """Mean over the queries of how many keys compete with a positive in its denominator.

    The loss minus the logarithm of it tends to a limit as batches grow (Wang & Isola, ICML 2020, theorem 1).
    A pair counts if its weight is above 0; `hardest` counts the ranks it keeps and leaves its `below` aside.

    Args:
        pairing: as given to `info_nce`.
        n_queries: B.
        n_keys: M.
        extra_pairing: as given to `info_nce`.
        n_extra: E, extra keys per query.
        denominator: as given to `info_nce`.

    Raises:
        ArgumentError: a pairing does not fit these numbers.
    """
    groups = [(pairing or Pairing.diagonal(), n_keys)]
    if n_extra:
        groups.append((extra_pairing or Pairing.none(), n_extra))
    for group, n in groups:
        group.check(n_queries, n)
    competing = 0
    for rows in row_chunks(n_queries, n_keys + n_extra):
        near, far = torch.stack([_counts(group, rows, n_queries, n) for group, n in groups]).sum(dim=0)
        competing += int(far.sum())
        if denominator == "all":
            competing += int((near - 1).clamp(min=0).sum())
    return competing / n_queries


def _counts(pairing: Pairing, rows: range, n_rows: int, n: int) -> Tensor:
    """Near keys in the denominator and far keys of each of the r rows: [2, r]."""
    block = pairing.block(Tile(rows, range(n), n_rows, n, torch.device("cpu"), torch.float32))
    near = block.target > 0
    if block.log_weight is not None:
        near = near & (block.log_weight > -torch.inf)
    far = block.far.sum(dim=1)
    return torch.stack([near.sum(dim=1), far if pairing.rank is None else pairing.rank.count(far)])
