"""The Triton back end against the one in PyTorch: on a GPU, else with Triton's interpreter in a process of its own.

The interpreter must be switched on before Triton is imported, and other tests must not run in it.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from nearfar.objectives import info_nce, textbook
from nearfar.ops import triton_softmax
from nearfar.ops.pair_rule import PairRule
from nearfar.ops.softmax_terms import Gradients, Group, Terms
from nearfar.ops.torch_softmax import softmax_sums
from nearfar.ops.triton_softmax import available, softmax_sums_triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
INSTALLED = importlib.util.find_spec("triton") is not None
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
needs_kernels = pytest.mark.skipif(
    not INSTALLED or (DEVICE == "cpu" and not INTERPRETED),
    reason="needs Triton, and a GPU or TRITON_INTERPRET=1 from the start of the process",
)
N, M, D = 37, 53, 20
BLOCK = 32
"""Rows and columns of a block here: all of them several blocks, the last one ragged, and several tiles."""


@pytest.mark.skipif(not INSTALLED, reason="Triton is not installed: pip install nearfar[gpu]")
@pytest.mark.skipif(INTERPRETED or DEVICE == "cuda", reason="the tests below run in this process")
def test_the_tests_of_this_file_with_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rf", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_softmax, "TILE", BLOCK)


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / 2


def places(n: int, below: int, seed: int) -> Tensor:
    return torch.randint(below, (n,), generator=torch.Generator().manual_seed(seed))


X, KEYS, EXTRA = numbers(N, D, seed=0), numbers(M, D, seed=1), numbers(41, D, seed=2)
ROW, COLUMN, PULL, OWN = (numbers(n, seed=3 + n).abs() for n in (N, M, N + 1, N + 2))
PULL, OWN = PULL[:N], OWN[:N]
POSITIVE = places(N, M, 4)
SAME = (places(N, 5, 5), places(M, 5, 6))
FAR_IDS = (places(N, 3, 7) + (1 << 40), places(M, 3, 8) + (1 << 40))
NEAR = (places(N, 4, 9), places(M, 4, 10))
LABELS = places(N, 6, 11)
BOUND = 30.0

Case = tuple[Tensor, list[Group], Terms]


def weighted(m: int, least: float = 0.0, **rule: object) -> PairRule:
    weights = (numbers(m, seed=12).abs() - 0.1).clamp(min=least)  # several are the least
    return PairRule(weights=weights, **rule)  # type: ignore[arg-type]


def case(rule: PairRule | None = None, *more: Group, keys: Tensor = KEYS, **terms: Tensor | float) -> Case:
    return X, [Group(keys, rule or PairRule()), *more], Terms(ROW, **{"bound": BOUND, **terms})


CASES: dict[str, Case] = {
    "rows": case(),
    "rows and columns": case(column=COLUMN),
    "rows, columns and positives": case(column=COLUMN, positive=POSITIVE, pull=PULL),
    "extra keys": case(
        PairRule(), Group(EXTRA, PairRule(same=((SAME[0], places(41, 5, 20)),))), positive=POSITIVE, pull=PULL
    ),
    "extra keys, both ways": case(PairRule(), Group(EXTRA, weighted(41)), column=COLUMN),
    "own": case(own=OWN),
    "own and a group more": case(weighted(M), Group(EXTRA, PairRule(skip_diagonal=True)), own=OWN),
    "skip_diagonal": case(PairRule(skip_diagonal=True), column=COLUMN),
    "diagonal weight": case(PairRule(diagonal=0.3), column=COLUMN),
    "diagonal weight 0": case(PairRule(diagonal=0.0)),
    "same": case(PairRule(same=(SAME,)), column=COLUMN),
    "two pairs of ids": case(PairRule(same=(SAME, FAR_IDS)), column=COLUMN),
    "same but near": case(PairRule(same=(SAME, FAR_IDS), near=NEAR, skip_diagonal=True)),
    "same but positive": case(PairRule(same=(SAME,), near=NEAR), column=COLUMN, positive=POSITIVE, pull=PULL),
    "ids that are not whole": case(PairRule(same=((SAME[0] / 7, SAME[1] / 7),))),
    "weights of columns": case(weighted(M)),
    "weights of columns, both ways": case(weighted(M, 0.01, same=(SAME,), diagonal=2.0), column=COLUMN),
    "itself": case(PairRule(skip_diagonal=True), keys=X),
    "itself, labels": case(PairRule(skip_diagonal=True, same=((LABELS, LABELS),)), keys=X),
    "itself, positives": case(
        PairRule(skip_diagonal=True), keys=X, positive=torch.arange(N).roll(17), pull=PULL
    ),
}


def gradients(x: Tensor, groups: list[Group], terms: Terms) -> Gradients:
    itself = groups[0].keys is x

    def zeros(like: Tensor | None, want: bool = True) -> Tensor | None:
        return torch.zeros_like(like, dtype=torch.float32) if want and like is not None else None

    return Gradients(
        zeros(x),
        zeros(terms.own),
        tuple(zeros(group.keys, not itself) for group in groups),
        tuple(zeros(group.rule.weights) for group in groups),
    )


def moved(thing: object, to: Callable[[Tensor], Tensor]) -> object:
    """A case with every tensor in it changed, the same ones into the same ones."""
    seen: dict[int, Tensor] = {}

    def move(value: object) -> object:
        if isinstance(value, Tensor):
            return seen.setdefault(id(value), to(value))
        if isinstance(value, PairRule | Terms):
            return replace(value, **{name: move(field) for name, field in vars(value).items()})  # type: ignore[arg-type]
        if isinstance(value, tuple | list):
            made = [move(one) for one in value]
            return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
        return value

    return move(thing)


Sums = Callable[[Tensor, list[Group], Terms, Gradients], Tensor]


def evaluate(sums: Sums, given: Case, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Value and gradients; rows and keys in a type, all else as it is."""
    if sums is softmax_sums_triton:
        given = moved(given, lambda t: t.to(DEVICE))  # type: ignore[assignment]
    x, groups, terms = given
    low = x.to(dtype)
    groups = [Group(low if g.keys is x else g.keys.to(dtype), g.rule) for g in groups]
    wanted = gradients(low, groups, terms)
    value = sums(low, groups, terms, wanted)
    flat = [value, wanted.x, wanted.own, *wanted.keys, *wanted.log_weights]
    return [one.cpu() for one in flat if one is not None]


