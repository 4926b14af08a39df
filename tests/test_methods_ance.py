"""ANCE: the pairwise loss of the released model, and negatives that the encoder itself confuses, at the time."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_methods_catalogue import calm, gradients, total
from torch import Tensor, nn

from nearfar.data.kinds import Text
from nearfar.data.table import Table
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, TableError
from nearfar.method import Embed
from nearfar.methods.retrieval.ance import ANCE
from nearfar.recipes.ance import RandomNegatives, gradient_norm, share_of_own_hits
from nearfar.search import BM25, Index
from nearfar.space import Space
from nearfar.training.closed_form import embedding_of
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.fit import fit

ROWS, TOPICS = 24, 6
MINED: dict[str, Any] = {"top_k": 6, "n_neg": 2, "refresh_every": 4}
TRAINING: dict[str, Any] = {"batch_size": 8, "learning_rate": 1e-2, "warmup": 0.0, "on_collapse": "warn"}


def table() -> Table:
    """Rows 1 and 19 ask the same, rows 2 and 14 have one answer."""
    texts = [f"what is number {i} of topic {i % TOPICS}" for i in range(ROWS)]
    targets = [f"topic {i % TOPICS} has a thing called {i}" for i in range(ROWS)]
    texts[18], targets[13] = texts[0], targets[1]
    return Table.from_columns({"text": texts, "positive": targets}, {"text": Text, "positive": Text})


@pytest.fixture(scope="module")
def shared() -> TransformerText:
    torch.manual_seed(0)
    data = table()
    texts = [*data.column("text"), *data.column("positive")]
    return TransformerText.tiny(texts, layers=1, dim=16, heads=2, ffn=16, max_length=16, dropout=0.5)


@pytest.fixture
def encoder(shared: TransformerText) -> TransformerText:
    return copy.deepcopy(shared)


def waves(frequency: float, rows: int = 4) -> Tensor:
    found = torch.sin(torch.arange(3 * rows, dtype=torch.float64) * frequency + frequency)
    return 2 * found.view(rows, 3)


def ranked(made: ANCE, data: Table, row: int) -> dict[str, float]:
    """The score of every target for a row by the encoder as it is: a plain inner product in evaluation mode."""
    space = made.space()
    corpus = list(dict.fromkeys(data.column("positive")))
    scores = space.encode(corpus) @ space.encode(data.column("text"))[row]
    return dict(zip(corpus, scores.tolist(), strict=True))


def answers(data: Table, row: int) -> set[str]:
    texts, targets = data.column("text"), data.column("positive")
    return {target for text, target in zip(texts, targets, strict=True) if text == texts[row]}


def negatives(made: ANCE, data: Table, row: int) -> list[str]:
    assert made.mined is not None
    return [data.column("positive")[number] for number in made.mined[row] if number >= 0]


class Watched(ANCE):
    """Keeps what was mined when, and with which weights; dies after a step if told to."""

    stop_at = 0
    history: list[tuple[int, np.ndarray, Tensor]]

    def refresh(self, table: Table, embed: Embed, step: int, steps: int) -> None:
        super().refresh(table, embed, step, steps)
        assert self.mined is not None
        seen = torch.from_numpy(self.space().encode(table.column("text")))
        self.history = [*getattr(self, "history", []), (step, self.mined.copy(), seen)]

    def after_step(self, z: dict[str, Tensor], step: int, steps: int) -> None:
        if step == self.stop_at:
            raise RuntimeError("killed")


# -- the loss --------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_released_model_and_softplus(encoder: TransformerText) -> None:
    """lsm = log_softmax([q.a, q.b]); loss = mean(-lsm[:, 0]): raw inner products, temperature 1, two columns."""
    made, q, a, b = ANCE(encoder), waves(1.3), waves(0.7), waves(2.1)
    got = float(total(made.contrast({"text": q, "positive": a, "negative": b}, {})))
    logits = torch.stack([(q * a).sum(-1), (q * b).sum(-1)], dim=1)
    released = -torch.log_softmax(logits, dim=1)[:, 0].mean()
    assert got == pytest.approx(float(released), rel=1e-9)
    assert got == pytest.approx(
        float(nn.functional.softplus((q * b).sum(-1) - (q * a).sum(-1)).mean()), rel=1e-9
    )
    assert made.negatives(64) == 1


def test_no_row_meets_another(encoder: TransformerText) -> None:
    """In-batch negatives would be another method: row 0 feels nothing of what the others are."""
    made, felt = ANCE(encoder), []
    for shift in (0.0, 5.0):
        z = {"text": waves(1.3), "positive": waves(0.7), "negative": waves(2.1)}
        z = {role: (value + shift * torch.tensor([[0.0], [1], [1], [1]])) for role, value in z.items()}
        for value in z.values():
            value.requires_grad_()
        total(made.contrast(z, {})).backward()
        felt.append(torch.stack([z[role].grad[0] for role in z]))  # type: ignore[index]
    torch.testing.assert_close(felt[0], felt[1])


def test_embeddings_are_layer_normed_and_compared_as_they_are(encoder: TransformerText) -> None:
    encoder.normalise = True
    made = ANCE(encoder)
    assert not encoder.normalise
    space = made.space()
    z = torch.from_numpy(space.encode(table().column("text")))
    assert space.geometry == "dot"
    torch.testing.assert_close(z.mean(1), torch.zeros(ROWS), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.square().mean(1), torch.ones(ROWS), atol=1e-2, rtol=0)
    assert float(made.state_dict()["head.map.0.weight"].std()) == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize(
    ("pretrained", "named", "pooling"), [(True, False, "cls"), (True, True, "max"), (False, False, "max")]
)
def test_token_0_is_taken_of_a_trained_encoder_that_names_no_pooling(
    encoder: TransformerText, pretrained: bool, named: bool, pooling: str
) -> None:
    encoder.pretrained, encoder.pooling_is_own, encoder.pooling = pretrained, named, "max"
    assert ANCE(encoder).encoder.pooling == pooling


def test_query_and_both_targets_give_gradient_to_one_encoder(encoder: TransformerText) -> None:
    calm(encoder)
    made, data = ANCE(encoder, **MINED), table()
    made.refresh(data, embedding_of(made), 9, 10)
    batch = made.prepare(made.examples(data, np.arange(8)), torch.Generator())
    assert set(batch) == {"text", "positive", "negative"}
    z = made.embed(batch)
    for value in z.values():
        value.retain_grad()
    total(made.contrast(z, batch)).backward()
    assert all(bool((value.grad.norm(dim=1) > 0).any()) for value in z.values())
    assert gradients(made)
    assert made.encoders() == [encoder]


# -- mining ----------------------------------------------------------------------------------------


def test_negatives_are_what_the_encoder_of_the_moment_ranks_best_without_dropout(
    encoder: TransformerText,
) -> None:
    """The encoder drops half of its states in training: with that on, other texts would be found."""
    made, data = ANCE(encoder, top_k=4, n_neg=4, warm_up=0.0).train(), table()
    made.refresh(data, embedding_of(made), 0, 10)
    for row in range(ROWS):
        scores = ranked(made, data, row)
        least = sorted(scores.values())[-4]
        mined = negatives(made, data, row)
        assert len(mined) >= 4 - len(answers(data, row))
        assert all(scores[text] >= least - 1e-4 for text in mined), "up to rounding"
    assert made.training


def test_known_positives_are_no_negatives_wherever_they_come_from(encoder: TransformerText) -> None:
    """Row 1's other answer, of row 19, and the answer that rows 2 and 14 share."""
    data = table()
    for warm_up in (0.0, 1.0):
        made = ANCE(encoder, top_k=ROWS, n_neg=ROWS, warm_up=warm_up)
        made.refresh(data, embedding_of(made), 0, 10)
        for row in range(ROWS):
            mined = negatives(made, data, row)
            assert len(mined) == len(set(mined)) == ROWS - 1 - len(answers(data, row)), "all else, each once"
            assert not set(mined) & answers(data, row)
    assert len(answers(data, 0)) == 2


