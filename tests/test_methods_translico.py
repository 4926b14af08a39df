"""TransliCo: the released contrast, a middle layer without ends, two sides hidden apart, scripts kept at inference."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from test_methods_catalogue import calm, gradients, total
from torch import Tensor
from torch.nn import functional

from nearfar.data.table import Table
from nearfar.encoders.masked import MaskedText
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, TableError
from nearfar.heads.language import IGNORED
from nearfar.method import Batch
from nearfar.methods.sentence import translico
from nearfar.methods.sentence.translico import TransliCo
from nearfar.space import Space

TEXTS = ["дождь", "снег над старым городом", "туман в долине", "град, ветер и холодная ночь", "plain rain"]
LATIN = ["dozhd", "sneg nad starym gorodom", "tuman v doline", "grad, veter i kholodnaya noch", "plain rain"]
GONE = "ь\u0301"


@pytest.fixture(scope="module")
def shared() -> MaskedText:
    torch.manual_seed(0)
    return MaskedText.tiny(TEXTS + LATIN, layers=3, dim=32, heads=2, ffn=48, max_length=24)


@pytest.fixture
def encoder(shared: MaskedText) -> MaskedText:
    return copy.deepcopy(shared)


def prepared(method: TransliCo, texts: list[str] = TEXTS, seed: int = 0, **more: list[str]) -> Batch:
    return method.prepare({"text": texts, **more}, torch.Generator().manual_seed(seed))


def waves(frequency: float) -> Tensor:
    """A fixed float64 matrix [4, 3]."""
    return torch.sin(torch.arange(12, dtype=torch.float64) * frequency + frequency).view(4, 3)


def sides(one: Tensor, two: Tensor) -> tuple[dict[str, Tensor], Batch]:
    """Embeddings of given sides in which each text has lost two words, at a cost of 3 and 5 a text."""
    z = {"text": one, "latin": two}
    z |= {"text surprise": torch.full((len(one),), 3.0), "latin surprise": torch.full((len(one),), 5.0)}
    return z, {name: torch.full((len(one),), 2) for name in ("text hidden", "latin hidden")}


# -- the loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "released"), [(1.0, 1.0257439613342285), (0.3, 1.9554777145385742)])
def test_the_contrast_is_that_of_the_released_code(
    encoder: MaskedText, temperature: float, released: float
) -> None:
    """The numbers were had from `seq_contrast` of cisnlp/TransliCo on these matrices; its half is in them."""
    method = TransliCo(encoder, temperature=temperature, weight=1.0)
    terms = method.contrast(*sides(waves(1.3), waves(0.7)))
    assert float(terms["tcm"]) == pytest.approx(released, rel=1e-6)
    assert float(TransliCo(encoder, temperature).contrast(*sides(waves(1.3), waves(0.7)))["tcm"]) == (
        pytest.approx(released / 2, rel=1e-6)
    )


def test_lengths_of_states_count(encoder: MaskedText) -> None:
    """Under a cosine, scaling would change nothing."""
    method = TransliCo(encoder)
    small, large = (method.contrast(*sides(k * waves(1.3), k * waves(0.7)))["tcm"] for k in (1, 3))
    assert abs(float(large - small)) > 0.1


def test_the_other_texts_of_both_scripts_are_far(encoder: MaskedText) -> None:
    method = TransliCo(encoder, weight=2.0)  # 2 and the half: the mean over rows itself
    one, two = (value.requires_grad_() for value in (waves(1.3), waves(0.7)))
    g = torch.cat([one, two])
    scores = (g @ g.T).fill_diagonal_(float("-inf"))
    expected = functional.cross_entropy(scores, torch.arange(8).roll(4))
    found = method.contrast(*sides(one, two))["tcm"]
    torch.testing.assert_close(found, expected)
    for own, wanted in zip(
        torch.autograd.grad(found, (one, two)), torch.autograd.grad(expected, (one, two)), strict=True
    ):
        torch.testing.assert_close(own, wanted)


def test_language_modelling_is_the_sum_of_two_means_over_hidden_words(encoder: MaskedText) -> None:
    method = TransliCo(encoder, share=0.5).eval()
    batch = prepared(method)
    terms = method.contrast(method.embed(batch), batch)
    assert list(terms) == ["mlm text", "mlm latin", "tcm"]
    for side in ("text", "latin"):
        assert len(set(batch[f"{side} hidden"].tolist())) > 1, "texts must weigh differently"
        expected = encoder.recovery(encoder(batch[side]).tokens, batch[side]["labels"])
        torch.testing.assert_close(terms[f"mlm {side}"], expected, rtol=1e-4, atol=1e-5)


def test_a_batch_in_which_nothing_was_hidden_costs_nothing(encoder: MaskedText) -> None:
    method = TransliCo(encoder, share=1e-9, weight=0.0)
    batch = prepared(method)
    terms = method.contrast(method.embed(batch), batch)
    assert {name: term.item() for name, term in terms.items()} == {"mlm text": 0.0, "mlm latin": 0.0}
    total(terms).backward()


def test_defaults_are_those_of_the_paper(encoder: MaskedText) -> None:
    defaults = {k: p.default for k, p in inspect.signature(TransliCo.__init__).parameters.items()}
    assert (defaults["temperature"], defaults["weight"], defaults["share"]) == (1.0, 0.5, 0.15)
    for layers, middle in ((12, 8), (6, 4), (3, 2), (1, 1)):
        encoder.layers = layers
        TransliCo(encoder)
        assert encoder.pooling == f"layer_{middle}"
    encoder.layers = 3
    assert TransliCo(encoder, layer=1).encoder.pooling == "layer_1"
    with pytest.raises(ArgumentError, match="layer must be between 0 and 3"):
        TransliCo(encoder, layer=8)
    with pytest.raises(ArgumentError, match="share"):
        TransliCo(encoder, share=1.5)
    with pytest.raises(ArgumentError, match="weight"):
        TransliCo(encoder, weight=-1.0)


# -- the two sides ---------------------------------------------------------------------------------


def test_the_second_side_is_the_romanised_text(encoder: MaskedText) -> None:
    batch = prepared(TransliCo(encoder, share=1e-9))
    assert torch.equal(batch["text"]["ids"], encoder.prepare(TEXTS)["ids"])
    assert torch.equal(batch["latin"]["ids"], encoder.prepare(LATIN)["ids"])


def test_a_column_of_transliterations_is_taken_as_it_is(
    encoder: MaskedText, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translico, "romanise", lambda text: pytest.fail("not needed"))
    monkeypatch.setattr(translico, "vanishes", lambda text: pytest.fail("not needed"))
    method = TransliCo(encoder, share=1e-9)
    method.begin(Table.from_columns({"text": [*TEXTS, GONE], "transliteration": [*LATIN, "soft sign"]}))
    batch = prepared(method, transliteration=LATIN[::-1])
    assert torch.equal(batch["latin"]["ids"], encoder.prepare(LATIN[::-1])["ids"])
    assert method.notes() == []


def test_both_sides_are_hidden_each_by_draws_of_its_own(encoder: MaskedText) -> None:
    """A Latin text is equal to its transliteration: were the draws shared, so would be what is hidden."""
    batch = prepared(TransliCo(encoder, share=0.3), ["plain rain"] * 200)
    hidden = [batch[side]["labels"] != IGNORED for side in ("text", "latin")]
    assert hidden[0].shape == hidden[1].shape
    words = int((encoder.prepare(["plain rain"])["mask"]).sum()) - 2
    for side in hidden:
        assert float(side.sum()) / (200 * words) == pytest.approx(0.3, abs=0.06)
    assert float((hidden[0] & hidden[1]).sum()) / (200 * words) == pytest.approx(0.09, abs=0.04)
    assert torch.equal(batch["text hidden"], hidden[0].sum(1))


@pytest.mark.parametrize("layer", [1, 2])
def test_what_is_contrasted_is_the_mean_of_a_layer_of_the_hidden_text_without_its_ends(
    encoder: MaskedText, layer: int
) -> None:
    method = TransliCo(encoder, layer=layer, share=0.5).eval()
    batch = prepared(method)
    z = method.embed(batch)
    for side in ("text", "latin"):
        ids, mask = batch[side]["ids"], batch[side]["mask"]
        assert bool((ids == encoder.tokenizer.mask_token_id).any())
        ends = torch.tensor([encoder.tokenizer.cls_token_id, encoder.tokenizer.sep_token_id])
        inside = (mask & ~torch.isin(ids, ends)).unsqueeze(-1)  # hidden words are inside
        states = encoder(batch[side], layers=True).layers[layer]
        torch.testing.assert_close(z[side], (states * inside).sum(1) / inside.sum(1), rtol=1e-4, atol=1e-5)


def test_the_contrast_moves_the_layers_up_to_the_pooled_one_and_words_move_all(encoder: MaskedText) -> None:
    method = TransliCo(encoder, layer=2, share=0.5)
    calm(method)
    batch = prepared(method)
    terms = method.contrast(method.embed(batch), batch)
    terms["tcm"].backward(retain_graph=True)
    moved = {name for name, gradient in gradients(method).items() if bool((gradient != 0).any())}
    assert any("layer.1." in name for name in moved)
    assert not any("layer.2." in name or "head." in name for name in moved)
    for side in ("text", "latin"):
        terms[f"mlm {side}"].backward(retain_graph=True)
        found = gradients(method)
        assert set(found) == {name for name, p in method.named_parameters() if p.requires_grad}


# -- which rows ------------------------------------------------------------------------------------


def test_texts_of_which_nothing_is_left_are_passed_over_and_counted(encoder: MaskedText) -> None:
    table = Table.from_columns({"text": [*TEXTS, GONE, *TEXTS, "\ufe0f"]})
    method = TransliCo(encoder)
    method.begin(table)
    for epoch in range(3):
        order = method.order(len(table), 4, seed=0, epoch=epoch)
        assert len(order) == len(table)
        assert set(order) == set(range(len(table))) - {5, 11}
    assert method.notes() == ["2 texts were passed over: nothing is left of them in Latin letters"]
    method.begin(Table.from_columns({"text": TEXTS}))
    assert method.notes() == []
    assert sorted(method.order(5, 4, 0, 0)) == list(range(5))


def test_a_table_of_which_nothing_is_left_is_refused_by_row_and_column(encoder: MaskedText) -> None:
    with pytest.raises(TableError, match=r"column 'text'.*row 1\b.*--column transliteration=NAME"):
        TransliCo(encoder).begin(Table.from_columns({"text": [GONE, "\ufe0f"]}))


# -- what is left ----------------------------------------------------------------------------------


def test_the_space_reads_texts_in_their_own_script_through_the_layer(
    encoder: MaskedText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = TransliCo(encoder, layer=1)
    monkeypatch.setattr(translico, "romanise", lambda text: pytest.fail("for training only"))
    space = method.space()
    assert type(space.encoders["text"]) is TransformerText
    assert space.heads == {}
    found = space.encode(TEXTS)
    assert not np.allclose(found[0], space.encode(LATIN)[0], atol=1e-3)
    again = Space.load(space.save(tmp_path / "space"))
    assert np.array_equal(again.encode(TEXTS), found)
    with torch.no_grad():
        for parameter in encoder.model.encoder.layer[1:].parameters():
            parameter.zero_()
    np.testing.assert_array_equal(space.encode(TEXTS), found)


def test_a_text_of_ends_only_has_an_embedding(encoder: MaskedText) -> None:
    assert np.isfinite(TransliCo(encoder).space().encode(["[CLS]", "\u200b", "дождь"])).all()


def test_the_states_keep_their_scale_though_the_encoder_scales_its_embedding(encoder: MaskedText) -> None:
    encoder.normalise = True
    method = TransliCo(encoder).eval()
    lengths = method.embed(prepared(method))["text"].norm(dim=1)
    assert (lengths - 1).abs().min().item() > 1e-2
