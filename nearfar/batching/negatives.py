"""Negatives drawn from the sequence that an anchor stands in."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.errors import ArgumentError


def same_sequence(counts: Tensor, n: int) -> Tensor:
    """For each position, itself and n others of its own sequence, for `Pairing.sampled`.

    Others are drawn uniformly and with replacement, never the position itself: a number in [0, T - 2], moved
    up by one from the position on. Draws from the global random state, on the device of `counts`.

    Args:
        counts: positions T of each of B sequences, [B]; positions are numbered through all sequences.
        n: K, others of each position.

    Returns:
        Numbers of positions, int64 [sum T, 1 + K]; the first of a row is the position itself.

    Raises:
        ArgumentError: a sequence of one position, which has no other.
    """
    if bool((counts == 1).any()):
        row = int((counts == 1).nonzero()[0])
        raise ArgumentError(f"sequence {row + 1} has one position: there is no other to be far from")
    start = (counts.cumsum(0) - counts).repeat_interleave(counts)
    others = (counts - 1).repeat_interleave(counts)
    own = torch.arange(len(start), device=counts.device) - start
    drawn = (torch.rand(len(start), n, device=counts.device) * others[:, None]).long()
    drawn = drawn.clamp(max=others[:, None] - 1)  # a draw of almost 1 may round up
    drawn += drawn >= own[:, None]
    return torch.cat([own[:, None], drawn], dim=1) + start[:, None]
