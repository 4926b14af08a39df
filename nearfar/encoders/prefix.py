"""Text encoders with a deep soft prompt: learned keys and values that every layer attends to as well."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from nearfar.encoders.encoder import Features
from nearfar.encoders.masked import MaskedText
from nearfar.encoders.pretrained import first_position, position_limit
from nearfar.encoders.text import UNSAID_LENGTH, TransformerText
from nearfar.errors import ArgumentError

PROMPT = "prompt.safetensors"
"""The file of the prompt, beside the weights of the encoder."""
_ATTENTION = "nearfar_prefix"
"""The name under which transformers knows attention with a prompt."""
_LAYERS: ContextVar[Iterator[tuple[Tensor, Tensor]]] = ContextVar("keys and values of the layers to come")


class Prompt(nn.Module):
    """P learned positions for each layer: keys and values [layers, 2, heads, P, d / heads], with dropout."""

    def __init__(self, layers: int, heads: int, length: int, dim: int, dropout: float) -> None:
        super().__init__()
        # 0.02 is the scale at which models of the BERT family, the release's prompt included, start.
        self.states = nn.Parameter(torch.randn(layers, 2, heads, length, dim // heads) * 0.02)
        self.dropout = nn.Dropout(dropout)
        self._flag()

    def _flag(self) -> None:
        self.states.no_weight_decay = True  # type: ignore[attr-defined]  # states, as a bias is, and no map

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._flag()  # a copied parameter loses its attributes

    def forward(self, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys and values of every layer in turn, each [rows, heads, P, d / heads] under dropout of its own."""
        for layer in self.states:
            keys, values = self.dropout(layer.unsqueeze(1).expand(-1, rows, -1, -1, -1))
            yield keys, values


