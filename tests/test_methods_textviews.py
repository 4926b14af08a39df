"""textviews: every view of the library in one frame, and the audit of what views do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_methods_catalogue import calm, gradients, total
from torch import Tensor
from torch.nn import functional

from nearfar.data.table import Table
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError
from nearfar.methods.sentence.simcse import SimCSE
from nearfar.methods.sentence.textviews import TextViews
from nearfar.recipes.text_audit import difficulty, encode_view, labels_kept, overlap, surface, word_changes
from nearfar.space import Space
from nearfar.training.gradient_cache import cached_backward
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.views.text_edits import EDITS
from nearfar.views.text_latent import LATENT

VIEWS = ("dropout", *LATENT, *EDITS)
TEXTS = [
    "rain fell all night on the roofs of the old town",
    "a man rides a horse along the beach",
    "two dogs run over a green field after a red ball",
    "the council voted for a new bridge",
    "fog",
]


@pytest.fixture(scope="module")
def shared() -> TransformerText:
    torch.manual_seed(0)
    return TransformerText.tiny(TEXTS, layers=1, dim=32, heads=2, ffn=48, max_length=32)


@pytest.fixture
def encoder(shared: TransformerText) -> TransformerText:
    return copy.deepcopy(shared)


def batch(method: TextViews, seed: int = 0) -> dict[str, Any]:
    return method.prepare({"text": TEXTS}, torch.Generator().manual_seed(seed))


def test_by_dropout_it_is_simcse(encoder: TransformerText) -> None:
    ours, theirs = TextViews(copy.deepcopy(encoder)).train(), SimCSE(encoder).train()
    theirs.head.load_state_dict(ours.head.state_dict())
    found = []
    for method in (ours, theirs):
        torch.manual_seed(3)
        found.append(total(method.loss(method.prepare({"text": TEXTS}, torch.Generator()))))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_trains_and_its_space_serves(encoder: TransformerText, view: str, tmp_path: Path) -> None:
    method = TextViews(encoder, view, rate=0.4)
    before = method.space().fingerprint
    run = train(
        method, Table.from_columns({"text": TEXTS}), Settings(steps=2, batch_size=4, on_collapse="warn")
    )
    assert np.isfinite(run.losses).all()
    space = method.space()
    assert space.fingerprint != before
    assert space.heads == {}
    space.save(tmp_path / "space")
    assert np.array_equal(Space.load(tmp_path / "space").encode(TEXTS), space.encode(TEXTS))


@pytest.mark.parametrize("view", VIEWS)
def test_only_one_side_of_a_pair_is_the_view(encoder: TransformerText, view: str) -> None:
    method = TextViews(encoder, view, rate=0.5).train()
    calm(method)
    prepared = batch(method)
    torch.manual_seed(0)
    z = method.embed(prepared)
    plain = method.head(encoder(encoder.prepare(TEXTS)).pooled)
    torch.testing.assert_close(z["text"], plain, rtol=1e-4, atol=1e-5)
    changed = not torch.allclose(z["view"], plain, rtol=0, atol=1e-5)
    assert changed == (view not in ("dropout", "subs")), "five texts have no similar words"
    total(method.contrast(z, prepared)).backward()
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(method).values())


@pytest.mark.parametrize("view", VIEWS)
def test_a_seed_decides_a_batch_and_a_step(encoder: TransformerText, view: str) -> None:
    method = TextViews(encoder, view, rate=0.5).train()

    def loss(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return total(method.loss(batch(method, seed)))

    assert torch.equal(loss(1), loss(1))
    assert not torch.equal(loss(1), loss(2))


@pytest.mark.parametrize("view", ["token-cutoff", "noise", "del-word"])
def test_the_two_passes_of_gradient_caching_see_one_view(encoder: TransformerText, view: str) -> None:
    """Views inside the encoder are drawn as dropout is, and replayed with it: one chunk gives the plain gradient."""
    method = TextViews(encoder, view, rate=0.5).train()
    prepared = batch(method)
    torch.manual_seed(2)
    total(method.loss(prepared)).backward()
    expected = gradients(method)
    torch.manual_seed(2)
    cached_backward(
        method.embed,
        lambda z: method.contrast(z, prepared),
        prepared,
        5,
        lambda terms: total(terms).backward(),
    )
    for name, gradient in gradients(method).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)


def test_an_unknown_view_is_told_the_known_ones(encoder: TransformerText) -> None:
    with pytest.raises(ArgumentError, match=r"choose one of dropout, token-cutoff.*spelling"):
        TextViews(encoder, "back-translation")
    with pytest.raises(ArgumentError, match="rate must be between 0 and 1"):
        TextViews(encoder, "crop", rate=10)


def test_dropout_without_dropout_is_refused(encoder: TransformerText) -> None:
    method = TextViews(encoder).eval()
    with pytest.raises(ArgumentError, match="evaluation mode"):
        method.embed(batch(method))


# -- the audit -------------------------------------------------------------------------------------


def test_surface_tells_edits_overlap_and_length() -> None:
    same = surface([[1, 2, 3]], [[1, 2, 3]])
    assert same == {"edit rate": 0, "token overlap": 1, "length ratio": 1}
    shorter = surface([[1, 2, 3, 4]], [[1, 9]])
    assert shorter == {"edit rate": 0.75, "token overlap": 0.2, "length ratio": 0.5}
    moved = surface([[1, 2, 3, 4]], [[4, 3, 2, 1]])
    assert (moved["token overlap"], moved["length ratio"]) == (1, 1)
    assert moved["edit rate"] > 0.5
    assert overlap("aab", "bcc") == pytest.approx(1 / 3)


def test_labels_are_kept_where_the_words_that_matter_are() -> None:
    good, bad = (
        ["good fine film", "a good story", "good acting here"],
        ["bad dull film", "a bad story", "bad acting"],
    )
    training = pd.DataFrame({"text": (good + bad) * 4, "label": [1, 1, 1, 0, 0, 0] * 4})
    texts = ["good film", "bad film"]
    kept = labels_kept(training, texts, [texts, ["good", "bad"], ["bad film", "good film"], ["bad", "bad"]])
    assert kept == [1.0, 1.0, 0.0, 0.5]


def test_difficulty_is_0_for_what_is_found_at_once_and_log_n_for_noise() -> None:
    apart = torch.eye(16)
    assert difficulty([apart, apart]) < 1e-6
    assert difficulty([apart, apart.roll(1, dims=0)]) > 19
    assert difficulty([torch.ones(16, 4)] * 2) == pytest.approx(np.log(16))


def test_a_judge_is_left_in_evaluation_mode_and_as_it_was(encoder: TransformerText) -> None:
    before = copy.deepcopy(encoder.state_dict())
    plain = encode_view(encoder, TEXTS, "none", 0.0, seed=0).pooled
    for view in ("dropout", "noise", "token-cutoff"):
        seen = encode_view(encoder, TEXTS, view, 0.3, seed=0).pooled
        assert not encoder.training
        assert float(functional.cosine_similarity(plain, seen).mean()) < 0.9999
        assert torch.equal(seen, encode_view(encoder, TEXTS, view, 0.3, seed=0).pooled)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert torch.equal(plain, encode_view(encoder, TEXTS, "none", 0.0, seed=1).pooled)


def test_pairs_are_told_apart_by_one_word() -> None:
    pairs = pd.DataFrame(
        [
            ("A man is riding", "A man is not riding"),
            ("The man rides", "No man rides"),
            ("A man is riding", "A man is walking"),
            ("A man is riding", "Is a man riding"),
            ("A man is riding", "There is no man on a horse"),
        ],
        columns=["sentence1", "sentence2"],
        index=[3, 5, 7, 9, 11],
    )
    found = word_changes(pairs)
    assert found["negation"].to_dict() == {3: True, 5: True, 7: False}
    assert found["overlap"].to_dict() == pytest.approx({3: 4 / 5, 5: 2 / 4, 7: 3 / 5})
