"""Processes that pass their keys round a ring compute what one process computes with all rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.objectives import info_nce
from nearfar.ops import ring
from nearfar.ops.ring import ring_info_nce

PROCESSES = (2, 4)
PROGRAM = Path(__file__).with_name("ring_program.py")


def case(
    shares: list[int],
    temperature: float = 0.1,
    *,
    symmetric: bool = False,
    unit: bool = True,
    dtype: str = "float64",
    opposite: bool = False,
) -> dict[str, Any]:
    """Rows for a linear encoder; the scores of `opposite` ones are low for the last process's rows alone."""
    generator = torch.Generator().manual_seed(len(shares) + symmetric)
    n = sum(shares)
    queries, keys = torch.randn(2, n, 5, generator=generator, dtype=torch.float64)
    if opposite:
        keys = keys.abs() + 1
        queries = queries.abs() + 1
        queries[n - shares[-1] :] *= -1
    net = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    if opposite:
        net = net.abs()
        net[:, 5] = 0
    return {
        "shares": shares,
        "temperature": temperature,
        "symmetric": symmetric,
        "unit": unit,
        "dtype": dtype,
        "tile": 3,
        "rows": [queries.tolist(), keys.tolist()],
        "weight": net[:, :5].tolist(),
        "bias": net[:, 5].tolist(),
    }


def cases(processes: int) -> dict[str, dict[str, Any]]:
    unequal = {2: [4, 9], 4: [5, 1, 0, 8]}[processes]
    return {
        "rows": case(unequal),
        "both": case(unequal, symmetric=True),
        "dot": case(unequal, 0.9, unit=False, symmetric=True),
        "single precision": case(unequal, 0.05, symmetric=True, dtype="float32"),
        "underflow": case(unequal, 0.002, symmetric=True, dtype="float32", opposite=True),
        # A bound of 2000 is within three times what float64 exponentials bear: the sums decide.
        "underflow by sums": case(unequal, 0.0005, symmetric=True, opposite=True),
        "underflow by sums, rows": case(unequal, 0.0005, opposite=True),
        "logarithms": case(unequal, 0.0003, symmetric=True),
    }


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What each of two, and of four processes found."""
    folder = tmp_path_factory.mktemp("ring")
    for processes in PROCESSES:
        (folder / f"{processes}.json").write_text(json.dumps(cases(processes)))
    command = [sys.executable, str(PROGRAM), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return {
        processes: [
            json.loads((folder / f"{processes}-{rank}.json").read_text()) for rank in range(processes)
        ]
        for processes in PROCESSES
    }


@pytest.fixture(params=PROCESSES, ids=["two processes", "four processes"])
def outcome(
    request: pytest.FixtureRequest, outcomes: dict[int, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """What each process found."""
    return outcomes[request.param]


def by_one_process(case: dict[str, Any]) -> dict[str, Any]:
    """The same with all rows in one process and the dense or single-process form."""
    tau = torch.tensor(case["temperature"], dtype=torch.float64, requires_grad=True)
    queries, keys, leaves = encoded(case)
    loss = dense(queries, keys, tau, case["symmetric"], case["unit"])
    score = "cosine" if case["unit"] else "dot"
    shipped = info_nce(queries, keys, temperature=tau, symmetric=case["symmetric"], score=score)
    torch.testing.assert_close(shipped, loss, rtol=1e-9, atol=1e-9)
    gradients = torch.autograd.grad(3 * loss, [*leaves, tau])
    return {
        "loss": loss,
        "rows": gradients[:2],
        "weight": gradients[2],
        "bias": gradients[3],
        "tau": gradients[4],
    }


def encoded(case: dict[str, Any]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Queries, keys, and what they are made of: the rows of both, weight and bias."""
    made = [*case["rows"], case["weight"], case["bias"]]
    leaves = [torch.tensor(values, dtype=torch.float64, requires_grad=True) for values in made]
    queries, keys = (torch.nn.functional.linear(rows, *leaves[2:]) for rows in leaves[:2])
    return queries, keys, leaves


def cosines(queries: Tensor, keys: Tensor) -> Tensor:
    return torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(keys, dim=1).T


def dense(queries: Tensor, keys: Tensor, tau: Tensor, symmetric: bool, unit: bool) -> Tensor:
    scores, target = (cosines(queries, keys) if unit else queries @ keys.T) / tau, torch.arange(len(keys))
    loss = torch.nn.functional.cross_entropy(scores, target)
    return (loss + torch.nn.functional.cross_entropy(scores.T, target)) / 2 if symmetric else loss


@pytest.mark.parametrize("name", cases(2))
def test_processes_compute_what_one_computes(outcome: list[dict[str, Any]], name: str) -> None:
    """The value, the gradients of each one's rows, and those of shared parameters after averaging."""
    of_case = cases(len(outcome))[name]
    whole = by_one_process(of_case)
    near = {"rtol": 1e-9, "atol": 1e-9} if of_case["dtype"] == "float64" else {"rtol": 1e-4, "atol": 1e-4}

    def equal(found: object, right: Tensor) -> None:
        scale = right.abs().amax().clamp(min=1)
        torch.testing.assert_close(torch.tensor(found, dtype=torch.float64) / scale, right / scale, **near)

    assert float(whole["loss"].detach()) > 0.01
    assert len({found[name]["loss"] for found in outcome}) == 1
    for rank, found in enumerate(one[name] for one in outcome):
        equal(found["loss"], whole["loss"].detach())
        equal(found["tau"], whole["tau"])
        for parameter, result in (("weight", "weight"), ("bias", "bias"), ("tau", "tau_mean")):
            equal(found[result], whole[parameter])
        start, n = found["start"], of_case["shares"][rank]
        for mine, right in zip(found["rows"], whole["rows"], strict=True):
            assert len(mine) == n
            if n:
                equal(mine, right[start : start + n] * len(outcome))


