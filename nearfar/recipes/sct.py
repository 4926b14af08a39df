"""SCT on pairs of captions: distributions over a queue against plain contrast, with and without a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.data.table import Table
from nearfar.encoders.encoder import Features
from nearfar.encoders.given import GivenVectors
from nearfar.encoders.text import TransformerText
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.measures.retrieval import retrieval_metrics
from nearfar.method import Batch, Method
from nearfar.methods.sentence.sct import SCT
from nearfar.methods.sentence.simcse import SimCSE
from nearfar.objectives import dist_kl
from nearfar.recipes.sentences import (
    DEVIATIONS,
    caption_pairs,
    fingerprints,
    sts_tests,
    trained,
    untrained,
)
from nearfar.recipes.teachers import teacher_rows
from nearfar.recipes.tiny_mlm import captions, tiny_mlm
from nearfar.space import Space
from nearfar.training.teacher import FrozenTeacher

PAIRS = 2_500
QUEUE = 1_024
HELD_OUT = 1_000
TAUS = {"tau_s": 0.04, "tau_t": 0.03}
DIVERGENCE = "divergence of views"
FOUND = "mrr@10 of the other caption"


def experiment(data: DataFolder) -> Experiment:
    """2,500 pairs of captions of one picture, one epoch, from the tiny MLM encoder; tested on STS-B and SICK-R."""
    tests = sts_tests(data)
    pairs = caption_pairs(data, PAIRS)
    texts = Table.from_columns({"text": pairs.column("text")}, name="captions")
    views = captions(data).tail(2 * HELD_OUT)
    tiny_mlm(data)  # trained before the arms, so that none of them pays for it
    seen = dict(
        zip(
            pairs.column("text") + pairs.column("positive"),
            torch.cat(teacher_rows(pairs, "captions", 32)),
            strict=True,
        )
    )

    def mechanism(space: Space) -> dict[str, float]:
        """Whether two views of held-out pictures agree about others, and find each other."""
        one, two, others = (
            torch.from_numpy(space.encode(list(column)))
            for column in (
                views["caption1"][:HELD_OUT],
                views["caption2"][:HELD_OUT],
                views["caption1"][HELD_OUT:],
            )
        )
        apart = [
            dist_kl(student, reference, others, **TAUS) for student, reference in ((one, two), (two, one))
        ]
        return {
            DIVERGENCE: float(torch.stack(apart).mean()),
            FOUND: retrieval_metrics(one.numpy(), two.numpy())["mrr@10"],
        }

    def arm(
        make: Callable[[TransformerText], Method], table: Table = pairs
    ) -> Callable[[int], dict[str, float]]:
        return trained(data, tests, table, make, more=mechanism)

    def sct(make: type[SCT] = SCT, **settings: Any) -> Callable[[TransformerText], SCT]:
        return lambda encoder: make(encoder, queue=QUEUE, pooling="mean", **settings)

    def distilled(encoder: TransformerText) -> SCT:
        method = sct(teacher="minilm", self_weight=0.0)(encoder)
        method.teacher = FrozenTeacher(Remembered(seen))  # type: ignore[arg-type]
        return method

    def simcse(encoder: TransformerText) -> SimCSE:
        return SimCSE(encoder, pooling="cls")

    arms = {
        "simcse": arm(simcse, texts),
        "simcse on pairs": arm(simcse),
        "sct": arm(sct()),
        "sct identical view": arm(sct(IdenticalView)),
        "distilled": arm(distilled),
    }
    return Experiment(
        data={
            "training pairs": pairs.fingerprint,
            "training texts": texts.fingerprint,
            **fingerprints(tests),
        },
        arms={"untrained mean": untrained(data, tests, "mean", mechanism), **arms},
        claims=(
            Claim("SCT on pairs beats SimCSE on pairs on STS-B", "sct", "simcse on pairs", "sts-b"),
            Claim("SCT on pairs beats SimCSE on their texts on STS-B", "sct", "simcse", "sts-b"),
            Claim(
                "SCT on pairs beats the mean of the encoder it starts from on STS-B",
                "sct",
                "untrained mean",
                "sts-b",
            ),
            Claim("a teacher beats references of its own on STS-B", "distilled", "sct", "sts-b"),
            Claim(
                "crossed views beat each view's own reference on STS-B", "sct", "sct identical view", "sts-b"
            ),
            Claim(
                "views of held-out pictures agree more about others",
                "sct",
                "untrained mean",
                DIVERGENCE,
                "lower",
            ),
            Claim(
                "crossed views agree more than with own references",
                "sct",
                "sct identical view",
                DIVERGENCE,
                "lower",
            ),
            Claim("the other caption of a held-out picture is found sooner", "sct", "untrained mean", FOUND),
        ),
        examples=dict.fromkeys(arms, PAIRS),
        deviations=(
            *DEVIATIONS,
            f"{PAIRS:,} pairs of captions of one picture in place of sentences of SNLI and MNLI translated to German "
            "and French and back: back-translation itself stays untested",
            f"one epoch in place of 10, batches of 64 in place of 128, a queue of {QUEUE:,} in place of 131,072",
            "MiniLM, trained by contrast, as the teacher in place of SimCSE's BERT-large; only its loss, as in the "
            "released script, but from the tiny MLM encoder and not from a trained SCT; it reads "
            "the pairs once for all seeds, which is not in the cost",
        ),
    )


class Remembered(nn.Module):
    """A teacher that has read the captions before: it looks up what it made of them."""

    def __init__(self, seen: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.seen = seen

    def prepare(self, texts: Sequence[str]) -> dict[str, Tensor]:
        return {"values": torch.stack([self.seen[text] for text in texts])}

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        return GivenVectors(inputs["values"].shape[1])(inputs)


class IdenticalView(SCT):
    """The ablation: each view is taught by its own reference, not by that of the other."""

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        one, two = z["own student 1"], z["own student 2"]
        return super().contrast({**z, "own student 1": two, "own student 2": one}, batch)
