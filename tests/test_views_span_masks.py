"""Spans that are hidden, and pieces cut out of sounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import sounds

from nearfar.batching.negatives import same_sequence
from nearfar.errors import ArgumentError
from nearfar.views.span_masks import random_crop, span_mask


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def runs(row: torch.Tensor) -> list[int]:
    """Lengths of the hidden stretches of a row."""
    edges = torch.diff(torch.nn.functional.pad(row.int(), (1, 1)))
    return ((edges == -1).nonzero() - (edges == 1).nonzero())[:, 0].tolist()


def test_about_half_is_hidden_in_the_papers_setting() -> None:
    """p = 0.065 and spans of 10: 49% of the steps of a recording of 15 s (section 3.1, appendix A)."""
    hidden = torch.cat([span_mask(torch.tensor([750]), drawn(seed)) for seed in range(200)])
    assert float(hidden.float().mean()) == pytest.approx(0.49, abs=0.01)
    assert min(min(runs(row)) for row in hidden) >= 10


def test_the_number_of_spans_is_rounded_at_random() -> None:
    """Spans of one position do not overlap: their number is int(0.65 * 101 + u) = 65 or 66, 65.65 on average."""
    counts = [int(span_mask(torch.tensor([101]), drawn(seed), span=1).sum()) for seed in range(400)]
    assert set(counts) == {65, 66}
    assert np.mean(counts) == pytest.approx(65.65, abs=0.08)


def test_rows_of_one_length_have_equally_many_and_padding_is_never_hidden() -> None:
    lengths = torch.tensor([150, 90, 150, 90, 150, 40])
    for seed in range(20):
        hidden = span_mask(lengths, drawn(seed))
        assert hidden.shape == (6, 150)
        counts = hidden.sum(dim=1)
        assert counts[0] == counts[2] == counts[4]
        assert counts[1] == counts[3]
        for row, n in zip(hidden, lengths.tolist(), strict=True):
            assert not row[n:].any()


def test_every_position_may_be_hidden_and_short_rows_have_two_spans() -> None:
    hidden = torch.cat([span_mask(torch.tensor([14]), drawn(seed)) for seed in range(300)])
    assert bool(hidden.any(dim=0).all())
    assert int(hidden.sum(dim=1).min()) > 10, "two spans of 10 that start at different places"
    assert not span_mask(torch.tensor([10, 9]), drawn()).any(), "nothing would be left to tell it from"
    assert int(span_mask(torch.tensor([30]), drawn(), share=0.0, least=0).sum()) == 0


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ArgumentError, match="share must be between"):
        span_mask(torch.tensor([100]), drawn(), share=1.5)
    with pytest.raises(ArgumentError, match="span must be between"):
        span_mask(torch.tensor([100]), drawn(), span=0)


def test_a_crop_is_a_piece_of_the_sound_from_anywhere() -> None:
    sound = sounds(1)[0]
    starts = set()
    for seed in range(50):
        piece = random_crop(sound, 0.25, drawn(seed))
        assert (len(piece.samples), piece.rate) == (2000, 8000)
        at = int(np.flatnonzero(sound.samples == piece.samples[0])[0])
        assert np.array_equal(sound.samples[at : at + 2000], piece.samples)
        starts.add(at)
    assert min(starts) < 300
    assert max(starts) > 1700
    generator = drawn()
    before = generator.get_state()
    assert random_crop(sound, 0.5, generator) is sound
    assert torch.equal(generator.get_state(), before)


# -- negatives of the same sequence ----------------------------------------------------------------


def test_others_are_of_the_same_sequence_never_the_position_itself_and_drawn_alike() -> None:
    counts = torch.tensor([5, 2, 0, 9])
    torch.manual_seed(0)
    index = same_sequence(counts, 4000)
    assert index.shape == (16, 4001)
    assert index[:, 0].tolist() == list(range(16))
    start = 0
    for n in counts.tolist():
        for position in range(start, start + n):
            share = torch.bincount(index[position, 1:], minlength=16) / 4000
            others = [at for at in range(start, start + n) if at != position]
            assert float(share[others].sum()) == pytest.approx(1)
            for at in others:
                assert float(share[at]) == pytest.approx(1 / (n - 1), abs=0.04)
        start += n


def test_a_sequence_of_one_position_has_no_other() -> None:
    with pytest.raises(ArgumentError, match="sequence 2 has one position"):
        same_sequence(torch.tensor([3, 1, 4]), 2)
