"""DCLR: SimCSE with noise for negatives, and without those that another encoder finds too near."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nearfar.data.kinds import Text
from nearfar.encoders import make_encoder
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, check_between
from nearfar.geometry import at_least_float32, cosine
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Method
from nearfar.objectives import Pairing, ascend, info_nce
from nearfar.space import Space
from nearfar.training.teacher import FrozenTeacher
from nearfar.views.text import dropout_twins


class DCLR(Method):
    """Dropout twins are near, other texts and noise that climbs the loss are far, likely paraphrases neither.

        loss_i = -log e(z_i, z'_i) / (e(z_i, z'_i) + sum_{j != i} a_ij e(z_i, z'_j) + sum_n e(z_i, n))

    with e(x, y) = exp(cos(x, y) / t), z and z' [B, d] the tanh heads of the two twins of one forward pass, and

        a_ij = 0 where cos(c_i, c_j) >= phi, else 1        c: [B, d'], of a frozen complementary encoder

    The noise n [k B, d] is drawn from N(0, I) for every batch and climbs: `climbs` times each row goes a step
    of length `rate` up the gradient of the loss with all a_ij = 1, towards the texts that it is hardest to tell
    from. No weight learns from that. Gaussian rows are about sqrt(d) long, so with the published step of 0.001 they
    hardly turn. The head is for training only.

    Equations are reconstructed from memory of the paper and from the released code, which differs: there a gated
    pair has its logit set to 0, so that it still counts e^0, and the loss is the mean over all B (B + k B) pairs of
    the binary cross-entropy of the softmax's probabilities with the identity. `variant="repo"` is that loss. Not
    offered from the release: dropout in the complementary encoder (here it reads each text once, in evaluation
    mode), its BERT pooler, and BERT's pooler below the head. That noise without slope stays (released: becomes 0) is
    ours, and so is a default for the complementary encoder; the paper's is a SimCSE trained before, whose folder can
    be named as well.

    Args:
        complement: frozen encoder that tells likely paraphrases: "minilm", a folder such as `fit simcse` writes,
            or a name on the hub.
        threshold: phi; above 1 no pair is gated.
        noise: k, rows of noise for each text of a batch; 0 for none.
        climbs: steps that the noise takes.
        rate: length of such a step.
        temperature: t.
        variant: "paper", or "repo" for the loss as released.
        pooling: below the head, one of the encoder's pooling kinds; "own" keeps the pooling that the encoder's folder
            names, and is the paper's "cls" where it names none.

    Zhou, Zhang, Zhao, Wen. "Debiased Contrastive Learning of Unsupervised Sentence Representations." ACL 2022.
    """

    reads = {"text": Text}

    def __init__(
        self,
        encoder: TransformerText,
        complement: str = "minilm",
        threshold: float = 0.9,
        noise: float = 1.0,
        climbs: int = 4,
        rate: float = 1e-3,
        temperature: float = 0.05,
        variant: Literal["paper", "repo"] = "paper",
        pooling: Literal["own", "cls", "mean", "first_last", "top2"] = "own",
    ) -> None:
        super().__init__()
        check_between(-1, math.inf, threshold=threshold)
        check_between(0, math.inf, noise=noise, climbs=climbs, rate=rate)
        check_between(1e-4, math.inf, temperature=temperature)
        if complement == "tiny":
            raise ArgumentError(
                "complement 'tiny' has random weights, to which all texts are alike: name a trained encoder, such as "
                "'minilm' or the folder of a space"
            )
        encoder.choose_pooling(pooling)
        encoder.normalise = False  # the head sees states at their own scale
        self.encoder = encoder
        self.head = Projection(encoder.dim, encoder.dim, kind="tanh")
        self.complement = FrozenTeacher(make_encoder(complement, Text, []))
        self.threshold, self.temperature, self.variant = threshold, temperature, variant
        self.noise, self.climbs, self.rate = noise, climbs, rate
        # Pairs of rows that were gated, and all that met; kept for what a run's card tells.
        self.register_buffer("pairs", torch.zeros(2, dtype=torch.float64))

    def negatives(self, batch_size: int) -> int:
        return batch_size - 1 + int(self.noise * batch_size) if self.variant == "paper" else 0

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        return {
            "text": self.encoder.prepare(rows["text"]),
            "judged": self.complement.model.prepare(rows["text"]),
        }

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        one, two = dropout_twins(self.encoder, batch["text"])
        judged = self.complement(batch["judged"]).pooled
        return {"one": self.head(one.pooled), "two": self.head(two.pooled), "judged": judged}

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        one, two = at_least_float32(z["one"]), at_least_float32(z["two"])
        noise, gated = self.climbed(one.detach(), two.detach()), self.gated(z["judged"])
        self._count(gated)
        if self.variant == "repo":
            return {"binary": self.as_released(one, torch.cat([two, noise]), gated)}
        pairing = Pairing.diagonal().ignoring_mask(gated)
        return {"info_nce": self.compared(one, two, noise, pairing)}

    def gated(self, judged: Tensor) -> Tensor:
        """Which pairs of different rows the complementary encoder finds too near to be negatives: bool [B, B]."""
        return (cosine(judged.detach(), judged.detach()) >= self.threshold).fill_diagonal_(False)

    def climbed(self, one: Tensor, two: Tensor) -> Tensor:
        """Noise after its ascent, [k B, d]; drawn from the global random state.

        Args:
            one: first twins, detached, [B, d].
            two: second twins, detached, [B, d].
        """
        drawn = torch.randn(int(self.noise * len(one)), one.shape[1], dtype=one.dtype, device=one.device)
        if not len(drawn):
            return drawn
        return ascend(drawn, lambda noise: self.compared(one, two, noise), self.climbs, self.rate)

    def compared(self, one: Tensor, two: Tensor, noise: Tensor, pairing: Pairing | None = None) -> Tensor:
        """First twins against second ones and noise."""
        extra = noise if len(noise) else None
        return info_nce(one, two, pairing, temperature=self.temperature, extra_keys=extra)

    def as_released(self, one: Tensor, keys: Tensor, gated: Tensor) -> Tensor:
        """The released loss of rows [B, d] against their twins and noise [B + k B, d]; holds all pairs."""
        logits = cosine(one, keys) / self.temperature
        counted = functional.pad(~gated, (0, len(keys) - len(one)), value=True)
        # Below 0 by more than float32 can tell from it, where the release takes the logarithm of 1 - 1.
        likely = (logits * counted).log_softmax(dim=1).clamp(max=-1e-7)
        own = torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
        return -torch.where(own, likely, torch.log(-torch.expm1(likely))).mean()

    def _count(self, gated: Tensor) -> None:
        """Here and not after the step, in which several batches may have been added whose rows never met."""
        self.get_buffer("pairs")[0] += gated.sum()
        self.get_buffer("pairs")[1] += len(gated) * (len(gated) - 1)

    def notes(self) -> list[str]:
        gated, all_of_them = self.get_buffer("pairs").tolist()
        if not all_of_them:
            return []
        told = f"the complementary encoder took {gated / all_of_them:.1%} of the negatives in a batch away"
        if gated > all_of_them / 2:
            told += ": it tells few texts apart; name one that is trained for similarity, or raise threshold"
        return [told]

    def space(self) -> Space:
        return Space({"text": self.encoder})
