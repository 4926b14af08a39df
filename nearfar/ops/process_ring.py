"""Processes in a ring: blocks of rows go round, and sums for these follow them home."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from nearfar.errors import ArgumentError

BLOCK, SUMS = 0, 1
"""Tags of what travels, so that messages of one kind are not taken for the other."""


class Ring:
    """The processes of a group; each sends to the next and receives from the one before.

    Args:
        group: the processes; None: all of them, or this one alone where none are joined.
        device: of the tensors that are to travel.

    Raises:
        ArgumentError: this process is not in the group.
    """

    def __init__(self, group: dist.ProcessGroup | None, device: torch.device) -> None:
        joined = dist.is_available() and dist.is_initialized()
        self.group = (group or dist.group.WORLD) if joined else None
        self.rank = dist.get_rank(self.group) if joined else 0
        self.size = dist.get_world_size(self.group) if joined else 1
        if self.rank < 0:
            raise ArgumentError(
                "this process is not in the group: call from the processes of the group alone"
            )
        self.on_cpu_alone = self.size > 1 and dist.get_backend(self.group) == "gloo"
        self._device = torch.device("cpu") if self.on_cpu_alone else device

    def share(self, numbers: Sequence[float]) -> list[list[float]]:
        """The numbers of every process, as many from each, in the order of their ranks."""
        if self.size == 1:
            return [list(numbers)]
        own = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own, group=self.group)
        return torch.stack(parts).tolist()

    def exchange(self, out: Tensor, into: Tensor, tag: int) -> list[dist.Work]:
        """Start to send `out` to the next process and to receive `into` from the one before.

        Neither may be touched until `finish`. An empty message is not sent.
        """
        assert self.group is not None
        after, before = ((self.rank + step) % self.size for step in (1, -1))
        messages = [(dist.isend, out, after), (dist.irecv, into, before)]
        operations = [
            dist.P2POp(operation, tensor, dist.get_global_rank(self.group, peer), self.group, tag)
            for operation, tensor, peer in messages
            if tensor.numel()
        ]
        return dist.batch_isend_irecv(operations) if operations else []

    def lap(self, own: Tensor, lengths: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """The blocks of all processes, this one's own first; the next travels while the caller uses one.

        Args:
            own: this process's block, flat.
            lengths: of the blocks of all processes.

        Yields:
            Whose block, and the block; it is overwritten two turns later.
        """
        spare = [own.new_empty(max(lengths)) for _ in range(min(2, self.size - 1))]
        block = own
        for step in range(self.size):
            owner = (self.rank - step) % self.size
            if step == self.size - 1:
                yield owner, block
                return
            coming = spare[step % 2][: lengths[owner - 1]]
            works = self.exchange(block, coming, BLOCK)
            yield owner, block
            finish(works)
            block = coming


class FollowingSums:
    """What all processes add up for each block, on its way behind the block and at last home.

    A process adds its part while the parts of those before it are still on their way. For every block, in the
    order of `Ring.lap`: `part`, then `pass_on`; after the lap, `home`.

    Args:
        ring: the processes.
        lengths: of the sums for each process's block.
        like: gives their type and device.
        join: adds two: (one, other, out=one).
        empty: the sum of nothing.
    """

    def __init__(
        self, ring: Ring, lengths: Sequence[int], like: Tensor, join: Callable[..., Tensor], empty: float
    ) -> None:
        self.ring, self.lengths, self.join, self.empty = ring, lengths, join, empty
        room = max(lengths)
        self._own, self._sent, self._coming = (
            like.new_empty(room if used else 0) for used in (True, ring.size > 1, ring.size > 1)
        )
        self._works: list[dist.Work] = []

    def part(self, owner: int) -> Tensor:
        """Where to add this process's part for the block of a process: empty sums."""
        return self._own[: self.lengths[owner]].fill_(self.empty)

    def pass_on(self, owner: int) -> None:
        """Join this process's part with those of the processes before it, and send that after the block."""
        if self.ring.size == 1:
            return
        finish(self._works)
        part = self._own[: self.lengths[owner]]
        if owner != self.ring.rank:
            self.join(part, self._coming[: len(part)], out=part)
        self._works = self.ring.exchange(part, self._coming[: self.lengths[owner - 1]], SUMS)
        self._own, self._sent = self._sent, self._own

    def home(self) -> Tensor:
        """The complete sums for this process's own block."""
        finish(self._works)
        arrived = self._own if self.ring.size == 1 else self._coming
        return arrived[: self.lengths[self.ring.rank]]


def finish(works: Sequence[dist.Work]) -> None:
    """Wait until messages have gone out and come in."""
    for work in works:
        work.wait()
