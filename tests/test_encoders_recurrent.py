"""Recurrent encoders of texts: what is read, in which order, and what padding and saving must not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from nearfar.encoders import load_encoder
from nearfar.encoders.recurrent import TOKEN, UNKNOWN, Cell, CharacterText, RecurrentText, tokens_of
from nearfar.errors import ArgumentError

TEXTS = ["The rain fell.", "snow", "fog in the valley , and the rain again", "Rain! fell the"]


def made(cell: Cell = "gru", **settings: Any) -> RecurrentText:
    torch.manual_seed(0)
    return RecurrentText.fitted(TEXTS, cell=cell, **{"embedding": 6, "dim": 8, **settings}).eval()


def pooled(encoder: RecurrentText, texts: list[str]) -> Tensor:
    return encoder(encoder.prepare(texts)).pooled


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_it_is_the_packed_network_of_both_directions(cell: Cell) -> None:
    """Against PyTorch's own bidirectional network over packed sequences, with the same weights."""
    encoder = made(cell)
    kind = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
    whole = kind(6, 4, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for suffix, part in (("", encoder.network[0]), ("_reverse", encoder.network[1])):
            for name, value in part.named_parameters():
                getattr(whole, name + suffix).copy_(value)
    inputs = encoder.prepare(TEXTS)
    lengths = inputs["mask"].sum(1)
    packed = pack_padded_sequence(
        encoder.embedding(inputs["ids"]), lengths, batch_first=True, enforce_sorted=False
    )
    states, last = whole(packed)
    hidden = last[0] if cell == "lstm" else last
    found = encoder(inputs)
    torch.testing.assert_close(found.pooled, torch.cat([hidden[0], hidden[1]], dim=1))
    expected, _ = nn.utils.rnn.pad_packed_sequence(states, batch_first=True)
    valid = inputs["mask"]
    torch.testing.assert_close(found.tokens[valid], expected[valid])


@pytest.mark.parametrize("cell", ["gru", "lstm", "sum"])
def test_padding_changes_nothing(cell: Cell) -> None:
    encoder = made(cell)
    together = pooled(encoder, TEXTS)
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(together[row : row + 1], pooled(encoder, [text]))


def test_order_matters_to_networks_and_not_to_a_sum() -> None:
    one, two = ["the rain fell"], ["fell rain the"]
    assert not torch.allclose(pooled(made("gru"), one), pooled(made("gru"), two), atol=1e-4)
    torch.testing.assert_close(pooled(made("sum"), one), pooled(made("sum"), two))
    encoder = made("sum")
    embedded = encoder.embedding.weight[encoder.prepare(one)["ids"][0]]
    torch.testing.assert_close(pooled(encoder, one)[0], embedded.sum(0))
    assert encoder.dim == 6


def test_both_directions_reach_the_text() -> None:
    """The last state of each direction has read everything: the first and the last word both matter."""
    encoder = made()
    base = pooled(encoder, ["rain fell in the valley"])[0]
    other_end = pooled(encoder, ["rain fell in the snow"])[0]
    other_start = pooled(encoder, ["snow fell in the valley"])[0]
    for other in (other_end, other_start):
        assert float((base - other)[:4].detach().abs().max()) > 1e-6
        assert float((base - other)[4:].detach().abs().max()) > 1e-6


def test_the_mean_is_of_all_states_but_those_of_padding() -> None:
    encoder = made(pooling="mean")
    inputs = encoder.prepare(TEXTS)
    found = encoder(inputs)
    weights = inputs["mask"][:, :, None].float()
    torch.testing.assert_close(found.pooled, (found.tokens * weights).sum(1) / weights.sum(1))
    torch.testing.assert_close(found.pooled[1:2], pooled(encoder, TEXTS[1:2]))


def test_words_are_lowered_and_marks_are_words() -> None:
    assert tokens_of("The U.S. storm, again!", "words") == [
        "the",
        "u",
        ".",
        "s",
        ".",
        "storm",
        ",",
        "again",
        "!",
    ]
    assert tokens_of("Aé 雨", "characters") == ["A", "é", " ", "雨"]
    assert TOKEN.findall("مطر 雨 дождь") == ["مطر", "雨", "дождь"]


def test_the_vocabulary_is_that_of_the_texts_commonest_first() -> None:
    encoder = made()
    assert encoder.vocabulary[:2] == ["the", "rain"]
    assert len(encoder.embedding.weight) == len(encoder.vocabulary) + 1
    assert encoder.prepare(["hail the"])["ids"].tolist() == [[UNKNOWN, 1]]


def test_words_that_come_once_teach_the_unknown_token_where_there_are_enough() -> None:
    often = [f"w{n}" for n in range(60)] * 2
    encoder = RecurrentText.fitted([" ".join([*often, "once"])])
    assert "once" not in encoder.vocabulary
    assert len(encoder.vocabulary) == 60


def test_texts_without_a_known_token_are_read_and_counted() -> None:
    encoder = made()
    inputs = encoder.prepare(["\u200b", "", "xylophone", "\ud800", "rain " * 10_000])
    assert inputs["mask"].sum(1).tolist() == [1, 1, 1, 1, 30]
    assert bool(encoder(inputs).pooled.isfinite().all())
    note = encoder.note() or ""
    assert "of 5 texts" in note
    assert "1 were longer than 30 words" in note
    assert "4 hold none of the known words" in note
    encoder.reset_counts()
    assert encoder.note() is None


@pytest.mark.parametrize("cell", ["gru", "lstm", "sum"])
def test_it_is_saved_with_its_vocabulary(cell: Cell, tmp_path: Path) -> None:
    encoder = made(cell, max_length=3)
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert again.settings() == encoder.settings()
    assert again.settings()["max_length"] == 3
    assert torch.equal(pooled(again, TEXTS), pooled(encoder, TEXTS))


def test_surrogates_in_the_texts_do_not_stop_it_from_being_saved(tmp_path: Path) -> None:
    encoder = CharacterText.fitted(["a\ud800b", "雨 b"])
    encoder.save(tmp_path)
    assert load_encoder(tmp_path).settings() == encoder.settings()


def test_characters_are_read_by_an_lstm() -> None:
    encoder = CharacterText.fitted(["rain", "Rain"])
    assert (encoder.units, encoder.cell, encoder.max_length) == ("characters", "lstm", 140)
    assert encoder.pooling == "mean"
    assert set(encoder.vocabulary) == set("rainR")
    assert isinstance(encoder.network[0], nn.LSTM)
    assert (encoder.embedding.embedding_dim, encoder.dim) == (64, 256)


def test_embeddings_are_drawn_evenly_and_all_parameters_can_be_drawn_anew() -> None:
    encoder = made()
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    assert 0.08 < float(before["embedding.weight"].abs().max()) <= 0.1
    encoder.reset()
    assert not any(torch.equal(before[name], p) for name, p in encoder.named_parameters())
    assert float(encoder.embedding.weight.detach().abs().max()) <= 0.1


def test_gates_that_keep_the_state_begin_open() -> None:
    gru, lstm = (made(cell).network[0].bias_ih_l0.detach().view(-1, 4) for cell in ("gru", "lstm"))
    assert (gru == 1).all(1).tolist() == [True, True, False]
    assert (lstm == 1).all(1).tolist() == [False, True, False, False]


def test_what_makes_no_encoder_is_refused() -> None:
    with pytest.raises(ArgumentError, match="even"):
        RecurrentText(["a"], dim=7)
    for setting in ("units", "cell", "pooling"):
        with pytest.raises(ArgumentError, match=f"{setting} must be one of"):
            RecurrentText(["a"], **{setting: "pieces"})
    with pytest.raises(ArgumentError, match="at least one known token"):
        RecurrentText.fitted(["", " "])
    with pytest.raises(ArgumentError, match="max_length"):
        made(max_length=0)
