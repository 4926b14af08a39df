"""SG-BERT on unlabelled sentences: guided by the layers of a frozen copy, against SimCSE and where it starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

from nearfar.data.table import Table
from nearfar.encoders.text import TransformerText
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.heads.pool import pool
from nearfar.measures.alignment import pair_cosines
from nearfar.measures.sts import sts
from nearfar.method import Method
from nearfar.methods.sentence.sgbert import SGBERT
from nearfar.methods.sentence.simcse import SimCSE
from nearfar.objectives import weight_distance
from nearfar.recipes.sentences import DEVIATIONS, fingerprints, sts_tests, trained, untrained
from nearfar.recipes.tiny_mlm import tiny_mlm
from nearfar.space import Space

TEXTS = 5_000
WIDTH = 512
BATCH = 32
LAYERS = "agreement with the layers"
DISTANCE = "weight distance"


def experiment(data: DataFolder) -> Experiment:
    """5,000 sentences of STS-B's train and dev parts, unlabelled, one epoch; tested on STS-B and SICK-R."""
    tests = sts_tests(data)
    texts = stsb_sentences(data, TEXTS)
    base = tiny_mlm(data)
    layers = layer_cosines(base, tests["sts-b"])

    def mechanism(space: Space) -> dict[str, float]:
        """How far the vectors order pairs as the layers of the frozen copy do, and how far the weights have moved."""
        one, two = (space.encode(list(tests["sts-b"][name])) for name in ("sentence1", "sentence2"))
        with torch.no_grad():
            moved = float(weight_distance(space.encoders["text"].parameters(), base.parameters()))
        return {LAYERS: float(sts(pair_cosines(one, two), layers)), DISTANCE: moved}

    def arm(make: Callable[[TransformerText], Method]) -> Callable[[int], dict[str, float]]:
        return trained(data, tests, texts, make, more=mechanism, batch_size=BATCH)

    def guided(**settings: Any) -> Callable[[TransformerText], SGBERT]:
        return lambda encoder: SGBERT(encoder, pooling="cls", width=WIDTH, **settings)

    arms = {
        "sg-opt": arm(guided()),
        "sg": arm(guided(form="sg")),
        "one layer": arm(guided(form="opt2")),
        "sg-opt without distance": arm(guided(distance_weight=0.0)),
        "simcse": arm(lambda encoder: SimCSE(encoder, pooling="cls")),
    }
    starts = {f"untrained {kind}": untrained(data, tests, kind, mechanism) for kind in ("cls", "mean")}
    return Experiment(
        data={"training texts": texts.fingerprint, **fingerprints(tests)},
        arms=starts | arms,
        claims=(
            Claim("SG-OPT beats SimCSE on STS-B", "sg-opt", "simcse", "sts-b"),
            Claim("SG-OPT beats the CLS vector it starts from on STS-B", "sg-opt", "untrained cls", "sts-b"),
            Claim(
                "SG-OPT beats the mean of the encoder it starts from on STS-B",
                "sg-opt",
                "untrained mean",
                "sts-b",
            ),
            Claim("the optimised loss beats plain NT-Xent with a layer on STS-B", "sg-opt", "sg", "sts-b"),
            Claim("all layers beat one drawn at random on STS-B", "sg-opt", "one layer", "sts-b"),
            Claim(
                "the CLS vector takes over what the layers say of pairs", "sg-opt", "untrained cls", LAYERS
            ),
            Claim("SimCSE takes over less of it", "sg-opt", "simcse", LAYERS),
            Claim("the distance holds the weights", "sg-opt", "sg-opt without distance", DISTANCE, "lower"),
        ),
        examples=dict.fromkeys(arms, TEXTS),
        deviations=(
            *DEVIATIONS,
            f"{TEXTS:,} sentences of STS-B without those of its test part, which the paper trains on too",
            f"head of width {WIDTH} in place of 4,096, batches of {BATCH} in place of 16, no stop by the dev part",
        ),
    )


def stsb_sentences(data: DataFolder, count: int) -> Table:
    """Sentences of STS-B's train and dev parts that its test part does not have, without scores or order."""
    frame = pd.read_parquet(data.file("stsb_multi/stsb_multi.parquet"))
    frame = frame[frame["lang"] == "en"]
    tested = frame[frame["split"] == "test"]
    hidden = {*tested["sentence1"], *tested["sentence2"]}
    rest = frame[frame["split"] != "test"]
    texts = [text for text in dict.fromkeys([*rest["sentence1"], *rest["sentence2"]]) if text not in hidden]
    chosen = np.random.default_rng(0).permutation(len(texts))[:count]
    return Table.from_columns({"text": [texts[i] for i in sorted(chosen)]}, name="sentences of STS-B")


@torch.no_grad()
def layer_cosines(encoder: TransformerText, pairs: pd.DataFrame) -> np.ndarray:
    """The cosine of the two sentences of a pair, mean-pooled in each layer, averaged over the layers [N]."""
    encoder.eval()

    def means(texts: list[str]) -> torch.Tensor:
        seen = [encoder(encoder.prepare(texts[i : i + 64]), layers=True) for i in range(0, len(texts), 64)]
        return torch.cat([torch.stack([pool(states, s.mask) for states in s.layers], dim=1) for s in seen])

    one, two = (means(list(pairs[name])) for name in ("sentence1", "sentence2"))
    return torch.cosine_similarity(one, two, dim=-1).mean(1).numpy()
