"""Causal language models as encoders: token states, logits of the next token, and steps of decoding."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from nearfar.encoders.from_scratch import small_gpt2
from nearfar.encoders.gguf import gguf_file, read_gguf
from nearfar.encoders.pretrained import load_model, model_folder, position_limit
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArtefactError
from nearfar.files import read_json

READ = 256
"""Tokens kept of a text where nobody says otherwise: what language models take as limit is seldom affordable."""
_HEADS = ("ForCausalLM", "LMHeadModel")
"""How transformers names its causal language models."""


class CausalText(TransformerText):
    """A causal language model: a text encoder that also predicts the next token.

    `model` is the whole of it; `trunk`, without the head over the vocabulary, encodes texts as any other. Token
    states are those after the last norm, which the head reads. It brings no decoding settings of its own:
    what a folder says of temperatures and penalties is left out, so that a decoder does what its name says.

    Args:
        model: a causal language model of transformers, in whole.
        tokenizer: its fast tokenizer.
        pooling: a kind of `nearfar.heads.pool.pool`.
        max_length: tokens kept of a text that is read.
        normalise: whether `pooled` is scaled to length 1.

    Attributes:
        end_ids: tokens that end a text; empty where the model has none.
        pad_id: fills what is no text; never looked at, since masks come from lengths.
    """

    pooling_is_own = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        pooling: str = "mean",
        max_length: int = READ,
        normalise: bool = False,
    ) -> None:
        from transformers import GenerationConfig

        super().__init__(model, tokenizer, pooling, max_length, normalise)
        said = model.generation_config.eos_token_id if model.generation_config else None
        ends = tokenizer.eos_token_id if said is None else said
        self.end_ids: list[int] = [ends] if isinstance(ends, int) else list(ends or [])
        self.pad_id = self._pad_id
        model.generation_config = GenerationConfig(
            eos_token_id=self.end_ids or None, pad_token_id=self.pad_id
        )
        self._takes = set(inspect.signature(model.forward).parameters)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, pooling: str | None = None, max_length: int | None = None
    ) -> Self:
        """Read a language model from a folder, a GGUF file, the hub, or the package that ships "smollm2".

        Args:
            name: a folder, a file that ends in .gguf, "smollm2", or the name of a model on the hub.
            pooling: overrides what the folder says; "mean" where it says nothing.
            max_length: tokens kept of a text; None keeps `READ`, or fewer where the model takes fewer.

        Raises:
            ArgumentError: nothing of that name can be found, or an argument does not fit the model.
            ArtefactError: it is broken, needs pickle or its own code, or is no causal language model.
        """
        file = gguf_file(name)
        if file is None:
            folder = model_folder(name)
            found = _architectures(folder)
            if not any(architecture.endswith(_HEADS) for architecture in found):
                raise ArtefactError(
                    f"{name} is no causal language model: its architecture is {', '.join(found) or 'not named'}"
                )
            encoder = super().from_pretrained(folder, pooling, max_length)
        else:
            encoder = cls(*read_gguf(file), pooling=pooling or "mean", max_length=max_length or READ)
        if max_length is None:
            encoder.set_max_length(min(position_limit(encoder.model) or READ, READ))
        encoder.pooling_is_own = True
        _require_causal(encoder, str(name))
        return encoder.eval()

    @classmethod
    def tiny(cls, texts: Sequence[str], max_length: int = READ, **size: Any) -> Self:
        """A small GPT-2 from scratch, with a byte-level tokenizer trained on `texts` and nothing else.

        Args:
            texts: training texts for the tokenizer.
            max_length: tokens that it has positions for, so prompt and continuation together.
            size: of vocabulary and network, as `nearfar.encoders.from_scratch.small_gpt2` takes it.

        Raises:
            ArgumentError: there are no texts, or the sizes do not fit each other.
        """
        return cls(*small_gpt2(texts, max_length, **size), max_length=max_length)

    @staticmethod
    def read_model(folder: Path) -> Any:
        """The model of a folder that `refuse_code` let pass, with its head."""
        return load_model(folder, causal=True)

    @property
    def trunk(self) -> Any:
        """What maps token numbers to hidden states after the last norm."""
        return self.model.base_model

    def prepare_ended(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`prepare` for learning to predict: a text that was not cut off is followed by the end token."""
        ids = self._split(texts)
        if self.end_ids:
            ids = [row if len(row) == self.max_length else [*row, self.end_ids[0]] for row in ids]
        return self.stack(ids)

    def stack(self, ids: list[list[int]]) -> dict[str, Tensor]:
        """What `prepare` makes of texts, of token numbers."""
        return self._stack(ids, with_mask=True)

    def predict(self, inputs: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Token states of every layer, each [B, L, d], the last after the last norm; logits of the next token.

        Args:
            inputs: what `prepare` returned.
        """
        out = self.model(
            input_ids=inputs["ids"], attention_mask=inputs["mask"], output_hidden_states=True, use_cache=False
        )
        return out.hidden_states, out.logits

    def step(self, ids: Tensor, mask: Tensor, cache: Any = None) -> tuple[Tensor, Tensor, Any]:
        """Read on: some more tokens of texts whose past is in `cache`.

        Args:
            ids: token numbers, int64 [B, l], padded on the left.
            mask: True where there is a token, of past and present together, [B, T].
            cache: what the last step returned; None at the first.

        Returns:
            Token states after the last norm [B, l, d], logits of the next token [B, V], and the cache.
        """
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        wanted = {"position_ids": positions[:, -ids.shape[1] :], "logits_to_keep": 1}
        out = self.model(
            input_ids=ids,
            attention_mask=mask.long(),
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=True,
            **{name: value for name, value in wanted.items() if name in self._takes},
        )
        return out.hidden_states[-1], out.logits[:, -1].float(), out.past_key_values

    @contextmanager
    def reading(self) -> Iterator[torch.device]:
        """Evaluation mode without gradient, for texts that do not count as read; gives the model's device."""
        was_training, counts = self.training, (self.seen, self.truncated)
        self.eval()
        try:
            with torch.inference_mode():
                yield next(self.parameters()).device
        finally:
            self.train(was_training)
            self.seen, self.truncated = counts

    def split_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token numbers of each prompt, in whole: `max_length` is for texts that are read.

        Raises:
            ArgumentError: a prompt is no text, or has no token.
        """
        self._splitter.no_truncation()
        try:
            with self.reading():
                return self._split(prompts)
        finally:
            self.set_max_length(self.max_length)


def is_causal(spec: str) -> bool:
    """Whether a specification of a text encoder means a causal language model: a GGUF file, or a plain folder
    of transformers (or of the hub) whose architecture is one."""
    if gguf_file(spec) is not None:
        return True
    folder = model_folder(spec)
    named = any(name.endswith(_HEADS) for name in _architectures(folder))
    return named and not (folder / "modules.json").is_file()


def _architectures(folder: Path) -> list[str]:
    config = folder / "config.json"
    said = read_json(config) if config.is_file() else None
    return [str(name) for name in (said.get("architectures") if isinstance(said, dict) else None) or []]


@torch.inference_mode()
def _require_causal(encoder: CausalText, name: str) -> None:
    # transformers also makes a language model of a bidirectional encoder, without a word.
    token = int(encoder.model.config.vocab_size) - 1
    one, two = (
        encoder.trunk(input_ids=torch.tensor([[0, last]])).last_hidden_state[0, 0] for last in (0, token)
    )
    if not torch.allclose(one, two, rtol=1e-3, atol=1e-4):
        raise ArtefactError(
            f"{name} is no causal language model: what it makes of a token depends on those that come after"
        )
