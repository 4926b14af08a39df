"""Eight ways to train one small network: do alignment and uniformity on test pairs tell which is good?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from nearfar.encoders.encoder import Encoder
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.measures.alignment import alignment, uniformity
from nearfar.measures.probes import knn_probe, logistic_probe
from nearfar.methods.theory.align_uniform import AlignUniform
from nearfar.recipes.cifar import cifar_tables
from nearfar.space import Space
from nearfar.verbs.fitting import fit_rows
from nearfar.views.image import image_views

ROWS = 5000
SETTINGS: dict[str, Any] = {"epochs": 10.0, "batch_size": 256, "learning_rate": 3e-3, "on_collapse": "warn"}
CONTRAST = {"align_weight": 0.0, "uniform_weight": 0.0, "contrast_weight": 1.0}
ARMS: dict[str, dict[str, Any]] = {
    "align + uniform": {},
    "align + 0.5 uniform": {"uniform_weight": 0.5},
    "0.5 align + uniform": {"align_weight": 0.5},
    "contrast 0.07": {**CONTRAST, "temperature": 0.07},
    "contrast 0.2": {**CONTRAST, "temperature": 0.2},
    "contrast 0.5": {**CONTRAST, "temperature": 0.5},
    "align only": {"uniform_weight": 0.0},
    "uniform only": {"align_weight": 0.0},
}


def experiment(data: DataFolder) -> Experiment:
    """5,000 CIFAR-10 pictures at 16 x 16; probes on the features, both measures on pairs of test views."""
    training, test = cifar_tables(data, ROWS)

    def trained(hyperparameters: dict[str, Any]) -> Callable[[int], dict[str, float]]:
        def run(seed: int) -> dict[str, float]:
            made = fit_rows(
                "align-uniform",
                training,
                encoder="tiny",
                hyperparameters={"dim": 64, **hyperparameters},
                seed=seed,
                **SETTINGS,
            ).method
            assert isinstance(made, AlignUniform)
            features = Space({"image": made.encoder})  # the probes look before the head
            train_x, test_x = features.encode(training.column("image")), features.encode(test.column("image"))
            train_y, test_y = np.array(training.column("label")), np.array(test.column("label"))
            one, two = _test_pairs(made, test.column("image"))
            return {
                "probe accuracy": logistic_probe(train_x, train_y, test_x, test_y).accuracy,
                "knn-20 accuracy": knn_probe(train_x, train_y, test_x, test_y, k=20).accuracy,
                "alignment": alignment(one, two),
                "uniformity": uniformity(one),
            }

        return run

    return Experiment(
        data={"training": training.fingerprint, "test": test.fingerprint},
        arms={name: trained(hyperparameters) for name, hyperparameters in ARMS.items()},
        claims=(
            Claim("both together beat alignment alone", "align + uniform", "align only", "probe accuracy"),
            Claim("both together beat uniformity alone", "align + uniform", "uniform only", "probe accuracy"),
            Claim(
                "alignment alone collapses: its uniformity is worse",
                "align only",
                "align + uniform",
                "uniformity",
            ),
            Claim("uniformity alone does not align", "uniform only", "align + uniform", "alignment"),
            Claim(
                "both together beat the contrastive loss at 0.07",
                "align + uniform",
                "contrast 0.07",
                "probe accuracy",
            ),
            Claim(
                "both together beat the contrastive loss at 0.5",
                "align + uniform",
                "contrast 0.5",
                "probe accuracy",
            ),
        ),
        examples=dict.fromkeys(ARMS, int(ROWS * SETTINGS["epochs"])),
        deviations=(
            "5,000 CIFAR-10 pictures at 16 x 16 in place of STL-10; a small network with group norm, AdamW, 10 epochs",
            "the language half of the paper (sentence vectors) is not run",
        ),
    )


@torch.no_grad()
def _test_pairs(made: AlignUniform, pictures: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of two random views of every test picture, by encoder and head: [N, d] each."""
    made.eval()
    assert isinstance(made.encoder, Encoder)
    pixels = made.encoder.prepare(pictures)["pixels"]
    views = image_views(pixels, torch.Generator().manual_seed(0), n=2, **made.views)
    one, two = (
        torch.cat([made.head(made.encoder({"pixels": part}).pooled) for part in view.split(500)])
        for view in views
    )
    return nn.functional.normalize(one, dim=-1).numpy(), nn.functional.normalize(two, dim=-1).numpy()
