"""SepVAE: what two populations share, and what only one of them has, in two spaces."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.data.kinds import Image, Label
from nearfar.data.table import Table
from nearfar.encoders.image import PictureEncoder
from nearfar.errors import ArgumentError, TableError, check_between
from nearfar.heads.decoders.convolutional import ConvDecoder
from nearfar.heads.gaussian import GaussianHead, drawn
from nearfar.heads.mlp import mlp
from nearfar.method import Batch, Method, Turn
from nearfar.objectives.density_ratio import ratio_discriminator, ratio_penalty
from nearfar.objectives.gaussian import gauss_kl
from nearfar.space import Space

HIDDEN = 256
"""Width of the hidden layers of heads and decoder."""


class SepVAE(Method):
    """Common latents are alike in both populations; salient ones say what the target population alone has.

    Every picture x belongs to the background (y = 0) or the target (y = 1) population. Two encoders with a head each
    give q(c|x) = N(mu_c, v_c), c [B, common], and q(s|x) = N(mu_s, v_s), s [B, salient], where the variance of a
    background's s is the constant v_q. The decoder draws x^ from [c; s] of a target and from [c; 0] of a background.
    Two turns at every step, on fresh draws of c and s, each with an optimiser that begins anew with every epoch. A
    discriminator D learns to tell pairs (c_i, s_i) from pairs (c_i, s_i+1) of neighbours in the batch:

        - sum_i log D(c_i, s_i) - sum_i log(1 - D(c_i, s_i+1))

    and then encoders, decoder and a classifier C of the populations minimise

        sum_i |x_i - x^_i|^2 + b_c KL(q(c|x_i) || N(0, I)) + b_s KL(q(s|x_i) || N(0, p_i I))
            + kappa sum_i [logit D(c_i, s_i)]_+ + gamma sum_i BCE(C(s_i), y_i)         p_i = 1 if y_i = 1, else v_p

    These are sums over pixels, dimensions and rows: as means, every weight would mean something else. Embeddings are
    the means, compared by Euclidean distance: the space has the modalities "salient", which reads a table's pictures
    unless another is named, and "common". The decoder stays as a part; `nearfar.steer.twins` draws with it what a
    picture would look like without what is salient.

    The paper trains 250 epochs with `--batch-size 512 --learning-rate 1e-3 --schedule constant --warmup 0
    --weight-decay 0 --clip-norm 0`; v_p is 1/100 there for digits on photographs and 1/40 for faces. Ours: any picture
    encoder, copied for the salient side, stands in for the released convolutions, whose last one covers the whole
    grid where the features here are a mean over it; the KL to the prior of backgrounds has its constants, which the
    release leaves out. The release's classifier of c, which trains nothing but itself, is left to `nearfar measure
    --modality common`, whose probe tells as well whether c leaks the population.

    Args:
        target: the label of the target population; empty: the later one of the two, by name ("1" after "0").
        common: dimensions of c.
        salient: dimensions of s.
        common_weight: b_c.
        salient_weight: b_s.
        dependence_weight: kappa.
        population_weight: gamma; as released, so small that it is practically off.
        background_variance: v_q, a variance.
        prior_variance: v_p.
        width: channels of the decoder.

    Louiset et al. "SepVAE: A Contrastive VAE to Separate Pathological Patterns from Healthy Ones." ICML Workshop
    IMLH 2023.
    """

    reads = {"image": Image, "label": Label}

    def __init__(
        self,
        encoder: PictureEncoder,
        target: str = "",
        common: int = 64,
        salient: int = 64,
        common_weight: float = 0.5,
        salient_weight: float = 0.5,
        dependence_weight: float = 2.0,
        population_weight: float = 1e-10,
        background_variance: float = 0.1,
        prior_variance: float = 0.01,
        width: int = 32,
    ) -> None:
        super().__init__()
        check_between(1, math.inf, common=common, salient=salient)
        check_between(0, math.inf, common_weight=common_weight, salient_weight=salient_weight)
        check_between(0, math.inf, dependence_weight=dependence_weight, population_weight=population_weight)
        check_between(1e-6, math.inf, background_variance=background_variance, prior_variance=prior_variance)
        self.encoder, self.salient_encoder = encoder, copy.deepcopy(encoder)
        self.common_head = GaussianHead(encoder.dim, HIDDEN, common)
        self.salient_head = GaussianHead(encoder.dim, HIDDEN, salient)
        both = common + salient
        self.decoder = ConvDecoder(both, encoder.plan.height, encoder.plan.width, width, HIDDEN)
        self.discriminator = mlp((both, both, both, 1))
        self.classifier = mlp((salient, salient, 1))
        self.common_weight, self.salient_weight = common_weight, salient_weight
        self.dependence_weight, self.population_weight = dependence_weight, population_weight
        self.background_log_variance = math.log(background_variance)
        self.prior_log_variance = math.log(prior_variance)
        self.target = target
        self.populations: tuple[str, str] | None = None

    # -- the two populations -------------------------------------------------------------------------

    def examples(self, table: Table, rows: np.ndarray) -> dict[str, list[Any]]:
        """The default, with 1 as the label of the target population and 0 of the background."""
        found = super().examples(table, rows)
        self.populations = populations(table, self.target)
        code = table.label_names["label"].index(self.populations[1])
        return {**found, "label": [int(label == code) for label in found["label"]]}

    def notes(self) -> list[str]:
        if self.populations is None:
            return []
        return [
            "background population: {!r}; target population: {!r}".format(*self.populations)
            + ("" if self.target else " (the later name; another with --target)")
        ]

    # -- the two turns -------------------------------------------------------------------------------

    def turns(self) -> list[Turn]:
        judge = list(self.discriminator.parameters())
        others = {id(parameter) for parameter in judge}
        model = [parameter for parameter in self.parameters() if id(parameter) not in others]
        return [
            Turn("discriminator", judge, self.judge, fresh=True),
            Turn("vae", model, self.rebuild, fresh=True),
        ]

    def negatives(self, batch_size: int) -> int:
        return 0

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """The discriminator's turn: whether c and s come from one picture."""
        with torch.no_grad():
            c, s = (drawn(*moments) for moments in self.moments(batch))
        apart = torch.cat([c, s.roll(-1, dims=0)], dim=1)
        logits = self.discriminator(torch.cat([c, s], dim=1)), self.discriminator(apart)
        return {"dependence": ratio_discriminator(*logits)}

    def rebuild(self, batch: Batch) -> dict[str, Tensor]:
        """The turn of everything else."""
        x, y = batch["image"]["pixels"], batch["label"]
        of_c, of_s = self.moments(batch)
        c, s = drawn(*of_c), drawn(*of_s)
        shown = torch.where(y[:, None] == 1, s, torch.zeros_like(s))
        rebuilt = self.decoder(torch.cat([c, shown], dim=1)).float()
        together = self.discriminator(torch.cat([c, s], dim=1))
        population = nn.functional.binary_cross_entropy_with_logits(
            self.classifier(s).squeeze(1).float(), y.float(), reduction="sum"
        )
        return {
            "reconstruction": (x - rebuilt).square().sum(),
            "common": self.common_weight * gauss_kl(*of_c).sum(),
            "salient": self.salient_weight * self.salient_kl(*of_s, y).sum(),
            "dependence": self.dependence_weight * ratio_penalty(together),
            "population": self.population_weight * population,
        }

    def moments(self, batch: Batch) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Means and log-variances of q(c|x), [B, common] each, and of q(s|x), [B, salient] each."""
        of_c = self.common_head.moments(self.encoder(batch["image"]).pooled)
        mean, log_variance = self.salient_head.moments(self.salient_encoder(batch["image"]).pooled)
        constant = torch.full_like(log_variance, self.background_log_variance)
        return of_c, (mean, torch.where(batch["label"][:, None] == 1, log_variance, constant))

    def salient_kl(self, mean: Tensor, log_variance: Tensor, y: Tensor) -> Tensor:
        """KL of q(s|x) to the prior of its population: [B]."""
        target = gauss_kl(mean, log_variance)
        background = gauss_kl(mean, log_variance, 0.0, self.prior_log_variance)
        return torch.where(y == 1, target, background)

    def space(self) -> Space:
        return Space(
            {"salient": self.salient_encoder, "common": self.encoder},
            {"salient": self.salient_head, "common": self.common_head},
            geometry="euclidean",
            parts={"decoder": self.decoder},
        )


def populations(table: Table, target: str) -> tuple[str, str]:
    """The labels of background and target population.

    Args:
        table: with the role label.
        target: the label of the target population; empty for the later one.

    Raises:
        TableError: there are not exactly two labels.
        ArgumentError: `target` is none of the two.
    """
    names = table.label_names["label"]
    column = table.role_columns["label"]
    if len(names) != 2:
        some = ", ".join(repr(name) for name in names[:5]) + (" ..." if len(names) > 5 else "")
        raise TableError(
            f"{table.name}, column {column!r}: {len(names)} labels ({some}), but sepvae compares exactly two "
            "populations: keep the rows of two, or name another column with --column label=NAME"
        )
    if not target:
        return names[0], names[1]
    if target not in names:
        raise ArgumentError(
            f"target {target!r} is no label of {table.name}, column {column!r}: choose {names[0]!r} or {names[1]!r}"
        )
    background = names[1 - names.index(target)]
    return background, target
