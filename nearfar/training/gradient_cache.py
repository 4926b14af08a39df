"""Gradients of a contrastive loss over a large batch in the memory of a small one.

Gao, Zhang, Han, Callan. "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup."
RepL4NLP 2021. The loss is a function of the embeddings alone, so its gradient with respect to them can
be had without any encoder graph; each chunk is then encoded again and given its part of that gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Embed = Callable[[dict[str, Any]], dict[str, Tensor]]
Loss = Callable[[dict[str, Tensor]], dict[str, Tensor]]
Backward = Callable[[dict[str, Tensor]], None]


def rows_of(batch: dict[str, Any]) -> int:
    """Number of examples in a prepared batch."""
    first = next(iter(batch.values()))
    return rows_of(first) if isinstance(first, dict) else len(first)


def slice_batch(batch: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """The examples start..stop of a prepared batch, nested inputs included."""
    return {
        role: slice_batch(value, start, stop) if isinstance(value, dict) else value[start:stop]
        for role, value in batch.items()
    }


def chunks(batch: dict[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """Cut a prepared batch into pieces of `size` examples."""
    for start in range(0, rows_of(batch), size):
        yield slice_batch(batch, start, start + size)


class RandomStates:
    """States of the global random generators, to replay forward passes with their dropout masks.

    All have their place from the start: small tensors kept one by one between large ones that are freed would
    hold the memory of both.

    Args:
        count: how many states there will be.
    """

    def __init__(self, count: int) -> None:
        self._cpu = torch.get_rng_state().repeat(count, 1)
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self._cuda = [state.repeat(count, 1) for state in cuda]

    def keep(self, number: int) -> None:
        """Keep the generators' states of now under a number."""
        self._cpu[number] = torch.get_rng_state()
        for device, kept in enumerate(self._cuda):
            kept[number] = torch.cuda.get_rng_state(device)

    def restore(self, number: int) -> None:
        """Set the generators back to the states under a number."""
        torch.set_rng_state(self._cpu[number].clone())  # PyTorch 2.13 crashes on a view into a storage
        for device, kept in enumerate(self._cuda):
            torch.cuda.set_rng_state(kept[number].clone(), device)


def cached_backward(
    embed: Embed,
    loss: Loss,
    batch: dict[str, Any],
    chunk: int,
    backward: Backward,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Accumulate the gradients of loss(embed(batch)) while holding one chunk's graph at a time.

    Equal to embedding chunk by chunk with all graphs kept: the random state of each chunk's first
    pass is replayed in its second.

    Args:
        embed: prepared batch -> embeddings, each [B, ...].
        loss: embeddings of the whole batch -> named scalar terms.
        batch: the prepared batch of B examples.
        chunk: examples per piece.
        backward: runs the backward pass of the terms that `loss` returned.

    Returns:
        The loss terms and the embeddings, both detached.
    """
    pieces = list(chunks(batch, chunk))
    states = RandomStates(len(pieces) + 1)
    z: dict[str, Tensor] = {}
    with torch.no_grad():
        for number, piece in enumerate(pieces):
            states.keep(number)
            for name, part in embed(piece).items():
                if name not in z:  # one place for all, as for the states
                    z[name] = part.new_empty((rows_of(batch), *part.shape[1:]))
                z[name][number * chunk : number * chunk + len(part)] = part
    z = {name: value.requires_grad_(value.is_floating_point()) for name, value in z.items()}
    states.keep(len(pieces))
    terms = loss(z)
    backward(terms)
    for number, piece in enumerate(pieces):
        states.restore(number)
        again = embed(piece)
        rows = slice(number * chunk, number * chunk + rows_of(piece))
        pairs = []
        for name, value in again.items():
            gradient = z[name].grad
            if value.requires_grad and gradient is not None:
                pairs.append((value, gradient[rows]))
        if pairs:
            # Not through `backward`: the cached gradient already carries a scaler's factor.
            torch.autograd.backward([value for value, _ in pairs], [gradient for _, gradient in pairs])
    states.restore(len(pieces))
    return (
        {name: term.detach() for name, term in terms.items()},
        {name: value.detach() for name, value in z.items()},
    )
