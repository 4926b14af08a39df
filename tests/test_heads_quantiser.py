"""Codes: what is chosen, what gets gradient, how even and how dead they are."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch.nn import functional

from nearfar.errors import ArgumentError
from nearfar.heads import make_head
from nearfar.heads.quantiser import WINDOW, GumbelQuantiser
from nearfar.objectives import perplexity, unused_codes
from nearfar.training.codebook_alarm import CodebookAlarm


def quantiser(groups: int = 2, codes: int = 5) -> GumbelQuantiser:
    torch.manual_seed(0)
    return GumbelQuantiser(6, 8, groups=groups, codes=codes)


def test_a_vector_is_the_chosen_codes_of_all_groups_side_by_side() -> None:
    for made in (quantiser().train(), quantiser().eval()):
        found = made(torch.randn(40, 6), 0.7)
        assert found.vectors.shape == (40, 8)
        for m in range(40):
            expected = torch.cat([made.codebook[g, found.codes[m, g]] for g in range(2)])
            torch.testing.assert_close(found.vectors[m], expected)


def test_evaluation_takes_the_largest_logit_whatever_the_temperature() -> None:
    made, x = quantiser().eval(), torch.randn(50, 6)
    one, other = made(x, 0.01), made(x, 100.0)
    assert torch.equal(one.vectors, other.vectors)
    assert torch.equal(one.codes, made.logits(x).view(50, 2, 5).argmax(dim=-1))


def test_training_draws_each_code_as_often_as_the_softmax_says_at_any_temperature() -> None:
    """The argmax of logits plus Gumbel noise has the softmax as its distribution; tau changes the gradient only."""
    made = quantiser(1, 4).train()
    with torch.no_grad():
        made.logits.weight.zero_()
        made.logits.bias.copy_(torch.tensor([1.0, 0.0, -1.0, 2.0]))
    for temperature in (0.3, 2.0):
        codes = made(torch.zeros(20_000, 6), temperature).codes[:, 0]
        share = torch.bincount(codes, minlength=4) / 20_000
        torch.testing.assert_close(share, made.logits.bias.softmax(0).detach(), atol=0.015, rtol=0)


def test_the_gradient_is_that_of_the_soft_choice() -> None:
    made, x = quantiser().train(), torch.randn(7, 6)
    weights = torch.randn(7, 8)
    torch.manual_seed(5)
    (made(x, 0.8).vectors * weights).sum().backward()
    got = made.logits.weight.grad
    torch.manual_seed(5)
    soft = functional.gumbel_softmax(made.logits(x).view(7, 2, 5), tau=0.8)
    mixed = torch.cat([soft[:, g] @ made.codebook[g].detach() for g in range(2)], dim=1)
    [expected] = torch.autograd.grad((mixed * weights).sum(), made.logits.weight)
    torch.testing.assert_close(got, expected)


def test_probabilities_have_neither_noise_nor_temperature() -> None:
    made, x = quantiser().train(), torch.randn(9, 6)
    expected = made.logits(x).view(9, 2, 5).softmax(dim=-1)
    for temperature in (0.1, 2.0):
        torch.testing.assert_close(made(x, temperature).probabilities, expected)


def test_the_diversity_is_the_released_one() -> None:
    """(G V - sum over groups of exp(entropy of the mean)) / (G V): 0 for even use, 1 - 1 / V for one code."""
    even = torch.eye(4)[torch.arange(8) % 4][:, None].expand(8, 3, 4)
    assert float(unused_codes(even)) == pytest.approx(0, abs=1e-5)
    one = torch.eye(4)[torch.zeros(8, dtype=torch.long)][:, None].expand(8, 3, 4)
    assert float(unused_codes(one)) == pytest.approx(1 - 1 / 4, abs=1e-4)
    p = torch.randn(6, 2, 5, dtype=torch.double).softmax(-1)
    mean = p.mean(dim=0)
    prob_perplexity = torch.exp(-torch.sum(mean * torch.log(mean + 1e-7), dim=-1)).sum()
    assert float(unused_codes(p)) == pytest.approx(float((10 - prob_perplexity) / 10), abs=1e-5)
    torch.testing.assert_close(perplexity(torch.full((7,), 1 / 7)), torch.tensor(7.0))
    assert float(perplexity(torch.tensor([1.0, 0.0, 0.0]))) == pytest.approx(1, abs=1e-5)


def test_its_gradient_spreads_the_codes() -> None:
    logits = torch.tensor([[[3.0, 0.0, -1.0]]], requires_grad=True)
    unused_codes(logits.softmax(-1)).backward()
    assert logits.grad is not None
    assert float(logits.grad[0, 0, 0]) > 0, "a step down makes the favourite rarer"
    assert float(logits.grad[0, 0, 2]) < 0


def test_dead_codes_are_those_that_nobody_chose_in_the_window() -> None:
    made = quantiser(1, 4).train()
    with torch.no_grad():
        made.logits.weight.zero_()
        made.logits.bias.copy_(torch.tensor([0.0, 0.0, -200.0, -200.0]))
    for _ in range(WINDOW - 1):
        made(torch.zeros(30, 6))
    assert made.dead.tolist() == [0], "too few steps to tell"
    made(torch.zeros(30, 6))
    assert made.dead.tolist() == [2]
    assert float(made.perplexity[0]) == pytest.approx(2, abs=0.05)
    assert made.told() == "codes chosen in the last 100 steps: group 1: perplexity 2.0 of 4, 2 dead"
    made.eval()(torch.zeros(30, 6))
    assert int(made.idle[0, 2]) == WINDOW, "evaluation is not counted"
    made.train()
    made.logits.bias.data[2] = 200.0
    made(torch.zeros(30, 6))
    assert made.dead.tolist() == [1]


def test_the_alarm_tells_once_of_a_collapsed_and_of_a_half_dead_codebook(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made, alarm = quantiser(2, 8), CodebookAlarm()
    made.usage.fill_(1 / 8)
    with caplog.at_level(logging.WARNING, logger="nearfar"):
        alarm.look(made, WINDOW)
        assert not alarm.warnings
        made.usage[0] = functional.one_hot(torch.tensor(3), 8)
        made.idle[1, :5] = WINDOW
        alarm.look(made, WINDOW - 50)
        alarm.look(made, WINDOW + 7)
        assert not alarm.warnings, "too early, and between two looks"
        alarm.look(made, WINDOW + 50)
        alarm.look(made, WINDOW + 100)
    assert [record.message for record in caplog.records] == alarm.warnings
    assert len(alarm.warnings) == 2
    assert "codebook 1 has collapsed at step 150: its 8 codes are used like 1.0" in alarm.warnings[0]
    assert "5 of the 8 codes of codebook 2 are dead" in alarm.warnings[1]


def test_settings_build_it_again_and_wrong_ones_are_refused() -> None:
    made = quantiser()
    again = make_head(made.settings())
    again.load_state_dict(made.state_dict())
    x = torch.randn(5, 6)
    assert torch.equal(again.eval()(x).vectors, made.eval()(x).vectors)
    for dims, groups, codes in (((6,), 2, 5), ((6, 9), 2, 5), ((6, 8), 0, 5), ((6, 8), 2, 1)):
        with pytest.raises(ArgumentError, match="GumbelQuantiser takes two widths"):
            GumbelQuantiser(*dims, groups=groups, codes=codes)
    assert math.isclose(float(made.logits.weight.detach().std()), 1, abs_tol=0.3)
