"""CLEAR: words and sentences learned together, from scratch."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nearfar.data.kinds import Text
from nearfar.data.table import Table
from nearfar.encoders.masked import MaskedText
from nearfar.errors import ArgumentError, check_between
from nearfar.heads.language import IGNORED
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Method
from nearfar.objectives import nt_xent
from nearfar.space import Space
from nearfar.views.lexicon import lexicon_of
from nearfar.views.text_edits import edit_inputs
from nearfar.views.token_masks import hide_tokens


class CLEAR(Method):
    """Two copies of a sentence, edited in the same ways, are near; hidden words of the sentence itself are predicted.

        s1, s2 = AUG(s, seed1), AUG(s, seed2)            z_i = g(f(s)) [d], f the first token's state
        L_CL   = 1/2N sum_i -log[exp(cos(z_i, z_j) / t) / sum_{k != i} exp(cos(z_i, z_k) / t)]       i, k in 1..2N
        L      = L_MLM(s) + L_CL

    j is the other copy of i; all other copies of the batch are far (NT-Xent). AUG is one edit or a chain of them:
    del-word and del-span leave one [DEL], a token that is learned, in place of each run of what they delete; reorder
    lets pairs of spans change places; subs puts words that are used alike in place of others. s is never edited for
    L_MLM. g is thrown away after training; the encoder stays, with its head over the vocabulary. The paper trains from
    scratch (`--encoder tiny`); any masked language model may be trained on.

    No code is released, and what could be read of the paper tells neither t nor g: both are ours. The rates of the
    edits are from memory. Ours are also: a span has two tokens at least; subs takes words that keep similar company in
    the table (`nearfar.views.words.word_cosines`) in place of synonyms, and a word without such a one stays.

    Args:
        edits: names of edits, joined by "+", in the order in which they are made: del-word, del-span, reorder, subs.
            The paper's are these four, "subs+del-span" and "del-word+reorder".
        del_word: share of the tokens that del-word deletes.
        del_span: share of the tokens that del-span deletes, in spans of 5% of the text: five of them.
        reorder: share of the tokens that reorder moves, in spans of 5% of the text: five pairs.
        subs: share of the tokens that subs takes up; those without a similar word stay.
        temperature: t.
        share: of the tokens of s that are chosen to be predicted.
        pooling: f, one of the encoder's pooling kinds; "own" keeps the pooling that the encoder's folder
            names, and is the paper's "cls" where it names none.

    Wu, Wang, Gu, Khabsa, Sun, Ma. "CLEAR: Contrastive Learning for Sentence Representation." arXiv 2012.15466, 2020.
    """

    reads = {"text": Text}

    def __init__(
        self,
        encoder: MaskedText,
        edits: str = "del-word+reorder",
        del_word: float = 0.7,
        del_span: float = 0.25,
        reorder: float = 0.5,
        subs: float = 0.3,
        temperature: float = 0.1,
        share: float = 0.15,
        pooling: Literal["own", "cls", "mean", "first_last", "top2"] = "own",
    ) -> None:
        super().__init__()
        rates = {"del-word": del_word, "del-span": del_span, "reorder": reorder, "subs": subs}
        chain = edits.split("+")
        if not set(chain) <= set(rates) or len(set(chain)) < len(chain):
            raise ArgumentError(
                f"edits={edits!r}: join different ones of {', '.join(rates)} by '+', such as subs+del-span"
            )
        check_between(0, 1, del_word=del_word, del_span=del_span, reorder=reorder, subs=subs, share=share)
        encoder.choose_pooling(pooling)
        encoder.normalise = False
        encoder.head_is_trained = True  # once it has been through this
        self.recipe = {name: rates[name] for name in chain}
        self.temperature, self.share = temperature, share
        self.encoder = encoder
        self.lexicon = lexicon_of(encoder)
        self.head = Projection(encoder.dim, encoder.dim, encoder.dim, kind="mlp")

    def negatives(self, batch_size: int) -> int:
        return 0  # the sum with the other term compares with nothing

    def begin(self, table: Table) -> None:
        if "subs" in self.recipe:
            self.lexicon = lexicon_of(self.encoder, table)

    def notes(self) -> list[str]:
        return [self.lexicon.note] if "subs" in self.recipe else []

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        texts = self.encoder.prepare(rows["text"])
        hidden, labels = hide_tokens(self.encoder, texts, self.share, generator)
        one, two = (edit_inputs(self.encoder, texts, self.recipe, generator, self.lexicon) for _ in range(2))
        return {
            "one": one,
            "two": two,
            "hidden": {**hidden, "labels": labels},
            "predicted": (labels != IGNORED).sum(dim=1),
        }

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        labels = batch["hidden"]["labels"]
        chosen = labels != IGNORED
        states = self.encoder(batch["hidden"]).tokens
        # A row each, not their mean, so that the loss can be cut here.
        losses = functional.cross_entropy(
            self.encoder.predict(states[chosen]), labels[chosen], reduction="none"
        )
        recovery = losses.new_zeros(len(labels)).index_add(0, chosen.nonzero()[:, 0], losses)
        z = {name: self.head(self.encoder(batch[name]).pooled) for name in ("one", "two")}
        return {**z, "recovery": recovery}

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {
            "mlm": z["recovery"].sum() / batch["predicted"].sum().clamp(min=1),
            "nt_xent": nt_xent(z["one"], z["two"], temperature=self.temperature),
        }

    def space(self) -> Space:
        return Space({"text": self.encoder})
