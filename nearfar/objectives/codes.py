"""How evenly the codes of a codebook are used."""

from __future__ import annotations

from torch import Tensor


def perplexity(shares: Tensor) -> Tensor:
    """exp(-sum_v p_v log p_v): the number of codes in even use that would be as diverse.

    Args:
        shares: of the V codes, [..., V]; they sum to 1.

    Returns:
        [...], from 1 (one code) to V (all alike).
    """
    return (-(shares * shares.clamp(min=1e-7).log()).sum(dim=-1)).exp()


def unused_codes(probabilities: Tensor) -> Tensor:
    """Share of the codes that stay unused in the mean over positions: 0 where all are used alike.

        loss = (G V - sum_g exp(H(pbar_g))) / (G V),  pbar_g = mean over positions of p_g

    The paper's equation 4 has -H(pbar_g) / (G V) instead; this is the form of its released code.

    Baevski et al. "wav2vec 2.0." NeurIPS 2020, and fairseq's `wav2vec_criterion`.

    Args:
        probabilities: of the codes of each of G groups at M positions, without noise and temperature, [M, G, V].

    Returns:
        A scalar from 0 to 1 - 1 / V.
    """
    shares = probabilities.mean(dim=0)
    return 1 - perplexity(shares).sum() / shares.numel()