def test_it_is_mined_by_steps_after_a_warm_up_by_words(encoder: TransformerText) -> None:
    made = ANCE(encoder, refresh_every=30, warm_up=0.2)
    assert list(made.refreshes(100)) == [0, 20, 50, 80]
    assert list(ANCE(encoder, refresh_every=30, warm_up=0.0).refreshes(100)) == [0, 30, 60, 90]
    assert list(ANCE(encoder, refresh_every=30, warm_up=1.0).refreshes(100)) == [0]
    watched, data = Watched(encoder, warm_up=0.25, **MINED), table()
    train(watched, data, Settings(steps=12, **TRAINING))
    assert [step for step, *_ in watched.history] == [0, 3, 7, 11]
    corpus = list(dict.fromkeys(data.column("positive")))
    words = BM25(corpus).search(data.column("text"), 6)[1]
    for row in range(ROWS):
        hits = {corpus[number] for number in words[row]}
        assert {data.column("positive")[number] for number in watched.history[0][1][row]} <= hits
    for (_, one, before), (_, two, after) in zip(watched.history[1:], watched.history[2:], strict=False):
        assert not torch.equal(before, after), "the weights have moved"
        assert (one != two).any(), "and so has what is mined"


def test_a_step_draws_one_of_a_rows_own_negatives_evenly(encoder: TransformerText) -> None:
    made, data = ANCE(encoder, top_k=8, n_neg=4, warm_up=0.0), table()
    made.refresh(data, embedding_of(made), 0, 10)
    assert made.mined is not None
    made.mined[5, 2:] = -1  # a row with two only
    cells = made.examples(data, np.array([5, 7]))
    assert cells["text"] == [data.column("text")[row] for row in (5, 7)]
    assert cells["negative"] == [negatives(made, data, 5), negatives(made, data, 7)]
    assert [len(texts) for texts in cells["negative"]] == [2, 4]
    drawn: dict[tuple[int, ...], int] = {}
    for seed in range(400):
        ids = made.prepare(cells, torch.Generator().manual_seed(seed))["negative"]["ids"]
        for row in (0, 1):
            key = (row, *ids[row].tolist())
            drawn[key] = drawn.get(key, 0) + 1
    for row, count in ((0, 2), (1, 4)):
        times = [number for (of, *_), number in drawn.items() if of == row]
        assert len(times) == count
        assert max(abs(number - 400 / count) for number in times) < 5 * np.sqrt(400 / count)


