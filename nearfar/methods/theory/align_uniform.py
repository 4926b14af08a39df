"""Alignment and uniformity as the training loss itself."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.batching.queue import Queue
from nearfar.data.kinds import Image, Text
from nearfar.encoders.encoder import Encoder
from nearfar.errors import ArgumentError, check_between
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Method
from nearfar.objectives import Pairing, alignment, info_nce, uniformity, uniformity_to_queue
from nearfar.space import Space
from nearfar.training.teacher import EMATeacher
from nearfar.views.image import image_views
from nearfar.views.text import dropout_twins


class AlignUniform(Method):
    """Positives close to each other, everything together spread over the sphere: no softmax.

        loss = w_a mean ||x_i - y_i||^a + w_u 1/2 [U(x) + U(y)]
        U(x) = log mean over i < j of exp(-t ||x_i - x_j||^2)                unit rows x, y [B, d]

    Reads pictures, or texts where a table has no pictures. The positive is the column `positive` where there
    is one; otherwise another view: a crop of a picture with changed colours, another dropout mask of a text.
    With `queue` > 0 the form for MoCo: y are keys of a momentum teacher, without gradient, and

        U = log mean of exp(-t (2 - 2 s)) over s = x_i . queue and s = x_i . x_j, i < j

    Both forms may add w_c times the contrastive loss at `temperature`, for comparison with it.

    Args:
        dim: d, width of the sphere's space.
        align_weight: w_a.
        uniform_weight: w_u.
        contrast_weight: w_c.
        align_power: a.
        uniform_t: t.
        temperature: of the contrastive term.
        queue: K, keys remembered; 0 uses the batch.
        momentum: share that the teacher keeps of itself at a step, with a queue.
        crop: smallest share of a picture's area that a view keeps.
        flip: whether views may be mirrored.
        jitter: strength of the change of brightness, contrast and saturation.
        grey: probability of a grey view.

    Wang, Isola. "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere." ICML 2020.
    """

    reads = {"image": Image | None, "text": Text | None, "positive": Image | Text | None}

    def __init__(
        self,
        encoder: Encoder,
        dim: int = 128,
        align_weight: float = 1.0,
        uniform_weight: float = 1.0,
        contrast_weight: float = 0.0,
        align_power: float = 2.0,
        uniform_t: float = 2.0,
        temperature: float = 0.07,
        queue: int = 0,
        momentum: float = 0.999,
        crop: float = 0.08,
        flip: bool = True,
        jitter: float = 0.4,
        grey: float = 0.2,
    ) -> None:
        super().__init__()
        check_between(0, math.inf, queue=queue)
        self.encoder = encoder
        self.example = encoder.kind.name
        self.head = Projection(encoder.dim, dim, kind="linear")
        self.weights = {"align": align_weight, "uniform": uniform_weight, "info_nce": contrast_weight}
        if not max(self.weights.values()) > 0 or min(self.weights.values()) < 0:
            raise ArgumentError(
                "align_weight, uniform_weight and contrast_weight must be 0 or more, and one of them above 0, "
                f"got {align_weight}, {uniform_weight} and {contrast_weight}"
            )
        self.align_power, self.uniform_t, self.temperature = align_power, uniform_t, temperature
        self.teacher = EMATeacher(nn.ModuleList([encoder, self.head]), momentum) if queue else None
        self.queue = Queue(queue, dim) if queue else None
        self.views: dict[str, Any] = {"crop": (crop, 1.0), "flip": flip, "jitter": jitter, "grey": grey}

    def negatives(self, batch_size: int) -> int:
        if self.weights["align"] or self.weights["uniform"]:
            return 0
        return batch_size - 1 if self.queue is None else len(self.queue.rows)

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        batch = super().prepare(
            {role: rows[role] for role in (self.example, "positive") if role in rows}, generator
        )
        if self.encoder.kind is Image:
            pixels, paired = batch["image"]["pixels"], "positive" in batch
            views = image_views(pixels, generator, n=1 if paired else 2, **self.views)
            batch["image"] = {"pixels": views[0]}
            if not paired:
                batch["positive"] = {"pixels": views[1]}
        return batch

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        example = batch[self.example]
        if self.teacher is not None:
            encoder, head = self.teacher.model.children()
            with torch.no_grad():
                key = head(encoder(batch.get("positive", example)).pooled)
            return {
                "one": self._unit(self.encoder(example).pooled),
                "two": nn.functional.normalize(key, dim=-1),
            }
        if "positive" in batch:
            one, two = self.encoder(example), self.encoder(batch["positive"])
        else:
            one, two = dropout_twins(self.encoder, example)
        return {"one": self._unit(one.pooled), "two": self._unit(two.pooled)}

    def _unit(self, pooled: Tensor) -> Tensor:
        return nn.functional.normalize(self.head(pooled), dim=-1)

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        one, two = z["one"], z["two"]
        terms = {"align": alignment(one, two, self.align_power)}
        if self.queue is None:
            terms["uniform"] = (uniformity(one, self.uniform_t) + uniformity(two, self.uniform_t)) / 2
        else:
            terms["uniform"] = uniformity_to_queue(one, self.queue.rows.clone(), self.uniform_t)
        if self.weights["info_nce"]:
            terms["info_nce"] = self._contrastive(one, two)
        return {name: self.weights[name] * term for name, term in terms.items() if self.weights[name]}

    def _contrastive(self, one: Tensor, two: Tensor) -> Tensor:
        if self.queue is None:
            return info_nce(one, two, temperature=self.temperature)
        # As in MoCo, the keys of the other rows count only once they are in the queue.
        alone = Pairing.diagonal(others="ignored")
        remembered = self.queue.rows.clone()
        return info_nce(one, two, alone, temperature=self.temperature, extra_keys=remembered)

    def after_step(self, z: dict[str, Tensor], step: int, steps: int) -> None:
        if self.queue is not None and self.teacher is not None:
            self.queue.push(z["two"])
            self.teacher.update(nn.ModuleList([self.encoder, self.head]))

    def space(self) -> Space:
        return Space({self.example: self.encoder}, {self.example: self.head})
