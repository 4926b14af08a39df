"""ClusterNS against SimCSE where false negatives are known: two captions of one picture meet in every batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from nearfar.batching.online_kmeans import OnlineKMeans
from nearfar.data.table import Table
from nearfar.encoders.text import TransformerText
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.geometry import cosine
from nearfar.method import Method
from nearfar.methods.sentence.clusterns import ClusterNS
from nearfar.methods.sentence.simcse import SimCSE
from nearfar.recipes.known_duplicates import BATCH, base, batches, captioned, same_picture, together
from nearfar.recipes.sentences import DEVIATIONS, figures, fingerprints, fitted, sts_tests

PICTURES = 3_000
CLUSTERS = 64
MOMENTUM, LOW, HIGH = 1e-3, 0.0, 0.3
"""Those of the paper, by which every arm is judged."""
TRAINED = ("simcse", "clusterns", "hard negatives only", "band only", "strong band")


def experiment(data: DataFolder) -> Experiment:
    """6,000 captions of 3,000 pictures, one epoch, from the tiny MLM encoder; tested on STS-B and SICK-R."""
    tests, table = sts_tests(data), captioned(data, PICTURES)
    base(data)  # trained before the arms, so that none of them pays for it

    def arm(make: Callable[[TransformerText], Method]) -> Callable[[int], dict[str, float]]:
        def run(seed: int) -> dict[str, float]:
            encoder = base(data)
            torch.manual_seed(seed)
            method = together(make(encoder))
            found = figures(fitted(method, table, seed, batch_size=BATCH), tests)
            return {**found, **clusters_of(method, encoder.dim, table, seed)}

        return run

    ours = partial(ClusterNS, clusters=CLUSTERS, momentum=MOMENTUM, low=LOW, high=HIGH)
    return Experiment(
        data={"captions": table.fingerprint, **fingerprints(tests)},
        arms={
            "simcse": arm(SimCSE),
            "clusterns": arm(ours),
            "hard negatives only": arm(partial(ours, weight=0.0)),
            "band only": arm(partial(ours, hard_negatives=False)),
            "strong band": arm(partial(ours, weight=1.0)),
            "pairs at random": lambda seed: {"precision": 1 / (BATCH - 1)},
        },
        claims=(
            Claim(
                "fellows of a cluster tell of one picture more often than pairs at random",
                "clusterns",
                "pairs at random",
                "precision",
            ),
            Claim("more of them lie in the band than under SimCSE", "clusterns", "simcse", "in the band"),
            Claim("so with a thousand times its weight", "strong band", "simcse", "in the band"),
            Claim("ClusterNS beats SimCSE on STS-B", "clusterns", "simcse", "sts-b"),
            Claim("hard negatives alone beat SimCSE on STS-B", "hard negatives only", "simcse", "sts-b"),
            Claim("the band alone beats SimCSE on STS-B", "band only", "simcse", "sts-b"),
        ),
        examples=dict.fromkeys(TRAINED, 2 * PICTURES),
        deviations=(
            *DEVIATIONS,
            "6,000 captions in place of a million sentences; both captions of a picture are in one batch of 128, so "
            "that the false negatives are known; 64 clusters",
            "clusters are judged after training by centroids that start from one batch of the trained space and "
            "follow those after it, in all arms alike, since SimCSE has none of its own",
        ),
    )


@torch.no_grad()
def clusters_of(method: Any, dim: int, table: Table, seed: int) -> dict[str, float]:
    """What clusters of a trained space find in batches of whole pictures, under dropout as in training."""
    kmeans, same = OnlineKMeans(CLUSTERS, dim, MOMENTUM), same_picture()
    fellows = right = within = twins = near = hard = 0.0
    method.train()
    torch.manual_seed(seed)
    count = 10
    for number, batch in enumerate(batches(method, table, seed, count + 1)):
        z = method.embed(batch)
        one, two = z["one"], z["two"]
        if number == 0:
            kmeans.start(one)
            continue
        scores, mask = cosine(one, two), kmeans.same_cluster(one)
        gaps = (scores - scores.diagonal()[:, None])[mask]
        fellows += len(gaps)
        right += float((same & mask).sum())
        within += float(((gaps >= -HIGH) & (gaps <= -LOW)).sum())
        twins += float(scores.diagonal().mean()) / count
        near += float(scores[mask].sum())
        hard += float(functional.cosine_similarity(one, kmeans.second(one)).mean()) / count
        kmeans.follow(one)
    return {
        "precision": right / fellows,
        "recall": right / (count * float(same.sum())),
        "in the band": within / fellows,
        "cosine of twins": twins,
        "cosine of fellows": near / fellows,
        "cosine of hard negatives": hard,
    }
