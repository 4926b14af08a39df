"""Small models of transformers with new weights, and tokenizers from the user's own texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nearfar.encoders.bytepairs import train_byte_pairs
from nearfar.encoders.wordpiece import train_wordpiece
from nearfar.errors import ArgumentError


def small_bert(
    texts: Sequence[str],
    max_length: int,
    vocabulary: int = 8000,
    layers: int = 3,
    dim: int = 128,
    heads: int = 4,
    ffn: int = 512,
    dropout: float = 0.1,
) -> tuple[Any, Any]:
    """A BERT and its WordPiece tokenizer.

    Args:
        texts: training texts for the tokenizer.
        max_length: tokens that it has positions for.
        vocabulary: most pieces of the tokenizer.
        layers, dim, heads, ffn: the size of the network; `ffn` is the width inside a layer.
        dropout: of embeddings, hidden states and attention weights.

    Raises:
        ArgumentError: there are no texts, or `heads` does not divide `dim`.
    """
    from transformers import BertConfig, BertModel

    _check(texts, dim, heads)
    tokenizer = train_wordpiece(texts, vocabulary, max_length)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=dim,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=ffn,
        max_position_embeddings=max_length,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=tokenizer.pad_token_id,
    )
    return BertModel(config), tokenizer


def small_gpt2(
    texts: Sequence[str],
    max_length: int,
    vocabulary: int = 4000,
    layers: int = 4,
    dim: int = 128,
    heads: int = 4,
    ffn: int = 512,
    dropout: float = 0.1,
) -> tuple[Any, Any]:
    """A GPT-2 with its language head, and its byte-level tokenizer; arguments and errors as `small_bert`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    _check(texts, dim, heads)
    tokenizer = train_byte_pairs(texts, vocabulary, max_length)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=max_length,
        n_embd=dim,
        n_layer=layers,
        n_head=heads,
        n_inner=ffn,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return GPT2LMHeadModel(config), tokenizer


def _check(texts: Sequence[str], dim: int, heads: int) -> None:
    if not texts:
        raise ArgumentError("a tokenizer cannot be trained on no texts: give the texts of the table")
    if dim % heads:
        raise ArgumentError(f"heads={heads} does not divide dim={dim}")
