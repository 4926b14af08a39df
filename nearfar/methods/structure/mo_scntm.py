"""MO-SCNTM: a topic model whose texts are contrasted in sets, with two objectives that share the encoder."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.data.kinds import Text
from nearfar.data.table import Table
from nearfar.encoders.words import BagOfWords
from nearfar.errors import check_between
from nearfar.heads.topics import TopicDecoder, TopicHead
from nearfar.method import Batch, Embed, Method
from nearfar.objectives.gaussian import gauss_kl, laplace_of_dirichlet
from nearfar.objectives.set_pools import random_sets, set_contrast
from nearfar.space import Space
from nearfar.training.pareto import pareto_share
from nearfar.views.words import replace_top_words, word_relations

FADED = 0.75
"""Share of the steps after which the decoder's batch norm is gone."""
TOLD = 8
"""Words by which a topic is told in the notes."""


class MOSCNTM(Method):
    """Shares of topics are learned from words, while sets of texts keep what they have in common.

        theta = softmax(z),  z ~ N(mu(x), s^2(x));    p = decoder(theta), `TopicDecoder`           x: counts [B, V]
        elbo  = mean of -sum_w x_w log p_w + KL( N(mu, s^2) || Laplace approximation of Dirichlet(alpha) )
        set   = mean over sets of -log( e^f(min, min+) / (e^f(min, min+) + beta e^f(max, max-)) )   f = cosine / t
        encoder: along a g_set + (1 - a) g_elbo, a where that is shortest;   decoder: along the gradient of elbo

    Every batch is cut into sets of K texts, in several shuffles. The related text of x has its `replaced` words of
    most weight (count times inverse document frequency) replaced by those used most like them in the table, the
    unrelated text by those used least like them; the paper lets a language model write these or takes neighbours.
    The weight a of the least combined gradient holds neither objective back to raise the other (Sener, Koltun,
    NeurIPS 2018). There is no official code: K, shuffles, beta, t, `replaced` and the pooling of related and
    unrelated texts are reconstructed, encoder and decoder are those of SCHOLAR from memory, with its batch norm of the
    decoder that fades out over the first three quarters of the steps.

    The space embeds a text by the mean shares of its topics; its part "topics" holds their words.

    Args:
        topics: T.
        set_size: K; 1 contrasts texts.
        shuffles: orders in which a batch is cut into sets.
        temperature: t.
        beta: weight of the far pair.
        replaced: words changed in a related or unrelated text.
        concentration: alpha of the Dirichlet prior; 0 takes 1.
        weighting: "pareto", as above; "normalised", the same for gradients of length one; "fixed", the sum of elbo
            and `contrast` times set; "elbo", no sets at all.
        contrast: weight of set where weighting is "fixed".

    Nguyen, Wu, Dong, Nguyen, Ng, Luu. "Topic Modeling as Multi-Objective Contrastive Optimization." ICLR 2024.
    """

    reads = {"text": Text}
    idf: Tensor
    near: Tensor
    far: Tensor

    def __init__(
        self,
        encoder: BagOfWords,
        topics: int = 50,
        set_size: int = 4,
        shuffles: int = 2,
        temperature: float = 0.2,
        beta: float = 1.0,
        replaced: int = 15,
        concentration: float = 0.0,
        weighting: Literal["pareto", "normalised", "fixed", "elbo"] = "pareto",
        contrast: float = 1.0,
    ) -> None:
        super().__init__()
        check_between(2, math.inf, topics=topics)
        check_between(1, math.inf, set_size=set_size, shuffles=shuffles, replaced=replaced)
        check_between(0, math.inf, concentration=concentration, contrast=contrast)
        words = len(encoder.vocabulary)
        self.encoder, self.head = encoder, TopicHead(encoder.dim, topics)
        self.decoder = TopicDecoder(topics, words)
        self.set_size, self.shuffles, self.temperature, self.beta = set_size, shuffles, temperature, beta
        self.replaced, self.weighting, self.contrast_weight = replaced, weighting, contrast
        self.prior = laplace_of_dirichlet(concentration or 1.0, topics)
        self.register_buffer("idf", torch.ones(words))
        # Until the table has been read every word stands for itself.
        self.register_buffer("near", torch.arange(words))
        self.register_buffer("far", torch.arange(words))
        self.shares: list[float] = []
        self.lengths: list[float] = []

    def before_epoch(self, table: Table, embed: Embed) -> None:
        if not torch.equal(self.near, self.far):
            return
        counts = self.encoder.prepare(table.column("text"))["counts"]
        there = (counts > 0).sum(0)
        self.idf.copy_(torch.log(len(counts) / there.clamp(min=1)))
        near, far = word_relations(counts.numpy())
        self.near.copy_(near)
        self.far.copy_(far)
        background = torch.log((counts.sum(0) + 1) / (counts.sum() + counts.shape[1]))
        self.decoder.background.data.copy_(background)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        counts = batch["text"]["counts"]
        views = [counts]
        if self.weighting != "elbo":
            views += [replace_top_words(counts, self.idf, by, self.replaced) for by in (self.near, self.far)]
        features = self.encoder({"counts": torch.cat(views)}).pooled
        mean, log_variance, theta = self.head.sample(features)
        own, *related = theta.chunk(len(views))
        n = len(counts)
        divergence = gauss_kl(mean[:n], log_variance[:n], *self.prior).mean()
        terms = {"elbo": divergence - (counts * self.decoder(own, frozen=True)).sum(1).mean()}
        if related:
            near, far = related
            sets = random_sets(n, self.set_size, self.shuffles, counts.device)
            terms["set"] = set_contrast(own, near, far, sets, temperature=self.temperature, beta=self.beta)
        # The decoder learns from the likelihood alone: whatever weight the encoder gives it, this one is 1.
        terms["decoder"] = -(counts * self.decoder(own.detach())).sum(1).mean()
        return terms

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        if "set" not in terms:
            return terms["elbo"] + terms["decoder"]
        if self.weighting == "fixed":
            return self.contrast_weight * terms["set"] + terms["elbo"] + terms["decoder"]
        shared = [*self.encoder.parameters(), *self.head.parameters()]
        of_set, of_elbo, lengths = pareto_share(
            terms["set"], terms["elbo"], shared, normalise=self.weighting == "normalised"
        )
        self.shares.append(float(of_set / (of_set + of_elbo)))
        self.lengths = lengths.tolist()
        return of_set * terms["set"] + of_elbo * terms["elbo"] + terms["decoder"]

    def after_step(self, z: dict[str, Tensor], step: int, steps: int) -> None:
        self.decoder.normed.fill_(max(0.0, 1 - step / (FADED * steps)))

    def negatives(self, batch_size: int) -> int:
        return 0

    def notes(self) -> list[str]:
        told = [
            f"topic {number}: {words}"
            for number, words in enumerate(self.decoder.described(self.encoder.vocabulary, TOLD), 1)
        ]
        if self.shares:
            half = np.array(self.shares)[len(self.shares) // 2 :]
            told.append(
                f"the sets had a share of {half.mean():.3f} in the encoder's steps, in the second half of training; at "
                f"the end their gradient was {self.lengths[0]:.3g} long, that of the likelihood {self.lengths[1]:.3g}"
            )
        return told

    def space(self) -> Space:
        parts: dict[str, nn.Module] = {"topics": self.decoder}
        return Space({"text": self.encoder}, {"text": self.head}, parts=parts)
