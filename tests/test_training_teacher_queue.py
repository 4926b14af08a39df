"""The memory of past keys and the teacher that follows slowly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from nearfar.batching.queue import Queue
from nearfar.training.optimiser import make_optimiser
from nearfar.training.settings import Settings
from nearfar.training.teacher import EMATeacher, FrozenTeacher


def numbered(start: int, n: int, dim: int = 2) -> Tensor:
    """Rows filled with start, start + 1, ..."""
    return torch.arange(start, start + n, dtype=torch.float32)[:, None].expand(n, dim)


def contents(queue: Queue) -> list[int]:
    return [int(value) for value in queue.rows[:, 0]]


# -- queue -----------------------------------------------------------------------------------------


def test_a_new_queue_is_full_of_different_unit_rows() -> None:
    queue = Queue(50, 8)
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(50))
    assert float(queue.rows.mean(0).norm()) < 0.5, "spread, not one direction"
    assert int(queue.position) == 0
    assert list(queue.parameters()) == []


def test_the_oldest_rows_are_replaced_and_the_end_wraps_around() -> None:
    queue = Queue(5, 2)
    queue.push(numbered(10, 3))
    assert contents(queue)[:3] == [10, 11, 12]
    assert int(queue.position) == 3
    queue.push(numbered(13, 3))
    assert contents(queue) == [15, 11, 12, 13, 14]
    assert int(queue.position) == 1
    queue.push(numbered(16, 4))
    assert contents(queue) == [15, 16, 17, 18, 19]
    assert int(queue.position) == 0


@pytest.mark.parametrize("size", [1, 3, 4, 7])
@pytest.mark.parametrize("batch", [1, 2, 4, 9])
def test_it_holds_the_last_k_whatever_the_batches(size: int, batch: int) -> None:
    queue = Queue(size, 2, extra={"label": -1})
    pushed: list[int] = []
    for start in range(100, 100 + 5 * batch, batch):
        queue.push(numbered(start, batch), label=torch.arange(start, start + batch))
        pushed += range(start, start + batch)
        kept = set(pushed[-size:])
        assert kept <= set(contents(queue))
        filled = min(size, len(pushed))
        labels = queue.extra("label").tolist()
        assert sorted(label for label in labels if label != -1) == sorted(kept)
        assert labels.count(-1) == size - filled
        assert all(label in (-1, row) for label, row in zip(labels, contents(queue), strict=True))


def test_nothing_in_the_queue_carries_gradient() -> None:
    queue = Queue(4, 2)
    source = torch.ones(2, 2, requires_grad=True)
    queue.push(source * 3)
    assert not queue.rows.requires_grad
    keys = queue.rows.clone()
    (keys.sum() * torch.ones((), requires_grad=True)).backward()
    assert source.grad is None


def test_rows_are_copied_and_kept_in_the_precision_of_the_queue() -> None:
    queue = Queue(4, 2)
    source = torch.ones(2, 2, dtype=torch.float16)
    queue.push(source)
    source.zero_()
    assert contents(queue)[:2] == [1, 1]
    assert queue.rows.dtype == torch.float32


def test_it_is_saved_and_goes_on_where_it_was() -> None:
    queue, again = Queue(5, 2, extra={"label": -1}), Queue(5, 2, extra={"label": -1})
    queue.push(numbered(0, 3), label=torch.arange(3))
    again.load_state_dict(queue.state_dict())
    for one in (queue, again):
        one.push(numbered(3, 4), label=torch.arange(3, 7))
    assert torch.equal(queue.rows, again.rows)
    assert torch.equal(queue.extra("label"), again.extra("label"))
    assert int(queue.position) == int(again.position) == 2


# -- teacher ---------------------------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_a_frozen_teacher_neither_learns_nor_leaves_evaluation_mode() -> None:
    student = network()
    owner = nn.ModuleDict({"student": student, "teacher": FrozenTeacher(student)}).train()
    teacher = owner["teacher"]
    x = torch.randn(6, 3)
    before = teacher(x)
    assert student.training
    assert not any(part.training for part in teacher.modules())
    student(x * 9)  # moves the statistics of the student alone
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 1
    assert torch.equal(teacher(x), before)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher(x.requires_grad_()).requires_grad
    owner.eval().train()
    assert not any(part.training for part in teacher.modules())
    again = FrozenTeacher(network())
    again.load_state_dict(teacher.state_dict())
    assert torch.equal(again(x), before)


def shifted(module: nn.Module, by: float = 1.0) -> nn.Module:
    moved = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += by
    return moved


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999, 1.0])
def test_one_update_is_the_formula(decay: float) -> None:
    start = network()
    teacher, student = EMATeacher(start, decay), shifted(start)
    teacher.update(student)
    for own, old, new in zip(
        teacher.model.parameters(), start.parameters(), student.parameters(), strict=True
    ):
        torch.testing.assert_close(own, decay * old + (1 - decay) * new, rtol=1e-6, atol=1e-7)
        assert torch.equal(new, old + 1), "the student stays as it is"


def test_many_updates_forget_geometrically() -> None:
    """After n steps towards a student that stays, decay^n of the start is left: at 0.999 and 100, nine tenths."""
    start = network()
    for decay, left in ((0.9, 0.9**50), (0.999, 0.999**50)):
        teacher, student = EMATeacher(start, decay), shifted(start)
        for _ in range(50):
            teacher.update(student)
        own, new = next(teacher.model.parameters()), next(student.parameters())
        torch.testing.assert_close(new - own, torch.full_like(own, left), rtol=1e-3, atol=1e-5)


def test_statistics_are_copied_as_they_are() -> None:
    student = network()
    teacher = EMATeacher(student, 0.999)
    student(torch.randn(16, 3) * 5 + 7)
    assert not torch.equal(teacher.model[1].running_mean, student[1].running_mean)
    teacher.update(student)
    assert torch.equal(teacher.model[1].running_mean, student[1].running_mean)
    assert int(teacher.model[1].num_batches_tracked) == 1


def test_a_teacher_is_a_copy_apart_that_does_not_learn_by_gradient() -> None:
    student = network()
    holder = nn.ModuleDict({"student": student, "teacher": EMATeacher(student, 0.5)})
    shared = {p.data_ptr() for p in student.parameters()} & {
        p.data_ptr() for p in holder["teacher"].parameters()
    }
    assert not shared
    assert all(p.requires_grad for p in student.parameters())
    holder["teacher"].update(student)
    assert not any(p.requires_grad for p in holder["teacher"].parameters())
    optimiser = make_optimiser(holder, Settings(steps=1))
    optimised = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in student.parameters()}


def test_a_teacher_is_saved_with_what_holds_it() -> None:
    start = network()
    teacher, again = EMATeacher(start, 0.5), EMATeacher(shifted(start, 9.0), 0.5)
    teacher.update(shifted(start))
    again.load_state_dict(teacher.state_dict())
    x = torch.randn(4, 3)
    assert torch.equal(teacher.model.eval()(x), again.model.eval()(x))
