"""Topics: where a text stands among them, and what words each is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class TopicHead(nn.Module):
    """Features to shares of topics: theta = softmax(z), z ~ N(mu, sigma^2), of which `forward` takes the mean.

    Srivastava, Sutton. "Autoencoding Variational Inference for Topic Models." ICLR 2017.

    Args:
        width: of the features.
        topics: T.
    """

    def __init__(self, width: int, topics: int) -> None:
        super().__init__()
        self.width, self.topics = width, topics
        self.mean, self.log_variance = (
            nn.Sequential(nn.Linear(width, topics), nn.BatchNorm1d(topics, affine=False)) for _ in range(2)
        )

    def forward(self, features: Tensor) -> Tensor:
        """softmax(mu): [B, width] to shares [B, T]."""
        return self.mean(features).softmax(-1)

    def sample(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """mu, log sigma^2 and a drawn theta, each [B, T]."""
        mean, log_variance = self.mean(features), self.log_variance(features)
        drawn = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        return mean, log_variance, drawn.softmax(-1)

    def settings(self) -> dict[str, Any]:
        """What `make_head` needs."""
        return {"class": type(self).__name__, "dims": [self.width, self.topics]}


class TopicDecoder(nn.Module):
    """Shares of topics to the probabilities of words:

        p = b softmax(BN(theta Phi + background)) + (1 - b) softmax(theta Phi + background)

    Normalised over the batch, all topics come into use; but then the size of Phi means nothing, and with it which
    words make a topic. So b, `normed`, should fall from 1 to 0 while it learns.

    Card, Tan, Smith. "Neural Models for Documents with Metadata." ACL 2018 (SCHOLAR).

    Args:
        topics: T.
        words: V.
    """

    normed: Tensor

    def __init__(self, topics: int, words: int) -> None:
        super().__init__()
        self.topics, self.words = topics, words
        self.phi = nn.Parameter(nn.init.xavier_uniform_(torch.empty(topics, words)))
        self.background = nn.Parameter(torch.zeros(words))
        self.norm = nn.BatchNorm1d(words, affine=False)
        self.register_buffer("normed", torch.ones(()))

    def forward(self, theta: Tensor, frozen: bool = False) -> Tensor:
        """Log-probabilities [B, V] of words; with `frozen` no gradient reaches the decoder, only theta [B, T]."""
        phi, background = (p.detach() if frozen else p for p in (self.phi, self.background))
        scores = theta @ phi + background
        mixed = self.normed * self.norm(scores).softmax(-1) + (1 - self.normed) * scores.softmax(-1)
        return mixed.clamp(min=torch.finfo(mixed.dtype).tiny).log()

    def top_words(self, n: int) -> Tensor:
        """Numbers of the n words that weigh most in each topic, int64 [T, n]."""
        return self.phi.detach().topk(min(n, self.words), dim=1).indices

    def described(self, vocabulary: Sequence[str], n: int) -> list[str]:
        """The n words that weigh most in each topic, as one string a topic."""
        return [" ".join(vocabulary[word] for word in row) for row in self.top_words(n).tolist()]

    def settings(self) -> dict[str, Any]:
        """What `make_head` needs."""
        return {"class": type(self).__name__, "dims": [self.topics, self.words]}
