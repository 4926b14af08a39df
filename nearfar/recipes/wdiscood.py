"""Unknown classes and unknown domains, told from the features of two small networks by six detectors."""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nearfar.batching.order import epoch_order
from nearfar.data.source import cache_folder
from nearfar.encoders.image import ConvNet
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.files import atomic_file, fingerprint_of_file
from nearfar.heads.detectors import Detector, Mahalanobis, NearestNeighbour, PrincipalResidual
from nearfar.heads.discriminant import WhitenedDiscriminant
from nearfar.heads.projection import Projection
from nearfar.measures.ood import auroc, mean_over_sets, ood_metrics
from nearfar.objectives import Pairing, info_nce
from nearfar.views.image import image_views

VERSION = 1
"""Raised when this recipe changes, so that cached features of the old one are not taken."""
Training = Literal["CE", "SupCon"]
SEEDS = 3
SIZE = 32
INSIDE = ("airplane", "bird", "cat", "frog", "horse", "ship")
"""Classes of CIFAR-10 that are known; the other four are the near set."""
TRAINING, HELD_OUT, FAR_ROWS = 900, 100, 800
"""Pictures a known class to train on and to choose w on; pictures of a far set."""
SETTINGS = {"epochs": 15, "batch_size": 128, "learning_rate": 3e-3, "width": 16, "temperature": 0.1}
WEIGHTS = (1.0, 5.0)
FAR = {
    "streets": "camvid_small",
    "faces": "face_keypoints",
    "chest X-rays": "chest_xray_pneumonia",
    "satellite": "eurosat_rgb",
}
LABELLED = ("wdiscood", "d_g alone", "d_h alone", "mahalanobis", "knn", "residual")
OF_LOGITS = ("msp", "energy")


def experiment(data: DataFolder) -> Experiment:
    """Six classes of CIFAR-10 against the other four (near) and four other domains (far)."""
    files = ("cifar10_subset", *FAR.values())
    for seed in range(SEEDS):  # trained before the arms, so that none of them pays for it
        features(data, "CE", seed)
        features(data, "SupCon", seed)
    arms = {f"{how}: {name}": _arm(data, how, name) for how in ("CE", "SupCon") for name in LABELLED}
    arms |= {f"CE: {name}": _arm(data, "CE", name) for name in OF_LOGITS}
    return Experiment(
        data={name: fingerprint_of_file(data.file(f"{name}/{name}.parquet")) for name in files},
        arms=arms,
        claims=(
            *_claims("SupCon", "mahalanobis", "WDiscOOD finds what is foreign better than Mahalanobis"),
            *_claims("CE", "mahalanobis", "WDiscOOD finds what is foreign better than Mahalanobis"),
            *_claims(
                "CE", "msp", "WDiscOOD finds what is foreign better than the classifier's own confidence"
            ),
            *_claims("SupCon", "knn", "WDiscOOD finds what is foreign better than the 50th neighbour"),
            Claim(
                "among unknown classes the discriminant distance does better than the residual",
                "SupCon: d_g alone",
                "SupCon: d_h alone",
                "near AUROC",
            ),
            Claim(
                "among unknown domains the residual does better than the discriminant distance",
                "SupCon: d_h alone",
                "SupCon: d_g alone",
                "far AUROC",
            ),
        ),
        examples=dict.fromkeys(arms, len(INSIDE) * TRAINING),
        seeds=SEEDS,
        deviations=(
            "CIFAR-10 at 32 x 32 and a network of four blocks, 128 wide, with 15 epochs, instead of ImageNet and "
            "ResNet-50; no augmentation but crops and flips for CE, and views of MoCo v2 for SupCon",
            "six known classes, so five discriminants; w is 1 or 5 as held-out known pictures are told from "
            "the same pictures with Gaussian noise (standard deviation 0.1), never by an out-of-distribution set",
            "encoders are trained before the arms and their features cached: the cost is that of choosing w, fitting "
            "and scoring all sets",
            "grey pictures (faces, X-rays) are far by colour alone; ReAct, ODIN and ImageNet's sets are left out",
        ),
    )