@pytest.mark.parametrize("stop_at", [7, 9, 11])
def test_a_run_killed_between_searches_and_resumed_is_the_run_that_was_not(
    encoder: TransformerText, stop_at: int, tmp_path: Path
) -> None:
    """Searches before steps 3, 7 and 11, checkpoints after 2, 4, ..., 10: the last search's weights are gone."""
    data, chosen = table(), Settings(steps=14, checkpoint_every=2, **TRAINING)

    def run(folder: Path, stop_at: int, resume: bool) -> tuple[list[float], Watched]:
        torch.manual_seed(5)
        made = Watched(copy.deepcopy(encoder), warm_up=0.2, **MINED)
        made.stop_at = stop_at
        return train(made, data, chosen, folder=folder, resume=resume).losses, made

    losses, whole = run(tmp_path / "whole", 0, False)
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "cut", stop_at, False)
    again, resumed = run(tmp_path / "cut", 0, True)
    assert again == losses
    assert all(
        torch.equal(one, two)
        for one, two in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    for (step, mined, seen), (same, found, read) in zip(
        whole.history[::-1], resumed.history[::-1], strict=False
    ):
        assert step == same
        assert (mined == found).all()
        assert torch.equal(seen, read)


# -- arguments and uses ----------------------------------------------------------------------------


def test_defaults_are_those_of_the_shipped_scripts() -> None:
    defaults = {name: p.default for name, p in inspect.signature(ANCE.__init__).parameters.items()}
    assert (defaults["top_k"], defaults["n_neg"], defaults["refresh_every"]) == (200, 20, 10_000)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top_k": 0}, "top_k must be between 1"),
        ({"n_neg": 0}, "n_neg must be between 1"),
        ({"refresh_every": 0}, "refresh_every must be between 1"),
        ({"warm_up": 1.5}, "warm_up must be between 0 and 1"),
        ({"top_k": 10}, "n_neg 20 of 10"),
    ],
)
def test_values_out_of_range_are_refused(
    encoder: TransformerText, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        ANCE(encoder, **given)


def test_a_table_without_negatives_is_refused_and_so_is_a_batch_before_mining(
    encoder: TransformerText,
) -> None:
    columns = {"text": ["a", "b", "c"], "positive": ["x", "x", "x"]}
    alike = Table.from_columns(columns, {"text": Text, "positive": Text})
    with pytest.raises(TableError, match="row 1 none is a negative"):
        train(ANCE(encoder), alike, Settings(steps=2, batch_size=2))
    with pytest.raises(ArgumentError, match="refresh"):
        ANCE(encoder).examples(alike, np.array([0]))


def test_fit_reads_a_file_and_its_space_is_searched_by_inner_product(tmp_path: Path) -> None:
    data = table()
    rows = zip(data.column("text"), data.column("positive"), strict=True)
    place = tmp_path / "pairs.csv"
    place.write_text(
        "text,positive\n" + "".join(f"{text},{target}\n" for text, target in rows), encoding="utf-8"
    )
    space = fit("ance", place, tmp_path / "out", encoder="tiny", batch_size=8, steps=6, hyperparameters=MINED)
    again = Space.load(tmp_path / "out")
    corpus, queries = (again.encode(data.column(role)) for role in ("positive", "text"))
    assert np.array_equal(corpus, space.encode(data.column("positive")))
    assert again.geometry == "dot"
    scores, found = Index(corpus, "dot").search(queries, 3)
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ corpus.T, found, 1), rtol=1e-4)
    told = "negatives were mined 3 times, first by words, the last time before step 6; refresh_every is 4"
    assert told in space.card["notes"]


