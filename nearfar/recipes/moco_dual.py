"""Momentum contrast with a second view and chosen negatives, against plain MoCo at equal steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.measures.negatives import negative_audit
from nearfar.measures.probes import knn_probe
from nearfar.methods.retrieval.moco_dual import MoCoDual
from nearfar.recipes.cifar import cifar_tables
from nearfar.verbs.fitting import fit_rows

ROWS = 5000
SETTINGS: dict[str, Any] = {"epochs": 12.0, "batch_size": 128, "learning_rate": 2e-3, "on_collapse": "warn"}
MOCO = {"dim": 128, "queue": 4096, "momentum": 0.99, "temperature": 0.1, "hardest": 0}
ARMS: dict[str, dict[str, Any]] = {
    "moco": {**MOCO, "lam": 1.0},
    "dual view": {**MOCO, "lam": 0.5},
    "hardest 256": {**MOCO, "lam": 1.0, "hardest": 256},
    "dual view, hardest 256": {**MOCO, "lam": 0.5, "hardest": 256},
    "dual view, hardest 1024, guard 0.9": {**MOCO, "lam": 0.5, "hardest": 1024, "guard": 0.9},
    "symmetric form": {**MOCO, "form": "symmetric"},
}


def experiment(data: DataFolder) -> Experiment:
    """5,000 CIFAR-10 pictures at 16 x 16, a small convolutional network, 20-nearest-neighbour accuracy."""
    training, test = cifar_tables(data, ROWS)

    def trained(hyperparameters: dict[str, Any]) -> Callable[[int], dict[str, float]]:
        def run(seed: int) -> dict[str, float]:
            made = fit_rows(
                "moco-dual", training, encoder="tiny", hyperparameters=hyperparameters, seed=seed, **SETTINGS
            ).method
            assert isinstance(made, MoCoDual)
            space = made.space()
            keys = space.encode(training.column("image"))
            queries = space.encode(test.column("image"))
            labels, answers = np.array(training.column("label")), np.array(test.column("label"))
            return {
                "knn-20 accuracy": knn_probe(keys, labels, queries, answers, k=20).accuracy,
                "false negatives": _false_negatives(made, training.column("image"), labels),
            }

        return run

    return Experiment(
        data={"training": training.fingerprint, "test": test.fingerprint},
        arms={name: trained(hyperparameters) for name, hyperparameters in ARMS.items()},
        claims=(
            Claim(
                "dual view with the hardest negatives beats MoCo",
                "dual view, hardest 256",
                "moco",
                "knn-20 accuracy",
            ),
            Claim("the dual view alone beats MoCo", "dual view", "moco", "knn-20 accuracy"),
            Claim("the hardest negatives alone beat MoCo", "hardest 256", "moco", "knn-20 accuracy"),
            Claim(
                "the hardest negatives are more often false ones", "hardest 256", "moco", "false negatives"
            ),
            Claim(
                "encoding both views with both networks beats MoCo",
                "symmetric form",
                "moco",
                "knn-20 accuracy",
            ),
        ),
        examples=dict.fromkeys(ARMS, int(ROWS * SETTINGS["epochs"])),
        seeds=5,
        deviations=(
            "5,000 pictures at 16 x 16, a small network with group norm, AdamW, 12 epochs, momentum 0.99",
            "dual view, filter and their values are reconstructed from the abstract",
        ),
    )


@torch.no_grad()
def _false_negatives(made: MoCoDual, pictures: list[Any], labels: np.ndarray) -> float:
    """Share of the negatives that the method would choose that have the anchor's class.

    The queue is replaced by teacher keys of known pictures. They are shuffled: the table is in the order of
    its classes, and anchors and keys must come from all of them.
    """
    made.eval()
    order = np.random.default_rng(0).permutation(len(pictures))
    labels = labels[order]
    size = min(len(made.queue.rows), len(pictures) // 2)
    encoder, head = made.teacher.model.children()
    inputs = made.encoder.prepare([pictures[i] for i in order])
    unit = torch.nn.functional.normalize
    keys = torch.cat(
        [unit(head(encoder({"pixels": part}).pooled), dim=-1) for part in inputs["pixels"][:size].split(500)]
    )
    anchors = unit(made.head(made.encoder({"pixels": inputs["pixels"][size : size + 500]}).pooled), dim=-1)
    cosines = (anchors @ keys.T).numpy()
    chosen = np.argsort(-cosines, axis=1)[:, made.skip : made.skip + (made.hardest or size)]
    kept = np.take_along_axis(cosines, chosen, axis=1) <= (made.guard if made.guard < 1 else np.inf)
    asked = np.arange(size, size + len(anchors))
    return negative_audit(labels, np.where(kept, chosen, -1), asked).false_negative_rate