def _claims(how: str, baseline: str, words: str) -> tuple[Claim, ...]:
    return (Claim(f"{words} ({how})", f"{how}: wdiscood", f"{how}: {baseline}", "mean AUROC"),)


def _arm(data: DataFolder, how: Training, name: str) -> Callable[[int], dict[str, float]]:
    def run(seed: int) -> dict[str, float]:
        found = features(data, how, seed)
        score, extra = _scorer(name, how, found)
        inside = score("inside")
        sets = {one: ood_metrics(inside, score(one)) for one in ("near", *FAR)}
        mean, fpr = mean_over_sets(list(sets.values()))
        far, _ = mean_over_sets([sets[one] for one in FAR])
        return {
            "mean AUROC": mean,
            "mean FPR95": fpr,
            "near AUROC": sets["near"].auroc,
            "far AUROC": far,
            **{f"AUROC, {one}": sets[one].auroc for one in FAR},
            **extra,
        }

    return run


def _scorer(
    name: str, how: Training, found: dict[str, Tensor]
) -> tuple[Callable[[str], np.ndarray], dict[str, float]]:
    """What scores one of the sets, and what was chosen for it."""
    if name in OF_LOGITS:
        weight, bias = found["weight"], found["bias"]

        def of_logits(which: str) -> np.ndarray:
            logits = found[which] @ weight.T + bias
            return (logits.logsumexp(1) if name == "energy" else logits.softmax(1).amax(1)).numpy()

        return of_logits, {}
    x, labels, unit = found["training"], found["labels"], how == "SupCon"
    if name in ("wdiscood", "d_g alone", "d_h alone"):
        if name == "wdiscood":
            chosen = max(WEIGHTS, key=lambda w: _known_from_noisy(found, w, unit))
            weighted = _discriminant(found, chosen, unit)
            return lambda which: weighted(found[which]).numpy(), {"w": chosen}
        fitted = _discriminant(found, 1.0, unit)
        part = 0 if name == "d_g alone" else 1
        return lambda which: -fitted.distances(found[which])[part].numpy(), {}
    made: dict[str, Callable[[], Detector]] = {
        "mahalanobis": lambda: Mahalanobis(x.shape[1], len(INSIDE), normalize=unit),
        "knn": lambda: NearestNeighbour(x.shape[1], len(x), k=50),
        "residual": lambda: PrincipalResidual(x.shape[1], x.shape[1] // 2, normalize=unit),
    }
    detector = made[name]()
    detector.fit(x, labels)
    return lambda which: detector(found[which]).numpy(), {}


def _discriminant(found: dict[str, Tensor], weight: float, unit: bool) -> WhitenedDiscriminant:
    x = found["training"]
    detector = WhitenedDiscriminant(x.shape[1], len(INSIDE), residual_weight=weight, normalize=unit)
    detector.fit(x, found["labels"])
    return detector


def _known_from_noisy(found: dict[str, Tensor], weight: float, unit: bool) -> float:
    """AUROC of held-out pictures of known classes against the same with noise: what w is chosen by."""
    detector = _discriminant(found, weight, unit)
    return auroc(detector(found["held out"]).numpy(), detector(found["noisy"]).numpy())


# -- features --------------------------------------------------------------------------------------


def features(data: DataFolder, how: Training, seed: int) -> dict[str, Tensor]:
    """Features of all sets from an encoder trained on the known classes; cached by data, recipe and seed."""
    names = ("cifar10_subset", *FAR.values())
    identity = [VERSION, SETTINGS, INSIDE, TRAINING, HELD_OUT, FAR_ROWS, how, seed]
    marks = [fingerprint_of_file(data.file(f"{name}/{name}.parquet")) for name in names]
    digest = hashlib.sha256(json.dumps([identity, marks]).encode()).hexdigest()[:16]
    place = cache_folder() / "features" / f"wdiscood-{digest}.safetensors"
    if not place.exists():
        with atomic_file(place) as temporary:
            save_file(_made(data, how, seed), temporary)
    return load_file(place)


def _made(data: DataFolder, how: Training, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    frame = pd.read_parquet(data.file("cifar10_subset/cifar10_subset.parquet"))
    train = frame[(frame["split"] == "train") & frame["name"].isin(INSIDE)]
    test = frame[frame["split"] == "test"]
    place = train.groupby("name").cumcount()
    chosen = train[place < TRAINING]
    labels = torch.tensor([INSIDE.index(name) for name in chosen["name"]])
    examples = _pictures(chosen)
    encoder = ConvNet(SIZE, int(SETTINGS["width"]), mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
    classifier = _train(encoder, encoder.prepare(examples)["pixels"], labels, how, seed)
    held_out = encoder.prepare(_pictures(train[place >= TRAINING].groupby("name").head(HELD_OUT)))["pixels"]
    noisy = (held_out + 0.1 * torch.randn_like(held_out)).clamp(0, 1)
    sets = {
        "training": encoder.prepare(examples)["pixels"],
        "held out": held_out,
        "noisy": noisy,
        "inside": encoder.prepare(_pictures(test[test["name"].isin(INSIDE)]))["pixels"],
        "near": encoder.prepare(_pictures(test[~test["name"].isin(INSIDE)]))["pixels"],
    }
    for name, folder in FAR.items():
        far = pd.read_parquet(data.file(f"{folder}/{folder}.parquet"))
        sample = far.sample(min(FAR_ROWS, len(far)), random_state=0)
        sets[name] = encoder.prepare(_pictures(sample))["pixels"]
    found = {name: _pooled(encoder, pixels) for name, pixels in sets.items()}
    return {**found, "labels": labels, **{n: p.detach() for n, p in classifier.named_parameters()}}


def _pictures(frame: pd.DataFrame) -> list[Any]:
    """Pictures of a frame at `SIZE`, the largest square in their middle."""
    return [_square(Image.open(io.BytesIO(encoded)).convert("RGB")) for encoded in frame["image"]]


def _square(picture: Image.Image) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    cut = picture.crop((left, top, left + side, top + side))
    return cut.resize((SIZE, SIZE), Image.Resampling.BOX)


@torch.no_grad()
def _pooled(encoder: ConvNet, pixels: Tensor) -> Tensor:
    encoder.eval()
    return torch.cat([encoder({"pixels": part}).pooled for part in pixels.split(500)])


def _train(encoder: ConvNet, pixels: Tensor, labels: Tensor, how: Training, seed: int) -> nn.Linear:
    """Train the encoder on known classes, by cross-entropy or by supervised contrast (Khosla et al., 2020)."""
    batch, epochs = int(SETTINGS["batch_size"]), int(SETTINGS["epochs"])
    classifier = nn.Linear(encoder.dim, len(INSIDE))
    projection = Projection(encoder.dim, encoder.dim, 64, kind="mlp")
    heads = nn.ModuleList([classifier if how == "CE" else projection])
    optimiser = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], lr=SETTINGS["learning_rate"])
    per_epoch = len(pixels) // batch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * per_epoch)
    generator = torch.Generator().manual_seed(seed)
    mild = functools.partial(image_views, n=1, crop=(0.5, 1.0), jitter=0.0, grey=0.0)
    encoder.train()
    for epoch in range(epochs):
        order = torch.tensor(epoch_order(len(pixels), seed, epoch))
        for rows in order[: per_epoch * batch].view(per_epoch, batch):
            y = labels[rows]
            if how == "CE":
                [view] = mild(pixels[rows], generator)
                loss = nn.functional.cross_entropy(classifier(encoder({"pixels": view}).pooled), y)
            else:
                both = torch.cat(image_views(pixels[rows], generator))
                z = projection(encoder({"pixels": both}).pooled)
                loss = info_nce(z, z, Pairing.same(y.repeat(2)), temperature=SETTINGS["temperature"])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return classifier
