"""MCSE: sentence embeddings from dropout twins, some of them also near to a picture of what they say."""

from __future__ import annotations

import hashlib
import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nearfar.batching.mixed import EveryNth
from nearfar.data.kinds import Image, Missing, Text, Vector
from nearfar.data.table import Table
from nearfar.encoders.encoder import Encoder
from nearfar.encoders.given import GivenVectors
from nearfar.encoders.text import TransformerText
from nearfar.encoders.vector import MLPVector
from nearfar.errors import ArgumentError, TableError, check_between
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Method
from nearfar.objectives import Pairing, info_nce
from nearfar.space import Space
from nearfar.training.teacher import FrozenTeacher
from nearfar.views.text import dropout_twins


class MCSE(Method):
    """SimCSE on all sentences; those with a picture are also near it, in a space made for that.

        h, h' = f(x) twice, two dropout masks of one pass;   z = tanh(W h + b);   s = tanh(W_s h + b_s)       [B, p]
        v = tanh(W_v g(y) + b_v)        picture y, frozen g                                                   [B, p]
        sim_i = -log exp(cos(z_i, z'_i) / t) / sum_j exp(cos(z_i, z'_j) / t)
        see_i = -log exp(cos(s_i, v_i) / t_v) / sum_j exp(cos(s_i, v_j) / t_v),  the mean with that of s'
        loss  = mean sim_i + weight * mean see_i        (the second in batches with pictures only)

    Text against pictures only, never pictures against text. Both heads, and that of SimCSE, see the states h and are
    for training; the space is f. The encoder g of pictures never learns, its head does.

    A table has texts and a column `image` of pictures, or of features that some other network made of them (the
    paper's way: extracted once); its cell is empty where a text has none. A batch is of rows of one kind: every
    n-th is of rows with a picture, n = texts // pictures, at least 2. As in the release n counts alone, so the
    rarer kind may come more or less than once an epoch; its n of 0 or 1, which fails or leaves the texts out, is
    2 here. If all rows have pictures, so have all batches. A picture that stands in several rows of a batch is no
    negative of any of their texts (ours: the paper draws one caption of each picture, so that none does).

    Name an encoder of pictures that was trained before (`--encoder image=...`): from scratch it stays random.

    Args:
        weight: of the second term; the paper's for text with few captions, 0.05 for captions alone.
        temperature: t.
        image_temperature: t_v.
        dim: p, the width in which sentences and pictures are compared.
        pooling: f, one of the encoder's pooling kinds; "own" keeps the pooling that the encoder's folder names, and
            is the paper's "cls" where it names none.

    Zhang, Mosbach, Adelani, Hedderich, Klakow. "MCSE: Multimodal Contrastive Learning of Sentence Embeddings."
    NAACL 2022.
    """

    reads = {"text": Text, "image": Image | Vector | Missing}

    def __init__(
        self,
        text: TransformerText,
        image: Encoder,
        weight: float = 0.01,
        temperature: float = 0.05,
        image_temperature: float = 0.05,
        dim: int = 256,
        pooling: Literal["own", "cls", "mean", "first_last", "top2"] = "own",
    ) -> None:
        super().__init__()
        check_between(0, math.inf, weight=weight)
        check_between(1e-4, math.inf, temperature=temperature, image_temperature=image_temperature)
        text.choose_pooling(pooling)
        text.normalise = False  # the heads see the states at their own scale, as in the paper
        if isinstance(image, MLPVector) and not image.pretrained:
            image = GivenVectors(image.width)  # features are there already
        self.text, self.image = text, FrozenTeacher(image)
        self.head = Projection(text.dim, text.dim, kind="tanh")
        self.sentence_head = Projection(text.dim, dim, kind="tanh")
        self.picture_head = Projection(image.dim, dim, kind="tanh")
        self.weight, self.temperature, self.image_temperature = weight, temperature, image_temperature
        self.batches: EveryNth | None = None

    def begin(self, table: Table) -> None:
        seen = table.present("image")
        if not seen.any():
            raise TableError(
                f"{table.name}, column {table.role_columns['image']!r}: no row has a picture; without pictures this "
                "method is simcse"
            )
        self.batches = EveryNth(np.flatnonzero(seen), np.flatnonzero(~seen))

    def order(self, rows: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        if self.batches is None:
            raise ArgumentError("begin finds the rows with pictures: call it before order")
        try:
            return self.batches.order(rows, batch_size, seed, epoch)
        except ArgumentError as why:
            raise ArgumentError(
                f"column image: a batch is of rows with a picture or of rows without, and {why}"
            ) from None

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        batch: Batch = {"text": self.text.prepare(rows["text"])}
        there = [picture is not None for picture in rows["image"]]
        if any(there) and not all(there):
            raise ArgumentError("a batch has pictures in all of its rows or in none")
        if all(there):
            pictures = self.image.model.prepare(rows["image"])
            batch |= {"image": pictures, "content": _contents(pictures)}
        return batch

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        one, two = (twin.pooled for twin in dropout_twins(self.text, batch["text"]))
        z = {"one": self.head(one), "two": self.head(two)}
        if "image" in batch:
            z |= {"sentence one": self.sentence_head(one), "sentence two": self.sentence_head(two)}
            z["picture"] = self.picture_head(self.image(batch["image"]).pooled)
        return z

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        terms = {"info_nce": info_nce(z["one"], z["two"], temperature=self.temperature)}
        if "picture" in z:
            pairing = Pairing.diagonal().ignoring(batch["content"])
            seen = [
                info_nce(z[f"sentence {twin}"], z["picture"], pairing, temperature=self.image_temperature)
                for twin in ("one", "two")
            ]
            terms["grounding"] = self.weight * torch.stack(seen).mean()
        return terms

    def notes(self) -> list[str]:
        if self.image.model.pretrained or isinstance(self.image.model, GivenVectors):
            return []
        return [
            "the encoder of pictures was made from scratch and is as random as it began: name one that is trained"
        ]

    def space(self) -> Space:
        return Space({"text": self.text})


def _contents(inputs: dict[str, Tensor]) -> Tensor:
    """Numbers that are equal for rows of equal content, int64 [B], in every process alike."""
    rows = zip(*(value.numpy() for value in inputs.values()), strict=True)
    digests = [
        hashlib.blake2b(b"".join(part.tobytes() for part in row), digest_size=8).digest() for row in rows
    ]
    return torch.tensor([int.from_bytes(digest) >> 1 for digest in digests])
