"""What B3's experiment compares: batches of one size, counted alike."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from nearfar.data.kinds import Text
from nearfar.data.table import Table
from nearfar.encoders.text import TransformerText
from nearfar.recipes.b3 import MINED, NearestNeighbours, RandomBatches, Taught, negatives_of, retrieved

ROWS, TOPICS = 96, 6


@pytest.fixture(scope="module")
def table() -> Table:
    columns = {
        "text": [f"question {i} of topic {i % TOPICS}" for i in range(ROWS)],
        "positive": [f"answer {i} on topic {i % TOPICS}" for i in range(ROWS)],
    }
    return Table.from_columns(columns, {"text": Text, "positive": Text})


def made(kind: type[Taught], table: Table) -> Taught:
    torch.manual_seed(0)
    texts = [*table.column("text"), *table.column("positive")]
    method = kind(
        TransformerText.tiny(texts, layers=1, dim=16, heads=2, ffn=16, max_length=12),
        cluster=16,
        skip=0,
        window=15,
        temperature=0.1,
    )
    near = torch.eye(TOPICS)[torch.arange(ROWS) % TOPICS] + 0.1 * torch.randn(ROWS, TOPICS)
    method.rows = (nn.functional.normalize(near, dim=1),) * 2
    return method


def test_neighbours_of_a_seed_are_its_nearest_that_are_free(table: Table) -> None:
    method = made(NearestNeighbours, table)
    method.before_epoch(table, lambda table, role: torch.empty(0))
    assert method.clusters is not None
    [clusters] = method.clusters.groups
    assert sorted(clusters.ravel()) == list(range(ROWS))
    free = np.ones(ROWS, dtype=bool)
    for seed, *others in clusters:
        free[seed] = False
        scores = np.where(free, (method.rows[1] @ method.rows[0][seed]).numpy(), -np.inf)
        assert set(others) == set(np.argsort(-scores)[:15])
        free[others] = False


def test_mined_batches_are_harder_by_every_figure(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two topics of 16 rows a batch: the similarity and the gap of random ones are known."""
    monkeypatch.setitem(MINED, "skip", 0)
    monkeypatch.setitem(MINED, "window", 15)
    mined = negatives_of(made(Taught, table), table, 32, seed=0)
    drawn = negatives_of(made(RandomBatches, table), table, 32, seed=0)
    assert drawn["edges inside"] == pytest.approx(31 / 95, abs=0.12)
    assert mined["edges inside"] > 2 * drawn["edges inside"]
    assert mined["teacher's similarity of negatives"] > 2 * drawn["teacher's similarity of negatives"]
    # An untrained student sees all keys much alike: the gap is that of the counts.
    assert drawn["loss gap"] == pytest.approx(math.log(ROWS / 32), abs=0.1)


def test_a_held_out_text_may_find_any_of_its_functions(table: Table) -> None:
    method = made(RandomBatches, table)
    text, code = table.column("text")[0], table.column("positive")[:3]
    test = Table.from_columns({"text": [text, text], "positive": code[:2]}, {"text": Text, "positive": Text})
    found = retrieved(method.space(), table, test)
    space = method.space()
    corpus = list(dict.fromkeys([*code[:2], *table.column("positive")]))
    scores = (space.encode([text]) @ space.encode(corpus).T)[0]
    best = int((scores > scores[:2].max()).sum()) + 1
    assert found["mrr@10"] == pytest.approx(1 / best if best <= 10 else 0)
