"""Relations handed on: what has not changed costs nothing; the rest is a divergence over samples, classes, a queue."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nearfar.errors import ArgumentError
from nearfar.objectives import dist_kl, relation_distillation
from nearfar.ops import softmax_divergence

AXES = ("samples", "classes")


def waves(frequency: float, rows: int, d: int = 4) -> Tensor:
    return torch.sin(torch.arange(d * rows, dtype=torch.float64) * frequency + frequency).view(rows, d)


F, F_OLD, W, W_OLD = 3 * waves(1.3, 5), 3 * waves(0.7, 5), 2 * waves(0.9, 4), 2 * waves(2.1, 4)


def loss(
    axis: Any, f: Tensor = F, w: Tensor = W, f_old: Tensor = F_OLD, w_old: Tensor = W_OLD, **more: Any
) -> Tensor:
    return relation_distillation(f, w, f_old, w_old, axis=axis, **more)


def test_over_classes_it_is_that_of_the_released_code() -> None:
    """Had from the released formulas on these matrices, two tasks of two classes, t = 1.

    The release takes the cross-entropy, 5.828339601435, which is the divergence and the entropy of the old.
    """
    got = float(loss("classes", groups=[2, 2]))
    assert got == pytest.approx(4.592053941483, rel=1e-10)
    scores = F_OLD @ functional.normalize(W_OLD, dim=1).T
    entropy = sum(
        float(-(p * p.log()).sum(1).mean()) for p in (part.softmax(1) for part in scores.split(2, dim=1))
    )
    assert got + entropy == pytest.approx(5.828339601435, rel=1e-10)


def test_over_samples_it_is_one_divergence_a_prototype() -> None:
    expected = 0.0
    for c in range(4):
        old = (F_OLD @ W_OLD[c] / W_OLD[c].norm() / 2).softmax(0)
        new = (F @ W[c] / W[c].norm() / 2).softmax(0)
        expected += float((old * (old / new).log()).sum())
    assert float(loss("samples", temperature=2.0)) == pytest.approx(expected, rel=1e-9)
    assert float(loss("samples")) == pytest.approx(12.078020797201, rel=1e-10)
    assert float(loss("samples", groups=[1, 3])) == pytest.approx(float(loss("samples")))


@pytest.mark.parametrize("axis", AXES)
def test_nothing_is_lost_and_nothing_pulls_where_nothing_has_changed(axis: str) -> None:
    f, w = F.clone().requires_grad_(), W.clone().requires_grad_()
    value = loss(axis, f, w, F, W, groups=[2, 2])
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    for tensor in (f, w):
        torch.testing.assert_close(tensor.grad, torch.zeros_like(tensor), rtol=0, atol=1e-12)


@pytest.mark.parametrize("axis", AXES)
def test_the_whole_space_may_turn_but_not_the_features_alone(axis: str) -> None:
    turn = torch.linalg.qr(waves(0.37, 4))[0]
    assert float(loss(axis, F @ turn, W @ turn, F, W)) == pytest.approx(0, abs=1e-12)
    assert float(loss(axis, F @ turn, W, F, W)) > 0.01


@pytest.mark.parametrize("axis", AXES)
def test_lengths_of_features_count_and_those_of_prototypes_do_not(axis: str) -> None:
    plain = float(loss(axis))
    assert float(loss(axis, w=7 * W, w_old=0.1 * W_OLD)) == pytest.approx(plain)
    assert float(loss(axis, f=F / 3, f_old=F_OLD / 3)) == pytest.approx(float(loss(axis, temperature=3.0)))
    assert float(loss(axis, f=F / 3, f_old=F_OLD / 3)) < 0.5 * plain, "features are not scaled to one length"


@pytest.mark.parametrize("axis", AXES)
def test_gradients_reach_features_and_prototypes_and_nothing_old(axis: str) -> None:
    given = [tensor.clone().requires_grad_() for tensor in (F, W, F_OLD, W_OLD)]
    relation_distillation(*given, axis=axis, groups=[2, 2]).backward()
    f, w, f_old, w_old = (tensor.grad for tensor in given)
    assert f is not None
    assert w is not None
    assert (f.abs().sum(1) > 1e-4).all()
    assert (w.abs().sum(1) > 1e-4).all()
    torch.testing.assert_close((w * W).sum(1), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-10)
    assert f_old is None
    assert w_old is None
    assert torch.autograd.gradcheck(
        lambda a, b: loss(axis, a, b, groups=[1, 3]), (F.clone().requires_grad_(), W.clone().requires_grad_())
    )


def test_a_class_alone_in_its_group_says_nothing_over_classes_and_much_over_samples() -> None:
    assert float(loss("classes", groups=[1, 1, 1, 1])) == 0
    assert float(loss("samples", groups=[1, 1, 1, 1])) > 0.01
    assert float(loss("classes")) != pytest.approx(float(loss("classes", groups=[2, 2])), rel=1e-3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"groups": [2, 1]}, "sum to 4"),
        ({"axis": "rows"}, "axis"),
        ({"temperature": 0.0}, "above 0"),
        ({"w": torch.zeros(4, 4, dtype=torch.float64)}, "no direction"),
        ({"w": W[:3]}, "row-aligned"),
        ({"f": F[:4]}, "row-aligned"),
        ({"f": F[:, :3], "f_old": F_OLD[:, :3]}, "width"),
        ({"f": F * torch.nan}, "NaN"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        loss(**{"axis": "samples", **changed})


# -- against a queue -------------------------------------------------------------------------------

STUDENT, TEACHER, QUEUE = waves(1.3, 5), waves(0.7, 5), waves(2.1, 7)


def by_loops(student: Tensor, teacher: Tensor, queue: Tensor, tau_s: float, tau_t: float) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        q = (functional.cosine_similarity(s[None], queue) / tau_s).softmax(0)
        p = (functional.cosine_similarity(t[None], queue) / tau_t).softmax(0)
        total += float((p * (p / q).log()).sum())
    return total / len(student)


@pytest.mark.parametrize("taus", [(0.3, 0.3), (0.5, 0.2), (0.2, 0.5)])
def test_it_is_the_divergence_from_the_student_as_the_teacher_weighs_it(taus: tuple[float, float]) -> None:
    tau_s, tau_t = taus
    found = float(dist_kl(STUDENT, TEACHER, QUEUE, tau_s=tau_s, tau_t=tau_t))
    assert found == pytest.approx(by_loops(STUDENT, TEACHER, QUEUE, tau_s, tau_t), rel=1e-9)
    turned = by_loops(TEACHER, STUDENT, QUEUE, tau_t, tau_s)  # KL(q || p) instead of KL(p || q)
    assert abs(found - turned) > 1e-3
    assert abs(found - by_loops(STUDENT, TEACHER, QUEUE, tau_t, tau_s)) > 1e-3 or tau_s == tau_t


def test_a_student_that_is_its_teacher_has_nothing_to_learn_unless_it_must_be_surer() -> None:
    student = TEACHER.clone().requires_grad_()
    loss = dist_kl(student, TEACHER, QUEUE, tau_s=0.1, tau_t=0.1)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(student.grad, torch.zeros_like(TEACHER), rtol=0, atol=1e-10)
    assert float(dist_kl(TEACHER, TEACHER, QUEUE, tau_s=0.1, tau_t=0.05)) > 0.01


def test_only_the_student_learns_and_only_directions_count() -> None:
    given = [tensor.clone().requires_grad_() for tensor in (STUDENT, TEACHER, QUEUE)]
    dist_kl(*given, tau_s=0.3, tau_t=0.2).backward()
    student, teacher, queue = (tensor.grad for tensor in given)
    assert student is not None
    assert (student.abs().sum(1) > 1e-4).all()
    assert teacher is None
    assert queue is None
    one = dist_kl(STUDENT, TEACHER, QUEUE, tau_s=0.3, tau_t=0.2)
    torch.testing.assert_close(dist_kl(3 * STUDENT, 0.1 * TEACHER, 7 * QUEUE, tau_s=0.3, tau_t=0.2), one)
    order = torch.tensor([3, 1, 0, 6, 5, 2, 4])
    torch.testing.assert_close(dist_kl(STUDENT, TEACHER, QUEUE[order], tau_s=0.3, tau_t=0.2), one)
    assert torch.autograd.gradcheck(
        lambda s: dist_kl(s, TEACHER, QUEUE, tau_s=0.3, tau_t=0.2), (STUDENT.clone().requires_grad_(),)
    )


def test_a_few_rows_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = STUDENT.clone().requires_grad_(), STUDENT.clone().requires_grad_()
    expected = dist_kl(whole, TEACHER, QUEUE, tau_s=0.3, tau_t=0.2)
    expected.backward()
    monkeypatch.setattr(softmax_divergence, "TEXTBOOK_CELLS", 2 * len(QUEUE))
    found = dist_kl(pieces, TEACHER, QUEUE, tau_s=0.3, tau_t=0.2)
    found.backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(pieces.grad, whole.grad)


def test_a_sure_teacher_gives_no_nan_at_low_temperatures_in_half_precision() -> None:
    student = STUDENT.bfloat16().requires_grad_()
    loss = dist_kl(student, TEACHER.float(), QUEUE.float(), tau_s=0.01, tau_t=0.001)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("student", "teacher", "queue", "tau", "message"),
    [
        (STUDENT, TEACHER[:4], QUEUE, 0.1, "row-aligned"),
        (STUDENT, TEACHER, QUEUE[:, :3], 0.1, "width"),
        (STUDENT, TEACHER, QUEUE[:0], 0.1, "queue of 0"),
        (STUDENT * 0, TEACHER, QUEUE, 0.1, "student: row 1"),
        (STUDENT, TEACHER * torch.nan, QUEUE, 0.1, "teacher: row 1"),
        (STUDENT, TEACHER, QUEUE, 0.0, "above 0"),
    ],
)
def test_what_no_student_can_learn_from_is_refused(
    student: Tensor, teacher: Tensor, queue: Tensor, tau: float, message: str
) -> None:
    for taus in ({"tau_s": tau, "tau_t": 0.1}, {"tau_s": 0.1, "tau_t": tau}):
        with pytest.raises(ArgumentError, match=message):
            dist_kl(student, teacher, queue, **taus)


def test_there_are_no_second_derivatives_rather_than_wrong_ones() -> None:
    student = STUDENT.clone().requires_grad_()
    (first,) = torch.autograd.grad(dist_kl(student, TEACHER, QUEUE, tau_s=0.3, tau_t=0.2) * 2, student)
    (once,) = torch.autograd.grad(dist_kl(student, TEACHER, QUEUE, tau_s=0.3, tau_t=0.2), student)
    torch.testing.assert_close(first, 2 * once)
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(
            dist_kl(student, TEACHER, QUEUE, tau_s=0.3, tau_t=0.2), student, create_graph=True
        )
