"""Small encoders, spaces and tables that several test files make."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from nearfar.encoders.text import TransformerText
from nearfar.space import Space


def tiny_text(texts: Sequence[str], seed: int = 0) -> TransformerText:
    """A text encoder of one layer, whose weights depend on the seed."""
    torch.manual_seed(seed)
    return TransformerText.tiny(texts, vocabulary=300, layers=1, dim=16, heads=2, ffn=32)


def text_space(texts: Sequence[str], seed: int = 0) -> Space:
    """A space of texts, not trained: equal texts are nearest to each other all the same."""
    return Space({"text": tiny_text(texts, seed)})


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Write a CSV file and return its path."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_graph(folder: Path, nodes: int = 60, seed: int = 0) -> Path:
    """A folder with three groups of nodes that differ in features and have most links inside, as a user has it."""
    random = np.random.default_rng(seed)
    group = np.arange(nodes) % 3
    words = random.random((nodes, 12)) < np.where(np.arange(12) % 3 == group[:, None], 0.5, 0.1)
    words[np.arange(nodes), group] = True
    inside = group[:, None] == group
    linked = np.triu(random.random((nodes, nodes)) < np.where(inside, 0.3, 0.03), k=1)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(f"n{i}", str(words[i].astype(int).tolist()), f"group {group[i]}") for i in range(nodes)]
    write_csv(folder / "nodes.csv", ["id", "vector", "label"], rows)
    write_csv(
        folder / "edges.csv", ["source", "target"], [(f"n{i}", f"n{j}") for i, j in np.argwhere(linked)]
    )
    return folder
