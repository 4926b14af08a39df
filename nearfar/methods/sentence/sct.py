"""SCT: two views agree on how near they are to a long queue of others, for small encoders."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from nearfar.batching.queue import Queue
from nearfar.data.kinds import Text
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, check_between
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Method
from nearfar.objectives import dist_kl
from nearfar.space import Space
from nearfar.training.teacher import FrozenTeacher
from nearfar.views.text import dropout_twins

VIEWS = (1, 2)


class SCT(Method):
    """One view of a text is as near to the texts of a queue as the other view, seen by a reference, is.

        r_v = f(view v), without gradient or head       s_v = h(f(view v))        unit rows [B, d], v = 1, 2
        Q_v = [queue v; r_v]                            the batch itself is among the keys [K + B, d]
        c(z, Q, t) = softmax_k(z.Q_k / t)
        loss = KL(c(r_1, Q_1, t_r) || c(s_2, Q_1, t)) + KL(c(r_2, Q_2, t_r) || c(s_1, Q_2, t))

    each a mean over the rows. f is encoder and pooling; the references come from a second pass with the same
    weights and dropout, not from a momentum teacher. h, three blocks of two layers, is for training only. The
    queues begin as random unit rows, and keep the last K references.

    The two views are the columns `text` and `positive` (the paper translates a sentence to German and back, and to
    French and back). From a plain column of texts both views are the text itself, and only dropout tells the
    four encodings of it apart: this is ours.

    With a `teacher`, a frozen encoder in evaluation mode, the same loss is added with its vectors as references and
    queues of them; those of a saved space pass through the head that it kept. There is no h then: s_v = f(view v),
    or tanh(W f(view v) + b), which stays in the space, where the widths differ. The paper adds both losses; the
    released script begins with a trained encoder and uses the teacher's alone (`self_weight` 0). That f is shared by
    both heads in the sum is our reading. The paper halves each divergence, the release does not, and neither do we.

    Args:
        teacher: "none", or a trained encoder to learn from: "minilm", a folder, or a name on the hub.
        queue: K, references kept of each view, in every checkpoint too. 131,072 for the paper's tiny and mini
            encoders, 65,536 for its small and base, 16,384 for its large ones.
        reference_temperature: t_r: .03, .01, .02, .04, .04 for these five.
        temperature: t: .04, .03, .03, .05, .05. These are of training without a teacher; with one, the paper has
            K 131,072, 65,536, 131,072, 65,536 for its tiny, mini, small and base, t_r .03 for tiny and .04 for the
            others, t .04 and .05.
        self_weight: of the loss with references of its own, beside that of a teacher.
        pooling: of f; "own" keeps what the encoder's folder names, and is the paper's "mean" where it names none.

    Limkonchotiwat, Ponwitayarat, Lowphansirikul, Udomcharoenchaikit, Chuangsuwanich, Nutanong. "An Efficient
    Self-Supervised Cross-View Training For Sentence Embedding." TACL 2023.
    """

    reads = {"text": Text, "positive": Text | None}

    def __init__(
        self,
        encoder: TransformerText,
        teacher: str = "none",
        queue: int = 131_072,
        reference_temperature: float = 0.03,
        temperature: float = 0.04,
        self_weight: float = 1.0,
        pooling: Literal["own", "cls", "mean"] = "own",
    ) -> None:
        super().__init__()
        check_between(1, math.inf, queue=queue)
        check_between(1e-4, math.inf, reference_temperature=reference_temperature, temperature=temperature)
        check_between(0, math.inf, self_weight=self_weight)
        if teacher == "none" and not self_weight:
            raise ArgumentError(
                "self_weight 0 without a teacher leaves nothing to learn from: name a teacher"
            )
        encoder.choose_pooling(pooling, default="mean")
        encoder.normalise = False  # heads see states at their own scale
        self.encoder = encoder
        self.taus = {"tau_s": temperature, "tau_t": reference_temperature}
        self.weights = {"own": self_weight}
        self.kept: dict[str, nn.Module] = {}
        self.teacher: FrozenTeacher[TransformerText] | None = None
        self.teacher_head: FrozenTeacher[nn.Module] | None = None
        heads, queues = nn.ModuleDict(), nn.ModuleDict()
        dim = encoder.dim
        if self_weight:
            heads["own"] = Projection(dim, 10 * dim, dim, kind="stacked")
            queues.update({f"own {view}": Queue(queue, dim) for view in VIEWS})
        if teacher != "none":
            model, head = _trained(teacher)
            self.teacher, self.teacher_head = FrozenTeacher(model), FrozenTeacher(head)
            width = self.teacher_head(torch.zeros(1, model.dim)).shape[1]
            heads["teacher"] = nn.Identity()
            if width != dim:
                heads["teacher"] = self.kept["text"] = Projection(dim, width, kind="tanh")
            queues.update({f"teacher {view}": Queue(queue, width) for view in VIEWS})
        self.heads, self.queues = heads, queues

    def negatives(self, batch_size: int) -> int:
        return 0  # no key is far: each is as far as the reference says

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        batch = super().prepare(rows, generator)
        if self.teacher is not None:  # it has a vocabulary of its own
            batch |= {f"teacher {role}": self.teacher.model.prepare(cells) for role, cells in rows.items()}
        return batch

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        pooled, references = self._views(batch), {}
        if "own" in self.heads:
            with torch.no_grad():
                references["own"] = self._views(batch)
        if self.teacher is not None and self.teacher_head is not None:
            given = [self.teacher(batch[f"teacher {role}"]).pooled for role in self.reads if role in batch]
            seen = [self.teacher_head(pooled) for pooled in given]
            references["teacher"] = [seen[0], seen[-1]]
        return {
            f"{lesson} {kind} {view}": nn.functional.normalize(rows[view - 1], dim=-1)
            for lesson, reference in references.items()
            for kind, rows in (
                ("student", [self.heads[lesson](states) for states in pooled]),
                ("reference", reference),
            )
            for view in VIEWS
        }

    def _views(self, batch: Batch) -> list[Tensor]:
        """Pooled states of the two views."""
        if "positive" in batch:
            return [self.encoder(batch[role]).pooled for role in ("text", "positive")]
        return [twin.pooled for twin in dropout_twins(self.encoder, batch["text"])]

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        terms = {}
        for lesson in self.heads:
            for view, other in (VIEWS, VIEWS[::-1]):
                reference = z[f"{lesson} reference {view}"]
                keys = torch.cat([self._queue(lesson, view).rows, reference])
                loss = dist_kl(z[f"{lesson} student {other}"], reference, keys, **self.taus)
                terms[f"{lesson} {view} to {other}"] = self.weights.get(lesson, 1.0) * loss
        return terms

    def _queue(self, lesson: str, view: int) -> Queue:
        return cast(Queue, self.queues[f"{lesson} {view}"])

    def after_step(self, z: dict[str, Tensor], step: int, steps: int) -> None:
        for lesson in self.heads:
            for view in VIEWS:
                self._queue(lesson, view).push(z[f"{lesson} reference {view}"])

    def space(self) -> Space:
        return Space({"text": self.encoder}, self.kept)


def _trained(teacher: str) -> tuple[TransformerText, nn.Module]:
    """An encoder, and the head that makes its embeddings where it was saved with one."""
    if teacher == "tiny":
        raise ArgumentError(
            "teacher 'tiny' knows nothing: name a trained encoder, such as 'minilm' or a folder"
        )
    space = Space.load(teacher)
    name = space.modality_for("text", "")
    encoder = space.encoders[name]
    if not isinstance(encoder, TransformerText):
        raise ArgumentError(
            f"teacher {teacher!r} is {type(encoder).__name__}; SCT learns from encoders of texts"
        )
    return encoder, space.heads.get(name, nn.Identity())
