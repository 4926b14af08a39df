"""Reaching into a model of transformers while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import ArgumentError


@contextmanager
def attention_weights(model: Any) -> Iterator[None]:
    """Let a model compute attention in a way that can return its weights."""
    # The fused kernels never have the weights as a matrix.
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


@contextmanager
def edited_embeddings(model: Any, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let the first layer read `edit` of what the embedding layer gives, [B, L, d].

    Raises:
        ArgumentError: the model's embedding layer is not where those of encoders are.
    """
    embeddings = getattr(model, "embeddings", None)
    if not isinstance(embeddings, nn.Module):
        raise ArgumentError(
            f"the embedding layer of {type(model).__name__} cannot be edited: it is not named `embeddings`"
        )
    hook = embeddings.register_forward_hook(lambda _, __, states: edit(states))
    try:
        yield
    finally:
        hook.remove()


def first_place(vectors: Tensor) -> Callable[[Tensor], Tensor]:
    """An edit that puts a vector of its own [B, d] in the first place of every text; the others stay as they are.

    Chuang et al. "DiffCSE: Difference-based Contrastive Learning for Sentence Embeddings." NAACL 2022: so a text is
    read under the condition of a vector.
    """
    return lambda states: torch.cat([vectors.unsqueeze(1).to(states.dtype), states[:, 1:]], dim=1)
