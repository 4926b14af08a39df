"""Texts to features with the encoders of transformers, trained before or from scratch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from nearfar.data.kinds import Text
from nearfar.encoders.cpu_linear import use_faster_linear
from nearfar.encoders.encoder import Encoder, Features
from nearfar.encoders.from_scratch import small_bert
from nearfar.encoders.lengths import joined, length_groups, near_length_groups
from nearfar.encoders.pretrained import (
    end_tokens,
    freeze_pooler,
    load_model,
    load_tokenizer,
    lower_case,
    model_folder,
    position_limit,
    reads_lower_case,
    refuse_code,
    save_model,
)
from nearfar.encoders.sentence_folder import read_sentence_folder, write_sentence_folder
from nearfar.encoders.settings import read_settings, read_weights, write_settings, write_weights
from nearfar.encoders.taps import attention_weights, edited_embeddings
from nearfar.errors import ArgumentError, ArtefactError
from nearfar.heads.pool import check_pooling, needs_layers, pool, pooled_places

WINDOW = 8192
"""Rows that `batches` tokenises and orders at a time, so that memory does not grow with the table."""
UNSAID_LENGTH = 512
"""Tokens kept of a text where neither the model nor its tokenizer names a limit."""


class TransformerText(Encoder):
    """A text encoder of transformers with a pooling.

    Args:
        model: a model of transformers that maps token numbers to hidden states.
        tokenizer: its fast tokenizer.
        pooling: a kind of `nearfar.heads.pool.pool`; "layer_K" leaves out the tokens that mark a text's ends.
        max_length: tokens kept of a text, special tokens included.
        normalise: whether `pooled` is scaled to length 1, as many sentence encoders are.

    Attributes:
        layers: how many stand on the input embeddings.
        seen: texts tokenised since the last `reset_counts`.
        truncated: how many of them were longer than `max_length`.

    Raises:
        ArgumentError: an unknown pooling, or a `max_length` that the model cannot take.
    """

    kind = Text
    pooling_is_own: bool = False
    """Whether its folder, its user or a method named the pooling; otherwise "mean" is only a guess."""
    beside: ClassVar[dict[str, str]] = {}
    """Parts that are not of the model -> the files they are kept in."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        pooling: str = "mean",
        max_length: int = UNSAID_LENGTH,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.layers = int(model.config.num_hidden_layers)
        check_pooling(pooling, self.layers)  # now, not at the first batch
        self.pooling, self.normalise = pooling, normalise
        self.dim = int(model.config.hidden_size)
        self.seen = self.truncated = 0
        freeze_pooler(model)
        use_faster_linear(model)
        # An own copy: the calls of the transformers tokenizer change the limits of theirs as they go,
        # which is no good while another thread tokenises.
        from tokenizers import Tokenizer

        self._splitter = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._splitter.no_padding()
        self._pad_id = int(tokenizer.pad_token_id or 0)
        self._ends = end_tokens(tokenizer)
        self.set_max_length(max_length)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, pooling: str | None = None, max_length: int | None = None
    ) -> Self:
        """Read a transformers or sentence-transformers model from a folder or the hub.

        Args:
            name: a folder, or the name of a model on the hub.
            pooling: overrides what the folder says; "mean" where it says nothing.
            max_length: overrides what the folder says, in tokens.

        Raises:
            ArgumentError: nothing of that name can be found, or an argument does not fit the model.
            ArtefactError: the folder needs pickle or its own code to be read, is incomplete, or asks
                for parts that nearfar does not have.
        """
        said = read_sentence_folder(model_folder(name))
        refuse_code(said.transformer)
        model, tokenizer = cls.read_model(said.transformer), load_tokenizer(said.transformer)
        if getattr(model.config, "is_encoder_decoder", False):
            raise ArtefactError(
                f"{said.transformer} is an encoder-decoder; nearfar reads encoders and decoders"
            )
        if said.lower_case:
            lower_case(tokenizer)
        limits = [limit for limit in (position_limit(model), tokenizer.model_max_length) if limit]
        limit = min(*limits, said.max_length or 10**9)
        encoder = cls(
            model,
            tokenizer,
            pooling=pooling or said.pooling or "mean",
            max_length=max_length or (limit if limit < 10**9 else UNSAID_LENGTH),
            normalise=said.normalise,
        )
        encoder.pooling_is_own, encoder.pretrained = bool(pooling or said.pooling), True
        return encoder.eval()  # as its model is

    @classmethod
    def tiny(cls, texts: Sequence[str], max_length: int = 64, **size: Any) -> Self:
        """A small BERT from scratch, with a WordPiece tokenizer trained on `texts` and nothing else.

        Args:
            texts: training texts for the tokenizer.
            max_length: tokens kept of a text.
            size: of vocabulary and network, as `nearfar.encoders.from_scratch.small_bert` takes it.

        Raises:
            ArgumentError: there are no texts, or the sizes do not fit each other.
        """
        return cls(*small_bert(texts, max_length, **size), max_length=max_length)

    @staticmethod
    def read_model(folder: Path) -> Any:
        """The model of a folder that `refuse_code` let pass."""
        return load_model(folder)

    def reset(self) -> None:
        """Draw all parameters of the model anew."""
        self.model.load_state_dict(type(self.model)(self.model.config).state_dict())

    @property
    def trunk(self) -> Any:
        """What maps token numbers to hidden states."""
        return self.model

    def prepare(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Tokenise B texts, padded to the longest.

        Returns:
            "ids", token numbers, int64 [B, L], and "mask", True where there is a token, [B, L].

        Raises:
            ArgumentError: a row is no text, or has no token.
        """
        return self._stack(self._split(rows), with_mask=True)

    def set_max_length(self, max_length: int) -> None:
        """Keep `max_length` tokens of every text from now on.

        Raises:
            ArgumentError: the model cannot take so many, or so few.
        """
        limit = position_limit(self.model)
        if not 3 <= max_length <= (limit or max_length):
            raise ArgumentError(
                f"max_length={max_length}: this model takes 3 to {limit or 'any number of'} tokens"
            )
        self.max_length = max_length
        self._splitter.enable_truncation(max_length)

    def reset_counts(self) -> None:
        """Start counting `seen` and `truncated` anew."""
        self.seen = self.truncated = 0

    def note(self) -> str | None:
        """How many texts were cut off since the last `reset_counts`."""
        if not self.truncated:
            return None
        return (
            f"{self.truncated:,} of {self.seen:,} texts read were longer than {self.max_length} tokens: "
            "what comes after was not read (max_length sets the limit)"
        )

    def _split(self, texts: Sequence[Any]) -> list[list[int]]:
        wrong = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
        if wrong is not None:
            raise ArgumentError(f"text {wrong + 1} of {len(texts)} is {type(texts[wrong]).__name__}, not str")
        encodings = self._splitter.encode_batch_fast(list(texts))
        self.seen += len(encodings)
        self.truncated += sum(1 for encoding in encodings if encoding.overflowing)
        ids = [encoding.ids for encoding in encodings]
        empty = next((i for i, row in enumerate(ids) if not row), None)
        if empty is not None:
            raise ArgumentError(f"text {empty + 1} of {len(texts)} has no token: {texts[empty][:40]!r}")
        return ids

    def _stack(self, ids: list[list[int]], with_mask: bool) -> dict[str, Tensor]:
        longest = max(map(len, ids))
        stacked = torch.tensor([row + [self._pad_id] * (longest - len(row)) for row in ids])
        if not with_mask:
            return {"ids": stacked}
        lengths = torch.tensor([len(row) for row in ids])
        return {"ids": stacked, "mask": torch.arange(longest) < lengths.unsqueeze(1)}

    def batches(
        self, rows: Sequence[Any], batch_size: int
    ) -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
        """Batches of texts of equal length, longest first within a window of `WINDOW` rows.

        Nothing is padded and no mask is passed, unless there are so few texts of each length that
        the batches would be tiny.
        """
        for start in range(0, len(rows), WINDOW):
            ids = self._split(rows[start : start + WINDOW])
            for group in length_groups([len(row) for row in ids], batch_size):
                batch = [ids[i] for i in group]
                padded = len(batch[0]) != len(batch[-1])
                yield [start + i for i in group], self._stack(batch, with_mask=padded)

    def forward(
        self,
        inputs: dict[str, Tensor],
        *,
        layers: bool = False,
        attention: bool = False,
        edit: Callable[[Tensor], Tensor] | None = None,
    ) -> Features:
        """Encode token numbers.

        Args:
            inputs: "ids" [B, L] and "mask" [B, L], which may be absent where nothing is padded.
            layers: whether to return the states of every layer, and before them the output of the embedding layer.
            attention: whether to return attention weights after their dropout, [B, heads, L, L] of every layer.
            edit: what the first layer reads instead of the embedding layer's output [B, L, d], made from it.

        Raises:
            ArgumentError: an edit for a model of transformers whose embedding layer is not named `embeddings`.
        """
        mask = inputs.get("mask")
        if mask is not None and mask.device.type == "cpu" and not (layers or attention or edit):
            groups = near_length_groups(mask.sum(1).tolist())
            if len(groups) > 1:
                return self._by_length(inputs["ids"], mask, groups)
        with edited_embeddings(self.trunk, edit) if edit else nullcontext():
            return self._at_once(inputs["ids"], mask, layers, attention)

    def _by_length(self, ids: Tensor, mask: Tensor, groups: list[list[int]]) -> Features:
        """Encode rows of similar length together, so that a batch of mixed lengths has little padding."""
        parts = []
        for group in groups:
            rows = torch.tensor(group)
            longest = int(mask[group[0]].sum())  # `prepare` pads on the right
            own = mask[rows, :longest]
            parts.append(self._at_once(ids[rows, :longest], None if bool(own.all()) else own, False, False))
        return joined(parts, groups, mask)

    def _at_once(self, ids: Tensor, given: Tensor | None, layers: bool, attention: bool) -> Features:
        with attention_weights(self.model) if attention else nullcontext():
            out = self.trunk(
                **self._places(ids, given),
                output_hidden_states=layers or self._reads_layers(),
                output_attentions=attention,
            )
        tokens = out.last_hidden_state
        mask = torch.ones_like(ids, dtype=torch.bool) if given is None else given
        states = tuple(out.hidden_states or ())
        pooled = self._pool(ids, mask, tokens, states)
        if self.normalise:
            pooled = functional.normalize(pooled, dim=-1)
        return Features(tokens, mask, pooled, states if layers else (), tuple(out.attentions or ()))

    def _reads_layers(self) -> bool:
        return needs_layers(self.pooling)

    def _places(self, ids: Tensor, mask: Tensor | None) -> dict[str, Any]:
        """What the trunk is told of the positions: their tokens, and which are none."""
        return {"input_ids": ids, "attention_mask": mask}

    def _pool(self, ids: Tensor, mask: Tensor, tokens: Tensor, layers: tuple[Tensor, ...]) -> Tensor:
        return pool(tokens, pooled_places(self.pooling, mask, ids, self._ends), self.pooling, layers)

    def choose_pooling(self, pooling: str, default: str = "cls") -> None:
        """Pool as `pooling` says; "own" keeps what its folder or its user named, and is `default` where none did."""
        if pooling != "own" or not self.pooling_is_own:
            chosen = default if pooling == "own" else pooling
            check_pooling(chosen, self.layers)
            self.pooling, self.pooling_is_own = chosen, True

    def settings(self) -> dict[str, Any]:
        """Pooling, limit and scaling, and whether all is put in lower case, where it is."""
        return self._said("pooling", "max_length", "normalise")

    def _said(self, *names: str) -> dict[str, Any]:
        # Some tokenizers of transformers are made anew of their vocabulary, and lose the step that `lower_case` added.
        lower = {"lower_case": True} if reads_lower_case(self.tokenizer) else {}
        return {**{name: getattr(self, name) for name in names}, **lower}

    def save(self, folder: Path) -> None:
        """Write a folder that sentence-transformers and transformers read as well.

        With a pooling that mixes layers, which sentence-transformers lacks, only transformers does.
        """
        save_model(self.model, folder)
        self.tokenizer.save_pretrained(folder)
        self._write_for_others(folder)
        for part, file in self.beside.items():
            write_weights(folder, getattr(self, part), file)
        write_settings(folder, self)

    def _write_for_others(self, folder: Path) -> None:
        lower = reads_lower_case(self.tokenizer)
        write_sentence_folder(folder, self.dim, self.pooling, self.normalise, self.max_length, lower)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtefactError: the folder is incomplete, of another encoder, or could run code.
        """
        _, settings = read_settings(folder, expected=cls.__name__)
        refuse_code(folder)
        pooling_is_own = settings.pop("pooling_is_own", True)
        tokenizer = load_tokenizer(folder)
        if settings.pop("lower_case", False):
            lower_case(tokenizer)
        encoder = cls(cls.read_model(folder), tokenizer, **settings)
        for part, file in cls.beside.items():
            read_weights(folder, getattr(encoder, part), file)
        encoder.pooling_is_own = pooling_is_own
        return encoder.eval()
