"""Sentences of 112 languages in twenty scripts: their romanisations, and a small language model that reads both."""

from __future__ import annotations

import hashlib
import json
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import pandas as pd
import torch

from nearfar.data.source import cache_folder
from nearfar.data.table import Table
from nearfar.encoders import load_encoder
from nearfar.encoders.encoder import Encoder
from nearfar.encoders.masked import MaskedText
from nearfar.experiment import DataFolder
from nearfar.files import read_json, write_json
from nearfar.methods.sentence.mlm import MLM
from nearfar.recipes.tiny_mlm import trained_once
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.views.transliteration import romanise

Side = tuple[frozenset[str], str]
"""Languages (ISO 639-3) and the script that they are written in."""
RELATED: tuple[tuple[Side, Side], ...] = tuple(
    ((frozenset(one.split()), script), (frozenset(other.split()), other_script))
    for one, script, other, other_script in (
        ("srp mkd bul", "CYRILLIC", "srp hrv bos slv", "LATIN"),
        ("rus ukr bel", "CYRILLIC", "pol ces slk csb hsb dsb", "LATIN"),
        ("kaz tat uzb", "CYRILLIC", "tur aze uzb tuk", "LATIN"),
        ("uig", "ARABIC", "tur aze uzb tuk", "LATIN"),
        ("hin awa mar", "DEVANAGARI", "urd", "ARABIC"),
        ("yid", "HEBREW", "deu nds gsw", "LATIN"),
        ("lfn", "CYRILLIC", "lfn ina ile ido nov spa ita", "LATIN"),
    )
)
"""Related languages on both sides of a script border."""
OF_A_SCRIPT = 100
"""Held-out sentences of each script that are tested; a script with fewer is left out."""
VOCABULARY, LENGTH = 16_000, 32
SETTINGS: dict[str, Any] = {"steps": 1500, "batch_size": 64, "learning_rate": 1e-3, "seed": 0}
VERSION = 1
"""Raised when the training of the language model changes, so that cached ones are not taken."""


class Tatoeba(NamedTuple):
    """What is learned from, and what is tested.

    Attributes:
        training: half of the sentences, with their transliterations.
        scripts: held-out sentences, as many of every script: text, latin, script.
        related: held-out translations of one English sentence into related languages: text, other.
    """

    training: Table
    scripts: pd.DataFrame
    related: pd.DataFrame


def script_of(text: str) -> str:
    """The script of most letters of a text, as the names of characters begin: LATIN, CYRILLIC, CJK ..."""
    found = Counter(unicodedata.name(c, "UNKNOWN").split()[0] for c in text if c.isalpha())
    return found.most_common(1)[0][0] if found else "NONE"


def tatoeba(data: DataFolder) -> Tatoeba:
    """Halves of all sentences but the English ones; translations of one English sentence stay in one half."""
    frame = pd.read_parquet(data.file("tatoeba/tatoeba.parquet")).drop_duplicates("text")
    frame["script"] = [script_of(text) for text in frame["text"]]
    related = pd.concat([_pairs(frame, one, other) for one, other in RELATED]).drop_duplicates("english")
    half = frame["english"].map(lambda english: zlib.crc32(english.encode()) % 2 == 1)
    held_out = frame[half | frame["english"].isin(related["english"])]
    sizes = held_out["script"].value_counts()
    held_out = held_out[held_out["script"].isin(sizes[sizes >= OF_A_SCRIPT].index)]
    scripts = held_out.groupby("script").sample(OF_A_SCRIPT, random_state=0).reset_index(drop=True)
    learned = frame[~half & ~frame["english"].isin(related["english"])]
    scripts["latin"] = romanised(list(scripts["text"]))
    columns = {"text": list(learned["text"]), "transliteration": romanised(list(learned["text"]))}
    whole = [pair for pair in zip(*columns.values(), strict=True) if pair[1]]
    columns = dict(zip(columns, map(list, zip(*whole, strict=True)), strict=True))
    return Tatoeba(
        Table.from_columns(columns, name="Tatoeba"), scripts[scripts["latin"] != ""], related.reset_index()
    )


def _pairs(frame: pd.DataFrame, one: Side, other: Side) -> pd.DataFrame:
    """Translations of one English sentence on two sides: english, text, other."""
    sides = [
        frame[frame["lang"].isin(languages) & (frame["script"] == script)].drop_duplicates("english")
        for languages, script in (one, other)
    ]
    both = sides[0].merge(sides[1], on="english")
    return both[["english", "text_x", "text_y"]].set_axis(["english", "text", "other"], axis=1)


def romanised(texts: Sequence[str]) -> list[str]:
    """Texts in Latin letters, computed at the first call and cached."""
    identity = json.dumps([version("uroman"), list(texts)])
    place = cache_folder() / "romanised" / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, [romanise(text) for text in texts])
    found: list[str] = read_json(place)
    return found


def multilingual_mlm(training: Table) -> MaskedText:
    """A small BERT trained by masked language modelling on texts and transliterations, no pairs among them.

    Three layers, width 128, four heads; cached by its data and settings.
    """
    texts = list(dict.fromkeys([*training.column("text"), *training.column("transliteration")]))

    def trained() -> Encoder:
        torch.manual_seed(0)
        encoder = MaskedText.tiny(texts, vocabulary=VOCABULARY, max_length=LENGTH)
        train(MLM(encoder), Table.from_columns({"text": texts}), Settings(on_collapse="warn", **SETTINGS))
        return encoder

    identity = json.dumps([VERSION, SETTINGS, VOCABULARY, LENGTH]) + "\n".join(texts)
    encoder = load_encoder(trained_once("multilingual-mlm", identity, trained))
    assert isinstance(encoder, MaskedText)
    return encoder
