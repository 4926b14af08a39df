"""CLEAR: one recipe for both copies, the sentence itself for the words, and NT-Xent over all 2N."""

from __future__ import annotations

import copy
import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_methods_catalogue import gradients, total
from torch import Tensor
from torch.nn import functional

from nearfar.data.table import Table
from nearfar.encoders import load_encoder
from nearfar.encoders.masked import MaskedText
from nearfar.errors import ArgumentError
from nearfar.heads.language import IGNORED
from nearfar.methods.sentence.clear import CLEAR
from nearfar.space import Space

PAPER = ("del-word", "del-span", "reorder", "subs", "subs+del-span", "del-word+reorder")
TEXTS = [
    "rain fell all night on the roofs of the old town",
    "a man rides a horse along the beach in the morning",
    "two dogs run over a green field after a red ball",
    "the council of the city voted for a new bridge",
]


@pytest.fixture(scope="module")
def shared() -> MaskedText:
    torch.manual_seed(0)
    return MaskedText.tiny(TEXTS, layers=1, dim=32, heads=2, ffn=48, max_length=32)


@pytest.fixture
def encoder(shared: MaskedText) -> MaskedText:
    return copy.deepcopy(shared)


def batch(method: CLEAR, texts: list[str] = TEXTS, seed: int = 0) -> dict[str, Any]:
    return method.prepare({"text": texts}, torch.Generator().manual_seed(seed))


def content(inputs: dict[str, Tensor]) -> list[list[int]]:
    return [ids[mask].tolist()[1:-1] for ids, mask in zip(inputs["ids"], inputs["mask"], strict=True)]


# -- the loss --------------------------------------------------------------------------------------


def test_the_contrast_is_that_of_simclr_over_2n(encoder: MaskedText) -> None:
    """The reference by loops: the other copy over all 2N - 1 others, both directions, mean over 2N."""
    torch.manual_seed(1)
    one, two = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, 8, dtype=torch.float64)
    method = CLEAR(encoder, temperature=0.3)
    everything = functional.normalize(torch.cat([one, two]), dim=1)
    losses = []
    for i in range(10):
        e = [math.exp(float(everything[i] @ everything[k]) / 0.3) for k in range(10)]
        losses.append(-math.log(e[(i + 5) % 10] / (sum(e) - e[i])))
    z = {"one": one, "two": two, "recovery": torch.zeros(5)}
    found = method.contrast(z, {"predicted": torch.ones(5)})
    assert float(found["nt_xent"]) == pytest.approx(np.mean(losses), rel=1e-9)
    swapped = method.contrast({**z, "one": two, "two": one}, {"predicted": torch.ones(5)})
    torch.testing.assert_close(swapped["nt_xent"], found["nt_xent"])


def test_words_are_predicted_as_by_mlm_alone(encoder: MaskedText) -> None:
    """The mean is over hidden words of the whole batch, not over texts: rows have different numbers."""
    method = CLEAR(encoder, share=0.4).eval()
    one = batch(method)
    assert len(set(one["predicted"].tolist())) > 1
    terms = method.loss(one)
    states = encoder(one["hidden"]).tokens
    torch.testing.assert_close(terms["mlm"], encoder.recovery(states, one["hidden"]["labels"]))
    assert set(terms) == {"mlm", "nt_xent"}
    torch.testing.assert_close(method.total(terms), terms["mlm"] + terms["nt_xent"])


def test_nothing_hidden_is_no_loss_and_no_error(encoder: MaskedText) -> None:
    method = CLEAR(encoder, share=0.0).train()
    terms = method.loss(batch(method))
    assert terms["mlm"].item() == 0
    total(terms).backward()
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(method).values())


def test_each_term_teaches_its_own_head_and_both_the_encoder(encoder: MaskedText) -> None:
    method = CLEAR(encoder).train()
    terms = method.loss(batch(method))
    terms["mlm"].backward(retain_graph=True)
    by_words = gradients(method)
    terms["nt_xent"].backward()
    by_copies = gradients(method)
    reached = {name.split(".")[0] + "." + name.split(".")[1] for name in by_words}
    assert reached == {"encoder.model", "encoder.head"}
    assert any(name.startswith("head.") for name in by_copies)
    assert not any(name.startswith("encoder.head.") for name in by_copies)
    word = "encoder.model.embeddings.word_embeddings.weight"
    assert bool(by_copies[word][method.lexicon.deleted].any()), "[DEL] is learned"
    assert not [
        name for name, p in method.named_parameters() if p.requires_grad and name not in by_words | by_copies
    ]


# -- the copies ------------------------------------------------------------------------------------


def test_words_are_predicted_in_the_sentence_itself_never_in_a_copy(encoder: MaskedText) -> None:
    method = CLEAR(encoder)
    one = batch(method)
    whole = encoder.prepare(TEXTS)["ids"]
    labels = one["hidden"]["labels"]
    assert torch.equal(torch.where(labels == IGNORED, one["hidden"]["ids"], labels), whole)
    assert method.lexicon.deleted not in one["hidden"]["ids"]
    for copied in (one["one"], one["two"]):
        assert encoder.tokenizer.mask_token_id not in copied["ids"]
        assert "labels" not in copied


