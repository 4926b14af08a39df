"""Small encoders, spaces and tables that several test files make."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from nearfar.data.sound import Sound
from nearfar.encoders.causal import CausalText
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


def tiny_causal(texts: Sequence[str], seed: int = 0) -> CausalText:
    """A causal language model of two layers, whose weights depend on the seed."""
    torch.manual_seed(seed)
    return CausalText.tiny(texts, vocabulary=300, layers=2, dim=16, heads=2, ffn=32, max_length=64)


def sounds(count: int, seconds: float = 0.5, rate: int = 8000, seed: int = 0) -> list[Sound]:
    """Tones of different pitch in noise, of unequal length; each lasts `seconds` at least."""
    drawn = np.random.default_rng(seed)
    made = []
    for i in range(count):
        time = np.arange(round((seconds + 0.03 * (i % 3)) * rate)) / rate
        tone = np.sin(2 * np.pi * (200 + 90 * i) * time) * 0.3 + drawn.normal(scale=0.1, size=len(time))
        made.append(Sound(tone.astype(np.float32), rate))
    return made


def write_sounds(folder: Path, made: Sequence[Sound], suffix: str = ".wav") -> list[Path]:
    """Write sounds as files into an existing folder and return their paths."""
    import soundfile

    paths = [folder / f"sound-{i}{suffix}" for i in range(len(made))]
    for path, sound in zip(paths, made, strict=True):
        soundfile.write(path, sound.samples, sound.rate)
    return paths


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