def far_apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest difference in the value and every gradient, as a share of the largest entry."""
    assert len(ours) == len(theirs)
    gaps = ((a - b).abs().amax() / b.abs().amax().clamp(min=1e-30) for a, b in zip(ours, theirs, strict=True))
    return max(float(torch.nan_to_num(gap, nan=torch.inf)) for gap in gaps)


def scaled(given: Case, factor: float) -> Case:
    x, groups, terms = given
    longer = x * (factor**0.5 if groups[0].keys is x else factor)
    groups = [Group(longer if g.keys is x else g.keys, g.rule) for g in groups]
    most = max(float((longer @ g.keys.mT).max()) for g in groups)
    return longer, groups, replace(terms, bound=max(most, BOUND))


@needs_kernels
@pytest.mark.parametrize("name", CASES)
def test_every_form_is_that_of_pytorch(name: str) -> None:
    given = CASES[name]
    assert far_apart(evaluate(softmax_sums_triton, given), evaluate(softmax_sums, given)) < 1e-4


@needs_kernels
@pytest.mark.parametrize("factor", [30.0, 150.0], ids=["shifted", "logarithms"])
@pytest.mark.parametrize(
    "name", ["rows, columns and positives", "same but positive", "own and a group more", "itself, labels"]
)
def test_large_scores(name: str, factor: float) -> None:
    given = scaled(CASES[name], factor)
    assert given[2].bound > 3 * BOUND
    ours = evaluate(softmax_sums_triton, given)
    assert all(one.isfinite().all() for one in ours)
    assert far_apart(ours, evaluate(softmax_sums, given)) < 1e-4


@needs_kernels
@pytest.mark.parametrize("low", [True, False])
def test_a_bound_that_is_far_too_high_or_wrong_is_noticed(low: bool) -> None:
    x, groups, terms = CASES["rows, columns and positives"]
    given = (x - 40 if low else x * 60, groups, terms)
    if low:  # all scores about -400: their exponentials are 0
        given = (given[0], [Group(KEYS.abs() + 0.5, PairRule())], replace(terms, bound=0.0))
    right = (given[0], given[1], replace(terms, bound=torch.inf))
    assert far_apart(evaluate(softmax_sums_triton, given), evaluate(softmax_sums, right)) < 1e-4


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "name", ["rows, columns and positives", "itself, positives", "weights of columns", "extra keys"]
)
def test_half_precision_is_that_of_the_rounded_inputs(name: str, dtype: torch.dtype) -> None:
    x, groups, terms = CASES[name]
    tiny = replace(terms, row=terms.row * 1e-7, pull=None if terms.pull is None else terms.pull * 1e-7)
    tiny = replace(tiny, column=None if terms.column is None else terms.column * 1e-7)
    rounded = moved((x, groups), lambda t: t.to(dtype).float() if t.ndim == 2 else t)
    ours = evaluate(softmax_sums_triton, (x, groups, tiny), dtype)
    theirs = evaluate(softmax_sums, (*rounded, tiny))  # type: ignore[misc]
    assert far_apart(ours[:1], theirs[:1]) < 1e-5
    # The gradients of scores are rounded (by the interpreter, cut off): less than 2^-8 or 2^-11 of each is lost,
    # and what they add up to may be smaller than they.
    assert far_apart(ours, theirs) < (2**-7 if dtype is torch.bfloat16 else 2**-10)


@needs_kernels
@pytest.mark.parametrize("d", [1, 16, 70])
def test_every_width(d: int) -> None:
    groups = [Group(numbers(M, d, seed=31), PairRule())]
    given = (numbers(N, d, seed=30), groups, Terms(ROW, COLUMN, POSITIVE, PULL, bound=90.0))
    assert far_apart(evaluate(softmax_sums_triton, given), evaluate(softmax_sums, given)) < 1e-4


@needs_kernels
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, M), (N, 1), (64, 32)])
def test_every_height(n: int, m: int) -> None:
    x, keys = numbers(n, D, seed=32), numbers(m, D, seed=33)
    given = (x, [Group(keys, PairRule(same=((x[:, 0], keys[:, 0]),)))], Terms(ROW[:1].expand(n), bound=90.0))
    assert far_apart(evaluate(softmax_sums_triton, given), evaluate(softmax_sums, given)) < 1e-4


@needs_kernels
@pytest.mark.parametrize("name", ["weights of columns, both ways", "itself, positives"])
def test_equal_inputs_give_equal_bits(name: str) -> None:
    once, again = (evaluate(softmax_sums_triton, CASES[name]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@needs_kernels
def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [evaluate(softmax_sums_triton, CASES["itself, positives"])]
    monkeypatch.setattr(triton_softmax, "TILE", 1 << 14)
    pieces.append(evaluate(softmax_sums_triton, CASES["itself, positives"]))
    assert far_apart(*pieces) < 1e-5


@needs_kernels
def test_rows_of_a_set_that_are_columns_too() -> None:
    """Against itself, a term of columns is one more of rows."""
    x, groups, terms = CASES["itself"]
    both = (x, groups, replace(terms, column=PULL))
    more = (x, groups, replace(terms, row=terms.row + PULL))
    assert far_apart(evaluate(softmax_sums_triton, both), evaluate(softmax_sums, more)) < 1e-4


@needs_kernels
@pytest.mark.parametrize("what", ["nan", "no pair"])
def test_what_has_no_value_is_not_finite(what: str) -> None:
    x, groups, terms = CASES["rows and columns"]
    if what == "nan":
        x = x.clone()
        x[5, 7] = torch.nan
    else:
        out = torch.where(torch.arange(N) == 4, 1, 0)
        groups = [Group(KEYS, PairRule(same=((out, torch.ones(M, dtype=torch.int64)),)))]
    assert not evaluate(softmax_sums_triton, (x, groups, terms))[0].isfinite()


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("symmetric", [False, True])
def test_objectives_run_on_it_and_agree_with_the_textbook(
    symmetric: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k = (numbers(N, D, seed=s).to(DEVICE, dtype).requires_grad_() for s in (20, 21))
    results = []
    for cells in (1 << 20, 0):  # the textbook form, then the kernel
        monkeypatch.setattr(textbook, "TEXTBOOK_CELLS", cells)
        monkeypatch.setattr(textbook, "GPU_TEXTBOOK_CELLS", cells)
        loss = info_nce(q, k, temperature=0.1, symmetric=symmetric)
        results.append([loss, *torch.autograd.grad(loss, (q, k))])
    for expected, kernel in zip(*results, strict=True):
        assert kernel.dtype == expected.dtype
        near = 2e-2 if dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(
            kernel.float(), expected.float(), rtol=near, atol=near * float(expected.detach().abs().max())
        )


@needs_kernels
def test_only_what_is_wanted_is_computed() -> None:
    x, groups, terms = CASES["rows and columns"]
    wanted = Gradients(None, None, (torch.zeros(M, D, device=DEVICE),), (None,))
    x, groups, terms = moved((x, groups, terms), lambda t: t.to(DEVICE))  # type: ignore[misc]
    softmax_sums_triton(x, groups, terms, wanted)
    theirs = evaluate(softmax_sums, CASES["rows and columns"])[2]
    assert wanted.keys[0] is not None
    assert far_apart([wanted.keys[0].cpu()], [theirs]) < 1e-4


MISTAKES = {
    "columns beyond the end count": ("_exponents", "mask=columns, other=nothing", "mask=columns, other=0.0"),
    "rows beyond the end count": (
        "_exponents",
        "where(rows[:, None], exp",
        "where(rows[:, None] | True, exp",
    ),
    "columns are not weighted": (
        "_exponents",
        "tl.load(pairs.bias + column",
        "0 * tl.load(pairs.bias + last_column",
    ),
    "the diagonal is that of a block": ("_exponents", "pairs.first_row + row", "row"),
    "positives are places in a block": ("score_gradients", "pairs.first_column + column", "column"),
    "columns have no gradient": ("score_gradients", "tl.load(column_share", "0 * tl.load(column_share"),
    "more than the width is read": ("_scores", "place < d - start", "place < d + 1 - start"),
}
"""Function of the kernels, what is right in it, what is not."""
SHOWN_BY = [
    "rows",
    "rows and columns",
    "weights of columns, both ways",
    "skip_diagonal",
    "rows, columns and positives",
]


@needs_kernels
@pytest.mark.skipif(DEVICE == "cuda", reason="kernels are rewritten in the interpreter only")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_plausible_mistake_in_a_kernel_is_seen(
    mistake: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from nearfar.ops import triton_kernels

    function, right, wrong = MISTAKES[mistake]
    source = inspect.getsource(triton_kernels)
    start = source.index(f"def {function}(")
    assert right in source[start:].split("@triton.jit")[0], "the kernel has changed: say the mistake anew"
    path = tmp_path / "mistaken_kernels.py"
    path.write_text(source[:start] + source[start:].replace(right, wrong, 1), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    mistaken = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mistaken)
    monkeypatch.setitem(sys.modules, "nearfar.ops.triton_kernels", mistaken)
    cases = [CASES[name] for name in SHOWN_BY]
    assert (
        max(far_apart(evaluate(softmax_sums_triton, one), evaluate(softmax_sums, one)) for one in cases)
        > 1e-3
    )


def test_which_tensors_it_can_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not available(X)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert available(X) == INSTALLED
    assert available(X.bfloat16()) == INSTALLED
    assert not available(X.double())


def test_a_gpu_without_triton_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = SimpleNamespace(dtype=torch.float32, is_cuda=True, device=None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    triton_softmax._warn.cache_clear()
    with pytest.warns(UserWarning, match=r"nearfar\[gpu\]"):
        assert not available(on_gpu)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not available(on_gpu)  # type: ignore[arg-type]


def test_nearfar_does_not_import_triton() -> None:
    code = "import sys, nearfar.ops.triton_softmax; sys.exit('triton' in sys.modules)"
    loads = subprocess.run([sys.executable, "-c", code]).returncode
    alone = subprocess.run([sys.executable, "-c", "import sys, torch; sys.exit('triton' in sys.modules)"])
    assert loads == alone.returncode
