"""MCSE on Wikipedia sentences and captioned emoji: against the same batches without pictures, and with wrong ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from nearfar.data.kinds import Missing, Text, Vector
from nearfar.data.table import Table
from nearfar.encoders.given import GivenVectors
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.measures.retrieval import retrieval_metrics
from nearfar.methods.sentence.mcse import MCSE
from nearfar.recipes.emoji_features import PACKAGES, captioned_emoji
from nearfar.recipes.sentences import DEVIATIONS, figures, fingerprints, fitted, sts_tests, untrained
from nearfar.recipes.tiny_mlm import tiny_mlm, wiki
from nearfar.space import Space

SENTENCES, HELD_OUT = 2_000, 300
EPOCHS = 1.5
HEAVY = 1.0
"""Weight of the arms that show what the second term does to the sentences' own space (ours, not tuned)."""


def experiment(data: DataFolder) -> Experiment:
    """2,000 sentences and 1,288 captioned emoji, 1.5 epochs, from the tiny MLM encoder; 300 emoji never seen."""
    tests = sts_tests(data)
    emoji = captioned_emoji(data)
    drawn = np.random.default_rng(0).permutation(len(emoji))
    unseen, seen = emoji.iloc[drawn[:HELD_OUT]], emoji.iloc[drawn[HELD_OUT:]]
    sentences = list(dict.fromkeys(wiki(data)))[:SENTENCES]
    right = _mixture(sentences, seen, seen["twitter"])
    wrong = _mixture(sentences, seen, seen["twitter"].sample(frac=1, random_state=0))
    tiny_mlm(data)  # trained before the arms, so that none of them pays for it

    def arm(table: Table, weight: float) -> Callable[[int], dict[str, float]]:
        def run(seed: int) -> dict[str, float]:
            encoder = tiny_mlm(data)
            torch.manual_seed(seed)
            method = MCSE(encoder, GivenVectors(len(seen["twitter"].iloc[0])), weight=weight, pooling="cls")
            space = fitted(method, table, seed, epochs=EPOCHS)
            return {**figures(space, tests), **grounding(method, seen, unseen), **agreement(space, unseen)}

        return run

    arms = {
        "simcse": arm(right, 0.0),
        "mcse": arm(right, 0.01),
        "mcse, shuffled pictures": arm(wrong, 0.01),
        "mcse, heavy": arm(right, HEAVY),
        "mcse, heavy, shuffled pictures": arm(wrong, HEAVY),
    }
    shuffled, heavy_shuffled = "mcse, shuffled pictures", "mcse, heavy, shuffled pictures"
    return Experiment(
        data={"mixture": right.fingerprint, "shuffled mixture": wrong.fingerprint, **fingerprints(tests)},
        arms={"untrained cls": untrained(data, tests, "cls"), **arms},
        claims=(
            Claim(
                "MCSE finds the picture of an emoji it never saw by its text more often than after shuffled pictures",
                "mcse",
                shuffled,
                "recall@10 unseen emoji",
            ),
            Claim(
                "with weight 1, texts of unseen emoji are alike where their pictures are, more than without pictures",
                "mcse, heavy",
                "simcse",
                "agreement with pictures",
            ),
            Claim(
                "with weight 1, right pictures bring more of that agreement than shuffled ones",
                "mcse, heavy",
                heavy_shuffled,
                "agreement with pictures",
            ),
            Claim("MCSE beats SimCSE on STS-B", "mcse", "simcse", "sts-b"),
            Claim("MCSE beats SimCSE on SICK-R", "mcse", "simcse", "sick-r"),
            Claim("MCSE beats MCSE with shuffled pictures on STS-B", "mcse", shuffled, "sts-b"),
            Claim("MCSE brings positives nearer than SimCSE", "mcse", "simcse", "alignment", "lower"),
        ),
        examples=dict.fromkeys(arms, int(EPOCHS * len(right))),
        deviations=(
            *DEVIATIONS,
            "2,000 Wikipedia sentences and 1,288 emoji in place of a million sentences and 29,783 photographs; the "
            "text of an emoji is its name and keywords, no caption written of a picture; 1.5 epochs, not three",
            "features of Twitter's 32 x 32 pictures, enlarged to 96 x 96, by EfficientNet-Lite0 (ImageNet), in "
            "place of ResNet-50's of photographs; all pictures are drawings, which that network was not trained on",
            "the arms with weight 1 are ours: at 0.01 so short a run hardly moves the sentences' own space",
            "simcse is MCSE with weight 0: the same batches in the same order, the pictures without effect",
        ),
        packages=PACKAGES,
    )


def grounding(method: MCSE, seen: pd.DataFrame, unseen: pd.DataFrame) -> dict[str, float]:
    """How often an emoji's picture is among the 10 nearest to its text, where both are compared in training.

    Of trained emoji the picture is another artist's than the one trained on; of unseen emoji it is the same artist's.
    """
    encoders = {"text": method.text, "image": method.image.model}
    space = Space(encoders, {"text": method.sentence_head, "image": method.picture_head})

    def recall(rows: pd.DataFrame, artist: str) -> float:
        texts, pictures = space.encode(list(rows["text"]), "text"), space.encode(list(rows[artist]), "image")
        return retrieval_metrics(texts, pictures)["recall@10"]

    return {
        "recall@10 unseen emoji": recall(unseen, "twitter"),
        "recall@10 another artist": recall(seen, "google"),
    }


def agreement(space: Space, emoji: pd.DataFrame) -> dict[str, float]:
    """Spearman correlation, over all pairs of emoji, of the cosines of their texts with those of their pictures.

    Features of pictures are centred first: they are all positive, so that no two point apart.
    """
    texts, pictures = space.encode(list(emoji["text"])), np.stack(list(emoji["twitter"]))
    pictures = pictures - pictures.mean(axis=0)
    pictures = pictures / np.linalg.norm(pictures, axis=1, keepdims=True)
    pairs = np.triu_indices(len(emoji), k=1)
    found = spearmanr((texts @ texts.T)[pairs], (pictures @ pictures.T)[pairs])
    return {"agreement with pictures": float(found.statistic)}


def _mixture(sentences: list[str], emoji: pd.DataFrame, pictures: pd.Series) -> Table:
    columns = {
        "text": [*sentences, *emoji["text"]],
        "image": [*[None] * len(sentences), *pictures],
    }
    return Table.from_columns(columns, {"text": Text, "image": Vector | Missing}, name="sentences and emoji")
