"""CLIPPINGS: records with a picture and a noisy text, linked in the space of both."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nearfar.batching.classes import class_groups, neighbour_groups, one_of_each
from nearfar.batching.clusters import ClusterOrder
from nearfar.batching.copies import text_ids
from nearfar.batching.order import epoch_order
from nearfar.data.kinds import Image, Label, Text
from nearfar.data.table import Table
from nearfar.encoders.encoder import Encoder
from nearfar.encoders.towers import Towers, linear_towers
from nearfar.errors import ArgumentError, check_between
from nearfar.heads.fusion import WeightedMean
from nearfar.method import Batch, Embed, Method
from nearfar.objectives import Pairing, Temperature, info_nce, sup_con
from nearfar.search.ranking import top_k
from nearfar.search.records import FUSION
from nearfar.space import Space


class CLIPPINGS(Method):
    """Scans of one thing are near, seen as picture and OCR text together; record linkage follows.

    Without labels (stage A) a picture and its own text are near, v and t unit rows [B, d]:

        loss = 1/2 [ CE(s V T^T) + CE(s T V^T) ]        s = 1/t_0 = exp(nu) <= 100, learned

    With labels (stages B and C: made-up records with a label each, then real ones) records of one class are
    near, P_i holding the other rows of the class of i:

        e_i = normalize(w v_i + (1 - w) t_i)
        loss = mean_i - 1/|P_i| sum over p in P_i of log exp(e_i.e_p / t) / sum over a != i of exp(e_i.e_a / t)

    A stage is a run of its own, with its own table and learning rate; `start` hands over what the stage before
    has learned. The space fuses pictures and texts as e does, for `link`, `cluster` and `measure`.

    With labels, batches are made of hard groups: one exemplar of each class is embedded, and every class with
    its k - 1 nearest gives m random rows of each (with replacement). Groups are shuffled, never mixed. With k = 1
    they are m rows of random classes, without replacement; a class with too few gives some twice.

    Ours: texts that come twice in a batch are no negatives of each other, where the paper drops copies
    beforehand; groups are found anew before every epoch, where the released script finds them once; a batch
    holds a whole number of groups, so 64 is refused with the default 9 rows a group. The margin loss that may
    take the place of the second loss is not offered, nor the MLP that may take the place of w.

    Args:
        dim: d, width of the shared space.
        start: folder of a space with pictures and texts to go on from; its encoders and heads take the place of
            the given ones. Empty starts anew.
        supervision: "labels" uses the column of labels where there is one; "none" leaves it alone.
        image_weight: w; 1 looks at pictures only, 0 at texts only.
        temperature: t_0 at the start.
        class_temperature: t.
        rows_per_class: m.
        neighbours: k, classes in a group, the anchor's own included.

    Arora, Yang, Jheng, Dell. "Linking Representations with Multimodal Contrastive Learning." arXiv 2023.
    """

    reads = {"image": Image, "text": Text, "label": Label | None}

    def __init__(
        self,
        image: Encoder,
        text: Encoder,
        dim: int = 512,
        start: str = "",
        supervision: Literal["labels", "none"] = "labels",
        image_weight: float = 0.5,
        temperature: float = 0.07,
        class_temperature: float = 0.1,
        rows_per_class: int = 3,
        neighbours: int = 3,
    ) -> None:
        super().__init__()
        check_between(0, 1, image_weight=image_weight)
        check_between(1e-4, math.inf, class_temperature=class_temperature)
        check_between(2, math.inf, rows_per_class=rows_per_class)
        check_between(1, math.inf, neighbours=neighbours)
        self.towers = _started(start) if start else linear_towers({"image": image, "text": text}, dim)
        self.fusion = WeightedMean({"image": image_weight, "text": 1 - image_weight})
        self.temperature = Temperature("exp", temperature, minimum=0.01)
        self.class_temperature = class_temperature
        self.supervision = supervision
        self.rows_per_class, self.neighbours = rows_per_class, neighbours
        self.groups: ClusterOrder | None = None

    # -- who meets whom ----------------------------------------------------------------------------

    def before_epoch(self, table: Table, embed: Embed) -> None:
        """Make the groups of the epoch, where there are labels."""
        self.groups = None
        if self.supervision == "none" or "label" not in table.kinds:
            return
        labels = np.asarray(table.column("label"))
        # The global state is a function of seed and epoch here, so a resumed run draws the same.
        random = np.random.default_rng(int(torch.randint(2**62, ())))
        if self.neighbours == 1:
            self.groups = ClusterOrder([class_groups(labels, self.rows_per_class, random)])
            return
        exemplars = table.select(one_of_each(labels, random))
        check_between(1, len(exemplars), neighbours=self.neighbours)
        e = self.fusion({name: embed(exemplars, name) for name in self.fusion.used})
        own = torch.arange(len(e))[:, None]
        near = torch.cat([own, top_k(e, e, self.neighbours - 1, exclude=own)[1]], dim=1).numpy()
        self.groups = ClusterOrder([neighbour_groups(labels, near, self.rows_per_class, random)])

    def order(self, rows: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        if self.groups is None:
            return epoch_order(rows, seed, epoch)
        [groups], size = self.groups.groups, self.groups.size
        most = len(groups) * size
        if batch_size % size or batch_size > most:
            raise ArgumentError(
                f"with labels, batch_size must be a multiple of the {size} rows of a group (neighbours x "
                f"rows_per_class) and at most the {most} of all groups, got {batch_size}: pass --batch-size "
                f"{min(max(batch_size // size, 1), len(groups)) * size}"
            )
        return self.groups.order(rows, batch_size, seed, epoch)

    # -- learning ----------------------------------------------------------------------------------

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        supervised = self.supervision == "labels" and "label" in rows
        wanted = [*self.fusion.used, "label"] if supervised else ["image", "text"]
        batch = super().prepare({role: rows[role] for role in wanted}, generator)
        return batch if supervised else {**batch, "text id": text_ids(rows["text"])}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return self.towers.embed(batch)

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        if "label" in batch:
            return {"sup_con": sup_con(self.fusion(z), batch["label"], temperature=self.class_temperature)}
        pairing = Pairing.diagonal().ignoring(batch["text id"])
        return {
            "clip": info_nce(z["image"], z["text"], pairing, temperature=self.temperature(), symmetric=True)
        }

    def space(self) -> Space:
        return Space(*self.towers.parts(), parts={FUSION: self.fusion})


def _started(folder: str) -> Towers:
    """The towers of a space that was fitted before."""
    if not (Path(folder) / "space.json").exists():
        raise ArgumentError(f"start must name the folder of a space, and {folder} is none")
    space = Space.load(folder)
    if not {"image", "text"} <= space.encoders.keys() & space.heads.keys():
        raise ArgumentError(
            f"start must name a space with heads for image and text, such as one of clippings or clip; {folder} has "
            f"{', '.join(space.heads) or 'none'}"
        )
    for encoder in space.encoders.values():
        encoder.pretrained = True
    return Towers(space.encoders, space.heads)
