"""Small encoders, spaces and tables that several test files make."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

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
