"""B3: the teacher decides who meets whom and nothing else; the loss is plain InfoNCE over a batch."""

from __future__ import annotations

import copy
import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_methods_catalogue import calm, gradients, total
from torch import Tensor, nn

from nearfar.batching.order import epoch_order
from nearfar.data.kinds import Label, Text
from nearfar.data.table import Table
from nearfar.encoders import make_encoder
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, MissingExtra
from nearfar.method import Batch
from nearfar.methods.retrieval.b3 import B3
from nearfar.objectives import info_nce
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.fit import fit

ROWS, TOPICS = 48, 6
MINED: dict[str, Any] = {"cluster": 8, "skip": 0, "window": 7}
TRAINING: dict[str, Any] = {"batch_size": 16, "learning_rate": 1e-2, "warmup": 0.0, "on_collapse": "warn"}


def table(rows: int = ROWS, **more: list[Any]) -> Table:
    texts = [f"what is number {i} of topic {i % TOPICS}" for i in range(rows)]
    targets = [f"topic {i % TOPICS} has a thing called {i}" for i in range(rows)]
    kinds = {"text": Text, "positive": Text, "negative": Text, "task": Label}
    columns = {"text": texts, "positive": targets, **more}
    return Table.from_columns(columns, {role: kinds[role] for role in columns})


@pytest.fixture(scope="module")
def shared() -> TransformerText:
    torch.manual_seed(0)
    data = table()
    texts = [*data.column("text"), *data.column("positive")]
    return TransformerText.tiny(texts, layers=1, dim=16, heads=2, ffn=16, max_length=16)


