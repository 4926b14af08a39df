"""Tasks one after the other without their old pictures, held together by how new ones relate to old classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from nearfar.data.kinds import Image, Label, Number
from nearfar.encoders.encoder import Encoder
from nearfar.errors import check_between
from nearfar.geometry import at_least_float32
from nearfar.heads.class_prototypes import ClassPrototypes
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Method
from nearfar.objectives import alignment, relation_distillation, sup_con
from nearfar.space import Space
from nearfar.training.teacher import snapshot
from nearfar.views.image import image_views

if TYPE_CHECKING:
    from nearfar.data.table import Table


class PRD(Method):
    """Pictures of a class are near each other and their prototype, and stay related to old classes as before.

    Tasks come one after the other, each with classes of its own; no picture of an earlier one is kept. With
    F = f(two views of the batch) [2B, d], one prototype w_c for each class so far, and f', w' as they were
    when the task began:

        loss = L_sc + a L_p + b L_d
        L_sc = T / T_base SupCon(g(F) / |g(F)|, y; T)
        L_p  = mean_i ( 1 - cos(w_y(i), stop(F_i)) )                         moves prototypes of this task only
        L_d  = sum_c KL( softmax_i(f'_i . w'_c / |w'_c| / t) || softmax_i(f_i . w_c / |w_c| / t) )    c of old

    The samples i of L_d are the new pictures: every old prototype keeps its preferences among them. F is not
    normalised there, and old prototypes are not frozen: they move with the space. `axis` "classes" is the
    released code instead: for each sample a softmax over the classes of every earlier task, averaged over
    samples, summed over tasks. A row is of the class whose prototype has the largest cosine, among those of its
    task where that is known (part `prototypes` of the space).

    "samples" follows descriptions of the paper, whose text was not to hand; coefficients, rates and lengths are
    those of the released code. f' stays in training mode as there, which matters to batch norm alone. AdamW
    replaces SGD. Ours: a class that comes again in a later task keeps its prototype.

    Args:
        dim: width of the projection g.
        temperature: T.
        base_temperature: T_base.
        prototype_weight: a.
        relation_weight: b; 0 learns each task without regard to those before.
        relation_temperature: t.
        axis: over what the softmax of L_d goes, "samples" or "classes".
        prototype_rate: times the learning rate at which prototypes learn; 10 of 0.001 is their 0.01 of the paper.
        first_task: times as many steps in the first task as in a later one.
        crop: smallest share of a picture's area that a view keeps.
        flip: whether views may be mirrored; turn off for pictures with a left and a right.
        jitter: strength of the change of brightness, contrast and saturation.
        grey: probability of a grey view.

    Asadi, Davari, Mudur, Aljundi, Belilovsky. "Prototype-Sample Relation Distillation: Towards Replay-Free
    Continual Learning." ICML 2023.
    """

    reads = {"image": Image, "label": Label, "task": Label | Number}

    def __init__(
        self,
        encoder: Encoder,
        dim: int = 128,
        temperature: float = 0.1,
        base_temperature: float = 0.07,
        prototype_weight: float = 2.0,
        relation_weight: float = 4.0,
        relation_temperature: float = 1.0,
        axis: Literal["samples", "classes"] = "samples",
        prototype_rate: float = 10.0,
        first_task: float = 1.2,
        crop: float = 0.2,
        flip: bool = True,
        jitter: float = 0.4,
        grey: float = 0.2,
    ) -> None:
        super().__init__()
        check_between(1e-4, math.inf, temperature=temperature, base_temperature=base_temperature)
        check_between(0, math.inf, prototype_weight=prototype_weight, relation_weight=relation_weight)
        check_between(1e-4, math.inf, relation_temperature=relation_temperature, first_task=first_task)
        check_between(1e-4, math.inf, prototype_rate=prototype_rate)
        self.encoder = encoder
        self.head = Projection(encoder.dim, encoder.dim, dim, kind="mlp")
        self.prototypes = ClassPrototypes(encoder.dim)
        self.prototypes.weight.lr_mult = prototype_rate  # type: ignore[attr-defined]
        self.old = snapshot(nn.ModuleDict({"encoder": encoder, "prototypes": self.prototypes}))
        self.places: list[int] = []
        self.temperature, self.scale = temperature, temperature / base_temperature
        self.prototype_weight, self.relation_weight = prototype_weight, relation_weight
        self.relation_temperature, self.axis, self.first_task = relation_temperature, axis, first_task
        self.views: dict[str, Any] = {"crop": (crop, 1.0), "flip": flip, "jitter": jitter, "grey": grey}

    # -- tasks -------------------------------------------------------------------------------------

    def before_task(self, number: int, tasks: Sequence[str], table: Table) -> None:
        """Keep network and prototypes as they are, and add prototypes of the classes that are new."""
        self.old = snapshot(nn.ModuleDict({"encoder": self.encoder, "prototypes": self.prototypes}))
        names = table.label_names["label"]
        self.prototypes.add([names[label] for label in sorted(set(table.column("label")))])
        known = self.prototypes.names
        self.places = [known.index(name) if name in known else -1 for name in names]

    def task_length(self, number: int) -> float:
        return self.first_task if number == 0 else 1.0

    # -- learning ----------------------------------------------------------------------------------

    def negatives(self, batch_size: int) -> int:
        return 0  # the loss is a sum of which InfoNCE is one term

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        pixels = self.encoder.prepare(rows["image"])["pixels"]
        one, two = image_views(pixels, generator, **self.views)
        return {"one": {"pixels": one}, "two": {"pixels": two}, "label": torch.tensor(rows["label"])}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        z: dict[str, Tensor] = {}
        for view in ("one", "two"):
            z[view] = self.encoder(batch[view]).pooled
            z[f"projected {view}"] = self.head(z[view])
            if self.relation_weight and self._old_prototypes.names:
                with torch.no_grad():
                    z[f"old {view}"] = self.old["encoder"](batch[view]).pooled
        return z

    @property
    def _old_prototypes(self) -> ClassPrototypes:
        kept = self.old["prototypes"]
        assert isinstance(kept, ClassPrototypes)
        return kept

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        def both(kind: str) -> Tensor:
            return at_least_float32(torch.cat([z[f"{kind}one"], z[f"{kind}two"]]))

        labels = batch["label"].repeat(2)
        places = torch.tensor(self.places, device=labels.device)[labels]
        features, weight = both(""), self.prototypes.weight
        terms = {
            "sup_con": self.scale * sup_con(both("projected "), labels, temperature=self.temperature),
            # 1 - cos is half the squared distance on the sphere
            "prototypes": self.prototype_weight * alignment(weight[places], features.detach()) / 2,
        }
        if "old one" in z:
            old = self._old_prototypes
            terms["relations"] = self.relation_weight * relation_distillation(
                features,
                weight[: len(old.weight)],
                both("old "),
                old.weight,
                axis=self.axis,
                temperature=self.relation_temperature,
                groups=[len(group) for group in old.groups],
            )
        return terms

    def space(self) -> Space:
        return Space({"image": self.encoder}, parts={"prototypes": self.prototypes})
