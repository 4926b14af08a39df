"""Contrastive search: the next token is probable, and unlike every token before it."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from nearfar.encoders.causal import CausalText
from nearfar.errors import check_between


def contrastive_scores(
    probabilities: Tensor, candidates: Tensor, context: Tensor, mask: Tensor, alpha: float
) -> Tensor:
    """(1 - a) p(v) - a max_j cos(h_v, h_j), over every earlier token j, those of the prompt included.

    Args:
        probabilities: p of each candidate, under the softmax over the whole vocabulary, [B, k].
        candidates: its state, unit length [B, k, d].
        context: states of all earlier tokens, unit length [B, T, d].
        mask: True where `context` holds a token, [B, T].
        alpha: a.

    Returns:
        [B, k].
    """
    cosines = (candidates @ context.mT).masked_fill(~mask[:, None, :], -torch.inf)
    return (1 - alpha) * probabilities - alpha * cosines.amax(dim=-1)


@torch.inference_mode()
def contrastive_search(
    lm: CausalText, ids: Tensor, mask: Tensor, *, new_tokens: int, k: int = 5, alpha: float = 0.6
) -> Tensor:
    """Continue prompts, one token a step; deterministic.

    Of the k most probable tokens, each is read once to see its state h_v; the best by `contrastive_scores` is
    taken (the more probable one of equals), and what it led to (cache and next logits) is kept: one forward
    pass of B k rows a step, no second one. alpha 0, and k 1, are greedy search.

    Su, Lan, Wang, Yogatama, Kong, Collier. "A Contrastive Framework for Neural Text Generation." NeurIPS
    2022.

    Args:
        lm: the language model, in evaluation mode.
        ids: prompts, padded on the left, int64 [B, L].
        mask: True where there is a token, [B, L].
        new_tokens: most tokens to add.
        k: candidates of a step; at most the vocabulary.
        alpha: weight of the penalty, in [0, 1].

    Returns:
        int64 [B, n], n at most `new_tokens`; after an end token, padding.
    """
    check_between(1, math.inf, k=k, new_tokens=new_tokens)
    check_between(0, 1, alpha=alpha)
    states, logits, cache = lm.step(ids, mask)
    k = min(k, logits.shape[1])
    context = functional.normalize(states.float(), dim=-1)
    ends = torch.tensor(lm.end_ids, dtype=torch.long, device=ids.device)
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    first = torch.arange(len(ids), device=ids.device) * k
    added: list[Tensor] = []
    while len(added) < new_tokens and not bool(ended.all()):
        probabilities, tokens = logits.softmax(dim=-1).topk(k)
        cache.batch_repeat_interleave(k)
        mask = functional.pad(mask, (0, 1), value=True)
        read, logits, cache = lm.step(tokens.reshape(-1, 1), mask.repeat_interleave(k, 0), cache)
        candidates = functional.normalize(read.float(), dim=-1).view(len(ids), k, -1)
        scores = contrastive_scores(probabilities, candidates, context, mask[:, :-1], alpha)
        best = scores.argmax(dim=1)
        cache.batch_select_indices(first + best)
        logits = logits[first + best]
        context = torch.cat([context, candidates[torch.arange(len(ids)), best][:, None]], dim=1)
        token = tokens.gather(1, best[:, None])[:, 0]
        added.append(token.masked_fill(ended, lm.pad_id))
        ended = ended | torch.isin(token, ends)
    return torch.stack(added, dim=1)
