"""The base encoder of the sentence experiments: a tiny BERT trained by masked language modelling only.

Three layers, width 128, four heads, WordPiece vocabulary of 8,000, trained on captions, Wikipedia sentences
and running text. Never by contrast: what a method adds to it is the method's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from nearfar.data.source import cache_folder
from nearfar.data.table import Table
from nearfar.encoders import load_encoder
from nearfar.encoders.encoder import Encoder
from nearfar.encoders.masked import MaskedText
from nearfar.encoders.text import TransformerText
from nearfar.experiment import DataFolder
from nearfar.files import atomic_folder
from nearfar.verbs.fitting import fit_rows

SETTINGS: dict[str, Any] = {
    "steps": 12000,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "max_length": 32,
    "seed": 0,
}
VERSION = 3
"""Raised when this recipe changes, so that cached encoders of the old one are not taken."""


def captions(data: DataFolder) -> pd.DataFrame:
    """Multi30k captions of the training pictures: five columns caption1..caption5, one row a picture."""
    frame = pd.read_parquet(data.file("multi30k/captions.parquet"))
    return frame[frame["split"] == "train"].reset_index(drop=True)


def wiki(data: DataFolder) -> list[str]:
    """Wikipedia sentences."""
    return list(pd.read_parquet(data.file("wiki_sentences/wiki_sentences.parquet"))["text"])


def pretraining_texts(data: DataFolder) -> list[str]:
    """What the base encoder reads: captions, Wikipedia sentences and WikiText-2's lines, no duplicates."""
    frame = captions(data)
    texts = [text for name in frame.columns if name.startswith("caption") for text in frame[name]]
    texts += wiki(data)
    for part in ("valid", "test"):
        lines = data.file(f"raw_text/wikitext2_{part}.txt").read_text(encoding="utf-8").splitlines()
        texts += [line.strip() for line in lines if not line.strip().startswith("=")]
    return list(dict.fromkeys(text for text in texts if text.strip()))


def tiny_mlm(data: DataFolder) -> TransformerText:
    """The base encoder alone, trained at the first call and cached by its data and settings."""
    return tiny_masked(data).plain()


def tiny_masked(data: DataFolder) -> MaskedText:
    """The base encoder with its head over the vocabulary."""
    encoder = load_encoder(tiny_mlm_folder(data))
    assert isinstance(encoder, MaskedText)
    return encoder


def tiny_mlm_folder(data: DataFolder) -> Path:
    """Where the base encoder is kept, to be named as the encoder of a run."""
    texts = pretraining_texts(data)

    def trained() -> Encoder:
        table = Table.from_columns({"text": texts}, name="captions, Wikipedia sentences and running text")
        return fit_rows("mlm", table, encoder="tiny", **SETTINGS).method.encoders()[0]

    return trained_once("tiny-mlm", json.dumps([VERSION, SETTINGS]) + "\n".join(texts), trained)


def pooled_folder(data: DataFolder, pooling: str) -> Path:
    """Where the base encoder is kept with a pooling named, which methods then take in place of their papers'."""

    def pooled() -> Encoder:
        encoder = tiny_masked(data)
        encoder.choose_pooling(pooling)
        return encoder

    return trained_once("tiny-mlm-pooled", f"{tiny_mlm_folder(data).name} {pooling}", pooled)


def trained_once(name: str, identity: str, train: Callable[[], Encoder]) -> Path:
    """Where the encoder that `train` returns is kept: trained at the first call, cached after it.

    Args:
        name: of the kind of encoder.
        identity: all that its weights depend on.
        train: makes it.
    """
    place = cache_folder() / "encoders" / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    if not place.exists():
        trained = train()
        with atomic_folder(place, replace=True) as folder:
            trained.save(folder)
    return place