class PrefixText(TransformerText):
    """A text encoder whose layers all attend to a learned prompt before the tokens of the text.

    Layer l computes attention(Q, [K_l; K], [V_l; V]) with a prompt K_l, V_l of P positions that every text sees.
    The prompt has no tokens: states, mask and pooling are those of the text, whose positions count from P.

    Li, Liang. "Prefix-Tuning: Optimizing Continuous Prompts for Generation." ACL 2021, and Liu et al. "P-Tuning
    v2." ACL 2022, for encoders. Their reparameterisation by a small network is not offered.

    Args:
        model: a bidirectional model of transformers whose attention can be replaced.
        tokenizer: its fast tokenizer.
        pooling: a kind of `nearfar.heads.pool.pool`.
        max_length: tokens kept of a text; fewer where prompt and text together have no positions for so many.
        normalise: whether `pooled` is scaled to length 1.
        prompt_length: P.

    Raises:
        ArgumentError: the prompt does not reach every layer of this architecture or leaves no room for texts, or as
            `TransformerText`.
    """

    beside = {"prompt": PROMPT}

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        pooling: str = "mean",
        max_length: int = UNSAID_LENGTH,
        normalise: bool = False,
        prompt_length: int = 16,
    ) -> None:
        if prompt_length < 1:
            raise ArgumentError(f"prompt_length must be at least 1, got {prompt_length}")
        self.prompt_length = prompt_length  # read by `set_max_length`, which is called next
        super().__init__(model, tokenizer, pooling, max_length, normalise)
        config = model.config
        dropout = getattr(config, "hidden_dropout_prob", getattr(config, "dropout", 0.1))  # of DistilBERT
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        self.prompt = Prompt(layers, heads, prompt_length, self.dim, dropout).to(model.device)
        self._require_reach()

    @classmethod
    def around(cls, encoder: TransformerText, prompt_length: int) -> Self:
        """An encoder with a new prompt; it shares the weights. One that has a prompt already is given back.

        Raises:
            ArgumentError: it has a prompt of another length, is of a class that embeds in another way, or as above.
        """
        if isinstance(encoder, cls):
            if encoder.prompt_length != prompt_length:
                raise ArgumentError(
                    f"the encoder has a prompt of {encoder.prompt_length} positions, not {prompt_length}: give that "
                    "length, or the encoder that it was trained on"
                )
            return encoder
        if type(encoder) not in (TransformerText, MaskedText):
            raise ArgumentError(
                f"{type(encoder).__name__} cannot be given a prompt, since it embeds in a way of its own: give a plain "
                "encoder of texts, such as the one that it was made of"
            )
        own = (encoder.pooling, encoder.max_length, encoder.normalise)
        made = cls(encoder.model, encoder.tokenizer, *own, prompt_length=prompt_length)
        made.pooling_is_own = encoder.pooling_is_own
        return made.train(encoder.training)

    def set_max_length(self, max_length: int) -> None:
        """Keep `max_length` tokens of every text, or as many as the prompt leaves positions for.

        Raises:
            ArgumentError: that is fewer than 3.
        """
        limit = position_limit(self.model)
        room = max_length if limit is None else min(max_length, limit - self.prompt_length)
        if limit is not None and limit - self.prompt_length < 3:
            raise ArgumentError(
                f"prompt_length={self.prompt_length}: of the {limit} positions of this model, it must leave 3 for texts"
            )
        super().set_max_length(room)

    def _places(self, ids: Tensor, mask: Tensor | None) -> dict[str, Any]:
        start = self.prompt_length + first_position(self.model)
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        return {**super()._places(ids, mask), "position_ids": positions.unsqueeze(0)}

    def _at_once(self, ids: Tensor, given: Tensor | None, layers: bool, attention: bool) -> Features:
        if attention:
            raise ArgumentError("an encoder with a prompt does not return attention weights")
        with _attended(self.model, self.prompt(len(ids))):
            return super()._at_once(ids, given, layers, attention)

    @torch.no_grad()
    def _require_reach(self) -> None:
        """Refuse a model whose output does not depend on the prompt of every layer, or that takes no positions."""
        name, training = type(self.model).__name__, self.model.training
        problem = f"{name} cannot be given a prompt: "
        if "position_ids" not in inspect.signature(self.trunk.forward).parameters:
            raise ArgumentError(problem + "it takes no numbers of positions")
        ids = torch.full((1, 3), int(self.tokenizer.cls_token_id or 0), device=self.prompt.states.device)
        reached = []
        try:
            self.eval()
            usual = self._at_once(ids, None, False, False).tokens
            for layer in self.prompt.states:
                layer.neg_()
                reached.append(not torch.equal(self._at_once(ids, None, False, False).tokens, usual))
                layer.neg_()
        except (RuntimeError, StopIteration, TypeError, ValueError) as failed:
            raise ArgumentError(problem + str(failed)) from failed
        finally:
            self.train(training)
        if not all(reached):
            raise ArgumentError(problem + "its attention cannot be replaced in every layer")

    def settings(self) -> dict[str, Any]:
        """Those of the encoder, and the length of the prompt."""
        return {**super().settings(), "prompt_length": self.prompt_length}

    def _write_for_others(self, folder: Path) -> None:
        """Nothing: sentence-transformers would embed without the prompt."""


@contextmanager
def _attended(model: Any, layers: Iterator[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Let the layers of a model, in order, attend to these keys and values as well."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_ATTENTION, _attend)
    AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
    usual, token = model.config._attn_implementation, _LAYERS.set(layers)
    model.set_attn_implementation(_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)
        _LAYERS.reset(token)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer in the form that transformers asks for; mask [B, 1, L, L], True or 0 where it looks."""
    if getattr(module, "is_causal", False) or rest.get("position_bias") is not None:
        raise ArgumentError("its attention is causal, or depends on distances between tokens")
    more_keys, more_values = next(_LAYERS.get())
    if attention_mask is not None:
        seen = True if attention_mask.dtype == torch.bool else 0.0
        attention_mask = functional.pad(attention_mask, (more_keys.shape[2], 0), value=seen)
    mixed = functional.scaled_dot_product_attention(
        query,
        torch.cat([more_keys.to(key.dtype), key], dim=2),
        torch.cat([more_values.to(value.dtype), value], dim=2),
        attn_mask=attention_mask,
        dropout_p=dropout,
        scale=scaling,
    )
    return mixed.transpose(1, 2).contiguous(), None