@pytest.fixture
def encoder(shared: TransformerText) -> TransformerText:
    return copy.deepcopy(shared)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an encoder that is not the student."""
    torch.manual_seed(1)
    data = table()
    texts = [*data.column("text"), *data.column("positive")]
    place = tmp_path_factory.mktemp("teacher")
    TransformerText.tiny(texts, layers=1, dim=24, heads=2, ffn=16, max_length=16).save(place)
    return place


class ByTopic(B3):
    """A teacher who sees topics: rows of one topic are near; it counts how often it is asked."""

    asked = 0
    seen: list[list[str]]

    def teach(self, table: Table) -> tuple[Tensor, Tensor]:
        self.asked += 1
        random = torch.Generator().manual_seed(0)
        topics = torch.arange(len(table)) % TOPICS
        near = torch.eye(TOPICS)[topics] + 0.1 * torch.randn(len(table), TOPICS, generator=random)
        near = nn.functional.normalize(near, dim=1)
        return near, near

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        self.seen = [*getattr(self, "seen", []), rows["text"]]
        return super().prepare(rows, generator)


def no_embedding(table: Table, role: str) -> Tensor:
    raise AssertionError("B3 ranks with the teacher, not with the encoder in training")


def waves(frequency: float, rows: int = 4) -> Tensor:
    found = torch.sin(torch.arange(3 * rows, dtype=torch.float64) * frequency + frequency)
    return nn.functional.normalize(found.view(rows, 3), dim=1)


def named(*names: int, negatives: list[int] | None = None) -> Batch:
    batch = {"positive name": torch.tensor(names)}
    return batch if negatives is None else {**batch, "negative name": torch.tensor(negatives)}


# -- the loss --------------------------------------------------------------------------------------


def test_the_loss_is_the_cross_entropy_of_the_released_model(encoder: TransformerText) -> None:
    """loss = CrossEntropy(Q T^ / t, arange(B)), one direction; the numbers are 4 unit rows of sines."""
    made, q, t = B3(encoder), waves(1.3), waves(0.7)
    got = made.contrast({"text": q, "positive": t}, named(1, 2, 3, 4))
    expected = nn.functional.cross_entropy(q @ t.T / 0.02, torch.arange(4))
    assert float(total(got)) == pytest.approx(float(expected), rel=1e-9)
    back = made.contrast({"text": t, "positive": q}, named(1, 2, 3, 4))
    assert float(total(back)) != pytest.approx(float(expected), rel=1e-3)


def test_mined_negatives_are_the_released_layout(encoder: TransformerText) -> None:
    """Targets [pos_1, neg_1, pos_2, neg_2, ...]; the label of query i is i times the stride, 2."""
    made, q, t, n = B3(encoder, temperature=0.1), waves(1.3), waves(0.7), waves(2.1)
    z = {"text": q, "positive": t, "negative": n}
    got = made.contrast(z, named(1, 2, 3, 4, negatives=[5, 6, 7, 8]))
    laid_out = torch.stack([t, n], dim=1).view(8, 3)
    stride = len(laid_out) // len(q)
    expected = nn.functional.cross_entropy(q @ laid_out.T / 0.1, torch.arange(4) * stride)
    assert float(total(got)) == pytest.approx(float(expected), rel=1e-9)


def test_copies_of_a_target_are_no_negatives(encoder: TransformerText) -> None:
    made, q, t, n = B3(encoder, temperature=0.1), waves(1.3), waves(0.7).clone(), waves(2.1)
    t[2] = t[0]
    n[1], n[3] = t[0], t[3]
    z = {"text": q, "positive": t, "negative": n}
    got = made.contrast(z, named(1, 2, 1, 4, negatives=[5, 1, 7, 4]))
    rows = []
    for i, (own, copies) in enumerate([(0, {2, 5}), (1, set()), (2, {0, 5}), (3, {7})]):
        logits = torch.cat([t, n]) @ q[i] / 0.1
        kept = [j for j in range(8) if j not in copies]
        rows.append(torch.logsumexp(logits[kept], 0) - logits[own])
    assert float(total(got)) == pytest.approx(float(torch.stack(rows).mean()), rel=1e-9)


def test_equal_texts_have_equal_names_and_others_have_not(encoder: TransformerText) -> None:
    batch = B3(encoder).prepare(
        {
            "text": ["a", "b", "c"],
            "positive": ["x", "y", "x"],
            "negative": ["y", "z", "w"],
            "task": [0, 0, 0],
        },
        torch.Generator(),
    )
    positive, negative = batch["positive name"].tolist(), batch["negative name"].tolist()
    assert positive[0] == positive[2] != positive[1] == negative[0]
    assert len({*positive, *negative}) == 4
    assert set(batch) == {"text", "positive", "negative", "positive name", "negative name"}


# -- who meets whom --------------------------------------------------------------------------------


def test_batches_are_whole_clusters_of_what_the_teacher_confuses(encoder: TransformerText) -> None:
    made, data = ByTopic(encoder, **MINED), table()
    train(made, data, Settings(epochs=3.0, **TRAINING))
    texts = data.column("text")
    assert made.clusters is not None
    known = {frozenset(cluster.tolist()) for cluster in made.clusters.groups[0]}
    assert len(known) == ROWS // 8
    assert {frozenset(i % TOPICS for i in cluster) for cluster in known} == {
        frozenset([topic]) for topic in range(TOPICS)
    }, "each topic, of 8 rows, is a cluster"
    assert len(made.seen) == 9
    for epoch in range(3):
        batches = made.seen[3 * epoch : 3 * epoch + 3]
        assert sorted(text for batch in batches for text in batch) == sorted(texts), "each row once"
        for batch in batches:
            halves = [frozenset(texts.index(text) for text in batch[at : at + 8]) for at in (0, 8)]
            assert set(halves) <= known


def test_it_is_mined_once_and_not_with_the_encoder_in_training(encoder: TransformerText) -> None:
    made, data = ByTopic(encoder, **MINED), table()
    train(made, data, Settings(epochs=3.0, **TRAINING))
    assert made.asked == 1
    before = made.order(ROWS, 16, 0, 0).copy()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.neg_()
    made.before_epoch(data, no_embedding)
    assert made.asked == 1
    assert (made.order(ROWS, 16, 0, 0) == before).all()
    made.before_epoch(table(40), no_embedding)
    assert made.asked == 2, "another table is mined anew"


def test_a_resumed_run_finds_the_same_clusters(encoder: TransformerText, teacher: Path) -> None:
    """In another process, with other weights and another random state."""
    data, orders = table(), []
    for state in range(2):
        made = B3(copy.deepcopy(encoder), teacher=str(teacher), **MINED)
        torch.manual_seed(state)
        with torch.no_grad():
            next(made.parameters()).add_(state)
        made.before_epoch(data, no_embedding)
        orders.append(made.order(ROWS, 16, 7, 3))
    assert (orders[0] == orders[1]).all()


def test_the_window_leaves_out_the_likely_false_negatives(encoder: TransformerText) -> None:
    """With p past a topic's own rows, no edge joins rows of one topic, and clusters mix topics."""
    made, data = ByTopic(encoder, cluster=6, skip=8, window=12), table()
    made.before_epoch(data, no_embedding)
    assert made.clusters is not None
    mixed = [len({int(i) % TOPICS for i in cluster}) for cluster in made.clusters.groups[0]]
    close = ByTopic(encoder, cluster=6, skip=0, window=7)
    close.before_epoch(data, no_embedding)
    assert close.clusters is not None
    alike = [len({int(i) % TOPICS for i in cluster}) for cluster in close.clusters.groups[0]]
    assert np.mean(mixed) > 1.5 * np.mean(alike)


