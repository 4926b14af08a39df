"""What generated texts are like: repetition, diversity, and how likely a language model finds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from nearfar.encoders.causal import CausalText
from nearfar.encoders.lengths import length_groups
from nearfar.errors import ArgumentError


def rep_n(texts: Sequence[str], n: int, compat: bool = False) -> float:
    """Share of repeated n-grams in percent: 100 (1 - different n-grams / n-grams).

    Both counts are summed over the texts before the division; an n-gram is repeated where its own text has it
    twice. Words are what stands between white space. 0 where no text has n words.

    Args:
        texts: generated texts.
        n: words in an n-gram.
        compat: count as the released evaluation of SimCTG does, whose loop leaves out each text's last n-gram.
    """
    if n < 1:
        raise ArgumentError(f"n must be at least 1, got {n}")
    grams = [list(_grams(text.split(), n))[: -1 if compat else None] for text in texts]
    total = sum(map(len, grams))
    return 100 * (1 - sum(len(set(one)) for one in grams) / total) if total else 0.0


def diversity(texts: Sequence[str], compat: bool = False) -> float:
    """prod_{n = 2, 3, 4} (1 - rep-n / 100), in [0, 1]; higher is less repetitive. See `rep_n`.

    With `compat` each rep-n is rounded to two digits first, as in the released evaluation.
    """
    repeated = [rep_n(texts, n, compat) for n in (2, 3, 4)]
    return float(np.prod([1 - (round(rep, 2) if compat else rep) / 100 for rep in repeated]))


def _grams(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def coherence(
    lm: CausalText, prompts: Sequence[list[int]], continuations: Sequence[list[int]], batch_size: int = 16
) -> float:
    """How likely a language model finds continuations: the mean over pairs of mean_t log p(y_t | prompt, y_<t).

    Natural logarithms, so at most 0. Pairs without a continuation are left out. Where `lm` wrote the continuations
    itself, decoders that look for probable texts are favoured: it then tells decoders apart, not models.

    Args:
        lm: the judge.
        prompts: N lists of token numbers of `lm`, none empty.
        continuations: N lists.
        batch_size: pairs read at once.

    Returns:
        NaN where nothing was continued.
    """
    pairs = [(prompt, added) for prompt, added in zip(prompts, continuations, strict=True) if added]
    found = []
    with lm.reading() as device:
        for rows in length_groups([len(prompt) + len(added) for prompt, added in pairs], batch_size):
            stacked = lm.stack([pairs[row][0] + pairs[row][1] for row in rows])
            inputs = {name: tensor.to(device) for name, tensor in stacked.items()}
            _, logits = lm.predict(inputs)
            told = logits[:, :-1].log_softmax(-1).gather(2, inputs["ids"][:, 1:, None])[:, :, 0]
            for row, line in zip(rows, told, strict=True):
                prompt, added = pairs[row]
                found.append(float(line[len(prompt) - 1 :][: len(added)].mean()))
    return float(np.mean(found)) if found else float("nan")
