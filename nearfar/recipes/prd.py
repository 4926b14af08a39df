"""CIFAR-10 as five tasks of two classes, without old pictures: are earlier classes still told apart?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.data.table import Table
from nearfar.encoders.image import ConvNet
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.measures.forgetting import continual_matrix, square
from nearfar.measures.intervals import mean_interval
from nearfar.measures.probes import cross_validated_probe
from nearfar.method import Batch
from nearfar.methods.image.prd import PRD
from nearfar.recipes.cifar import SIZE, cifar_tables
from nearfar.report.pictures import curve_picture
from nearfar.training.continual import Task, train_tasks
from nearfar.training.settings import Settings

ROWS, CLASSES, EACH, WIDTH = 10_000, 10, 2, 16
AFTER = (1, 3, 5)
"""Tasks learned, after which the first one is told apart."""
SETTINGS: dict[str, Any] = {
    "epochs": 8.0,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "schedule": "cosine",
    "on_collapse": "warn",
}


class FineTune(PRD):
    """The baseline: cross-entropy among the classes of the task, with its prototypes as a linear layer."""

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return {name: value for name, value in super().embed(batch).items() if "projected" not in name}

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        labels = torch.tensor(self.places)[batch["label"].repeat(2)]
        earlier = len(self._old_prototypes.weight)
        logits = torch.cat([z["one"], z["two"]]) @ self.prototypes.weight.T
        return {"cross_entropy": nn.functional.cross_entropy(logits[:, earlier:], labels - earlier)}

    def classify(self, rows: Tensor, among: Sequence[str] | None) -> list[str]:
        """The class of the largest logit."""
        names = self.prototypes.names
        chosen = list(among or names)
        logits = rows @ self.prototypes.weight.detach()[[names.index(name) for name in chosen]].T
        return [chosen[place] for place in logits.argmax(dim=1).tolist()]


class LwF(FineTune):
    """Cross-entropy, and the logits of earlier tasks kept as they were on the new pictures.

    Li, Hoiem. "Learning without Forgetting." ECCV 2016: softened by temperature 2, weight 1 a task.
    """

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        terms = super().contrast(z, batch)
        old = self._old_prototypes
        if "old one" in z:
            sizes = [len(group) for group in old.groups]
            now = torch.cat([z["one"], z["two"]]) @ self.prototypes.weight[: len(old.weight)].T
            before = torch.cat([z["old one"], z["old two"]]) @ old.weight.T
            soft = [
                nn.functional.cross_entropy(
                    n / self.relation_temperature, (b / self.relation_temperature).softmax(1)
                )
                for n, b in zip(now.split(sizes, dim=1), before.split(sizes, dim=1), strict=True)
            ]
            terms["old logits"] = self.relation_weight * torch.stack(soft).sum()
        return terms


ARMS: dict[str, Callable[[ConvNet], PRD]] = {
    "prd": PRD,
    "prd, softmax over classes": lambda encoder: PRD(encoder, axis="classes"),
    "without relations": lambda encoder: PRD(encoder, relation_weight=0.0),
    "cross-entropy": lambda encoder: FineTune(encoder, relation_weight=0.0, prototype_rate=1.0),
    "lwf": lambda encoder: LwF(encoder, relation_weight=1.0, relation_temperature=2.0, prototype_rate=1.0),
}


def experiment(data: DataFolder) -> Experiment:
    """Five tasks of two classes, 1,000 pictures a class at 16 x 16, a small convolutional network."""
    training, test = cifar_tables(data, ROWS)
    return Experiment(
        data={"training": training.fingerprint, "test": test.fingerprint},
        arms={name: _arm(make, training, test) for name, make in ARMS.items()},
        claims=(
            _claim("relations keep earlier tasks", "prd", "without relations", "task-IL accuracy"),
            _claim(
                "contrast and prototypes beat cross-entropy",
                "without relations",
                "cross-entropy",
                "task-IL accuracy",
            ),
            _claim("PRD beats cross-entropy", "prd", "cross-entropy", "task-IL accuracy"),
            _claim("PRD beats learning without forgetting", "prd", "lwf", "task-IL accuracy"),
            Claim("relations lessen forgetting", "prd", "without relations", "task-IL forgetting", "lower"),
            _claim(
                "relations keep earlier classes among all", "prd", "without relations", "class-IL accuracy"
            ),
        ),
        examples=dict.fromkeys(ARMS, int(ROWS * SETTINGS["epochs"])),
        seeds=4,
        deviations=(
            "CIFAR-10 at 16 x 16 in 5 tasks instead of CIFAR-100 in 20; a network of four blocks, 128 wide, with "
            "group norm instead of ResNet-18; 8 epochs a task (9.6 in the first) of batches of 64 instead of 100 "
            "of batches of 128",
            "AdamW at 0.002 with a cosine schedule for each task instead of SGD at 0.01; prototypes at ten times that",
            "cross-entropy and LwF get the same two views; their layers have no bias and the rate of the network",
            "the linear probe is cross-validated on the test pictures of each task: no training picture of an "
            "earlier task may be read",
        ),
    )


def picture(result: Mapping[str, Any], file: Path) -> None:
    """How far the first task is forgotten, arm by arm."""
    seeds = result["seeds"]
    curves = {
        arm: [mean_interval(found[f"first task after {after}"]) for after in AFTER]
        for arm, found in seeds.items()
    }
    curve_picture(AFTER, curves, file, x_title="tasks learned", y_title="accuracy on the first task")


def _claim(words: str, arm: str, baseline: str, figure: str) -> Claim:
    return Claim(words, arm, baseline, figure)


def tasks_by_class(table: Table) -> list[Task]:
    """Tasks of two classes each, in the order of the classes."""
    labels, names = np.asarray(table.column("label")), table.label_names["label"]
    return [
        Task(
            ", ".join(names[first : first + EACH]),
            table.select(np.flatnonzero(labels // EACH == first // EACH)),
        )
        for first in range(0, CLASSES, EACH)
    ]


def _arm(make: Callable[[ConvNet], PRD], training: Table, test: Table) -> Callable[[int], dict[str, float]]:
    def run(seed: int) -> dict[str, float]:
        torch.manual_seed(seed)
        method = make(ConvNet(SIZE, WIDTH))
        held_out = [task.table for task in tasks_by_class(test)]
        _, history = train_tasks(
            method,
            tasks_by_class(training),
            Settings(seed=seed, **SETTINGS),
            measure=lambda number: figures(method, held_out[number]),
        )
        found: dict[str, float] = {}
        for name, triangle in history.figures.items():
            summed = continual_matrix(square(triangle))
            found |= {f"{name} accuracy": summed.average, f"{name} forgetting": summed.forgetting}
        for number in AFTER:
            found[f"first task after {number}"] = history.figures["task-IL"][number - 1][0]
        return found

    return run


def figures(method: PRD, table: Table) -> dict[str, float]:
    """Accuracy on the held-out rows of a task: told apart from each other, from all classes so far, by a probe."""
    rows = method.space().encode(table.column("image"))
    names = table.label_names["label"]
    truth = [names[label] for label in table.column("label")]
    classify = method.classify if isinstance(method, FineTune) else method.prototypes.classify

    def accuracy(among: list[str] | None) -> float:
        return float(
            np.mean([a == b for a, b in zip(classify(torch.from_numpy(rows), among), truth, strict=True)])
        )

    return {
        "task-IL": accuracy(sorted(set(truth))),
        "class-IL": accuracy(None),
        "probe": cross_validated_probe(rows, truth, "logistic").accuracy,
    }