def test_sums_that_lost_terms_are_kept_as_logarithms_by_all(outcome: list[dict[str, Any]]) -> None:
    """Rows of the last process alone lose theirs, and all change over together."""
    names = ("underflow by sums", "underflow by sums, rows")
    for name in names:
        shifts = outcome[0][name]["shifts"]
        assert all(found[name]["shifts"] == shifts for found in outcome)
        assert len(shifts) == 2
        assert shifts[1] is None
        of_case = cases(len(outcome))[name]
        queries, keys, *_ = encoded(of_case)
        highest = (cosines(queries, keys) / of_case["temperature"]).amax(1) - shifts[0]
        last = of_case["shares"][-1]
        assert (highest[-last:] < -745).all()
        assert (highest[:-last] > 0).all()
    assert [outcome[0][name]["shifts"] for name in ("rows", "logarithms")] == [[0.0], [None]]


def test_no_process_holds_all_keys_or_all_scores(outcome: list[dict[str, Any]]) -> None:
    """24 rows of width 40 each: one share's scores with one share's keys are the most; gathering takes more."""
    all_keys = len(outcome) * 24 * 40
    for found in outcome:
        assert 24 * 40 <= found["largest"] <= 2 * 24 * 24 < all_keys
        assert found["largest_gathered"] >= all_keys


def test_all_processes_refuse_bad_input_alike(outcome: list[dict[str, Any]]) -> None:
    refusals = outcome[0]["refused"]
    assert all(found["refused"] == refusals for found in outcome)
    assert "queries: row 2 holds NaN" in refusals["nan"]
    assert "process 1" in refusals["nan"]
    assert "keys: row 1 is all zeros" in refusals["zeros"]
    assert "process 0" in refusals["zeros"]
    assert "width must be the same" in refusals["width"]
    assert "got torch.float64 in process 0 and torch.float32 in process 1" in refusals["dtype"]
    assert "one shape" in refusals["shape"]
    assert "got 1 in process 0 and 2 in process 1" in refusals["temperature"]
    assert "above 0 (in process 1" in refusals["below"]
    assert "symmetric must be the same" in refusals["symmetric"]
    assert "1 row in all" in refusals["one"]


def test_a_group_is_a_ring_of_its_own(outcome: list[dict[str, Any]]) -> None:
    *others, last = outcome
    assert last["group"] == pytest.approx(last["alone"], rel=1e-5)
    assert all("not in the group" in found["outside"] for found in others)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("unit", [False, True])
def test_one_process_alone(monkeypatch: pytest.MonkeyPatch, symmetric: bool, unit: bool) -> None:
    monkeypatch.setattr(ring, "TILE", 3)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def loss(*inputs: Tensor) -> Tensor:
        return ring_info_nce(*inputs[:2], temperature=inputs[2], symmetric=symmetric, unit=unit)

    torch.testing.assert_close(loss(x, y, tau), dense(x, y, tau, symmetric, unit), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(loss, (x, y, tau))


@pytest.mark.parametrize("wanted", range(3))
def test_one_gradient_alone(wanted: int) -> None:
    x, y = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    inputs = [x, y, torch.tensor(0.3)]
    inputs[wanted].requires_grad_()
    found, right = (
        torch.autograd.grad(loss, inputs[wanted])[0]
        for loss in (
            ring_info_nce(x, y, temperature=inputs[2], symmetric=True),
            dense(x, y, inputs[2], symmetric=True, unit=True),
        )
    )
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-6)


def test_half_precision_is_computed_in_float32() -> None:
    x, y = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    x.requires_grad_()
    loss = ring_info_nce(x, y, temperature=0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ring_info_nce(x.float(), y.float(), temperature=0.1), rtol=0, atol=0)
    loss.backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def test_second_derivatives_are_refused() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(ring_info_nce(x, torch.randn(4, 3), temperature=0.1), x, create_graph=True)


def test_bad_input_of_one_process_is_refused() -> None:
    x = torch.randn(4, 3)
    with pytest.raises(ArgumentError, match="1 row in all"):
        ring_info_nce(x[:1], x[:1], temperature=0.1)
    with pytest.raises(ArgumentError, match=r"keys: row 3 holds NaN or infinity$"):
        ring_info_nce(x, torch.where(torch.arange(4)[:, None] == 2, torch.inf, x), temperature=0.1)
    with pytest.raises(ArgumentError, match="floating-point"):
        ring_info_nce(x, x.double(), temperature=0.1)
    for temperature in (0.0, torch.ones(2), float("nan")):
        with pytest.raises(ArgumentError, match="temperature must be one finite number"):
            ring_info_nce(x, x, temperature=temperature)
