"""The streaming kernel against the dense formula, tile by tile."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nearfar.ops import tiles, torch_softmax, two_passes
from nearfar.ops.pair_rule import PairRule
from nearfar.ops.pair_sums import log_sum_exp_pairs, softplus
from nearfar.ops.softmax_contrast import Columns, softmax_contrast
from nearfar.ops.softmax_terms import Terms


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tiles, torch_softmax, two_passes):
        monkeypatch.setattr(module, "TILE", 5)


class Case(NamedTuple):
    x: Tensor
    columns: list[Columns]
    terms: Terms


def dense(case: Case, temperature: float | Tensor = 1.0, unit: bool = False) -> Tensor:
    """The sum of the docstring of `Terms`, over whole matrices."""
    x, terms = case.x, case.terms

    def scaled(rows: Tensor) -> Tensor:
        return torch.nn.functional.normalize(rows, dim=1) if unit else rows

    logits, scores = [], []
    for group in case.columns:
        s = scaled(x) @ scaled(group.keys).T / temperature
        log_weights = torch.zeros_like(s)
        positive = terms.positive if not scores else None
        group.rule.apply_(log_weights, range(len(x)), range(len(group.keys)), positive, logs=True)
        if group.log_weights is not None:
            log_weights = log_weights + group.log_weights
        scores.append(s)
        logits.append(s + log_weights)
    own = [] if terms.own is None else [terms.own[:, None]]
    value = terms.row @ torch.cat([*logits, *own], dim=1).logsumexp(1)
    if terms.column is not None:
        value = value + terms.column @ logits[0].logsumexp(0)
    if terms.positive is not None and terms.pull is not None:
        value = value - terms.pull @ scores[0].gather(1, terms.positive[:, None])[:, 0]
    return value if terms.own is None else value - terms.row @ terms.own


def case(seed: int, *, scale: float = 1.0, form: str = "rows", rule: PairRule | None = None) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n, m = (int(torch.randint(2, 14, (), generator=generator)) for _ in range(2))
    x = (normal(n, 3) * scale).requires_grad_()
    if form == "itself":
        rule = rule or PairRule(skip_diagonal=True)
        terms = Terms(normal(n).abs(), positive=torch.arange(n).roll(1), pull=normal(n))
        return Case(x, [Columns(x, rule)], terms)
    keys = (normal(m, 3) * scale).requires_grad_()
    columns = [Columns(keys, rule or PairRule())]
    if form == "extra" or form == "both and extra":
        extra = (normal(7, 3) * scale).requires_grad_()
        columns.append(Columns(extra, PairRule(), normal(7).requires_grad_()))
    if form == "own":
        return Case(x, columns, Terms(normal(n).abs(), own=(normal(n) * scale).requires_grad_()))
    column = normal(m).abs() if form.startswith("both") else None
    positive = torch.randint(0, m, (n,), generator=generator)
    return Case(x, columns, Terms(normal(n).abs(), column, positive, normal(n)))


def inputs(case: Case) -> list[Tensor]:
    found = [case.x, *(group.keys for group in case.columns if group.keys is not case.x)]
    found += [group.log_weights for group in case.columns if group.log_weights is not None]
    return found if case.terms.own is None else [*found, case.terms.own]


def compare(case: Case, temperature: float | Tensor = 1.0, unit: bool = False) -> None:
    wanted = inputs(case) + ([temperature] if isinstance(temperature, Tensor) else [])
    value = softmax_contrast(case.x, case.columns, case.terms, temperature=temperature, unit=unit)
    expected = dense(case, temperature, unit)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    gradients = zip(torch.autograd.grad(value, wanted), torch.autograd.grad(expected, wanted), strict=True)
    for found, right in gradients:
        torch.testing.assert_close(found, right, rtol=1e-8, atol=1e-9)


FORMS = ["rows", "both", "extra", "both and extra", "own", "itself"]


@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 1.0, 5.0, 40.0]))
@settings(max_examples=25, deadline=None)
def test_every_form_is_the_dense_one(form: str, seed: int, scale: float) -> None:
    """At the largest scale exponents pass a thousand: sums would overflow, or lose rows, without their shifts."""
    compare(case(seed, form=form, scale=scale))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tau", [1.0, 0.05, 0.0005])
def test_unit_rows_and_the_temperature_have_exact_gradients(form: str, tau: float) -> None:
    temperature = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
    compare(case(3, form=form), temperature, unit=True)


@pytest.mark.parametrize("form", ["rows", "both", "extra"])
@given(seed=st.integers(0, 10_000), near=st.booleans(), scale=st.sampled_from([1.0, 30.0]))
@settings(max_examples=25, deadline=None)
def test_ignored_pairs_and_weights_of_the_diagonal(form: str, seed: int, near: bool, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    n, m = (len(side) for side in (case(seed).x, case(seed).columns[0].keys))
    ids, key_ids, labels, key_labels = (
        torch.randint(0, high, (size,), generator=generator)
        for high, size in ((4, n), (4, m), (2, n), (2, m))
    )
    # Every row and column keeps a pair: the diagonal is not left out, and positives never are.
    rule = PairRule(same=((ids, key_ids + 2),), near=(labels, key_labels) if near else None, diagonal=0.4)
    made = case(seed, form=form, scale=scale, rule=rule)
    if torch.isfinite(dense(made)):
        compare(made)


def test_a_symmetric_rule_of_a_set_with_itself() -> None:
    n = len(case(11, form="itself").x)
    ids = torch.arange(n) % 3
    compare(case(11, form="itself", rule=PairRule(skip_diagonal=True, same=((ids, ids),))))


@pytest.mark.parametrize("unit", [False, True])
def test_a_set_with_itself_by_rows_and_columns_is_two_sets(unit: bool) -> None:
    made = case(11, form="itself")
    n = len(made.x)
    compare(made._replace(terms=Terms(torch.rand(n).double(), torch.rand(n).double())), unit=unit)


@pytest.mark.parametrize("form", ["both", "itself"])
@pytest.mark.parametrize("kept", [0, 60, 1 << 24])
def test_tiles_that_are_kept_and_tiles_that_are_computed_again_agree(
    form: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_passes, "KEPT_CELLS", kept)
    monkeypatch.setattr(two_passes, "WORTH_KEEPING", 0.0)
    compare(case(5, form=form))


def test_blocks_of_rows_may_be_as_low_as_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_softmax, "BLOCK_CELLS", 1)
    compare(case(5, form="extra"))


def test_float32_rows_of_which_every_exponential_underflows_are_computed_from_their_largest_score() -> None:
    x = torch.tensor([[300.0, 0.0], [0.0, 20.0], [0.0, 0.1]]).requires_grad_()
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -300.0]]).requires_grad_()
    terms = Terms(torch.full((3,), 1 / 3), torch.full((3,), 1 / 3), torch.arange(3), torch.full((3,), 2 / 3))
    made = Case(x, [Columns(keys, PairRule())], terms)
    value, expected = softmax_contrast(*made), dense(made)
    torch.testing.assert_close(value, expected)
    found, right = (torch.autograd.grad(v, (x, keys)) for v in (value, expected))
    for one, two in zip(found, right, strict=True):
        torch.testing.assert_close(one, two)


def test_rows_without_a_pair_and_bad_numbers_are_not_finite() -> None:
    x = torch.randn(4, 3)
    everyone = PairRule(same=((torch.zeros(4), torch.zeros(4)),))
    assert not math.isfinite(softmax_contrast(x, [Columns(x.clone(), everyone)], Terms(torch.ones(4))))
    for bad in (torch.nan, torch.inf):
        y = x.clone()
        y[1, 1] = bad
        for form in (Terms(torch.ones(4)), Terms(torch.ones(4), torch.ones(4))):
            assert not math.isfinite(softmax_contrast(x, [Columns(y, PairRule())], form, unit=True))


def test_half_precision_is_summed_in_float32_and_gradients_come_back_in_it() -> None:
    x, keys = (torch.randn(6, 3).bfloat16().requires_grad_() for _ in range(2))
    value = softmax_contrast(x, [Columns(keys, PairRule())], Terms(torch.ones(6)))
    exact = softmax_contrast(
        x.detach().float(), [Columns(keys.detach().float(), PairRule())], Terms(torch.ones(6))
    )
    assert value.dtype == torch.float32
    assert value.item() == exact.item()
    assert torch.autograd.grad(value, x)[0].dtype == torch.bfloat16


def test_autocast_does_not_reach_the_scores() -> None:
    x, keys = torch.randn(6, 64), torch.randn(6, 64)
    plain = softmax_contrast(x, [Columns(keys, PairRule())], Terms(torch.ones(6)))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(softmax_contrast(x, [Columns(keys, PairRule())], Terms(torch.ones(6))), plain)


def test_a_second_derivative_says_that_there_is_none() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    value = softmax_contrast(x, [Columns(x, PairRule(skip_diagonal=True))], Terms(torch.ones(4)))
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(value, x, create_graph=True)


@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.5, 30.0]))
@settings(max_examples=20, deadline=None)
def test_the_sum_over_all_pairs_is_the_dense_one(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(n, 3, generator=generator, dtype=torch.float64) * scale for n in (11, 7))
    x, y = x.requires_grad_(), y.requires_grad_()
    # The bound is far above every score, so that the exponentials underflow and the largest score is taken.
    for bound in (float((x @ y.T).amax().detach()), 1e6):
        value, expected = log_sum_exp_pairs(x, y, bound=bound), (x @ y.T).flatten().logsumexp(0)
        torch.testing.assert_close(value, expected)
        for one, two in zip(*(torch.autograd.grad(v, (x, y)) for v in (value, expected)), strict=True):
            torch.testing.assert_close(one, two)
    off = (x @ x.T).masked_fill(torch.eye(11, dtype=torch.bool), -torch.inf).flatten().logsumexp(0)
    itself = log_sum_exp_pairs(x, x, PairRule(skip_diagonal=True), bound=float((x @ x.T).amax().detach()))
    torch.testing.assert_close(itself, off)
    torch.testing.assert_close(torch.autograd.grad(itself, x)[0], torch.autograd.grad(off, x)[0])


def test_softplus_neither_overflows_nor_vanishes() -> None:
    values, slopes = softplus(torch.tensor([-200.0, -30.0, 0.0, 30.0, 200.0]))
    torch.testing.assert_close(
        values, torch.tensor([0.0, 9.3576e-14, math.log(2), 30.0, 200.0]), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(slopes, torch.tensor([0.0, 9.3576e-14, 0.5, 1.0, 1.0]), rtol=1e-4, atol=1e-30)
