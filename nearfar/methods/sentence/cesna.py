"""CESNA: texts with the same emoji are near, across languages."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nearfar.batching.pairs import LabelPairs, shares_label
from nearfar.data.emojis import emojis_of, without_emojis
from nearfar.data.kinds import Label, Text
from nearfar.data.table import Table
from nearfar.encoders.composed import WithoutEmojis
from nearfar.encoders.encoder import Encoder
from nearfar.encoders.recurrent import CharacterText
from nearfar.errors import ArgumentError, TableError, check_between
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Method
from nearfar.objectives import pair_margin
from nearfar.space import Space

NONE = -1


class CESNA(Method):
    """Siamese twins with shared weights pull texts with a common emoji together, and push others apart to a margin.

        L = 1/2 mean over pairs of  y E^2 + (1 - y) max(0, m - E)^2        y = 1: a common emoji; else 0
        E = |G(s1) - G(s2)| or 1 - cos(G(s1), G(s2)),    G(s) = W h + b    h: mean state of the encoder

    The emoji of a text is its label, or where the table has no label column all that are in it: texts with none are
    left out. All emojis are taken out of what the encoder reads, in training and after, with their selectors,
    skin tones and joiners. Rows 2k and 2k + 1 of a batch are a pair, so that 256 rows are 128 pairs: near and far ones
    take turns, and so do all pairs of languages (rich-rich, rich-poor, poor-poor), where the table has a column for
    them; labels are drawn evenly, so that a common emoji does not fill the batch.

    To predict the emoji of a text, look at its nearest labelled texts of all languages, or at the mean of each emoji.

    Reconstructed from the paper's abstract and its authors' related work: no full text or release could be had. The
    loss is that of Hadsell et al. (CVPR 2006) with its factor 1/2, but a mean over pairs, so that a learning rate does
    not depend on the batch. The encoder (LSTM in both directions over characters, 64 numbers a character, 2 x 128
    states, one linear layer) and all defaults are ours.

    Args:
        margin: m, beyond which two texts with different emojis are far enough.
        dim: width of G.
        distance: E; "cosine" is 1 - cos, and the margin then at most 2.

    Choudhary, Singh, Bindlish, Shrivastava. "Contrastive Learning of Emoji-based Representations for Resource-Poor
    Languages." CICLing 2018.
    """

    reads = {"text": Text, "label": Label | None, "language": Label | None}

    def __init__(
        self,
        encoder: CharacterText | Encoder,
        margin: float = 1.0,
        dim: int = 128,
        distance: Literal["euclidean", "cosine"] = "euclidean",
    ) -> None:
        super().__init__()
        check_between(1e-6, 2 if distance == "cosine" else math.inf, margin=margin)
        check_between(1, math.inf, dim=dim)
        self.encoder = WithoutEmojis(encoder)
        self.head = Projection(encoder.dim, dim, kind="linear")
        self.margin, self.distance = margin, distance
        self.emojis = np.empty((0, 1), dtype=np.int64)
        self.pairs: LabelPairs | None = None
        self.told = ""

    def begin(self, table: Table) -> None:
        """Find the emojis of all rows, and who can be paired with whom."""
        texts, labelled = table.column("text"), "label" in table.kinds
        sets: list[list[Any]] = [[label] for label in table.column("label")] if labelled else []
        sets = sets or [emojis_of(text) for text in texts]
        left = [bool(without_emojis(text)) for text in texts]
        sets = [own if some else [] for own, some in zip(sets, left, strict=True)]
        number = {name: k for k, name in enumerate(dict.fromkeys(name for own in sets for name in own))}
        self.emojis = np.full((len(sets), max(1, *map(len, sets))), NONE)
        for row, own in enumerate(sets):
            self.emojis[row, : len(own)] = [number[name] for name in own]
        languages = table.column("language") if "language" in table.kinds else [0] * len(sets)
        try:
            self.pairs = LabelPairs(self.emojis, np.array(languages))
        except ArgumentError as why:
            raise TableError(
                f"{table.name}: {why}. Labels are "
                + ("those of the column." if labelled else "the emojis in the texts (--column label=NAME).")
            ) from None
        self.told = f"{len(number)} labels on {sum(map(bool, sets)):,} of {len(sets):,} texts" + (
            "" if all(left) else f"; {left.count(False):,} with nothing but emojis were not used"
        )
        unused = set(languages) - {language for language, own in zip(languages, sets, strict=True) if own}
        if unused:
            names = ", ".join(sorted(table.label_names["language"][language] for language in unused))
            self.told += f"; no text in {names} has a label, so none of these was used"

    def order(self, rows: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        if self.pairs is None:
            raise ArgumentError("CESNA does not know the emojis of the rows: call begin(table) first")
        return self.pairs.order(rows, batch_size, seed, epoch)

    def examples(self, table: Table, rows: np.ndarray) -> dict[str, list[Any]]:
        """The texts, and the numbers of their emojis, as many for each row (-1: none)."""
        return {"text": table.rows(rows)["text"], "emojis": list(self.emojis[rows])}

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        return {
            "text": self.encoder.prepare(rows["text"]),
            "emojis": torch.from_numpy(np.stack(rows["emojis"])),
        }

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return {"z": self.head(self.encoder(batch["text"]).pooled)}

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        one, two = z["z"][0::2], z["z"][1::2]
        if self.distance == "euclidean":
            apart = torch.linalg.vector_norm(one - two, dim=1)
        else:
            apart = (1 - functional.cosine_similarity(one, two)).clamp(min=0)
        same = shares_label(batch["emojis"][0::2], batch["emojis"][1::2])
        return {"pairs": pair_margin(apart, same, self.margin) / 2}

    def negatives(self, batch_size: int) -> int:
        return 0

    def notes(self) -> list[str]:
        return [self.told]

    def space(self) -> Space:
        return Space({"text": self.encoder}, {"text": self.head}, geometry=self.distance)