def test_the_batch_loss_is_nearer_to_that_over_all_targets(encoder: TransformerText) -> None:
    """The point of the paper: with random batches of one size the gap is wider."""
    made, data = ByTopic(encoder, **MINED), table()
    made.before_epoch(data, no_embedding)
    x, y = made.teach(data)
    whole = float(info_nce(x, y, temperature=0.1))

    def gap(order: np.ndarray) -> float:
        batches = torch.tensor(order).view(-1, 16)
        return whole - float(torch.stack([info_nce(x[b], y[b], temperature=0.1) for b in batches]).mean())

    mined, drawn = gap(made.order(ROWS, 16, 0, 0)), gap(epoch_order(ROWS, 0, 0))
    assert 0 < mined < 0.5 * drawn


def test_tasks_rank_their_own_rows_only_and_fill_batches_alone(encoder: TransformerText) -> None:
    """Row i and row i + 6 are of one topic but of two tasks."""
    tasks = ["news" if i // TOPICS % 2 else "law" for i in range(96)]
    made, data = ByTopic(encoder, cluster=8, skip=0, window=7), table(96, task=tasks)
    made.before_epoch(data, no_embedding)
    assert made.clusters is not None
    for group in made.clusters.groups:
        assert len({tasks[i] for i in group.ravel()}) == 1
        assert all(len({int(i) % TOPICS for i in cluster}) == 1 for cluster in group)
    for epoch in range(3):
        order = made.order(96, 16, 0, epoch)
        assert sorted(order) == list(range(96))
        assert all(len({tasks[i] for i in batch}) == 1 for batch in order.reshape(-1, 16))


def test_rows_left_over_still_come_into_batches(encoder: TransformerText) -> None:
    made, data = ByTopic(encoder, **MINED), table(45)
    made.before_epoch(data, no_embedding)
    used = {int(i) for epoch in range(12) for i in made.order(45, 16, 0, epoch)[:32]}
    assert used == set(range(45))


# -- the teacher -----------------------------------------------------------------------------------


def test_the_teacher_ranks_as_its_folder_says_and_is_not_trained(
    encoder: TransformerText, teacher: Path
) -> None:
    files = {file: file.read_bytes() for file in teacher.rglob("*") if file.is_file()}
    data = table()
    made = B3(encoder, teacher=str(teacher), **MINED)
    queries, targets = made.teach(data)
    space = Space({"text": make_encoder(str(teacher), Text, [])})
    assert np.array_equal(queries.numpy(), space.encode(data.column("text")))
    assert np.array_equal(targets.numpy(), space.encode(data.column("positive")))
    assert queries.shape == (ROWS, 24), "the teacher's width, not the student's"
    assert not queries.requires_grad
    start = copy.deepcopy(encoder.state_dict())
    made.before_epoch(data, no_embedding)
    assert all(torch.equal(start[name], value) for name, value in encoder.state_dict().items())
    train(made, data, Settings(steps=3, **TRAINING))
    assert any(not torch.equal(start[name], value) for name, value in encoder.state_dict().items())
    assert {file: file.read_bytes() for file in teacher.rglob("*") if file.is_file()} == files
    assert all(name.startswith("encoder.") for name in made.state_dict()), "no teacher is kept or saved"
    assert made.encoders() == [encoder]


def test_every_role_of_a_batch_gives_gradient_to_the_student(encoder: TransformerText) -> None:
    calm(encoder)
    made = B3(encoder, temperature=0.5)
    data = table(8, negative=[f"a thing of no topic {i}" for i in range(8)])
    z = made.embed(made.prepare(data.rows(range(8)), torch.Generator()))
    assert set(z) == {"text", "positive", "negative"}
    for value in z.values():
        value.retain_grad()
    total(made.contrast(z, named(*range(8), negatives=list(range(8, 16))))).backward()
    assert all(bool((value.grad.norm(dim=1) > 1e-6).all()) for value in z.values())
    assert gradients(made)


# -- arguments -------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_released_runs() -> None:
    defaults = {name: p.default for name, p in inspect.signature(B3.__init__).parameters.items()}
    assert (defaults["cluster"], defaults["temperature"]) == (32, 0.02)
    assert (defaults["skip"], defaults["skip"] + defaults["window"]) == (30, 130)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cluster", 1, "cluster must be between 2"),
        ("skip", -1, "skip must be between 0"),
        ("window", 0, "window must be between 1"),
        ("temperature", 0.0, "temperature must be between"),
        ("teacher", "tiny", "random weights"),
    ],
)
def test_values_out_of_range_are_refused(
    encoder: TransformerText, name: str, value: Any, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        B3(encoder, **{name: value})


def test_what_does_not_fit_the_table_or_the_batch_is_named(encoder: TransformerText) -> None:
    with pytest.raises(ArgumentError, match=r"cluster must be at most the rows of .*, 48, got 64"):
        ByTopic(encoder, cluster=64).before_epoch(table(), no_embedding)
    with pytest.raises(ArgumentError, match=r"task by task, 4, got 8"):
        ByTopic(encoder, **MINED).before_epoch(table(task=["a"] * 44 + ["b"] * 4), no_embedding)
    with pytest.raises(ArgumentError, match=r"skip must be below .* 48, got 50"):
        ByTopic(encoder, cluster=8, skip=50).before_epoch(table(), no_embedding)
    with pytest.raises(ArgumentError, match="multiple of the 8 rows of a cluster, got 12"):
        train(ByTopic(encoder, **MINED), table(), Settings(steps=1, batch_size=12))
    with pytest.raises(ArgumentError, match="before_epoch"):
        B3(encoder).order(48, 16, 0, 0)


def test_without_metis_it_is_said_before_anything_is_read(
    encoder: TransformerText, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pymetis", None)
    with pytest.raises(MissingExtra, match=r"nearfar\[retrieval\]"):
        B3(encoder)


def test_fit_takes_a_table_and_a_folder_as_teacher(teacher: Path, tmp_path: Path) -> None:
    hyperparameters = {**MINED, "teacher": str(teacher)}
    space = fit(
        "b3",
        table(),
        tmp_path / "space",
        encoder="tiny",
        batch_size=16,
        steps=2,
        hyperparameters=hyperparameters,
    )
    again = Space.load(tmp_path / "space")
    cells = table().column("positive")
    assert np.array_equal(again.encode(cells), space.encode(cells))
    assert "recall@1" in " ".join(space.card["measures"])
