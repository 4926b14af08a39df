"""SimCSE against the encoder it starts from, and against twins that are no twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from torch import Tensor, nn

from nearfar.data.table import Table
from nearfar.encoders.text import TransformerText
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.method import Batch
from nearfar.methods.sentence.simcse import SimCSE
from nearfar.recipes.sentences import (
    AT_RATE,
    RATE,
    caption_pairs,
    fingerprints,
    sentences,
    sts_tests,
    trained,
    untrained,
)
from nearfar.recipes.tiny_mlm import tiny_mlm, tiny_mlm_folder

TEXTS = 20_000
PAIRS = 20_000
TRIPLET_EPOCHS = 8.0


def experiment(data: DataFolder) -> Experiment:
    """20,000 unlabelled sentences, one epoch, from the tiny MLM encoder; tested on STS-B and SICK-R."""
    tests = sts_tests(data)
    texts = sentences(data, TEXTS)
    pairs = caption_pairs(data, PAIRS)
    triplets = _snli(data, text="premise", positive="entailment", negative="contradiction")
    entailed = _snli(data, text="premise", positive="entailment")
    tiny_mlm(data)  # trained before the arms, so that none of them pays for it

    def arm(
        table: Table, make: type[SimCSE] = SimCSE, dropout: float | None = None, **settings: Any
    ) -> Callable[[int], dict[str, float]]:
        def made(encoder: TransformerText) -> SimCSE:
            if dropout is not None:
                _set_dropout(encoder, dropout)
            return make(encoder, pooling="cls")

        return trained(data, tests, table, made, learning_rate=RATE, **settings)

    return Experiment(
        data={
            "base encoder": tiny_mlm_folder(data).name,
            "training texts": texts.fingerprint,
            "training pairs": pairs.fingerprint,
            "training triplets": triplets.fingerprint,
            **fingerprints(tests),
        },
        arms={
            "untrained cls": untrained(data, tests, "cls"),
            "untrained mean": untrained(data, tests, "mean"),
            "simcse": arm(texts),
            "simcse without dropout": arm(texts, IdenticalViews, dropout=0.0),
            "simcse same mask": arm(texts, IdenticalViews),
            "simcse supervised": arm(pairs),
            "entailed pairs": arm(entailed, epochs=TRIPLET_EPOCHS),
            "triplets": arm(triplets, epochs=TRIPLET_EPOCHS),
        },
        claims=(
            Claim(
                "SimCSE beats the CLS vector of the encoder it starts from on STS-B",
                "simcse",
                "untrained cls",
                "sts-b",
            ),
            Claim(
                "dropout twins beat identical views without dropout on STS-B",
                "simcse",
                "simcse without dropout",
                "sts-b",
            ),
            Claim(
                "dropout twins beat twins that share one mask on STS-B", "simcse", "simcse same mask", "sts-b"
            ),
            Claim(
                "SimCSE spreads the space: uniformity falls", "simcse", "untrained cls", "uniformity", "lower"
            ),
            Claim(
                "SimCSE beats mean pooling of the encoder it starts from on STS-B",
                "simcse",
                "untrained mean",
                "sts-b",
            ),
            Claim("real pairs beat dropout twins on STS-B", "simcse supervised", "simcse", "sts-b"),
            Claim(
                "contradictions as hard negatives beat entailed pairs alone on STS-B",
                "triplets",
                "entailed pairs",
                "sts-b",
            ),
        ),
        examples={
            "simcse": TEXTS,
            "simcse without dropout": TEXTS,
            "simcse same mask": TEXTS,
            "simcse supervised": PAIRS,
            "entailed pairs": int(len(entailed) * TRIPLET_EPOCHS),
            "triplets": int(len(triplets) * TRIPLET_EPOCHS),
        },
        deviations=(
            *AT_RATE,
            "20,000 sentences in place of a million",
            "the supervised arm has pairs of captions of one picture; the triplets are 2,561 of SNLI's test part "
            "(premise, entailed, contradicted), eight epochs, in place of 275,000 of SNLI and MNLI",
        ),
    )


class IdenticalViews(SimCSE):
    """The ablation: both copies of a sentence get the very same vector, so nothing pulls positives together."""

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        z = self._z(batch["text"])
        return {"one": z, "two": z}


def _snli(data: DataFolder, **roles: str) -> Table:
    frame = pd.read_parquet(data.file("snli_test/snli_triples.parquet"))
    return Table.from_columns({role: list(frame[name]) for role, name in roles.items()}, name="SNLI triplets")


def _set_dropout(encoder: nn.Module, share: float) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):  # that of attention weights is one too
            module.p = share
