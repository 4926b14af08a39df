"""Pairings: any tiling gives the same answer, and the count of negatives is what it says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.objectives import Block, Pairing, Tile, number_of_negatives

N = 8
LABELS = torch.tensor([0, 1, 2, 0, 1, 1, 3, 2])
GENERATOR = torch.Generator().manual_seed(0)
W = torch.rand(N, N, generator=GENERATOR)

FORMS = {
    "diagonal": Pairing.diagonal(),
    "diagonal, ignored": Pairing.diagonal("ignored"),
    "twins": Pairing.twins(),
    "same": Pairing.same(LABELS),
    "same keys": Pairing.same(LABELS, LABELS.flip(0)),
    "index": Pairing.index(LABELS),
    "sampled": Pairing.sampled(torch.randint(N, (N, 5), generator=GENERATOR)),
    "weighted": Pairing.weighted(W),
    "none, weighted and ignored": Pairing.none()
    .log_weighted(W)
    .log_weighted(W[0])
    .log_weighted_diagonal(2.0)
    .ignoring(LABELS, LABELS.flip(0))
    .ignoring_mask(W > 0.8),
}


def block(pairing: Pairing, rows: range, columns: range) -> tuple[torch.Tensor, torch.Tensor]:
    found: Block = pairing.block(Tile(rows, columns, N, N, torch.device("cpu"), torch.float32))
    assert found.target.shape == (len(rows), len(columns))
    weight = torch.zeros_like(found.target) if found.log_weight is None else found.log_weight
    return found.target, weight


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(FORMS)), st.booleans(), st.data())
def test_a_tile_is_a_cut_of_the_whole(form: str, turned: bool, data: st.DataObject) -> None:
    pairing = FORMS[form].reversed() if turned else FORMS[form]
    row, column = (data.draw(st.integers(0, N - 1)) for _ in range(2))
    rows = range(row, data.draw(st.integers(row + 1, N)))
    columns = range(column, data.draw(st.integers(column + 1, N)))
    for whole, part in zip(block(pairing, range(N), range(N)), block(pairing, rows, columns), strict=True):
        torch.testing.assert_close(part, whole[row : rows.stop, column : columns.stop])


@pytest.mark.parametrize("form", [name for name in FORMS if "weighted" not in name])
def test_reversed_is_transposed(form: str) -> None:
    everything = range(N), range(N)
    for there, back in zip(
        block(FORMS[form], *everything), block(FORMS[form].reversed(), *everything), strict=True
    ):
        assert torch.equal(there.T, back)


def test_numbers_of_negatives() -> None:
    assert number_of_negatives(None, 64, 64) == 63
    assert number_of_negatives(Pairing.diagonal(), 64, 64, n_extra=64) == 127
    assert number_of_negatives(Pairing.twins(), 64, 64) == 62
    assert number_of_negatives(Pairing.diagonal("ignored"), 4, 4, n_extra=100) == 100
    hard = Pairing.none().hardest(30, skip=2)
    assert number_of_negatives(Pairing.diagonal("ignored"), 4, 4, extra_pairing=hard, n_extra=100) == 30
    few = Pairing.none().hardest(30, skip=90)
    assert number_of_negatives(Pairing.diagonal("ignored"), 4, 4, extra_pairing=few, n_extra=100) == 10
    assert number_of_negatives(Pairing.weighted(torch.full((4, 6), 0.5)), 4, 6) == 5
    ids = torch.tensor([0, 0, 1, 2])
    assert number_of_negatives(Pairing.diagonal().ignoring(ids), 4, 4) == (2 + 2 + 3 + 3) / 4
    # Fellow positives compete in SupCon's denominator, and do not where each positive has its own.
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert number_of_negatives(Pairing.same(labels), 6, 6) == 4
    assert number_of_negatives(Pairing.same(labels), 6, 6, denominator="own") == 3