@pytest.mark.parametrize("edits", PAPER)
def test_both_copies_are_of_one_recipe_under_seeds_of_their_own(encoder: MaskedText, edits: str) -> None:
    method = CLEAR(encoder, edits=edits)
    one = batch(method)
    again, other = batch(method), batch(method, seed=1)
    lengths = []
    for name in ("one", "two"):
        assert torch.equal(one[name]["ids"], again[name]["ids"])
        views = content(one[name])
        lengths.append([sum(token != method.lexicon.deleted for token in view) for view in views])
        if "del" in edits:
            assert all(method.lexicon.deleted in view for view in views)
    assert np.abs(np.subtract(*lengths)).max() <= 2, "equal rates, up to rounding by chance"
    if edits != "subs":  # these texts have no similar words
        assert not torch.equal(one["one"]["ids"], other["one"]["ids"])
        assert content(one["one"]) != content(one["two"])


def test_the_rates_are_those_of_the_paper(encoder: MaskedText) -> None:
    """Seven words in ten go; 5 spans of 5% go; of 5 pairs each 10% move; three in ten are replaced."""
    defaults = {k: p.default for k, p in inspect.signature(CLEAR.__init__).parameters.items()}
    rates = {name: defaults[name.replace("-", "_")] for name in ("del-word", "del-span", "reorder", "subs")}
    assert rates == {"del-word": 0.7, "del-span": 5 * 0.05, "reorder": 5 * 2 * 0.05, "subs": 0.3}
    text = " ".join(["rain fell on the old town"] * 4)
    method = CLEAR(encoder, edits="del-word")
    kept = [
        sum(t != method.lexicon.deleted for t in view) for view in content(batch(method, [text] * 50)["one"])
    ]
    assert set(kept) == {7, 8}, "of 24 words 16.8 go"


def test_subs_learns_similar_words_from_the_table_and_says_how_many(encoder: MaskedText) -> None:
    rng = np.random.default_rng(0)
    groups = (("man", "dogs", "horse"), ("rides", "run")), (("council", "city", "bridge"), ("voted", "new"))
    texts = [f"{rng.choice(g[0])} {rng.choice(g[1])} a" for g in (groups[i % 2] for i in range(60))]
    method = CLEAR(encoder, edits="subs", subs=1.0)
    assert content(batch(method, texts[:4])["one"]) == content(encoder.prepare(texts[:4])), (
        "nothing is known yet"
    )
    method.begin(Table.from_columns({"text": texts}))
    assert content(batch(method, texts[:4])["one"]) != content(encoder.prepare(texts[:4]))
    assert "have a similar one" in method.notes()[0]
    assert CLEAR(copy.deepcopy(encoder)).notes() == []


# -- what is left ----------------------------------------------------------------------------------


def test_the_first_state_stays_and_g_does_not(encoder: MaskedText, tmp_path: Path) -> None:
    method = CLEAR(encoder)
    space = method.space()
    assert encoder.pooling == "cls"
    assert space.heads == {}
    found = space.encode(TEXTS)
    states = encoder.eval()(encoder.prepare(TEXTS)).tokens[:, 0]
    np.testing.assert_allclose(found, functional.normalize(states, dim=1).detach().numpy(), atol=1e-5)
    space.save(tmp_path / "space")
    assert np.array_equal(Space.load(tmp_path / "space").encode(TEXTS), found)
    kept = load_encoder(tmp_path / "space" / "text")
    assert isinstance(kept, MaskedText)
    kept.require_trained_head("another method")
    assert CLEAR(kept).lexicon.deleted == method.lexicon.deleted, "a [DEL] that was learned is gone on with"


@pytest.mark.parametrize(
    "texts",
    [
        ["a", "the", "of the", "and"],
        ["rain " * 10_000, "fell", "x", "y z"],
        ["дождь и снег", "雨と雪", "rain 雨", "🙂🙂"],
        ["rain", "rain", "rain", "rain"],
        ["\ud800 rain".encode("utf-8", "replace").decode(), "?", "!", "..."],
    ],
)
@pytest.mark.parametrize("edits", PAPER)
def test_odd_texts_give_finite_losses(encoder: MaskedText, texts: list[str], edits: str) -> None:
    method = CLEAR(encoder, edits=edits).train()
    method.begin(Table.from_columns({"text": texts}))
    assert all(bool(term.isfinite()) for term in method.loss(batch(method, texts)).values())


@pytest.mark.parametrize("edits", ["", "del", "crop", "del-word+", "subs+subs"])
def test_recipes_that_are_none_are_refused(encoder: MaskedText, edits: str) -> None:
    with pytest.raises(ArgumentError, match="join different ones of del-word, del-span, reorder, subs"):
        CLEAR(encoder, edits=edits)


def test_rates_out_of_range_are_refused(encoder: MaskedText) -> None:
    with pytest.raises(ArgumentError, match="del_word must be between 0 and 1"):
        CLEAR(encoder, del_word=70)
