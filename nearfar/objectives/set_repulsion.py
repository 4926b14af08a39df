"""Sets of examples that push each other away, with nothing that pulls."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.geometry import unit_rows
from nearfar.objectives.inputs import check_temperature
from nearfar.ops.pair_sums import log_sum_exp_pairs


def set_repulsion(z: Tensor, sets: Tensor, *, temperature: float) -> Tensor:
    """Sum over the sets of the log-sum of exponentiated cosines between a set and all that is outside of it:

        loss = sum_i log sum_{x in S_i} sum_{y not in S_i} exp(cos(x, y) / t)

    A pair of one set takes no part, and has exactly zero gradient. It is no `Pairing` of `info_nce`: no pair is
    near, and the logarithm stands before the sum over a set's rows, not before that of one row. In tiles, without
    a B x B matrix; there are no second derivatives. Rows are scaled to length one here.

    Liu. "SetCSE: Set Operations using Contrastive Learning of Sentence Embeddings." ICLR 2024, the inter-set loss
    (reconstructed from memory, not checked against the paper's equation).

    Args:
        z: [B, d], the rows of all sets.
        sets: integers [B], which set a row is of.
        temperature: t, above 0.

    Raises:
        ArgumentError: fewer than two sets, shapes do not fit, a row is zero or not finite, or t is not above 0.
    """
    check_temperature(temperature)
    if z.ndim != 2 or sets.shape != z.shape[:1]:
        raise ArgumentError(
            f"set_repulsion needs rows [B, d] and one set for each, got {list(z.shape)} and {list(sets.shape)}"
        )
    names = sets.unique()
    if len(names) < 2:
        raise ArgumentError(
            f"all {len(z)} rows are of one set: there is none to be pushed away from. Use larger batches, best "
            "all rows of all sets at once"
        )
    z = unit_rows(z, "z")
    terms = []
    for name in names:
        inside = sets == name
        terms.append(log_sum_exp_pairs(z[inside] / temperature, z[~inside], bound=1 / temperature))
    return torch.stack(terms).sum()
