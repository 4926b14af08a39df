"""InfoNCE against loops written from its formula, for every way of pairing."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.geometry import cosine
from nearfar.objectives import (
    Pairing,
    info_nce,
    info_nce_from_scores,
    nt_xent,
    number_of_negatives,
    sup_con,
    textbook,
)
from nearfar.ops import row_chunks, tiles, torch_softmax, two_passes

B, M, D = 6, 6, 4
LABELS = torch.tensor([0, 1, 0, 2, 1, 2])
INDEX = torch.tensor([[0, 3, 5], [1, 2, 2], [4, 0, 1], [3, 4, 5], [2, 0, 4], [5, 1, 0]])


def rows(n: int, d: int = D, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return torch.cosine_similarity(a[:, None], b[None], dim=-1)


def by_loops(
    scores: Tensor,
    target: Tensor,
    weight: Tensor,
    tau: float,
    many: str = "mean",
    denominator: str = "all",
    divide: bool = True,
) -> list[float | None]:
    """The formulas of the docstring, one term at a time; None for a row without a positive."""
    losses: list[float | None] = []
    n, m = scores.shape
    for i in range(n):
        near = [j for j in range(m) if target[i, j] > 0]
        if not near:
            losses.append(None)
            continue

        def e(j: int, i: int = i) -> float:
            return math.exp(float(scores[i, j]) / tau)

        far = sum(float(weight[i, k]) * e(k) for k in range(m) if k not in near)
        everyone = far + sum(float(weight[i, j]) * e(j) for j in near)
        if many == "sum_inside":
            losses.append(-math.log(sum(float(target[i, j]) * e(j) for j in near) / everyone))
            continue
        total = sum(float(target[i, j]) for j in near) if divide else 1.0
        value = 0.0
        for j in near:
            below = everyone if denominator == "all" else float(weight[i, j]) * e(j) + far
            value -= float(target[i, j]) / total * math.log(e(j) / below)
        losses.append(value)
    return losses


def dense(near: Callable[[int, int], float], weight: Callable[[int, int], float]) -> tuple[Tensor, Tensor]:
    cells = [[[float(rule(i, j)) for j in range(M)] for i in range(B)] for rule in (near, weight)]
    target, weights = torch.tensor(cells, dtype=torch.float64)
    return target, weights


W = rows(B, M, 7).abs()
SHIFT = rows(B, M, 8)
IDS = torch.tensor([0, 0, 1, 1, 1, 2])
MASK = torch.zeros(B, M, dtype=torch.bool)
MASK[0, 3] = MASK[2, 2] = MASK[4, 1] = True

FORMS: dict[str, tuple[Pairing, tuple[Tensor, Tensor]]] = {
    "diagonal": (Pairing.diagonal(), dense(lambda i, j: i == j, lambda i, j: 1)),
    "twins": (Pairing.twins(), dense(lambda i, j: j == (i + 3) % 6, lambda i, j: i != j)),
    "same": (
        Pairing.same(LABELS),
        dense(lambda i, j: LABELS[i] == LABELS[j] and i != j, lambda i, j: i != j),
    ),
    "same keys": (
        Pairing.same(LABELS, LABELS.flip(0)),
        dense(lambda i, j: LABELS[i] == LABELS[5 - j], lambda i, j: 1),
    ),
    "index": (Pairing.index(INDEX[:, 1]), dense(lambda i, j: INDEX[i, 1] == j, lambda i, j: 1)),
    "sampled": (
        Pairing.sampled(INDEX),
        dense(lambda i, j: INDEX[i, 0] == j, lambda i, j: INDEX[i].tolist().count(j)),
    ),
    "weighted": (Pairing.weighted(W), dense(lambda i, j: W[i, j] / W[i].sum(), lambda i, j: 1)),
    "ignoring": (
        Pairing.diagonal().ignoring(IDS),
        dense(lambda i, j: i == j, lambda i, j: i == j or IDS[i] != IDS[j]),
    ),
    "ignoring keys": (
        Pairing.same(LABELS).ignoring(IDS, IDS.flip(0)),
        dense(
            lambda i, j: LABELS[i] == LABELS[j] and i != j,
            lambda i, j: i != j and (LABELS[i] == LABELS[j] or IDS[i] != IDS[5 - j]),
        ),
    ),
    "ignoring mask": (
        Pairing.same(LABELS, LABELS).ignoring_mask(MASK),
        dense(lambda i, j: LABELS[i] == LABELS[j] and not MASK[i, j], lambda i, j: not MASK[i, j]),
    ),
    "pair weights": (
        Pairing.same(LABELS).log_weighted(SHIFT),
        dense(lambda i, j: LABELS[i] == LABELS[j] and i != j, lambda i, j: (i != j) * math.exp(SHIFT[i, j])),
    ),
    "key weights": (
        Pairing.diagonal().log_weighted(SHIFT[0]),
        dense(lambda i, j: i == j, lambda i, j: math.exp(SHIFT[0, j])),
    ),
    "diagonal weight": (
        Pairing.index(INDEX[:, 1]).log_weighted_diagonal(0.7),
        dense(lambda i, j: INDEX[i, 1] == j, lambda i, j: math.exp(0.7 * (i == j))),
    ),
}


def in_chunks(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    monkeypatch.setattr(textbook, "TEXTBOOK_CELLS", 0)
    for module in (tiles, torch_softmax, two_passes):
        monkeypatch.setattr(module, "TILE", max(1, cells // 6))
    monkeypatch.setattr(row_chunks, "TEXTBOOK_CELLS", 0)
    monkeypatch.setattr(row_chunks, "CHUNK_CELLS", cells)


@pytest.fixture(params=["textbook", "chunked"])
def branch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "chunked":
        in_chunks(monkeypatch, 2 * M)
    return str(request.param)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("many", "denominator"), [("mean", "all"), ("mean", "own"), ("sum_inside", "all")])
def test_every_form_equals_the_loops(form: str, many: str, denominator: str, branch: str) -> None:
    pairing, (target, weight) = FORMS[form]
    q, k = rows(B), rows(M, seed=1)
    if form == "twins" or form == "same":
        k = q
    losses = info_nce(
        q,
        k,
        pairing,
        temperature=0.3,
        many=many,
        denominator=denominator,
        reduction="none",
    )
    expected = by_loops(cosines(q, k), target, weight, 0.3, many, denominator)
    assert losses.tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_the_second_direction_is_the_transposed_problem(form: str, branch: str) -> None:
    pairing, (target, weight) = FORMS[form]
    q, k = rows(B), rows(M, seed=1)
    if form == "weighted":
        target = W / W.sum(dim=0)
    weight_back = torch.ones(M, B) if form == "key weights" else weight.T
    both = info_nce(q, k, pairing, temperature=0.3, symmetric=True, on_no_positive="skip")
    forward = by_loops(cosines(q, k), FORMS[form][1][0], weight, 0.3)
    backward = by_loops(cosines(k, q), target.T, weight_back, 0.3)
    means = [
        sum(x for x in losses if x is not None) / sum(x is not None for x in losses)
        for losses in (forward, backward)
    ]
    assert float(both) == pytest.approx(sum(means) / 2, abs=1e-9)


@pytest.mark.parametrize("form", [*FORMS, "hardest"])
@pytest.mark.parametrize(("many", "denominator"), [("mean", "all"), ("mean", "own"), ("sum_inside", "all")])
def test_gradients_of_embeddings_and_temperature_are_exact(
    form: str, many: str, denominator: str, branch: str
) -> None:
    pairing = Pairing.same(LABELS).hardest(2, skip=1) if form == "hardest" else FORMS[form][0]
    tau = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def loss(q: Tensor, k: Tensor, extra: Tensor, tau: Tensor) -> Tensor:
        return info_nce(
            q,
            k,
            pairing,
            temperature=tau,
            symmetric=True,
            extra_keys=extra,
            many=many,
            denominator=denominator,
            on_no_positive="skip",
        )

    given_rows = [rows(B, 3).requires_grad_(), rows(M, 3, 1).requires_grad_(), rows(2, 3, 2).requires_grad_()]
    assert torch.autograd.gradcheck(loss, (*given_rows, tau), fast_mode=True)


def test_chunks_and_textbook_agree_in_value_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    values, gradients = [], []
    for branch in ("textbook", "chunked"):
        if branch == "chunked":
            in_chunks(monkeypatch, 50)
        q, k, e = (rows(n, 8, n).float().requires_grad_() for n in (20, 30, 10))
        tau = torch.tensor(0.1, requires_grad=True)
        pairing = Pairing.same(torch.arange(20) % 5, torch.arange(30) % 5).hardest(9, skip=2, below=0.5)
        loss = info_nce(q, k, pairing, temperature=tau, symmetric=True, extra_keys=e)
        values.append(loss.item())
        gradients.append(torch.autograd.grad(loss, (q, k, e, tau)))
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)


def bytes_kept(loss: Callable[..., Tensor], *inputs: Tensor) -> int:
    """Bytes that the graph of a loss holds for its backward pass."""
    kept = 0

    def pack(x: Tensor) -> Tensor:
        nonlocal kept
        kept += x.numel() * x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss(*(x.requires_grad_() for x in inputs))
    return kept


def test_the_streaming_kernel_keeps_the_gradients_and_nothing_else_for_backward() -> None:
    n, d = 600, 8  # above the crossover
    for symmetric in (False, True):
        kept = bytes_kept(
            lambda q, k, s=symmetric: info_nce(q, k, temperature=0.1, symmetric=s), rows(n, d), rows(n, d, 1)
        )
        assert 0 <= kept - 2 * n * d * 8 < 64
    itself = bytes_kept(lambda z: info_nce(z, z, Pairing.twins(), temperature=0.1), rows(n, d))
    assert 0 <= itself - n * d * 8 < 64


def test_chunks_keep_nothing_of_the_size_of_the_matrix_for_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(n: int) -> int:
        hardest = Pairing.diagonal().hardest(5)
        return bytes_kept(
            lambda q, k: info_nce(q, k, hardest, temperature=0.1, symmetric=True), rows(n, 8), rows(n, 8, 1)
        )

    textbook = kept(1024)
    in_chunks(monkeypatch, 1 << 14)
    small, large = kept(256), kept(1024)
    assert large <= 4.5 * small
    assert textbook > 10 * large


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_ignored_pairs_have_exactly_zero_gradient(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 7))
    mask = torch.tensor(
        data.draw(st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=n, max_size=n))
    )
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    many = data.draw(st.sampled_from(["mean", "sum_inside"]))
    denominator = data.draw(st.sampled_from(["all", "own"]))
    scores = rows(n, n, data.draw(st.integers(0, 99))).requires_grad_()
    loss = info_nce_from_scores(
        scores,
        Pairing.same(labels, labels).ignoring_mask(mask),
        temperature=0.2,
        many=many,
        denominator=denominator,
        symmetric=data.draw(st.booleans()),
        on_no_positive="skip",
    )
    (gradient,) = torch.autograd.grad(loss, scores)
    assert torch.isfinite(gradient).all()
    assert (gradient[mask] == 0).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 8), st.integers(0, 99), st.data())
def test_the_order_of_rows_does_not_matter(n: int, seed: int, data: st.DataObject) -> None:
    order = torch.tensor(data.draw(st.permutations(range(n))))
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    z = rows(n, seed=seed)
    kwargs: dict[str, object] = {"temperature": 0.2, "reduction": "none", "on_no_positive": "skip"}
    given_order = info_nce(z, z, Pairing.same(labels), **kwargs)
    permuted = info_nce(z[order], z[order], Pairing.same(labels[order]), **kwargs)
    torch.testing.assert_close(permuted, given_order[order])


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 99))
def test_forms_that_must_coincide(n: int, seed: int) -> None:
    one, two = rows(n, seed=seed), rows(n, seed=seed + 100)
    z, ids = torch.cat([one, two]), torch.arange(n)

    def loss(q: Tensor, k: Tensor, pairing: Pairing | None, **more: object) -> float:
        return float(info_nce(q, k, pairing, temperature=0.2, **more))

    diagonal = loss(one, two, None)
    assert loss(one, two, Pairing.weighted(torch.eye(n))) == pytest.approx(diagonal)
    assert loss(one, two, Pairing.index(ids)) == pytest.approx(diagonal)
    assert loss(one, two, Pairing.same(ids, ids)) == pytest.approx(diagonal)
    assert loss(one, two, Pairing.diagonal().hardest(n)) == pytest.approx(diagonal)
    assert loss(one, two, None, many="sum_inside") == pytest.approx(diagonal)
    assert loss(one, two, None, denominator="own") == pytest.approx(diagonal)
    everyone = torch.stack([torch.roll(ids, -i) for i in range(n)])
    assert loss(one, two, Pairing.sampled(everyone)) == pytest.approx(diagonal)
    # All negatives given as extra keys, owned by each row.
    own = torch.stack([two[ids != i] for i in range(n)])
    assert loss(one, two, Pairing.diagonal("ignored"), extra_keys=own) == pytest.approx(diagonal)

    twins = float(nt_xent(one, two, temperature=0.2))
    assert loss(z, z, Pairing.same(ids.repeat(2))) == pytest.approx(twins)
    assert float(sup_con(z, ids.repeat(2), temperature=0.2)) == pytest.approx(twins)
    # NT-Xent is the mean of two directions, each with its own side's other rows as extra keys.
    aside = torch.eye(n, dtype=torch.bool)
    halves = [
        loss(a, b, None, extra_keys=a, extra_pairing=Pairing.none().ignoring_mask(aside))
        for a, b in ((one, two), (two, one))
    ]
    assert sum(halves) / 2 == pytest.approx(twins)


def test_nt_xent_of_dot_products_keeps_the_lengths_of_the_views() -> None:
    one, two = rows(5), rows(5, seed=7)
    views = torch.cat([one, two])
    scores = (views @ views.mT / 0.5).fill_diagonal_(-math.inf)
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(10).roll(5))
    torch.testing.assert_close(nt_xent(one, two, temperature=0.5, score="dot"), expected)
    torch.testing.assert_close(
        nt_xent(2 * one, 2 * two, temperature=2.0, score="dot"),
        nt_xent(one, two, temperature=0.5, score="dot"),
    )
    assert float(nt_xent(2 * one, two, temperature=0.5)) == pytest.approx(
        float(nt_xent(one, two, temperature=0.5))
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.data())
def test_a_log_weight_of_minus_infinity_ignores_and_weights_count_copies(
    seed: int, data: st.DataObject
) -> None:
    one, two = rows(5, seed=seed), rows(5, seed=seed + 100)
    ids = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=5, max_size=5)))
    clash = (ids[:, None] == ids) & ~torch.eye(5, dtype=torch.bool)
    by_ids = info_nce(one, two, Pairing.diagonal().ignoring(ids), temperature=0.2)
    by_weight = Pairing.diagonal().log_weighted(torch.zeros(5, 5).masked_fill(clash, -torch.inf))
    torch.testing.assert_close(info_nce(one, two, by_weight, temperature=0.2), by_ids)
    torch.testing.assert_close(
        info_nce(one, two, Pairing.diagonal().ignoring_mask(clash), temperature=0.2), by_ids
    )
    # A key of weight 2 is a key that is there twice.
    queue = rows(3, seed=seed + 200)
    doubled = info_nce(one, two, temperature=0.2, extra_keys=torch.cat([queue, queue[:1]]))
    weights = Pairing.none().log_weighted(torch.tensor([2.0, 1, 1], dtype=torch.float64).log())
    torch.testing.assert_close(
        info_nce(one, two, temperature=0.2, extra_keys=queue, extra_pairing=weights), doubled
    )


def test_simcse_hard_negatives_by_the_released_logits() -> None:
    one, two, hard = (rows(5, seed=s) for s in range(3))
    logits = torch.cat([cosines(one, two), cosines(one, hard)], dim=1) / 0.05
    plain = torch.nn.functional.cross_entropy(logits, torch.arange(5))
    kwargs: dict[str, object] = {"temperature": 0.05, "extra_keys": hard}
    torch.testing.assert_close(info_nce(one, two, **kwargs), plain)
    for alpha in (0.0, 1.5):
        logits_alpha = logits + torch.cat([torch.zeros(5, 5), alpha * torch.eye(5)], dim=1)
        expected = torch.nn.functional.cross_entropy(logits_alpha, torch.arange(5))
        pairing = Pairing.none().log_weighted_diagonal(alpha)
        torch.testing.assert_close(info_nce(one, two, extra_pairing=pairing, **kwargs), expected)


def test_moco_logits_with_all_the_queue_and_with_the_hardest_of_it() -> None:
    q, k, queue = rows(4), rows(4, seed=1), rows(20, seed=2)
    positive, negative = cosines(q, k).diagonal()[:, None], cosines(q, queue)

    def moco(pairing: Pairing) -> float:
        kwargs = {"temperature": 0.1, "extra_keys": queue, "extra_pairing": pairing}
        return float(info_nce(q, k, Pairing.diagonal("ignored"), **kwargs))

    def expected(kept: Tensor) -> float:
        logits = torch.cat([positive, negative.masked_fill(~kept, -torch.inf)], dim=1) / 0.1
        return float(torch.nn.functional.cross_entropy(logits, torch.zeros(4, dtype=torch.long)))

    assert moco(Pairing.none()) == pytest.approx(expected(torch.ones(4, 20, dtype=torch.bool)))
    assert moco(Pairing.none().hardest(20)) == pytest.approx(moco(Pairing.none()))
    ranks = negative.argsort(dim=1, descending=True).argsort(dim=1)
    window = (ranks >= 2) & (ranks < 7)
    assert moco(Pairing.none().hardest(5, skip=2)) == pytest.approx(expected(window))
    guard = float(negative[window].median())
    assert moco(Pairing.none().hardest(5, skip=2, below=guard)) == pytest.approx(
        expected(window & (negative <= guard))
    )


def test_only_kept_keys_receive_gradient_and_ranks_are_per_anchor() -> None:
    # The near keys score highest, and take no rank.
    scores = torch.tensor([[9.0, 3, 2, 1], [3, 9.0, 1, 2], [1, 2, 9, 3], [2, 1, 3, 9]], requires_grad=True)
    loss = info_nce_from_scores(scores, Pairing.diagonal().hardest(1, skip=1), temperature=1.0)
    assert loss.item() == pytest.approx(math.log1p(math.exp(2 - 9)), rel=1e-3)
    loss.backward()
    assert scores.grad is not None
    assert (scores.grad != 0).tolist() == ((scores == 9) | (scores == 2)).tolist()


def test_several_positives_inside_the_logarithm_cost_less_than_their_mean() -> None:
    z = rows(8)
    labels = torch.arange(8) % 2
    outside, inside = (
        info_nce(z, z, Pairing.same(labels), temperature=0.3, many=many, reduction="none")
        for many in ("mean", "sum_inside")
    )
    # Jensen: mean of -log p_j >= -log mean p_j = sum inside + log(number of positives).
    assert (outside > inside + math.log(3)).all()
    own = info_nce(z, z, Pairing.same(labels), temperature=0.3, denominator="own", reduction="none")
    assert (own < outside).all()


def test_soft_targets_as_they_are_and_both_directions() -> None:
    q, k = rows(4), rows(4, seed=1)
    W4 = rows(4, 4, 3).abs()
    log_p = (cosines(q, k) / 0.2).log_softmax(dim=1)
    back = (cosines(k, q) / 0.2).log_softmax(dim=1)
    rowwise = W4 / W4.sum(dim=1, keepdim=True)
    expected = {
        ("none", "renormalise"): -((W4 * log_p).sum() + (W4.T * back).sum()) / 8,
        ("rows", "renormalise"): -((rowwise * log_p).sum() + (W4 / W4.sum(dim=0) * back.T).sum()) / 8,
        ("rows", "same"): -((rowwise * log_p).sum() + (rowwise * back).sum()) / 8,
        ("none", "same"): -((W4 * log_p).sum() + (W4 * back).sum()) / 8,
    }
    for (normalise, backward), value in expected.items():
        pairing = Pairing.weighted(W4, normalise, backward)
        torch.testing.assert_close(info_nce(q, k, pairing, temperature=0.2, symmetric=True), value)


def test_positives_may_be_among_the_extra_keys() -> None:
    q, k, queue = rows(4), rows(4, seed=1), rows(6, seed=2)
    labels, of_queue = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 1, 3, 3, 9])
    together = Pairing.same(labels, torch.cat([labels, of_queue]))
    torch.testing.assert_close(
        info_nce(q, k, temperature=0.2, extra_keys=queue, extra_pairing=Pairing.same(labels, of_queue)),
        info_nce(q, torch.cat([k, queue]), together, temperature=0.2),
    )


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean"])
def test_own_extra_keys_shared_by_all_are_shared_extra_keys(name: str, branch: str) -> None:
    q, k, extra = rows(B), rows(M, seed=1), rows(3, seed=2)
    losses = [
        info_nce(q, k, temperature=0.5, extra_keys=keys, score=name)
        for keys in (extra, extra.expand(B, 3, D))
    ]
    torch.testing.assert_close(*losses)


def test_a_score_may_be_a_function_with_parameters_or_a_matrix(branch: str) -> None:
    q, k, extra = rows(B), rows(M, 3, 1), rows(B * 2, 3, 2).reshape(B, 2, 3)
    q3, weight = rows(B, 3), rows(3, 3, 5).requires_grad_()

    def bilinear(a: Tensor, b: Tensor) -> Tensor:
        return a @ weight @ b.mT

    loss = info_nce(q3, k, temperature=0.5, symmetric=True, extra_keys=extra, score=bilinear)
    own = torch.einsum("bd,de,bce->bc", q3, weight, extra)
    from_scores = info_nce_from_scores(bilinear(q3, k), temperature=0.5, symmetric=True, extra_scores=own)
    torch.testing.assert_close(loss, from_scores)
    one, two = (torch.autograd.grad(value, weight)[0] for value in (loss, from_scores))
    torch.testing.assert_close(one, two)
    with pytest.raises(ArgumentError, match=r"the score must give . queries x 6 keys, got shape \(2, 2\)"):
        info_nce(q, rows(M, seed=1), temperature=1.0, score=lambda a, b: torch.zeros(2, 2))


def test_large_batches_approach_the_limit_of_alignment_and_uniformity() -> None:
    """Wang & Isola, ICML 2020, theorem 1: loss - log M -> -E s+/t + E log E exp(s-/t)."""
    generator = torch.Generator().manual_seed(0)
    anchor = torch.nn.functional.normalize(torch.randn(1, 3, generator=generator), dim=1)
    t, cos = 0.5, 0.9
    # On the sphere in three dimensions a cosine is uniform on [-1, 1].
    limit = -cos / t + math.log(t * math.sinh(1 / t))
    other = torch.linalg.cross(anchor, anchor.roll(1, 1))
    positive = cos * anchor + math.sqrt(1 - cos**2) * torch.nn.functional.normalize(other, dim=1)
    gaps = []
    for m in (100, 100_000):
        keys = torch.randn(m, 3, generator=generator)
        loss = info_nce(anchor, positive, Pairing.diagonal("ignored"), temperature=t, extra_keys=keys)
        negatives = number_of_negatives(Pairing.diagonal("ignored"), 1, 1, n_extra=m)
        assert negatives == m
        gaps.append(abs(float(loss) - math.log(negatives) - limit))
    assert gaps[1] < 0.01
    assert gaps[1] < gaps[0]


def test_rows_without_a_positive_are_named_or_left_out() -> None:
    z, labels = rows(4), torch.tensor([0, 0, 1, 2])
    with pytest.raises(ArgumentError, match=r"query row 3 has no near key \(2 such rows\)"):
        sup_con(z, labels, temperature=0.1)
    losses = info_nce(z, z, Pairing.same(labels), temperature=0.1, reduction="none", on_no_positive="skip")
    assert losses[2:].tolist() == [0, 0]
    assert float(sup_con(z, labels, temperature=0.1, on_no_positive="skip")) == pytest.approx(
        float(losses[:2].mean())
    )
    with pytest.raises(ArgumentError, match="key row 1 has no near query"):
        info_nce(z, z, Pairing.index(torch.tensor([1, 2, 3, 3])), temperature=0.1, symmetric=True)


def test_rows_that_are_all_ignored_give_zero_and_no_nan(branch: str) -> None:
    q, k = rows(B).requires_grad_(), rows(M, seed=1).requires_grad_()
    mask = torch.zeros(B, M, dtype=torch.bool)
    mask[2] = True
    for denominator in ("all", "own"):
        loss = info_nce(
            q,
            k,
            Pairing.diagonal().ignoring_mask(mask),
            temperature=0.1,
            denominator=denominator,
            on_no_positive="skip",
        )
        gradients = torch.autograd.grad(loss, (q, k))
        assert all(torch.isfinite(g).all() for g in gradients)
        assert (gradients[0][2] == 0).all()
    nothing = Pairing.diagonal().ignoring_mask(torch.ones(B, M, dtype=torch.bool))
    assert info_nce(q, k, nothing, temperature=0.1, on_no_positive="skip").item() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": torch.full((3, 4), torch.nan)}, "queries: row 1 holds NaN"),
        ({"keys": torch.zeros(3, 4)}, "keys: row 1 is all zeros"),
        ({"keys": torch.ones(3, 5)}, "rows of one width"),
        ({"keys": torch.ones(3, 4).double()}, "queries .*float32.* and keys .*float64"),
        ({"queries": torch.ones(3, 4).long()}, "floating-point"),
        ({"keys": torch.ones(2, 4)}, "one key for each query"),
        ({"queries": torch.ones(1, 4), "keys": torch.ones(1, 4)}, "without negatives"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": torch.tensor(-1.0)}, "temperature"),
        ({"temperature": torch.ones(3)}, "temperature"),
        (
            {"pairing": Pairing.same(torch.arange(4))},
            "labels must hold one entry for each query: 3 expected, 4 given",
        ),
        ({"pairing": Pairing.diagonal().ignoring(torch.arange(3), torch.arange(5))}, "key_ids"),
        ({"pairing": Pairing.index(torch.tensor([0, 1, 3]))}, "targets: row 3 names key"),
        ({"pairing": Pairing.twins()}, "twins"),
        ({"pairing": Pairing.weighted(torch.ones(2, 3))}, "W must be 3 queries x 3 keys, got 2 x 3"),
        ({"extra_keys": torch.ones(2, 4, 4)}, "extra_keys must be"),
        ({"extra_pairing": Pairing.none()}, "without extra_keys"),
        ({"many": "max"}, "many"),
        ({"denominator": "none"}, "denominator"),
        ({"reduction": "max"}, "reduction"),
        ({"score": "hamming"}, "score must be"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "queries": torch.eye(3, 4),
        "keys": torch.eye(3, 4) + 1,
        "temperature": 0.1,
    }
    with pytest.raises(ArgumentError, match=message):
        info_nce(**arguments | change)


def test_wrong_pairings_are_refused_when_made() -> None:
    for make in (
        lambda: Pairing.diagonal("near"),
        lambda: Pairing.weighted(-torch.eye(2)),
        lambda: Pairing.weighted(torch.eye(2), "columns"),
        lambda: Pairing.sampled(torch.arange(3)),
        lambda: Pairing.diagonal().ignoring_mask(torch.zeros(2, 2)),
        lambda: Pairing.diagonal().log_weighted(torch.tensor([torch.inf])),
        lambda: Pairing.diagonal().log_weighted_diagonal(math.nan),
        lambda: Pairing.diagonal().hardest(0),
    ):
        with pytest.raises(ArgumentError):
            make()


def test_half_precision_accumulates_in_float32_and_confident_losses_keep_their_digits() -> None:
    q, k = rows(64, 32).bfloat16(), rows(64, 32, 1).bfloat16()
    half = info_nce(q, k, temperature=0.05)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, info_nce(q.float(), k.float(), temperature=0.05))
    # At temperature 0.01 the logits are 100 and float32 holds them to 1e-5 only; the loss must be far better.
    scores = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    loss = float(info_nce_from_scores(scores, temperature=0.01))
    assert loss == pytest.approx(math.log1p(math.exp(-10)), rel=1e-3)


def test_log_weights_that_are_learned_receive_their_gradient(branch: str) -> None:
    def loss(pairs: Tensor, keys: Tensor) -> Tensor:
        pairing = Pairing.same(LABELS).log_weighted(pairs).log_weighted(keys)
        return info_nce(rows(B), rows(M, seed=1), pairing, temperature=0.4)

    assert torch.autograd.gradcheck(loss, (SHIFT.clone().requires_grad_(), SHIFT[0].clone().requires_grad_()))


def test_a_score_that_is_a_function_has_second_derivatives() -> None:
    q, k = rows(B).requires_grad_(), rows(M, seed=1).requires_grad_()
    loss = lambda q, k: info_nce(q, k, temperature=0.5, score=cosine)  # noqa: E731
    assert torch.autograd.gradgradcheck(loss, (q, k))
    torch.testing.assert_close(loss(q, k), info_nce(q, k, temperature=0.5))


def test_the_temperature_gradient_is_its_finite_difference() -> None:
    q, k, step = rows(5), rows(5, seed=1), 1e-5
    tau = torch.tensor(0.07, requires_grad=True)
    info_nce(q, k, temperature=tau).backward()
    above, below = (float(info_nce(q, k, temperature=0.07 + s)) for s in (step, -step))
    assert tau.grad is not None
    assert float(tau.grad) == pytest.approx((above - below) / (2 * step), rel=1e-4)
