"""Views of texts inside an encoder: what `TransformerText.forward(edit=...)` makes of embeddings of tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nearfar.errors import ArgumentError, check_between

Latent = Callable[[Tensor, Tensor, float, torch.Generator | None], Tensor]
"""States [B, L, d], mask [B, L], rate, generator -> changed states."""


def latent_edit(
    name: str, rate: float, mask: Tensor, generator: torch.Generator | None = None
) -> Callable[[Tensor], Tensor]:
    """What to make of embeddings of tokens [B, L, d] before the first layer reads them. By name:

    - token-cutoff: a share of tokens is set to 0; span-cutoff: one span of that share is;
      feature-cutoff: a share of the d features is, in all tokens of a text.
    - noise: normal noise is added, `rate` times the root mean square of the text's states.
    - mixup: (1 - rate) of the text and `rate` of another of the batch (of the chunk, under gradient caching; a
      chunk of one text stays as it is), which is the same for the whole text; each text is mixed into one other.

    The first token, which may be pooled, and padding stay in both cutoffs of tokens.

    Shen et al. "A Simple but Tough-to-Beat Data Augmentation Approach for Natural Language Understanding and
    Generation." arXiv 2020 (cutoff); Zhang et al. "mixup." ICLR 2018. Adversarial noise is not offered.

    Args:
        name: of `LATENT`.
        rate: see above, in [0, 1].
        mask: True where there is a token, [B, L].
        generator: all randomness, on the device of the mask; None: the global one, as of dropout.

    Raises:
        ArgumentError: an unknown name, or a rate out of range.
    """
    if name not in LATENT:
        raise ArgumentError(f"there is no latent view {name!r}; there are {', '.join(LATENT)}")
    check_between(0, 1, rate=rate)
    return lambda states: LATENT[name](states, mask, rate, generator)


def _uniform(*shape: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(*shape, generator=generator, device=like.device)


def _inner(mask: Tensor) -> Tensor:
    """Tokens that may be cut off: all but the first."""
    return mask & (torch.arange(mask.shape[1], device=mask.device) > 0)


def _token_cutoff(states: Tensor, mask: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    cut = (_uniform(*mask.shape, like=states, generator=generator) < rate) & _inner(mask)
    return states.masked_fill(cut.unsqueeze(-1), 0)


def _span_cutoff(states: Tensor, mask: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    n = _inner(mask).sum(dim=1, keepdim=True)
    draws = _uniform(2, len(mask), 1, like=states, generator=generator)
    length = (rate * n + draws[0]).floor()
    start = 1 + (draws[1] * (n - length + 1).clamp(min=1)).floor()
    places = torch.arange(mask.shape[1], device=mask.device)
    cut = (places >= start) & (places < start + length) & _inner(mask)
    return states.masked_fill(cut.unsqueeze(-1), 0)


def _feature_cutoff(states: Tensor, mask: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    cut = _uniform(len(states), 1, states.shape[2], like=states, generator=generator) < rate
    return states.masked_fill(cut, 0)


def _noise(states: Tensor, mask: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    there = mask.unsqueeze(-1)
    squares = (states.detach().square() * there).sum(dim=(1, 2)) / (mask.sum(dim=1) * states.shape[2])
    drawn = torch.randn(states.shape, generator=generator, device=states.device, dtype=states.dtype)
    return states + rate * squares.sqrt().view(-1, 1, 1) * drawn * there


def _mixup(states: Tensor, mask: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    # A turn of a random order: nobody is its own partner where there are two texts or more.
    order = torch.randperm(len(states), generator=generator, device=states.device)
    partner = torch.empty_like(order).scatter(0, order, order.roll(1))
    shared = (mask & mask[partner]).unsqueeze(-1)
    return torch.where(shared, torch.lerp(states, states[partner], rate), states)


LATENT: dict[str, Latent] = {
    "token-cutoff": _token_cutoff,
    "span-cutoff": _span_cutoff,
    "feature-cutoff": _feature_cutoff,
    "noise": _noise,
    "mixup": _mixup,
}
"""The latent views by name."""