# -- the experiment --------------------------------------------------------------------------------


def test_random_negatives_come_from_everywhere_and_are_none_of_the_answers(encoder: TransformerText) -> None:
    made, data = RandomNegatives(encoder, top_k=6, n_neg=6), table()
    torch.manual_seed(3)
    made.refresh(data, embedding_of(made), 0, 10)
    for row in range(ROWS):
        assert not set(negatives(made, data, row)) & answers(data, row)
    assert len({text for row in range(ROWS) for text in negatives(made, data, row)}) > ROWS / 2


def test_what_the_experiment_measures_of_negatives(
    encoder: TransformerText, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearfar.recipes.ance.FALSE_HITS", 4)
    monkeypatch.setattr("nearfar.recipes.ance.BATCH", 8)
    data = table()
    made = ANCE(copy.deepcopy(encoder), top_k=4, n_neg=4, warm_up=0.0)
    before = copy.deepcopy(made.state_dict())
    norm = gradient_norm(made, data, 0, batches=2)
    assert norm > 0
    assert share_of_own_hits(made, data) == 1, "just mined: all are hits"
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())
    assert all(parameter.grad is None for parameter in made.parameters())
    drawn = RandomNegatives(copy.deepcopy(encoder), top_k=4, n_neg=4)
    drawn.load_state_dict(before)
    gradient_norm(drawn, data, 0, batches=2)
    assert share_of_own_hits(drawn, data) < 0.5
