"""Does the plain two-tower baseline learn what it should?"""

from __future__ import annotations

from typing import Any

from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.measures.modality import modality_gap
from nearfar.measures.retrieval import retrieval_metrics
from nearfar.recipes.emoji import emoji_tables
from nearfar.space import Space
from nearfar.verbs.building import build_method
from nearfar.verbs.fitting import fit_rows

SETTINGS: dict[str, Any] = {"steps": 600, "batch_size": 128, "learning_rate": 1e-3}
ENCODERS = {"image": "tiny", "text": "tiny"}


def experiment(data: DataFolder) -> Experiment:
    """Emoji of two artists with their names; retrieval among the pictures of a third artist."""
    training, held_out = emoji_tables(data)

    def figures(space: Space) -> dict[str, float]:
        x = space.encode(held_out.column("image"), "image")
        y = space.encode(held_out.column("text"), "text")
        return {
            "recall@1 text to image": retrieval_metrics(y, x)["recall@1"],
            "recall@10 text to image": retrieval_metrics(y, x)["recall@10"],
            "gap": modality_gap(x, y).distance,
        }

    def untrained(seed: int) -> dict[str, float]:
        return figures(
            build_method("clip", training, encoder=ENCODERS, hyperparameters={"dim": 64}, seed=seed).space()
        )

    def trained(seed: int) -> dict[str, float]:
        made = fit_rows(
            "clip", training, encoder=ENCODERS, hyperparameters={"dim": 64}, seed=seed, **SETTINGS
        )
        return figures(made.method.space())

    return Experiment(
        data={"two artists": training.fingerprint, "third artist": held_out.fingerprint},
        arms={"untrained": untrained, "clip": trained},
        claims=(
            Claim(
                "CLIP finds the picture of an unseen artist by the emoji's name",
                "clip",
                "untrained",
                "recall@10 text to image",
            ),
        ),
        examples={"clip": SETTINGS["steps"] * SETTINGS["batch_size"]},
        deviations=("a baseline: emoji and small encoders from scratch; no claim of the paper is tested",),
    )
