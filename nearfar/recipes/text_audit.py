"""What a transformation does to texts, told without training on it: the audit of `nearfar.recipes.textviews`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from nearfar.encoders.encoder import Features
from nearfar.encoders.text import TransformerText
from nearfar.measures.transcripts import edit_distance
from nearfar.objectives import info_nce
from nearfar.views.text_latent import LATENT, latent_edit

NEGATIONS = {"no", "not", "nobody", "nothing", "never", "none", "without"}
_WORD = re.compile(r"[^\W\d_']+")


def surface(texts: Sequence[Sequence[int]], views: Sequence[Sequence[int]]) -> dict[str, float]:
    """How far views differ from their texts in tokens, means over texts.

    - edit rate: insertions, deletions and replacements, by the longer of the two;
    - token overlap: shared tokens by all tokens of both (Jaccard);
    - length ratio: tokens of the view by those of the text.
    """
    pairs = list(zip(texts, views, strict=True))
    return {
        "edit rate": _mean(edit_distance(x, y) / max(len(x), len(y)) for x, y in pairs),
        "token overlap": _mean(overlap(x, y) for x, y in pairs),
        "length ratio": _mean(len(y) / len(x) for x, y in pairs),
    }


def overlap(one: Sequence[Any], two: Sequence[Any]) -> float:
    """What two texts share, by what either has (Jaccard, of kinds of tokens)."""
    return len({*one} & {*two}) / len({*one} | {*two})


def labels_kept(training: pd.DataFrame, texts: Sequence[str], viewed: Sequence[Sequence[str]]) -> list[float]:
    """Share of texts to which a classifier that never saw a view gives the same label after each view.

    Args:
        training: columns `text` and `label`; the classifier is a logistic regression on words and pairs of words,
            weighed by tf-idf.
        texts: N others.
        viewed: N texts for each of V views.

    Returns:
        V shares.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    classifier = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), min_df=2), LogisticRegression(C=10))
    classifier.fit(training["text"], training["label"])
    before = classifier.predict(list(texts))
    return [float(np.mean(classifier.predict(list(views)) == before)) for views in viewed]


@torch.no_grad()
def encode_view(
    encoder: TransformerText, texts: Sequence[str], view: str, rate: float, seed: int
) -> Features:
    """Features of texts under a view inside an encoder: one of `LATENT`, "dropout", or "none"."""
    torch.manual_seed(seed)
    encoder.train(view == "dropout")
    inputs = encoder.prepare(texts)
    edit: Callable[..., Any] | None = latent_edit(view, rate, inputs["mask"]) if view in LATENT else None
    found = encoder(inputs, edit=edit)
    encoder.eval()
    return found


def cosines(pair: Sequence[Tensor]) -> Tensor:
    """Cosines of the rows of two [N, d] -> [N]."""
    one, two = pair
    return functional.cosine_similarity(one, two)


def difficulty(pair: Sequence[Tensor], temperature: float = 0.05) -> float:
    """InfoNCE of two [N, d]: how hard it is to find a text by its view among N. 0 where it is trivial."""
    one, two = pair
    return float(info_nce(one, two, temperature=temperature))


def word_changes(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs that differ by one word: whether it is a negation, and the overlap of their words.

    One word is added, taken away or replaced; order does not count.
    """
    found = []
    for row in pairs.itertuples():
        one, two = (Counter(_WORD.findall(text.lower())) for text in (row.sentence1, row.sentence2))
        more, less = two - one, one - two
        if max(more.total(), less.total()) == 1:
            changed = bool(({*more} | {*less}) & NEGATIONS)
            found.append({"row": row.Index, "negation": changed, "overlap": overlap([*one], [*two])})
    return pairs.join(pd.DataFrame(found).set_index("row"), how="inner")


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))
