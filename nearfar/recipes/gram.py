"""GRAM against sums of pairwise losses, on five descriptions of the same handwritten digits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.data.table import Table
from nearfar.encoders.vector import MLPVector
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.geometry import gram_volume
from nearfar.measures.probes import knn_probe
from nearfar.measures.retrieval import ranking_metrics, retrieval_metrics
from nearfar.method import Batch
from nearfar.methods.multimodal.gram import GRAM
from nearfar.objectives import info_nce
from nearfar.search import rank_by_volume
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train

VIEWS = {"anchor": "pix", "second": "fou", "third": "kar", "fourth": "zer", "fifth": "fac"}
FOLDS = 5
SETTINGS: dict[str, Any] = {
    "epochs": 40.0,
    "batch_size": 256,
    "learning_rate": 1e-3,
    "on_collapse": "warn",
}


class AnchorPairs(GRAM):
    """Every other modality against the anchor: the sum of pairwise losses of ImageBind."""

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        first, *rest = self._encoders()
        return self._summed(z, [(first, other) for other in rest])

    def _summed(self, z: dict[str, Tensor], pairs: list[tuple[str, str]]) -> dict[str, Tensor]:
        targets = self._targets(len(z["anchor"]), z["anchor"])
        losses = [
            info_nce(z[one], z[two], targets, temperature=self.temperature(), symmetric=True)
            for one, two in pairs
        ]
        return {"info_nce": torch.stack(losses).mean()}

    def space(self) -> Space:
        return Space(*self.towers.parts())


class AllPairs(AnchorPairs):
    """Every modality against every other."""

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return self._summed(z, list(combinations(self._encoders(), 2)))


def experiment(data: DataFolder) -> Experiment:
    """2,000 digits, pixels as the anchor and four other descriptions; a fifth of the digits is held out, in turn."""
    table, digits = _table(data)

    def arm(make: type[GRAM], matching: float = 0.0) -> Callable[[int], dict[str, float]]:
        def run(seed: int) -> dict[str, float]:
            order = np.random.default_rng(0).permutation(len(table))
            held_out = np.sort(order[seed % FOLDS :: FOLDS])
            training = np.setdiff1d(order, held_out)
            torch.manual_seed(seed)
            encoders = {
                name: MLPVector.fitted(table.select(training).column(name), 128, 128) for name in VIEWS
            }
            method = make(encoders, dim=32, matching=matching)
            train(method, table.select(training), Settings(seed=seed, **SETTINGS))
            return _figures(method.space(), table.select(held_out), digits[held_out])

        return run

    steps = round(SETTINGS["epochs"]) * (4 * len(table) // FOLDS // SETTINGS["batch_size"])
    arms = {
        "gram": arm(GRAM, matching=0.1),
        "gram without matching": arm(GRAM),
        "anchor pairs": arm(AnchorPairs),
        "all pairs": arm(AllPairs),
    }
    return Experiment(
        data={"mfeat digits": table.fingerprint},
        arms=arms,
        claims=(
            Claim(
                "all other modalities of an item are found from its anchor more often than by pairs with the anchor",
                "gram",
                "anchor pairs",
                "anchor to item R@1",
            ),
            Claim(
                "modalities that are no anchor find each other more often than by pairs with the anchor",
                "gram",
                "anchor pairs",
                "other to other R@1",
            ),
            Claim("and than by all pairs", "gram", "all pairs", "other to other R@1"),
            Claim("and so does the anchor", "gram", "all pairs", "anchor to item R@1"),
            Claim("the matching term helps", "gram", "gram without matching", "anchor to item R@1"),
            Claim(
                "the parts of a held-out item span a smaller volume than after pairs with the anchor",
                "gram",
                "anchor pairs",
                "volume",
                "lower",
            ),
        ),
        examples=dict.fromkeys(arms, steps * SETTINGS["batch_size"]),
        seeds=FOLDS,
        deviations=(
            "five descriptions of 2,000 digits and MLPs from scratch, d = 32, in place of video, audio and text "
            "towers pretrained on 150,000 clips",
            "each seed holds out another fifth of the digits; no setting was tried on them",
            "the arms of pairs have the same targets (smoothed by 0.1) and learned temperature; their items are ranked "
            "by the sum of cosines with the anchor, as their loss has it, and by volume in a figure of its own",
        ),
    )


def _table(data: DataFolder) -> tuple[Table, np.ndarray]:
    with np.load(data.file("mfeat_digits/mfeat_digits.npz"), allow_pickle=False) as views:
        columns = {role: views[name].astype(np.float32) for role, name in VIEWS.items()}
        return Table.from_columns(columns, name="mfeat digits"), views["digit"]


def _figures(space: Space, table: Table, digits: np.ndarray) -> dict[str, float]:
    z = {role: space.encode(table.column(role), role, normalize=True) for role in VIEWS}
    anchor, others = z["anchor"], [z[role] for role in VIEWS if role != "anchor"]
    by_volume = ranking_metrics(rank_by_volume([anchor], others, 10)[1])["recall@1"]
    summed = np.argsort(-(anchor @ np.sum(others, axis=0).T), axis=1)[:, :10]
    by_sum = ranking_metrics(summed)["recall@1"]
    across = [
        retrieval_metrics(z[one], z[two], geometry=space.geometry)["recall@1"]
        for one, two in permutations([role for role in VIEWS if role != "anchor"], 2)
    ]
    stacked = torch.from_numpy(np.stack([anchor, *others], axis=1))
    return {
        "anchor to item R@1": by_volume if space.geometry == "gram" else by_sum,
        "anchor to item R@1, by volume": by_volume,
        "other to other R@1": float(np.mean(across)),
        "volume": float(gram_volume(stacked).mean()),
        "20-NN accuracy": _classes(np.concatenate([anchor, *others], axis=1), digits),
    }


def _classes(rows: np.ndarray, digits: np.ndarray) -> float:
    """Accuracy of neighbours among the held-out digits, one half against the other (rows come in order of digits)."""
    return knn_probe(rows[::2], digits[::2], rows[1::2], digits[1::2], k=20).accuracy
