"""DenoSent: a sentence's vector must be near its paraphrase's, and must suffice to undo heavy noise."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nearfar.data.kinds import Text
from nearfar.encoders.masked import MaskedText
from nearfar.encoders.prompted import PromptedText
from nearfar.errors import check_between
from nearfar.heads.decoders.denoiser import Denoiser
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Method
from nearfar.objectives import info_nce
from nearfar.space import Space
from nearfar.views.text import dropout_twins


class DenoSent(Method):
    """Contrast between sentences, and reconstruction inside each from its own vector.

        h(s) = state of the mask token of `"s" means [MASK].`        e = W h + b        e: [B, d]
        L_c = -mean_i log exp(cos(e_i, e+_i) / t) / sum_j exp(cos(e_i, e+_j) / t)
        L_g = -mean over tokens w_l of s+ of log p(w_l | Denoiser(Dropout_p(sg T), e)_l)
        L = a L_c + g L_g

    s is the text and s+ its positive, a noised copy (the paper: translated to Chinese and back, or rewritten by a
    language model; any paraphrase serves). T [B, L, d] is what the embedding layer makes of s+ in its prompt,
    without gradient, since it could be made small instead; the share p of its entries is dropped, at every position.
    Denoiser is that of `nearfar.heads.decoders.denoiser`; p(w | .) is the encoder's own head over the vocabulary,
    which goes on learning. All tokens of the prompted s+ count, those of the prompt included. From plain texts
    s+ = s: e and e+ are dropout twins, as in the release, and the dropout on T is all the noise. A third column,
    `negative`, is more far keys. The space keeps h: W, the denoiser and the head over the vocabulary are for
    training.

    An encoder whose head over the vocabulary is new works too, since the head learns; a trained one is better, and
    the run's notes say so. Defaults are those of the release's command; the paper's text has t = 0.03 and a = g = 1.
    The release puts the cut text into the prompt as characters and tokenises anew; here tokens are put together.

    Args:
        temperature: t.
        contrastive_weight: a.
        denoising_weight: g.
        noise: p; when it is low the denoiser does without e.
        layers: blocks of the denoiser.
        heads: attention heads of the denoiser.
        ffn: width inside its blocks.
        template: the prompt, with [X] for the text and after it [MASK].

    Wang, He, Wang, Zhou, Sun, Qiu. "DenoSent: A Denoising Objective for Self-Supervised Sentence Representation
    Learning." AAAI 2024.
    """

    reads = {"text": Text, "positive": Text | None, "negative": Text | None}

    def __init__(
        self,
        encoder: MaskedText,
        temperature: float = 0.05,
        contrastive_weight: float = 5.0,
        denoising_weight: float = 7.0,
        noise: float = 0.825,
        layers: int = 16,
        heads: int = 1,
        ffn: int = 2048,
        template: str = '"[X]" means [MASK].',
    ) -> None:
        super().__init__()
        check_between(0, math.inf, contrastive_weight=contrastive_weight, denoising_weight=denoising_weight)
        self.encoder = PromptedText.around(encoder, template)
        self.encoder.normalise = False  # both losses read the states at their own scale
        self.vocabulary = encoder.head
        self.head = Projection(encoder.dim, encoder.dim)
        for parameter, std in zip(self.head.parameters(), (0.02, 0.0), strict=True):
            nn.init.normal_(parameter, std=std)
        self.denoiser = Denoiser(encoder.dim, noise, layers, heads, ffn)
        self.temperature = temperature
        self.weights = {"contrastive": contrastive_weight, "denoising": denoising_weight}
        self.head_was_new = not encoder.head_is_trained

    def negatives(self, batch_size: int) -> int:
        return 0

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        batch = super().prepare(rows, generator)
        return {**batch, "tokens": batch["positive" if "positive" in batch else "text"]["mask"].sum(dim=1)}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        noised = batch["positive" if "positive" in batch else "text"]
        if "positive" in batch:
            one, two = self.encoder(batch["text"]), self.encoder(noised, layers=True)
            embedded = two.layers[0]
        else:
            one, two = dropout_twins(self.encoder, batch["text"], layers=True)
            embedded = one.layers[0]
        z = {"one": self.head(one.pooled), "two": self.head(two.pooled)}
        if "negative" in batch:
            z["negative"] = self.head(self.encoder(batch["negative"]).pooled)
        z["reconstruction"] = self.reconstruction_loss(noised, embedded.detach(), z["one"])
        return z

    def reconstruction_loss(self, inputs: dict[str, Tensor], embedded: Tensor, vectors: Tensor) -> Tensor:
        """How little each text is expected from its noisy embeddings and a vector: -log p of its tokens, summed [B].

        Args:
            inputs: the texts, "ids" and "mask" [B, L].
            embedded: T [B, L, d].
            vectors: e [B, d].
        """
        mask = inputs["mask"]
        lost = functional.cross_entropy(
            self.predicted(embedded, vectors, mask), inputs["ids"][mask], reduction="none"
        )
        return lost.new_zeros(mask.shape).masked_scatter(mask, lost).sum(dim=1)

    def predicted(self, embedded: Tensor, vectors: Tensor, mask: Tensor) -> Tensor:
        """Logits over the vocabulary [number of tokens, V], text after text; arguments as in `reconstruction_loss`."""
        states = self.denoiser(embedded, vectors, mask)[mask]
        logits: Tensor = self.vocabulary(states, self.encoder.model.get_input_embeddings().weight)
        return logits

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        terms = {
            "contrastive": info_nce(
                z["one"], z["two"], temperature=self.temperature, extra_keys=z.get("negative")
            ),
            "denoising": z["reconstruction"].sum() / batch["tokens"].sum(),
        }
        return {name: self.weights[name] * term for name, term in terms.items()}

    def space(self) -> Space:
        return Space({"text": self.encoder})

    def notes(self) -> list[str]:
        if not self.head_was_new:
            return []
        return [
            "the head over the vocabulary was new: the denoiser is of more use to an encoder trained by masked "
            "language modelling together with its head"
        ]
