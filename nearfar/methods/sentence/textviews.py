"""One named view of a text as its positive: the review of text transformations, as software."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from nearfar.data.kinds import Text
from nearfar.data.table import Table
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, check_between
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Method
from nearfar.objectives import info_nce
from nearfar.space import Space
from nearfar.views.lexicon import lexicon_of
from nearfar.views.text import dropout_twins
from nearfar.views.text_edits import EDITS, edit_inputs
from nearfar.views.text_latent import LATENT, latent_edit


class TextViews(Method):
    """A text and its view under one transformation are near; the views of other texts are far.

        loss_i = -log exp(cos(z_i, z'_i) / t) / sum_j exp(cos(z_i, z'_j) / t)

        z = g(f(x)), z' = g(f(v(x)))        [B, d]

    The frame of the review with everything but the view v held fixed, so that views can be compared: f pools the
    states, g = tanh(W h + b) is for training only, as in SimCSE, and dropout is on for both. Views, by where they
    act: "dropout" (the text itself under another dropout mask) and "token-cutoff", "span-cutoff", "feature-cutoff",
    "noise", "mixup" inside the encoder, on embeddings of tokens; "del-word", "del-span", "delete", "reorder", "swap",
    "shuffle", "subs", "insert", "crop", "spelling" on the tokens themselves. `nearfar.views.text_edits.edit_text` and
    `nearfar.views.text_latent.latent_edit` tell what each does and where it is from.

    The review trains nothing and names no settings: the loss and all defaults are ours, after SimCSE. Not offered are
    views that need another model (back-translation, words of a language model, paraphrases, adversarial noise)
    or other columns (neighbouring sentences), and two networks.

    Args:
        view: a name of the above.
        rate: share of the tokens or features that the view changes, or how strong its noise is; "dropout" has the
            encoder's own.
        temperature: t.
        pooling: f, one of the encoder's pooling kinds; "own" keeps the pooling that the encoder's folder
            names, and is "cls" where it names none.

    Bhattacharjee, Karami, Liu. "Text Transformations in Contrastive Self-Supervised Learning: A Review." IJCAI 2022.
    """

    reads = {"text": Text}

    def __init__(
        self,
        encoder: TransformerText,
        view: str = "dropout",
        rate: float = 0.1,
        temperature: float = 0.05,
        pooling: Literal["own", "cls", "mean", "first_last", "top2"] = "own",
    ) -> None:
        super().__init__()
        if view not in ("dropout", *LATENT, *EDITS):
            raise ArgumentError(f"view={view!r}: choose one of dropout, {', '.join([*LATENT, *EDITS])}")
        check_between(0, 1, rate=rate)
        encoder.choose_pooling(pooling)
        encoder.normalise = False
        self.view, self.rate, self.temperature = view, rate, temperature
        self.encoder = encoder
        self.lexicon = lexicon_of(encoder) if view in EDITS else None
        self.head = Projection(encoder.dim, encoder.dim, kind="tanh")

    def begin(self, table: Table) -> None:
        if self.view in ("subs", "insert"):
            self.lexicon = lexicon_of(self.encoder, table)

    def notes(self) -> list[str]:
        return [self.lexicon.note] if self.lexicon and self.view in ("subs", "insert") else []

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        texts = self.encoder.prepare(rows["text"])
        if self.lexicon is None:
            return {"text": texts}
        recipe = {self.view: self.rate}
        return {"text": texts, "edited": edit_inputs(self.encoder, texts, recipe, generator, self.lexicon)}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        texts = batch["text"]
        if self.view == "dropout":
            pair = dropout_twins(self.encoder, texts)
        elif self.view in LATENT:
            edit = latent_edit(self.view, self.rate, texts["mask"])
            pair = [self.encoder(texts), self.encoder(texts, edit=edit)]
        else:
            pair = [self.encoder(texts), self.encoder(batch["edited"])]
        return {name: self.head(of.pooled) for name, of in zip(("text", "view"), pair, strict=True)}

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"info_nce": info_nce(z["text"], z["view"], temperature=self.temperature)}

    def space(self) -> Space:
        return Space({"text": self.encoder})
