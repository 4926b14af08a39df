"""Hiding tokens of a text."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.encoders.masked import MaskedText
from nearfar.heads.language import IGNORED


def mask_tokens(
    ids: Tensor,
    maskable: Tensor,
    *,
    share: float,
    mask_id: int,
    vocabulary: int,
    generator: torch.Generator,
    split: tuple[float, float, float] = (0.8, 0.1, 0.1),
) -> tuple[Tensor, Tensor]:
    """Choose positions at random and hide what stands there.

    Devlin et al. "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding." NAACL
    2019: of the chosen positions 80% become the mask token, 10% a random token, 10% stay.

    Args:
        ids: token numbers [B, L].
        maskable: True where a token may be chosen (no padding, no special token), [B, L].
        share: probability of being chosen.
        mask_id: number of the mask token.
        vocabulary: random tokens are drawn from 0..vocabulary-1.
        generator: all randomness.
        split: shares of masked, random and kept among the chosen.

    Returns:
        The hidden ids [B, L], and labels [B, L]: the original token where chosen, -100 elsewhere.
    """
    chosen = (torch.rand(ids.shape, generator=generator) < share) & maskable
    fate = torch.rand(ids.shape, generator=generator)
    random = torch.randint(vocabulary, ids.shape, generator=generator)
    hidden = torch.where(chosen & (fate < split[0]), torch.full_like(ids, mask_id), ids)
    hidden = torch.where(chosen & (fate >= split[0]) & (fate < split[0] + split[1]), random, hidden)
    return hidden, torch.where(chosen, ids, torch.full_like(ids, IGNORED))


def hide_tokens(
    encoder: MaskedText, inputs: dict[str, Tensor], share: float, generator: torch.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Hide tokens of prepared texts, as `mask_tokens`; special tokens and padding are never chosen.

    Args:
        encoder: whose mask token and vocabulary are used.
        inputs: what its `prepare` returned for B texts.
        share: probability of being chosen.
        generator: all randomness.

    Returns:
        The inputs with hidden ids, and labels [B, L]: the original token where chosen, -100 elsewhere.
    """
    ids, labels = mask_tokens(
        inputs["ids"],
        inputs["mask"] & ~torch.isin(inputs["ids"], encoder.special_ids),
        share=share,
        mask_id=encoder.tokenizer.mask_token_id,
        vocabulary=len(encoder.head.bias),
        generator=generator,
    )
    return {**inputs, "ids": ids}, labels
