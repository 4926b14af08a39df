"""Quick-Thoughts: which pairs are near, what the diagonal counts, and two towers that are not one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nearfar.data.kinds import Id, Text
from nearfar.data.table import Table
from nearfar.encoders import load_encoder
from nearfar.encoders.recurrent import RecurrentText
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, TableError
from nearfar.methods.sentence.quickthoughts import QuickThoughts
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.building import build_method
from nearfar.verbs.fit import fit

TEXTS = [f"sentence {n} of the {word}" for n in range(4) for word in ("rain", "snow", "fog", "storm")]


def method_of(**settings: Any) -> QuickThoughts:
    torch.manual_seed(0)
    return QuickThoughts(RecurrentText.fitted(TEXTS, embedding=6, dim=8), **settings)


def table(documents: list[int] | None = None) -> Table:
    columns: dict[str, Any] = {"text": TEXTS}
    return Table.from_columns(
        columns | ({"document": documents} if documents else {}), {"document": Id, "text": Text}
    )


def batch(method: QuickThoughts, rows: Table, chosen: list[int]) -> dict[str, Any]:
    return method.prepare(method.examples(rows, np.array(chosen)), torch.Generator())


def released(scores: Tensor, targets: Tensor, zero: bool = True) -> Tensor:
    """The released loss: the diagonal of the scores set to 0, cross-entropy against targets that sum to 1."""
    itself = torch.eye(len(scores), dtype=torch.bool)
    scores = scores.masked_fill(itself, 0.0 if zero else -torch.inf)
    logs = functional.log_softmax(scores, dim=1).masked_fill(itself, 0)
    return -(targets * logs).sum(1).mean()


def targets_of(n: int, context: int) -> Tensor:
    places = torch.arange(n)
    near = (places[:, None] - places).abs()
    near = ((near > 0) & (near <= context)).float()
    return near / near.sum(1, keepdim=True)


# -- the loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [1, 2])
@pytest.mark.parametrize("diagonal", ["zero_logit", "drop"])
def test_the_loss_is_that_of_the_release(context: int, diagonal: str) -> None:
    method = method_of(context=context, diagonal=diagonal)
    one, two = torch.randn(6, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
    expected = released(one @ two.T, targets_of(6, context), diagonal == "zero_logit")
    wanted = torch.autograd.grad(expected, [one, two])
    terms = method.contrast({"one": one, "two": two}, {"place": torch.arange(10, 16)})
    assert list(terms) == ["quickthoughts"]
    torch.testing.assert_close(terms["quickthoughts"], expected)
    for found, gradient in zip(torch.autograd.grad(terms["quickthoughts"], [one, two]), wanted, strict=True):
        torch.testing.assert_close(found, gradient)


def test_the_diagonal_counts_as_a_score_of_zero_by_default() -> None:
    """All scores 0: B candidates with it, B - 1 without."""
    z, places = {"one": torch.zeros(5, 4), "two": torch.zeros(5, 4)}, {"place": torch.arange(5)}
    assert float(method_of().contrast(z, places)["quickthoughts"]) == pytest.approx(np.log(5))
    assert float(method_of(diagonal="drop").contrast(z, places)["quickthoughts"]) == pytest.approx(np.log(4))


def test_the_own_score_of_a_sentence_has_no_gradient() -> None:
    """Whatever f(s) g(s) is, the loss stays as it is."""
    method, one = method_of(), torch.eye(5)
    scores = torch.randn(5, 5)
    places = {"place": torch.arange(5)}
    base = method.contrast({"one": one, "two": scores.T}, places)["quickthoughts"]
    other = method.contrast({"one": one, "two": (scores + 7 * torch.eye(5)).T}, places)["quickthoughts"]
    torch.testing.assert_close(base, other)


def test_scores_are_inner_products_not_cosines() -> None:
    torch.manual_seed(0)
    z, places = {"one": torch.randn(5, 4), "two": torch.randn(5, 4)}, {"place": torch.arange(5)}
    scaled = {"one": 3 * z["one"], "two": z["two"]}
    one, two = (float(method_of().contrast(x, places)["quickthoughts"]) for x in (z, scaled))
    assert abs(one - two) > 0.1


def test_ends_have_one_neighbour_and_the_inner_sentences_two() -> None:
    found = method_of()._neighbours({"place": torch.tensor([3, 4, 5, 6])})
    assert found.tolist() == [[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]]


def test_a_row_that_is_missing_leaves_no_neighbours() -> None:
    method = method_of()
    places = {"place": torch.tensor([1, 2, 4, 9])}
    assert method._neighbours(places).sum(1).tolist() == [1, 1, 0, 0]
    z = {name: torch.randn(4, 8, requires_grad=True) for name in ("one", "two")}
    method.contrast(z, places)["quickthoughts"].backward()
    assert bool((z["one"].grad[:2] != 0).any())
    assert float(z["one"].grad[2:].abs().sum()) == 0, "no neighbour, no loss"
    assert bool((z["two"].grad[2:] != 0).any()), "it is still far from the others"


def test_nothing_is_near_across_a_row_that_is_missing() -> None:
    """Also where the wider context reaches over the gap, and where a stretch goes on from the first row."""
    method = method_of(context=2)
    assert not method._neighbours({"place": torch.tensor([1, 3, 5])}).any()
    found = method._neighbours({"place": torch.tensor([6, 7, 9, 1, 2, 3])})
    near = {(0, 1), (3, 4), (3, 5), (4, 5)}
    assert {tuple(pair) for pair in found.nonzero().tolist()} == near | {pair[::-1] for pair in near}


def test_neighbours_stay_within_documents_where_there_are_some() -> None:
    rows = table([0] * 3 + [1] * 13)
    method = method_of()
    found = method._neighbours(batch(method, rows, [1, 2, 3, 4]))
    assert found.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    without = method._neighbours(batch(method, table(), [1, 2, 3, 4]))
    assert without[1, 2] == 1, "without the column windows cross documents, as in the release"


def test_a_table_with_nothing_beside_anything_is_refused() -> None:
    method = method_of()
    with pytest.raises(TableError, match="running order"):
        method.begin(table(list(range(16))))
    with pytest.raises(TableError, match="running order"):
        method.begin(table().select(np.arange(0, 16, 2)))
    method.begin(table().select(np.array([0, 1, 5, 9])))
    assert method.notes() == ["1 sentences are followed by another of their text"]


# -- the order -------------------------------------------------------------------------------------


def test_batches_are_stretches_of_the_table() -> None:
    method = method_of()
    for epoch in range(3):
        rows = method.order(16, 5, seed=epoch, epoch=epoch)
        for start in range(0, 15, 5):
            assert set(np.diff(rows[start : start + 5]) % 16) == {1}
    assert method.order(16, 4, 7, 0).tolist() == list(range(16)), "no seed shuffles it"


def test_places_are_those_of_the_whole_table() -> None:
    """Rows that were held out in between are known to be missing."""
    part = table().select(np.array([0, 1, 3, 4]))
    assert batch(method_of(), part, [0, 1, 2, 3])["place"].tolist() == [1, 2, 4, 5]


# -- two towers ------------------------------------------------------------------------------------


def test_the_towers_share_nothing_and_both_learn() -> None:
    method = method_of()
    own = {id(p) for p in method.encoder.parameters()}
    assert not own & {id(p) for p in method.second.parameters()}
    assert not torch.equal(method.encoder.embedding.weight, method.second.embedding.weight)
    sum(method.loss(batch(method, table(), list(range(6)))).values()).backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in method.parameters())


def test_a_trained_encoder_is_copied_as_it_is() -> None:
    encoder = RecurrentText.fitted(TEXTS, embedding=6, dim=8)
    encoder.pretrained = True
    method = QuickThoughts(encoder)
    assert torch.equal(method.encoder.embedding.weight, method.second.embedding.weight)
    assert method.encoder.embedding.weight is not method.second.embedding.weight


def transformer() -> TransformerText:
    torch.manual_seed(0)
    return TransformerText.tiny(TEXTS, layers=1, dim=16, heads=2, ffn=16, max_length=16)


def words_of(encoder: Any) -> Tensor:
    return encoder.model.get_input_embeddings().weight


def test_of_a_transformer_from_scratch_the_second_tower_has_weights_of_its_own(tmp_path: Path) -> None:
    encoder = transformer()
    method = QuickThoughts(encoder)
    one, two = words_of(method.encoder), words_of(method.second)
    assert one is words_of(encoder)
    assert not torch.isclose(one[1:], two[1:]).all(dim=1).any(), "one row is zero: the padding's"
    assert two.std().item() == pytest.approx(one.std().item(), rel=0.2), "drawn as the first one's were"
    encoder.save(tmp_path)
    read = QuickThoughts(TransformerText.from_pretrained(tmp_path))
    assert torch.equal(words_of(read.encoder), words_of(read.second)), "what was trained is copied"
    loaded = QuickThoughts(load_encoder(tmp_path))
    assert torch.equal(words_of(loaded.encoder), words_of(loaded.second))


def test_the_two_towers_of_a_run_before_go_on_as_they_were(tmp_path: Path) -> None:
    before = QuickThoughts(transformer()).eval()
    before.space().save(tmp_path / "space")
    method = build_method("quickthoughts", table(), encoder=str(tmp_path / "space")).eval()
    inputs = batch(method, table(), list(range(6)))
    z, expected = method.embed(inputs), before.embed(inputs)
    for name in ("one", "two"):
        torch.testing.assert_close(z[name], expected[name])
    assert not torch.allclose(z["one"].norm(dim=1), torch.ones(6), atol=1e-2), "scores are not bounded"
    assert method.space().encode(TEXTS).shape == (16, 32)


def test_any_text_encoder_will_do_and_its_scores_are_not_bounded() -> None:
    encoder = transformer()
    encoder.normalise = True
    method = QuickThoughts(copy.deepcopy(encoder))
    z = method.embed(batch(method, table(), list(range(6))))
    assert not torch.allclose(z["one"].norm(dim=1), torch.ones(6), atol=1e-2)
    assert method.space().encode(TEXTS).shape == (16, 32)


def test_the_gru_is_its_own_where_no_encoder_is_named(tmp_path: Path) -> None:
    method = build_method("quickthoughts", table(), encoder=None, max_length=7)
    assert type(method.encoder) is RecurrentText
    assert (method.encoder.cell, method.encoder.units, method.encoder.max_length) == ("gru", "words", 7)
    assert method.second.max_length == 7
    transformer().save(tmp_path)
    assert type(build_method("quickthoughts", table(), encoder=str(tmp_path)).encoder) is TransformerText


def test_the_space_is_both_towers_at_length_one(tmp_path: Path) -> None:
    method = method_of().eval()
    inputs = method.encoder.prepare(TEXTS)
    one, two = (functional.normalize(part(inputs).pooled, dim=1) for part in (method.encoder, method.second))
    space = method.space()
    found = space.encode(TEXTS, normalize=False)
    np.testing.assert_allclose(found, torch.cat([one, two], dim=1).detach().numpy(), atol=1e-6)
    again = Space.load(space.save(tmp_path / "space"))
    assert np.array_equal(again.encode(TEXTS), space.encode(TEXTS))


# -- training and bad input ------------------------------------------------------------------------


def test_it_learns_what_follows_what() -> None:
    """A text in which the next word follows from the last: the neighbours are found, which no shuffled text teaches."""
    words = [
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
    ]
    rows = Table.from_columns({"text": [words[n % 12] for n in range(240)]})
    torch.manual_seed(0)
    method = QuickThoughts(RecurrentText.fitted(words, embedding=16, dim=16))
    run = train(method, rows, Settings(steps=60, batch_size=12, learning_rate=2e-2, on_collapse="warn"))
    assert run.losses[-1] < 1.3, "two neighbours of one window cannot be told apart: log 2 at best"
    z = method.eval().embed({"text": method.encoder.prepare(words)})
    best = (z["one"] @ z["two"].T).fill_diagonal_(-torch.inf).topk(2, dim=1).indices
    near = {row: {(row - 1) % 12, (row + 1) % 12} for row in range(12)}
    assert np.mean([set(best[row].tolist()) == near[row] for row in range(1, 11)]) > 0.7


@pytest.mark.parametrize(
    "texts",
    [
        ["the of and", "to", "a a", "in on"],
        ["one"] * 6,
        ["word " * 10_000, "x", "雨 снег مطر", "\u200b"],
    ],
    ids=["stop words", "duplicates", "long and mixed"],
)
def test_odd_texts_are_trained_on(texts: list[str]) -> None:
    rows = Table.from_columns({"text": texts}, {"text": Text})
    method = build_method("quickthoughts", rows)
    run = train(method, rows, Settings(steps=2, batch_size=4, on_collapse="warn"))
    assert np.isfinite(run.losses).all()


def test_whole_documents_are_held_out_and_training_can_be_measured(tmp_path: Path) -> None:
    columns = {
        "text": [f"{text} {n}" for n in range(4) for text in TEXTS],
        "document": np.repeat(np.arange(8), 8),
    }
    rows = Table.from_columns(columns, {"document": Id, "text": Text})
    space = fit(
        "quickthoughts", rows, tmp_path / "out", batch_size=8, steps=2, holdout_share=0.25, on_collapse="warn"
    )
    assert space.card["data"]["training_rows"] == 48
    assert any("42 sentences are followed" in note for note in space.card["notes"])


def test_a_context_below_one_is_refused() -> None:
    with pytest.raises(ArgumentError, match="context"):
        method_of(context=0)
