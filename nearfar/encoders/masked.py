"""Masked language models as encoders: token states, and logits of the tokens that were hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from nearfar.encoders.pretrained import model_folder
from nearfar.encoders.text import UNSAID_LENGTH, TransformerText
from nearfar.errors import ArgumentError
from nearfar.heads.language import IGNORED, MLMHead

HEAD = "language-head.safetensors"
"""The file of the head over the vocabulary, beside the weights of the encoder."""
_LAYOUTS = (
    ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
    ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
)
"""Where checkpoints keep the head's map, norm and bias: the families of BERT, RoBERTa and DistilBERT."""

_OLD_NAMES = {"gamma": "weight", "beta": "bias"}
"""What older checkpoints of BERT's family call the parameters of a norm -> what they are called now."""


class MaskedText(TransformerText):
    """A text encoder that also predicts hidden tokens, with its input embeddings as output matrix.

    Args:
        model: a model of transformers that maps token numbers to hidden states.
        tokenizer: its fast tokenizer, with a mask token.
        pooling: a kind of `nearfar.heads.pool.pool`.
        max_length: tokens kept of a text, special tokens included.
        normalise: whether `pooled` is scaled to length 1.
        head_is_trained: whether the head has been trained, or is as it was made.

    Raises:
        ArgumentError: the tokenizer has no mask token, the model's states are not as wide as its input embeddings, or
            as `TransformerText`.
    """

    beside = {"head": HEAD}

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        pooling: str = "mean",
        max_length: int = UNSAID_LENGTH,
        normalise: bool = False,
        head_is_trained: bool = False,
    ) -> None:
        super().__init__(model, tokenizer, pooling, max_length, normalise)
        if tokenizer.mask_token_id is None:
            raise ArgumentError("a masked language model needs a tokenizer that has a mask token")
        words = model.get_input_embeddings()
        if words.embedding_dim != self.dim:
            raise ArgumentError(
                f"the model's input embeddings are {words.embedding_dim} wide and its hidden states {self.dim}, as in "
                "ALBERT and small ELECTRA: the head over the vocabulary needs one width for both. Give an encoder of "
                "BERT's, RoBERTa's or DistilBERT's kind"
            )
        eps = float(getattr(model.config, "layer_norm_eps", 1e-12))  # DistilBERT does not say
        self.head = MLMHead(words.embedding_dim, words.num_embeddings, eps)
        self.head_is_trained = head_is_trained
        self.special_ids = torch.tensor(sorted(tokenizer.all_special_ids))

    @classmethod
    def from_pretrained(
        cls, name: str | Path, pooling: str | None = None, max_length: int | None = None
    ) -> Self:
        """Read a model as `TransformerText` does, with its head over the vocabulary where it has one.

        The heads of the families of BERT, RoBERTa and DistilBERT are known; other models, and those whose head
        was not kept, get a new one.
        """
        encoder = super().from_pretrained(name, pooling, max_length)
        if getattr(encoder.model.config, "tie_word_embeddings", True):
            encoder.head_is_trained = _read_head(model_folder(name), encoder.head)
        return encoder

    def predict(self, states: Tensor) -> Tensor:
        """Logits over the vocabulary [..., V] of hidden states [..., d]."""
        return self.head(states, self.model.get_input_embeddings().weight)

    def recovery(self, states: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy of the tokens that were hidden; 0 where none was.

        Args:
            states: of the last layer [B, L, d].
            labels: the token where one was hidden, -100 elsewhere [B, L].
        """
        chosen = labels != IGNORED
        if not bool(chosen.any()):  # very short texts: nothing was drawn in the whole batch
            return self.head.bias.sum() * 0
        return functional.cross_entropy(self.predict(states[chosen]), labels[chosen])

    def require_trained_head(self, method: str) -> None:
        """Refuse a head that has not learned to predict words.

        Raises:
            ArgumentError: it is as it was made; says how to train one.
        """
        if not self.head_is_trained:
            raise ArgumentError(
                f"{method} needs a masked language model whose head is trained: give one with --encoder, such as a "
                "folder of BERT's kind, or train one by `nearfar fit mlm TABLE --encoder tiny --out FOLDER` and give "
                "FOLDER"
            )

    @classmethod
    def around(cls, encoder: TransformerText) -> Self:
        """The encoder with a new head over the vocabulary; it shares the weights."""
        made = cls(encoder.model, encoder.tokenizer, encoder.pooling, encoder.max_length, encoder.normalise)
        made.pooling_is_own, made.pretrained = encoder.pooling_is_own, encoder.pretrained
        return made.train(encoder.training)

    def plain(self) -> TransformerText:
        """The encoder without the head over the vocabulary; it shares the weights."""
        plain = TransformerText(self.model, self.tokenizer, self.pooling, self.max_length, self.normalise)
        plain.pooling_is_own, plain.pretrained = self.pooling_is_own, self.pretrained
        return plain.train(self.training)

    def settings(self) -> dict[str, Any]:
        """Those of the encoder, whether the head is trained, and whether a pooling was ever chosen."""
        # Predicting hidden tokens trains no pooling: what is trained next may still choose its own.
        own = {"head_is_trained": self.head_is_trained, "pooling_is_own": self.pooling_is_own}
        return {**super().settings(), **own}


def _read_head(folder: Path, head: MLMHead) -> bool:
    """Copy the head of a checkpoint into `head`, if it has one that fits."""
    from safetensors import safe_open

    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for dense, norm, bias in _LAYOUTS:
                places = {dense: "dense", norm: "norm", bias.removesuffix(".bias"): ""}
                for key in tensors.keys():  # noqa: SIM118 (no mapping)
                    owner, _, last = key.rpartition(".")
                    last = _OLD_NAMES.get(last, last)
                    if owner in places and (places[owner] or key == bias):
                        found[f"{places[owner]}.{last}".lstrip(".")] = tensors.get_tensor(key).float()
    own = head.state_dict()
    fits = found.keys() == own.keys() and all(found[name].shape == own[name].shape for name in own)
    if fits:
        head.load_state_dict(found)
    return fits
