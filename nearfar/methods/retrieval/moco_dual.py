"""MoCo from both views, with the hardest of the queue as negatives."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nearfar.batching.queue import Queue
from nearfar.data.kinds import Image
from nearfar.encoders.encoder import Encoder
from nearfar.errors import check_between
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Method
from nearfar.objectives import Pairing, info_nce
from nearfar.space import Space
from nearfar.training.teacher import EMATeacher
from nearfar.views.image import image_views


class MoCoDual(Method):
    """Two views of a picture are near; the hardest keys of a long queue are far, seen from both views.

        q = f(view 1), k = stop(f_teacher(view 2)), Q the queue of past keys, N_r(a) its r rows nearest to a
        C(a, p) = -log exp(a.p / t) / (exp(a.p / t) + sum over n in N_r(a) of exp(a.n / t))
        loss = lam C(q, k) + (1 - lam) C(k, q)                       unit rows [B, d]

    With k detached the second term still trains f through its positive. `form` "symmetric" encodes both
    views by both networks instead: 1/2 [C(q1, k2) + C(q2, k1)]. lam 1, hardest 0 and no guard is plain MoCo.
    The teacher moves before it encodes the next keys; keys enter the queue after the loss.

    Reconstructed from the abstract: the dual view, the filter, and the values of queue, hardest and lam
    (the paper's were not to be had). Temperature, momentum and dim are MoCo's.

    Args:
        dim: d, width of the projection.
        queue: K, keys remembered.
        momentum: share that the teacher keeps of itself at a step. 0.999 hardly moves within 1,000 steps.
        temperature: t.
        lam: weight of the student's view.
        hardest: r; 0 keeps the whole queue.
        skip: nearest keys left out before the r are taken: likely false negatives.
        guard: keys with a higher cosine than this are left out as likely false negatives; 1 keeps all.
        form: "detached" as above, or "symmetric".
        crop: smallest share of a picture's area that a view keeps.
        flip: whether views may be mirrored; turn off for pictures with a left and a right.
        jitter: strength of the change of brightness, contrast and saturation.
        grey: probability of a grey view.

    Hoang et al. "Momentum Contrastive Learning with Enhanced Negative Sampling and Hard Negative
    Filtering." arXiv 2501.16360, 2025.
    """

    reads = {"image": Image}

    def __init__(
        self,
        encoder: Encoder,
        dim: int = 128,
        queue: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.07,
        lam: float = 0.5,
        hardest: int = 1024,
        skip: int = 0,
        guard: float = 1.0,
        form: Literal["detached", "symmetric"] = "detached",
        crop: float = 0.2,
        flip: bool = True,
        jitter: float = 0.4,
        grey: float = 0.2,
    ) -> None:
        super().__init__()
        check_between(0, 1, lam=lam)
        check_between(1, math.inf, queue=queue)
        check_between(0, math.inf, hardest=hardest)
        check_between(0, queue - 1, skip=skip)
        check_between(-1, 1, guard=guard)
        self.encoder = encoder
        self.head = Projection(encoder.dim, dim, kind="linear")
        self.teacher = EMATeacher(nn.ModuleList([encoder, self.head]), momentum)
        self.queue = Queue(queue, dim)
        self.temperature, self.lam, self.form = temperature, lam, form
        self.hardest, self.skip, self.guard = hardest, skip, guard
        self.views: dict[str, Any] = {"crop": (crop, 1.0), "flip": flip, "jitter": jitter, "grey": grey}

    def negatives(self, batch_size: int) -> int:
        kept = len(self.queue.rows) - self.skip
        return min(self.hardest or kept, kept)

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        pixels = self.encoder.prepare(rows["image"])["pixels"]
        one, two = image_views(pixels, generator, n=2, **self.views)
        return {"one": {"pixels": one}, "two": {"pixels": two}}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        views = ("one", "two")
        asked = views if self.form == "symmetric" else ("one",)
        z = {f"query {view}": self._unit((self.encoder, self.head), batch[view]) for view in asked}
        with torch.no_grad():
            encoder, head = self.teacher.model.children()
            keyed = views if self.form == "symmetric" else ("two",)
            z |= {f"key {view}": self._unit((encoder, head), batch[view]) for view in keyed}
        return z

    @staticmethod
    def _unit(network: tuple[nn.Module, nn.Module], inputs: dict[str, Tensor]) -> Tensor:
        encoder, head = network
        return nn.functional.normalize(head(encoder(inputs).pooled), dim=-1)

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        if self.form == "symmetric":
            return {
                "one to two": 0.5 * self._against_queue(z["query one"], z["key two"]),
                "two to one": 0.5 * self._against_queue(z["query two"], z["key one"]),
            }
        query, key = z["query one"], z["key two"]
        terms = {"query": self.lam * self._against_queue(query, key)}
        if self.lam < 1:
            terms["key"] = (1 - self.lam) * self._against_queue(key, query)
        return terms

    def _against_queue(self, anchors: Tensor, positives: Tensor) -> Tensor:
        chosen = Pairing.none()
        if self.hardest or self.skip or self.guard < 1:
            everything = len(self.queue.rows) - self.skip
            below = self.guard if self.guard < 1 else None
            chosen = chosen.hardest(self.hardest or everything, skip=self.skip, below=below)
        return info_nce(
            anchors,
            positives,
            Pairing.diagonal(others="ignored"),
            temperature=self.temperature,
            extra_keys=self.queue.rows.clone(),  # the queue changes before the next backward pass may read it
            extra_pairing=chosen,
        )

    def after_step(self, z: dict[str, Tensor], step: int, steps: int) -> None:
        keys = [value for name, value in z.items() if name.startswith("key")]
        self.queue.push(torch.cat(keys))
        self.teacher.update(nn.ModuleList([self.encoder, self.head]))

    def space(self) -> Space:
        return Space({"image": self.encoder})  # the head is for training only
