"""Reaching into a model of transformers while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
