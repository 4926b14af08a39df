"""miCSE: twins that should also attend alike."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from nearfar.data.kinds import Text
from nearfar.encoders.prefix import PrefixText
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, check_between
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Method
from nearfar.objectives import corr_mi, info_nce
from nearfar.space import Space
from nearfar.views.text import dropout_twins


def attention_rows(attention: tuple[Tensor, ...]) -> Tensor:
    """Maps of S layers, [B, H, L, L] each, as rows: [B, 2 H, S/2 L^2]; every second layer shares a row."""
    maps = torch.stack(attention, dim=2)  # [B, H, S, L, L]
    groups = [maps[:, :, parity::2].flatten(2) for parity in (0, 1)]
    return torch.stack(groups, dim=2).flatten(1, 2)


def attention_statistics(one: Tensor, two: Tensor, samples: int) -> Tensor:
    """What the rows of two views have in common, from log weights at places drawn anew for each row.

    Args:
        one, two: attention weights after dropout [..., N].
        samples: most places drawn of those where both weights are above 0, the same in both views.

    Returns:
        [..., 3]: mutual information in nats, number of places where both are above 0, and N.
    """
    both = (one > 0) & (two > 0)
    # The places of largest noise are a draw without replacement; those that do not count come last.
    order = torch.rand_like(one).masked_fill(~both, -1.0).topk(min(samples, one.shape[-1])).indices
    drawn = both.gather(-1, order)
    logs = [view.gather(-1, order).where(drawn, 1.0).float().log() for view in (one, two)]
    count = both.sum(-1).float()
    return torch.stack(
        [corr_mi(logs[0], logs[1], drawn), count, torch.full_like(count, one.shape[-1])], dim=-1
    )


class MiCSE(Method):
    """SimCSE whose twins must also agree in where they attend, so that few sentences suffice.

    z = tanh(W h + b) of the pooled states h; z, z': [B, d] are twins of one pass under dropout:

        loss = info_nce(z, z'; t) + lambda L_AMI
        L_AMI = - s^2 mean_r I_r,   I_r = -1/2 log(1 - rho_r^2),   rho_r = Pearson(log a_r, log a'_r)

    a_r, a'_r are attention weights after dropout of the two views, at n places drawn for row r among those above 0
    in both; a row holds the maps of one head of one sentence in every second of the chosen layers. s is the share
    of such places. Rows with fewer than n are left out. Gradients flow through the attention of both views.

    As released, queries that are padding count (only padded keys are 0), and padding lowers s. Ours: where all rows
    of a batch are short, each gives all its places (the release: as many as the shortest has), 1 - rho^2 is at
    least 1e-6 (the release: no limit, and 100 for what is no number), and shallow encoders give the layers that they
    have. The head is for training only. Attention is computed without fused kernels where lambda is above 0.

    Args:
        temperature: t.
        information_weight: lambda. The paper: 1e-3 for 100 or 1,000 sentences, 1e-4 for 10,000, 5e-4 for 100,000.
        samples: n.
        layers: attention layers that are read, an even number; fewer where there are not so many.
        above: layers on top that are not read, where others are left: 4 of 12 are then 7 to 10, counted from 0.
        pooling: h, one of the encoder's pooling kinds; "own" keeps the pooling that the encoder's folder
            names, and is the paper's "cls" where it names none.

    Klein, Nabi. "miCSE: Mutual Information Contrastive Learning for Low-shot Sentence Embeddings." ACL 2023.
    """

    reads = {"text": Text}

    def __init__(
        self,
        encoder: TransformerText,
        temperature: float = 0.05,
        information_weight: float = 1e-3,
        samples: int = 150,
        layers: int = 4,
        above: int = 1,
        pooling: Literal["own", "cls", "mean", "first_last", "top2"] = "own",
    ) -> None:
        super().__init__()
        check_between(1e-4, 100, temperature=temperature)
        check_between(0, 1e6, information_weight=information_weight)
        check_between(2, 1e6, samples=samples, layers=layers)
        check_between(0, 1e3, above=above)
        depth = int(encoder.model.config.num_hidden_layers)
        if layers % 2 or depth < 2:
            raise ArgumentError(f"layers={layers} of {depth}: miCSE reads an even number of attention layers")
        if information_weight and isinstance(encoder, PrefixText):
            raise ArgumentError(
                "miCSE reads attention weights, and PrefixText, an encoder with a prompt, does not return them: "
                "give one without a prompt, or information_weight 0"
            )
        encoder.choose_pooling(pooling)
        encoder.normalise = False
        self.encoder, self.head = encoder, Projection(encoder.dim, encoder.dim, kind="tanh")
        self.temperature, self.information_weight, self.samples = temperature, information_weight, samples
        end = depth - min(above, depth - 2)
        self.read = slice(max(end - layers, end % 2), end)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        # Without the term it is SimCSE to the bit, which draws its dropout in fused kernels.
        taps: dict[str, Any] = {"attention": True} if self.information_weight else {}
        one, two = dropout_twins(self.encoder, batch["text"], **taps)
        z = {"one": self.head(one.pooled), "two": self.head(two.pooled)}
        if taps:
            rows = [attention_rows(twin.attention[self.read]) for twin in (one, two)]
            z["attention"] = attention_statistics(rows[0], rows[1], self.samples)
        return z

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        terms = {"info_nce": info_nce(z["one"], z["two"], temperature=self.temperature)}
        if "attention" in z:
            terms["attention_information"] = self.information_weight * self._ami(z["attention"])
        return terms

    def _ami(self, statistics: Tensor) -> Tensor:
        information, count, places = statistics.flatten(0, 1).unbind(-1)
        enough = count >= self.samples
        if not bool(enough.any()):
            enough = torch.ones_like(enough)
        share = count[enough].sum() / places[enough].sum()
        return -information[enough].mean() * (share.square() + 1e-6)

    def space(self) -> Space:
        return Space({"text": self.encoder})
