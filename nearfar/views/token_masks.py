"""Hiding tokens of a text, and replacing them."""

from __future__ import annotations

from typing import Literal

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


@torch.no_grad()
def replace_tokens(
    mlm: MaskedText,
    inputs: dict[str, Tensor],
    hidden: Tensor,
    where: Tensor,
    how: Literal["argmax", "sample"] = "argmax",
) -> tuple[Tensor, Tensor]:
    """Put what a masked language model predicts in the place of tokens. Nothing gets a gradient.

    Clark et al. "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators." ICLR 2020. A
    prediction may be the token that stood there, and one that was not hidden may be predicted as another: so
    labels come from comparing ids, never from what was hidden.

    Args:
        mlm: the generator, in the mode (with dropout or without) that it is in.
        inputs: what its `prepare` returned for B texts: "ids" and "mask".
        hidden: the same ids with tokens hidden, which it reads [B, L].
        where: True where its prediction is taken [B, L].
        how: the likeliest token, or one drawn, from the global random state.

    Returns:
        Ids [B, L], and True where they differ from those of the inputs [B, L].
    """
    logits = mlm.predict(mlm({**inputs, "ids": hidden}).tokens[where])
    found = logits.argmax(-1) if how == "argmax" else logits.softmax(-1).multinomial(1).squeeze(1)
    ids = inputs["ids"].masked_scatter(where, found)
    return ids, ids != inputs["ids"]
