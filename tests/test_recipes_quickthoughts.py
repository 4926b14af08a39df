"""The experiment of Quick-Thoughts: how neighbours are counted, and what the decoders of the baseline see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nearfar.encoders.recurrent import RecurrentText
from nearfar.recipes.quickthoughts import NEXT, PREVIOUS, WINDOW, SkipThoughts, neighbours


def test_who_is_next_is_told_within_windows() -> None:
    """g of a sentence is f of the one before it: what follows is found always, and never across windows."""
    one = np.eye(2 * WINDOW, dtype=np.float32)
    found = neighbours(one, np.roll(one, 1, axis=0))
    assert found[NEXT] == 1
    assert found[PREVIOUS] < 0.02
    assert neighbours(one, np.roll(one, -1, axis=0))[PREVIOUS] == 1


def test_a_sentence_is_neither_its_own_neighbour_nor_the_other_side_a_wrong_answer() -> None:
    one = np.random.default_rng(0).normal(size=(WINDOW, 8)).astype(np.float32)
    both = np.eye(WINDOW, dtype=np.float32)
    two = 9 * both + np.roll(both, 1, axis=0) + 5 * np.roll(both, -1, axis=0)
    assert neighbours(both, two) == {NEXT: 1, PREVIOUS: 1}
    many = neighbours(np.tile(one, (20, 1)), np.random.default_rng(1).normal(size=(20 * WINDOW, 8)))
    assert many[NEXT] == pytest.approx(1 / (WINDOW - 2), abs=0.012)


def test_a_word_is_decoded_from_those_before_it_alone() -> None:
    torch.manual_seed(0)
    texts = ["the rain fell", "snow fell on the town", "fog"]
    method = SkipThoughts(RecurrentText.fitted(texts, embedding=4, dim=6))
    z = torch.randn(1, 6)
    ids = torch.tensor([[1, 2, 3, 4]])

    def losses(ids: torch.Tensor) -> list[float]:
        """Of prefixes: what is added by a word shows in all that follow it only."""
        mask = torch.ones_like(ids, dtype=torch.bool)
        return [float(method._decoded(0, z, ids[:, :n], mask[:, :n]).detach()) * n for n in (1, 2, 3, 4)]

    one, other = losses(ids), losses(torch.tensor([[1, 2, 3, 5]]))
    assert one[:3] == pytest.approx(other[:3])
    assert one[3] != pytest.approx(other[3])
    assert one[1] - one[0] != pytest.approx(float(losses(torch.tensor([[2, 2, 3, 4]]))[1]) - one[0])


def test_both_neighbours_are_decoded_and_padding_is_not() -> None:
    torch.manual_seed(0)
    texts = ["the rain fell", "snow fell on the town", "fog"]
    method = SkipThoughts(RecurrentText.fitted(texts, embedding=4, dim=6))
    inputs = method.encoder.prepare(texts)
    base = method.loss({"text": inputs})
    assert set(base) == {"after", "before"}
    padded = {name: torch.nn.functional.pad(value, (0, 3)) for name, value in inputs.items()}
    for name, value in method.loss({"text": padded}).items():
        torch.testing.assert_close(value, base[name])
