"""Texts in a prompt, whose mask token holds the embedding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from nearfar.encoders.pretrained import position_limit
from nearfar.encoders.text import UNSAID_LENGTH, TransformerText
from nearfar.errors import ArgumentError

TEMPLATE = '"[X]" means [MASK].'
"""[X] is the text, [MASK] the mask token of the tokenizer, whatever its name."""


class Prompt(NamedTuple):
    """A template as token numbers.

    Attributes:
        before: between the special tokens that begin a text and the text.
        after: between the text and the special tokens that end it.
        start: special tokens that begin a text.
        end: special tokens that end it.
        behind: tokens that come after the mask token, the last special ones included.
    """

    before: list[int]
    after: list[int]
    start: int
    end: int
    behind: int

    @property
    def length(self) -> int:
        """Tokens that a text gains."""
        return len(self.before) + len(self.after)


class PromptedText(TransformerText):
    """A text encoder that puts every text into a prompt and pools the last state of the prompt's mask token.

        "[X]" means [MASK].

    A text is cut to `max_length` tokens first and put into the prompt after that, so the prompt is always whole.
    The parts of the template are tokenised by themselves, once. A mask token inside a text is read like any other
    word: the one that counts is found by its place.

    The layout of sentence-transformers has no such pooling: what `save` writes is a plain folder of transformers
    for others, which know nothing of the prompt, and an encoder with its prompt for nearfar.

    Jiang et al. "PromptBERT: Improving BERT Sentence Embeddings with Prompts." EMNLP 2022.

    Args:
        model: a model of transformers that maps token numbers to hidden states.
        tokenizer: its fast tokenizer, with a mask token.
        template: a text with one [X] and after it one [MASK].
        max_length: tokens kept of a text, special tokens included, the prompt not; fewer are kept where the
            model has no room for these and the prompt.
        normalise: whether `pooled` is scaled to length 1.

    Raises:
        ArgumentError: the template or the tokenizer lacks one of the two, or the prompt is longer than the model
            can read.
    """

    pooling_is_own = True
    prompt = Prompt([], [], 0, 0, 0)  # until the template is read

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        template: str = TEMPLATE,
        max_length: int = UNSAID_LENGTH,
        normalise: bool = False,
    ) -> None:
        prompt, limit = read_template(tokenizer, template), position_limit(model)
        length = min(max_length, limit - prompt.length) if limit else max_length
        if length < 3:
            raise ArgumentError(
                f"template={template!r} makes {prompt.length} tokens: a model that reads {limit} has no room for texts"
            )
        super().__init__(model, tokenizer, max_length=length, normalise=normalise)
        self.template, self.prompt, self.pooling = template, prompt, "mask"

    @classmethod
    def around(cls, encoder: TransformerText, template: str = TEMPLATE) -> Self:
        """The encoder behind a prompt; both share one model."""
        made = cls(encoder.model, encoder.tokenizer, template, encoder.max_length, encoder.normalise)
        made.pretrained = encoder.pretrained
        return made.train(encoder.training)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, pooling: str | None = None, max_length: int | None = None
    ) -> Self:
        """Read a model as `TransformerText` does, and put `TEMPLATE` around its texts.

        Raises:
            ArgumentError: a pooling is asked for.
        """
        _refuse(pooling)
        return cls.around(TransformerText.from_pretrained(name, max_length=max_length))

    def set_max_length(self, max_length: int) -> None:
        """Keep `max_length` tokens of every text from now on, special tokens included, the prompt not.

        Raises:
            ArgumentError: the model cannot take so many and the prompt, or so few.
        """
        limit = position_limit(self.model)
        if limit and max_length > limit - self.prompt.length:
            raise ArgumentError(
                f"max_length={max_length}: this model takes {limit} tokens, of which the prompt needs "
                f"{self.prompt.length}"
            )
        super().set_max_length(max_length)

    def choose_pooling(self, pooling: str, default: str = "cls") -> None:
        """Keep pooling the mask token, which is this encoder's own.

        Raises:
            ArgumentError: another pooling is asked for.
        """
        _refuse(pooling)

    def _split(self, texts: Sequence[Any]) -> list[list[int]]:
        return [self._wrapped(ids) for ids in super()._split(texts)]

    def _wrapped(self, ids: list[int]) -> list[int]:
        start, end = self.prompt.start, len(ids) - self.prompt.end
        return ids[:start] + self.prompt.before + ids[start:end] + self.prompt.after + ids[end:]

    def _reads_layers(self) -> bool:
        return False

    def _pool(self, ids: Tensor, mask: Tensor, tokens: Tensor, layers: tuple[Tensor, ...]) -> Tensor:
        rows = torch.arange(len(tokens), device=tokens.device)
        return tokens[rows, mask.sum(dim=1) - 1 - self.prompt.behind]  # `prepare` pads on the right

    def settings(self) -> dict[str, Any]:
        """Template, limit and scaling, and whether all is put in lower case, where it is."""
        return self._said("template", "max_length", "normalise")


def read_template(tokenizer: Any, template: str) -> Prompt:
    """Tokenise a template with one [X] and after it one [MASK].

    Raises:
        ArgumentError: it has them otherwise, or the tokenizer has no mask token.
    """
    if tokenizer.mask_token_id is None:
        raise ArgumentError("a prompt with a mask token needs a tokenizer that has one")
    before, _, after = template.partition("[X]")
    if template.count("[X]") != 1 or template.count("[MASK]") != 1 or "[MASK]" not in after:
        raise ArgumentError(f"template={template!r} must have [X] once and after it [MASK] once")

    def numbers(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    after_ids = numbers(after.replace("[MASK]", tokenizer.mask_token))
    special = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    start, end = special.index(0), special[::-1].index(0)
    behind = len(after_ids) - 1 - after_ids.index(tokenizer.mask_token_id) + end
    return Prompt(numbers(before), after_ids, start, end, behind)


def _refuse(pooling: str | None) -> None:
    if pooling not in (None, "own", "mask"):
        raise ArgumentError(
            f"pooling={pooling!r}: an encoder with a prompt pools the mask token of its prompt"
        )
