"""What a language model is like on texts: what it predicts, and how far apart its token states are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nearfar.encoders.causal import CausalText
from nearfar.errors import ArgumentError
from nearfar.measures.measurement import Better, Measurement, left_out
from nearfar.measures.tokens import token_self_similarity
from nearfar.progress import progress

MOST = 2000
"""Most texts that are read, evenly from the table."""


def language_measures(
    lm: CausalText, texts: Sequence[str], *, by_layer: bool = False, batch_size: int = 16
) -> dict[str, Measurement]:
    """Prediction and isotropy of a causal language model, on tokens after a text's first (`READ` are read).

    - perplexity: exp of the mean cross-entropy of a token;
    - next_token_accuracy: share of tokens that the model finds the most probable;
    - token_repetition: share of its first guesses that the text before has; wrong_repetition: of those that are
      wrong besides (rep and wrep of Su et al. NeurIPS 2022; lower is less degenerate);
    - token_isotropy: 1 - mean cosine of two tokens of one text, in the last layer (`token_self_similarity`).

    Args:
        lm: the language model; its mode is left as it was.
        texts: what it reads, at most `MOST` of them.
        by_layer: also `self_similarity/layer-i` for every layer, 0 being the input embeddings.
        batch_size: texts read at once.

    Returns:
        name -> measurement; nothing where no text has two tokens.
    """
    sums: Counter[str] = Counter()
    try:
        similarity = token_self_similarity(_read(lm, texts, sums, batch_size))
    except ArgumentError as none:
        return {m.name: m for m in [left_out("language", len(texts), len(texts), str(none))]}
    return {m.name: m for m in _measurements(sums, similarity, by_layer)}


def layer_isotropy(lm: CausalText, texts: Sequence[str], batch_size: int = 16) -> np.ndarray:
    """1 - `token_self_similarity` of every layer of a language model, input embeddings first.

    At most `MOST` texts are read, evenly from those given.

    Raises:
        ArgumentError: no text has two tokens.
    """
    return 1 - token_self_similarity(_read(lm, texts, Counter(), batch_size))


def _read(
    lm: CausalText, texts: Sequence[str], sums: Counter[str], batch_size: int
) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Read texts, add up what was predicted, and hand out the token states."""
    chosen = [texts[i] for i in np.unique(np.linspace(0, len(texts) - 1, min(len(texts), MOST)).astype(int))]
    with lm.reading() as device, progress("reading texts", len(chosen)) as shown:
        for rows, given in lm.batches(chosen, batch_size):
            inputs = {name: tensor.to(device) for name, tensor in given.items()}
            inputs.setdefault("mask", torch.ones_like(inputs["ids"], dtype=torch.bool))
            layers, logits = lm.predict(inputs)
            sums.update(_predicted(logits[:, :-1], inputs["ids"], inputs["mask"][:, 1:]))
            shown.advance(len(rows))
            yield layers, inputs["mask"]


def _predicted(logits: Tensor, ids: Tensor, told: Tensor) -> dict[str, float]:
    """Sums over the tokens that were predicted: logits [B, L - 1, V], ids [B, L], told [B, L - 1]."""
    gold, guess = ids[:, 1:], logits.argmax(-1)
    cost = functional.cross_entropy(logits.float().flatten(0, 1), gold.flatten(), reduction="none")
    before = torch.ones(told.shape[1], told.shape[1], dtype=torch.bool, device=ids.device).tril()
    repeated = ((guess[:, :, None] == ids[:, None, :-1]) & before).any(-1)
    right = guess == gold
    return {
        "tokens": int(told.sum()),
        "cost": float(cost.view_as(gold)[told].double().sum()),
        "right": int((right & told).sum()),
        "repeated": int((repeated & told).sum()),
        "wrong": int((repeated & ~right & told).sum()),
    }


def _measurements(sums: Counter[str], similarity: np.ndarray, by_layer: bool) -> list[Measurement]:
    n = int(sums["tokens"])

    def share(name: str, of: str, better: Better, about: str) -> Measurement:
        return Measurement(name, sums[of] / n, n, better, about)

    layers = enumerate(similarity) if by_layer else ()
    return [
        Measurement("perplexity", math.exp(sums["cost"] / n), n, "lower", _ABOUT["perplexity"]),
        share("next_token_accuracy", "right", "higher", "share of tokens that the model guessed"),
        share("token_repetition", "repeated", "lower", "share of its guesses that the text before has"),
        share("wrong_repetition", "wrong", "lower", "share of its guesses that repeat and are wrong"),
        Measurement("token_isotropy", 1 - float(similarity[-1]), n, "higher", _ABOUT["token_isotropy"]),
        *(
            Measurement(f"self_similarity/layer-{i}", float(value), n, "neither", _ABOUT["self_similarity"])
            for i, value in layers
        ),
    ]


_ABOUT = {
    "perplexity": "exp of the mean cross-entropy of a token after the text's first",
    "token_isotropy": "1 - mean cosine of two tokens of one text, last layer: 0 where all point one way",
    "self_similarity": "mean cosine of two tokens of one text, in this layer",
}
