"""One more token for a text encoder that is already made."""

from __future__ import annotations

import torch
from torch import nn

from nearfar.encoders.masked import MaskedText
from nearfar.encoders.text import TransformerText


def add_token(encoder: TransformerText, token: str) -> int:
    """Give an encoder a special token with an embedding of its own, which is saved with it.

    The embedding starts as the mean of all others. A head over the vocabulary gets a bias of 0 for it. Optimisers
    must be made afterwards: the matrix of embeddings is another one.

    Args:
        encoder: changed in place; its tokenizer too.
        token: such as "[DEL]".

    Returns:
        The number of the token; that of the one there was, where the encoder had it already.
    """
    tokenizer = encoder.tokenizer
    known = tokenizer.get_vocab().get(token)
    if known is not None:
        return int(known)
    tokenizer.add_tokens([token], special_tokens=True)
    encoder._splitter.add_special_tokens([token])  # a copy: texts are split alike before and after saving
    number = int(tokenizer.convert_tokens_to_ids(token))
    words = encoder.model.get_input_embeddings().weight.detach()
    mean = words.mean(dim=0)
    if number >= len(words):  # some models have spare rows
        encoder.model.resize_token_embeddings(number + 1, mean_resizing=False)
    with torch.no_grad():
        encoder.model.get_input_embeddings().weight[number] = mean
    if isinstance(encoder, MaskedText):
        bias = encoder.head.bias.detach()
        rows = encoder.model.get_input_embeddings().num_embeddings
        encoder.head.bias = nn.Parameter(torch.cat([bias, bias.new_zeros(rows - len(bias))]))
    return number
