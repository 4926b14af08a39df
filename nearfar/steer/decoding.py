"""Texts continued by a language model, with contrastive search or with the decoders of transformers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nearfar.encoders.causal import CausalText
from nearfar.encoders.lengths import length_groups
from nearfar.encoders.pretrained import position_limit
from nearfar.errors import ArgumentError, check_between
from nearfar.progress import progress
from nearfar.steer.contrastive_search import contrastive_search

DECODERS = ("contrastive-search", "greedy", "beam", "top-k", "nucleus", "typical")


@dataclass(frozen=True)
class Decoding:
    """One way to continue texts. Each decoder looks at its own settings only.

    Attributes:
        decoder: one of `DECODERS`.
        new_tokens: most tokens to add.
        k: candidates of a step of contrastive search.
        alpha: weight of its degeneration penalty, in [0, 1].
        beams: hypotheses of beam search.
        top_k: most probable tokens that top-k sampling draws from.
        top_p: probability that nucleus and typical sampling draw from, in (0, 1]. What the paper took for typical
            sampling is not known here.
        seed: of the samplers.

    Raises:
        ArgumentError: an unknown decoder, or a setting out of its range.
    """

    decoder: str = "contrastive-search"
    new_tokens: int = 64
    k: int = 5
    alpha: float = 0.6
    beams: int = 4
    top_k: int = 50
    top_p: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise ArgumentError(f"decoder must be one of {', '.join(DECODERS)}, not {self.decoder!r}")
        check_between(1, math.inf, new_tokens=self.new_tokens, k=self.k, top_k=self.top_k)
        check_between(2, math.inf, beams=self.beams)
        check_between(0, 1, alpha=self.alpha)
        check_between(1e-6, 1, top_p=self.top_p)

    def of_transformers(self) -> dict[str, Any]:
        """The settings of transformers' `generate`, none left to its or the model's defaults."""
        own: dict[str, dict[str, Any]] = {
            "greedy": {},
            "beam": {"num_beams": self.beams},
            "top-k": {"do_sample": True, "top_k": self.top_k},
            "nucleus": {"do_sample": True, "top_p": self.top_p},
            "typical": {"do_sample": True, "typical_p": self.top_p},
        }
        plain: dict[str, Any] = {"num_beams": 1, "do_sample": False}
        if own[self.decoder].get("do_sample"):
            plain |= {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "typical_p": 1.0}
        return {"max_new_tokens": self.new_tokens, **plain, **own[self.decoder]}


def continue_prompts(
    lm: CausalText, prompts: Sequence[list[int]], decoding: Decoding, batch_size: int = 16
) -> list[list[int]]:
    """Continue prompts of token numbers, in order.

    Args:
        lm: the language model; its mode is left as it was.
        prompts: N lists of at least one token.
        decoding: how.
        batch_size: prompts continued at once.

    Returns:
        The tokens added to each, without the end token.

    Raises:
        ArgumentError: a prompt and its continuation do not fit into the model's positions.
    """
    limit = position_limit(lm.model)
    longest = max(map(len, prompts), default=0)
    if limit is not None and longest + decoding.new_tokens > limit:
        raise ArgumentError(
            f"the model has positions for {limit} tokens; a prompt of {longest} and {decoding.new_tokens} new ones "
            "do not fit: ask for fewer new tokens, or give shorter prompts"
        )
    found: list[list[int]] = [[] for _ in prompts]
    with lm.reading() as device, torch.random.fork_rng(), progress(decoding.decoder, len(prompts)) as shown:
        torch.manual_seed(decoding.seed)
        for rows in length_groups([len(prompt) for prompt in prompts], batch_size):
            ids, mask = padded_left([prompts[row] for row in rows], lm.pad_id)
            added = _continued(lm, ids.to(device), mask.to(device), decoding)
            for row, tokens in zip(rows, added.tolist(), strict=True):
                found[row] = _until_end(tokens, lm.end_ids)
            shown.advance(len(rows))
    return found


def continue_texts(
    lm: CausalText, prompts: Sequence[str], decoding: Decoding, batch_size: int = 16
) -> list[str]:
    """`continue_prompts` for texts: what is added to each."""
    ids = lm.split_prompts(prompts)
    added = continue_prompts(lm, ids, decoding, batch_size)
    return [added_text(lm, prompt, tokens) for prompt, tokens in zip(ids, added, strict=True)]


def added_text(lm: CausalText, prompt: list[int], added: list[int]) -> str:
    """What `added` tokens say behind a prompt; some tokenizers drop the space before a text's first word."""
    before, whole = (
        lm.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for ids in (prompt, prompt + added)
    )
    return str(whole[len(before) :])


def padded_left(rows: Sequence[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token numbers [B, L] and where there is one [B, L]; the last column is the last token of every row."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (longest - len(row)) + row for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(longest) >= longest - lengths[:, None]


def _continued(lm: CausalText, ids: Tensor, mask: Tensor, decoding: Decoding) -> Tensor:
    if decoding.decoder == "contrastive-search":
        return contrastive_search(
            lm, ids, mask, new_tokens=decoding.new_tokens, k=decoding.k, alpha=decoding.alpha
        )
    from transformers import GenerationConfig

    ends = {"eos_token_id": lm.end_ids or None, "pad_token_id": lm.pad_id}
    config = GenerationConfig(**decoding.of_transformers(), **ends)
    out: Tensor = lm.model.generate(input_ids=ids, attention_mask=mask.long(), generation_config=config)
    return out[:, ids.shape[1] :]


def _until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    stop = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:stop]
