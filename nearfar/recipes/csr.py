"""Sparse codes against shorter dense vectors at equal numbers of active dimensions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from nearfar.data.kinds import Text, Vector
from nearfar.data.source import cache_folder
from nearfar.data.table import Table
from nearfar.encoders import make_encoder
from nearfar.encoders.given import GivenVectors
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.files import atomic_file, fingerprint_of_file
from nearfar.heads.projection import Projection
from nearfar.measures.intervals import mean_interval
from nearfar.measures.retrieval import ranking_metrics
from nearfar.method import Batch, Method
from nearfar.methods.retrieval.csr import CSR
from nearfar.objectives import Pairing, info_nce
from nearfar.report.pictures import curve_picture
from nearfar.search import Index
from nearfar.search.sparse import SparseIndex
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.fitting import fit_rows

ACTIVE = (4, 8, 16, 32)
"""Numbers of active dimensions at which all arms are measured; 32 is four times the k of training."""
K = 8
PREFIXES = (4, 8, 16, 32, 64, 128, 384)
SETTINGS: dict[str, Any] = {
    "epochs": 10.0,
    "batch_size": 512,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "schedule": "constant",
    "on_collapse": "warn",
}
FOUND = 10
"""Answers searched for each query."""

Shortened = Callable[[np.ndarray, int], np.ndarray]
"""Vectors [N, d] and a number of active dimensions to what is stored."""


def experiment(data: DataFolder) -> Experiment:
    """BANKING77: MiniLM vectors of 10,003 questions to search, 3,080 to ask, 77 intents."""
    frame = pd.read_parquet(data.file("intents/banking77.parquet"))
    parts = [frame[frame["split"] == split] for split in ("train", "test")]
    source = fingerprint_of_file(data.file("intents/banking77.parquet"))
    stored, asked = (minilm_vectors(list(part["text"]), f"banking77-{source}") for part in parts)
    labels, answers = (part["category"].to_numpy() for part in parts)
    training = Table.from_columns({"vector": stored}, {"vector": Vector}, name="banking77 MiniLM vectors")

    def measured(shorten: Shortened, sparse: bool = False) -> dict[str, float]:
        found: dict[str, float] = {}
        for k in ACTIVE:
            figures = searched(shorten(stored, k), shorten(asked, k), labels, answers, sparse)
            whole = searched(stored, asked, labels, answers, False)  # beside it: times alone say nothing
            figures["search time / all dimensions"] = figures.pop("seconds") / whole["seconds"]
            found |= {f"{name} at {k}": value for name, value in figures.items()}
        return found

    def coded(**changed: Any) -> Callable[[int], dict[str, float]]:
        def run(seed: int) -> dict[str, float]:
            hyperparameters = {"k": K, **changed}
            made = fit_rows("csr", training, hyperparameters=hyperparameters, seed=seed, **SETTINGS).method
            assert isinstance(made, CSR)
            head = made.head.eval()

            @torch.no_grad()
            def shorten(x: np.ndarray, k: int) -> np.ndarray:
                return head.select(head.activations(torch.from_numpy(x)), k).numpy()

            used = (shorten(stored, head.k) > 0).any(axis=0)
            return {
                **measured(shorten, sparse=True),
                "dead latents": float(head.dead.float().mean()),
                "latents never used": 1 - float(used.mean()),
            }

        return run

    def prefixes(contrast: float) -> Callable[[int], dict[str, float]]:
        def run(seed: int) -> dict[str, float]:
            torch.manual_seed(seed)
            made = Prefixes(GivenVectors(stored.shape[1]), contrast)
            train(made, training, Settings(seed=seed, **SETTINGS))
            space = made.space()
            return measured(lambda x, k: space.encode(list(x), batch_size=1024, normalize=False)[:, :k])

        return run

    def components(seed: int) -> dict[str, float]:
        centre = stored.mean(axis=0)
        directions = np.linalg.svd(stored - centre, full_matrices=False)[2]
        return measured(lambda x, k: (x - centre) @ directions[:k].T)

    def chosen(seed: int) -> dict[str, float]:
        order = np.random.default_rng(seed).permutation(stored.shape[1])
        return measured(lambda x, k: x[:, order[:k]])

    trained = {
        "csr": coded(),
        "csr without revival": coded(revival=0.0),
        "csr without contrast": coded(contrast=0.0),
        "matryoshka": prefixes(0.1),
        "matryoshka without contrast": prefixes(0.0),
    }
    fixed = {
        "pca": components,
        "random dimensions": chosen,
        "all 384 dimensions": lambda seed: measured(lambda x, k: x),
    }
    return Experiment(
        data={"training": training.fingerprint, "banking77": source},
        arms={**trained, **fixed},
        claims=(
            _beats("matryoshka", 8),
            _beats("matryoshka", 4),
            _beats("matryoshka", 16),
            _beats("matryoshka", 32),
            _beats("matryoshka without contrast", 4),
            _beats("matryoshka without contrast", 8),
            _beats("pca", 4),
            _beats("pca", 8),
            _beats("pca", 16),
            _beats("pca", 32),
            Claim("without their term more latents are dead", "csr without revival", "csr", "dead latents"),
            Claim(
                "without the term for dead latents more are never used by a stored code",
                "csr without revival",
                "csr",
                "latents never used",
            ),
            Claim(
                "the contrastive term raises accuracy at few active dimensions",
                "csr",
                "csr without contrast",
                "1-NN accuracy at 4",
            ),
            Claim(
                "a sparse index with 4 entries a row answers in less time than all dimensions",
                "csr",
                "all 384 dimensions",
                "search time / all dimensions at 4",
                "lower",
            ),
            Claim(
                "a sparse index with 4 entries a row answers in less time than 4 dense dimensions",
                "csr",
                "pca",
                "search time / all dimensions at 4",
                "lower",
            ),
        ),
        examples=dict.fromkeys(trained, int(len(stored) * SETTINGS["epochs"])),
        deviations=(
            "MiniLM vectors of BANKING77 in place of ResNet and NV-Embed features; pairs of code are not run",
            "vectors are multiplied by the square root of 384: at unit length the reconstruction terms would be "
            "about 1/384 and the contrastive term would decide alone",
            "10 epochs, batches of 512, AdamW at 1e-3 with its usual epsilon, constant after a short warm-up",
            "one training at k 8 serves all four numbers of active dimensions (up to 4k, which it is trained for)",
            "matryoshka: a tied linear map with the same two losses, averaged over seven prefixes, for no head was "
            "to be had",
            "equal active dimensions are not equal storage: an entry of a code costs an index beside its value",
        ),
    )


def picture(result: Mapping[str, Any], file: Path) -> None:
    """Accuracy by the number of active dimensions."""
    seeds = result["seeds"]
    series = {
        arm: [mean_interval(seeds[arm][f"1-NN accuracy at {k}"]) for k in ACTIVE]
        for arm in ("csr", "matryoshka", "pca", "random dimensions", "all 384 dimensions")
    }
    curve_picture(ACTIVE, series, file, x_title="active dimensions", y_title="1-NN accuracy, BANKING77")


def _beats(other: str, k: int) -> Claim:
    return Claim(f"csr beats {other} at {k} active dimensions", "csr", other, f"1-NN accuracy at {k}")


def minilm_vectors(texts: list[str], source: str) -> np.ndarray:
    """MiniLM's unit vectors times sqrt(d), float32 [N, d]; computed at the first call and cached."""
    place = cache_folder() / "teachers" / f"{source}-minilm-{len(texts)}.npy"
    if not place.exists():
        vectors = Space({"text": make_encoder("minilm", Text, [])}).encode(texts)
        with atomic_file(place) as temporary, open(temporary, "wb") as file:
            np.save(file, vectors * math.sqrt(vectors.shape[1]), allow_pickle=False)
    return np.asarray(np.load(place, allow_pickle=False), dtype=np.float32)


