"""miCSE against SimCSE from few sentences, and whether its twins attend alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from nearfar.data.table import Table
from nearfar.encoders.text import TransformerText
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.method import Method
from nearfar.methods.sentence.micse import MiCSE, attention_rows
from nearfar.methods.sentence.simcse import SimCSE
from nearfar.recipes.sentences import DEVIATIONS, SETTINGS, Tests, figures, fingerprints, fitted, sts_tests
from nearfar.recipes.tiny_mlm import tiny_mlm, wiki
from nearfar.views.text import dropout_twins

SIZES = (100, 1_000)
STEPS = 50
SAMPLES = 64
STRONG = 1.0
"""Weight at which the term can be seen in so few steps; the paper's is 1e-3."""
DROPOUT, MORE_DROPOUT = 0.1, 0.3


def experiment(data: DataFolder) -> Experiment:
    """100 and 1,000 Wikipedia sentences, other ones for every seed, 50 steps; tested on STS-B and SICK-R."""
    tests = sts_tests(data)
    texts = Table.from_columns({"text": list(dict.fromkeys(wiki(data)))}, name="Wikipedia sentences")
    tiny_mlm(data)  # trained before the arms, so that none of them pays for it

    def micse(weight: float) -> Callable[[TransformerText], Method]:
        return lambda encoder: MiCSE(encoder, information_weight=weight, samples=SAMPLES, layers=2, above=0)

    def simcse(encoder: TransformerText) -> Method:
        return SimCSE(encoder, pooling="cls")

    def arm(
        size: int, make: Callable[[TransformerText], Method], dropout: float = DROPOUT
    ) -> Callable[[int], dict[str, float]]:
        def run(seed: int) -> dict[str, float]:
            encoder = tiny_mlm(data)
            encoder.pooling = "cls"
            for module in encoder.modules():
                if isinstance(module, nn.Dropout):
                    module.p = dropout
            torch.manual_seed(seed)
            drawn = np.random.default_rng(seed).choice(len(texts), size, replace=False)
            table = Table.from_columns(texts.rows(np.sort(drawn)), name=f"{size} sentences")
            space = fitted(make(encoder), table, seed, epochs=None, steps=STEPS)
            return {**figures(space, tests), "view correlation": _view_correlation(encoder, tests)}

        return run

    strong, dropped = "micse 1000, lambda 1", "micse 1000, lambda 1, dropout 0.3"
    arms = {
        **{f"simcse {size}": arm(size, simcse) for size in SIZES},
        **{f"micse {size}": arm(size, micse(1e-3)) for size in SIZES},
        strong: arm(1_000, micse(STRONG)),
        dropped: arm(1_000, micse(STRONG), MORE_DROPOUT),
    }
    return Experiment(
        data={"Wikipedia sentences": texts.fingerprint, **fingerprints(tests)},
        arms=arms,
        claims=(
            Claim("miCSE beats SimCSE on STS-B from 100 sentences", "micse 100", "simcse 100", "sts-b"),
            Claim("miCSE beats SimCSE on STS-B from 1,000 sentences", "micse 1000", "simcse 1000", "sts-b"),
            Claim(
                "twins attend more alike after miCSE than after SimCSE",
                "micse 1000",
                "simcse 1000",
                "view correlation",
            ),
            Claim("and with 1,000 times the paper's weight", strong, "simcse 1000", "view correlation"),
            Claim("more dropout makes them attend less alike", dropped, strong, "view correlation", "lower"),
            Claim("with that weight it beats SimCSE on STS-B", strong, "simcse 1000", "sts-b"),
        ),
        examples=dict.fromkeys(arms, STEPS * SETTINGS["batch_size"]),
        deviations=(
            *DEVIATIONS,
            "subsets of 100 and 1,000 of 11,914 sentences, one a seed, and 50 steps in place of 25,000 or more",
            "attention of the upper two of three layers in place of four of twelve; 64 places of a row in place of 150",
            "the arms with lambda 1 have 1,000 times the weight of the paper, so that the term shows in 50 steps",
        ),
    )


@torch.no_grad()
def _view_correlation(encoder: TransformerText, tests: Tests, count: int = 200) -> float:
    """Mean correlation of the log attention of twins, over heads and test sentences, at all places that both have."""
    torch.manual_seed(0)
    encoder.train()
    inputs = encoder.prepare(list(tests["sts-b"]["sentence1"][:count]))
    twins = dropout_twins(encoder, inputs, attention=True)
    one, two = (attention_rows(twin.attention[-2:]).flatten(0, 1).numpy() for twin in twins)
    found = []
    for a, b in zip(one, two, strict=True):
        both = (a > 0) & (b > 0)
        found.append(np.corrcoef(np.log(a[both]), np.log(b[both]))[0, 1])
    return float(np.mean(found))