def searched(
    keys: np.ndarray, queries: np.ndarray, labels: np.ndarray, answers: np.ndarray, sparse: bool
) -> dict[str, float]:
    """Quality and cost of the ten nearest by cosine: a found row is right where it has the query's label."""
    index = SparseIndex(keys) if sparse else Index(keys)
    started = time.process_time()  # of this process: others share the machine
    ids = index.search(queries, FOUND)[1]
    seconds = time.process_time() - started
    rows_of = {label: np.flatnonzero(labels == label).tolist() for label in np.unique(labels)}
    ranked = ranking_metrics(ids, [rows_of[answer] for answer in answers], ks=(FOUND,))
    held = index.bytes if isinstance(index, SparseIndex) else index.vectors.nbytes
    return {
        "1-NN accuracy": float(np.mean(labels[ids[:, 0]] == answers)),
        "ndcg@10": ranked["ndcg@10"],
        "bytes a vector": held / len(keys),
        "seconds": seconds,
    }


class Prefixes(Method):
    """Matryoshka for frozen vectors: every prefix of one linear map is rebuilt from and spread out, as codes are.

        loss = mean over m of MSE(x, W_m^T z_m + c) + contrast L(z_m),    z = W x + b, z_m = z[:m]

    Kusupati et al. "Matryoshka Representation Learning." NeurIPS 2022, with the objective of CSR.
    """

    reads = {"vector": Vector}

    def __init__(self, encoder: GivenVectors, contrast: float, temperature: float = 0.2) -> None:
        super().__init__()
        self.encoder, self.contrast_weight, self.temperature = encoder, contrast, temperature
        self.head = Projection(encoder.dim, encoder.dim)
        self.mean = nn.Parameter(torch.zeros(encoder.dim))

    def negatives(self, batch_size: int) -> int:
        return 0

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        features = self.encoder(batch["vector"]).pooled
        return {"features": features, "z": self.head(features)}

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        half = Pairing.diagonal().log_weighted_diagonal(-math.log(2))
        weight = self.head.get_parameter("map.0.weight")
        rebuilt, spread = [], []
        for m in PREFIXES:
            prefix = z["z"][:, :m]
            rebuilt.append(functional.mse_loss(prefix @ weight[:m] + self.mean, z["features"].detach()))
            spread.append(info_nce(prefix, prefix, half, temperature=self.temperature))
        return {
            "rebuilt": torch.stack(rebuilt).mean(),
            "contrast": self.contrast_weight * torch.stack(spread).mean(),
        }

    def space(self) -> Space:
        return Space({"vector": self.encoder}, {"vector": self.head})
