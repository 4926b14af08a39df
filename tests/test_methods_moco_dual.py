"""Momentum contrast from both views, with the hardest of the queue."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import pytest
import torch
from test_methods_catalogue import cells, gradients, total
from torch import Tensor, nn

from nearfar.data.kinds import Image
from nearfar.data.table import Table
from nearfar.encoders import make_encoder
from nearfar.encoders.image import ConvNet
from nearfar.errors import ArgumentError
from nearfar.methods.retrieval.moco_dual import MoCoDual
from nearfar.recipes.moco_dual import MOCO, ROWS, SETTINGS
from nearfar.training.settings import Settings
from nearfar.training.trainer import train

PICTURES = cells("image", Image, 8)
PLAIN = {"lam": 1.0, "hardest": 0, "skip": 0, "guard": 1.0}


def method(dim: int = 6, queue: int = 20, **hyperparameters: Any) -> MoCoDual:
    torch.manual_seed(0)
    return MoCoDual(ConvNet(8, 8, 2), dim, queue, **hyperparameters).train()


def batch(made: MoCoDual, seed: int = 0, pictures: list[Any] = PICTURES) -> dict[str, Any]:
    return made.prepare({"image": pictures}, torch.Generator().manual_seed(seed))


def unit(rows: int, dim: int, seed: int) -> Tensor:
    drawn = torch.randn(rows, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return nn.functional.normalize(drawn, dim=1)


def with_queue(rows: Tensor, **hyperparameters: Any) -> MoCoDual:
    made = method(rows.shape[1], len(rows), **hyperparameters).double()
    made.queue.rows.copy_(rows)
    return made


def by_loops(anchors: Tensor, positives: Tensor, queue: Tensor, made: MoCoDual) -> float:
    """C(anchors, positives) of the docstring, one exponential at a time."""
    losses = []
    for a, p in zip(anchors, positives, strict=True):
        cosines = sorted((float(a @ n) for n in queue), reverse=True)[made.skip :]
        kept = [c for c in cosines[: made.hardest or None] if made.guard == 1 or c <= made.guard]
        above = math.exp(float(a @ p) / made.temperature)
        losses.append(-math.log(above / (above + sum(math.exp(c / made.temperature) for c in kept))))
    return sum(losses) / len(losses)


# -- the loss --------------------------------------------------------------------------------------


def test_plain_moco_is_that_of_the_released_code() -> None:
    """The number was had from the logits of facebookresearch/moco on these matrices, T = 0.07."""

    def waves(frequency: float, rows: int) -> Tensor:
        found = torch.sin(torch.arange(3 * rows, dtype=torch.float64) * frequency + frequency)
        return nn.functional.normalize(found.view(rows, 3), dim=1)

    made = with_queue(waves(0.9, 5), **PLAIN)
    terms = made.contrast({"query one": waves(1.3, 4), "key two": waves(0.7, 4)}, {})
    assert list(terms) == ["query"]
    assert float(total(terms)) == pytest.approx(11.224908030814438, rel=1e-9)


@pytest.mark.parametrize("hardest", [20, 21, 1024])
def test_the_r_hardest_of_k_are_moco_where_r_is_k(hardest: int) -> None:
    results = []
    for r in (0, hardest):
        made = with_queue(unit(20, 6, 1), **{**PLAIN, "hardest": r})
        q = unit(8, 6, 2).requires_grad_()
        loss = total(made.contrast({"query one": q, "key two": unit(8, 6, 3)}, {}))
        loss.backward()
        results.append((loss.detach(), q.grad))
    (loss, gradient), (other, other_gradient) = results
    torch.testing.assert_close(loss, other, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, other_gradient, rtol=1e-10, atol=1e-14)
    # The softmax is over the row's own key and the queue, so the gradient says what the logits are.
    q, k, queue = unit(8, 6, 2), unit(8, 6, 3), unit(20, 6, 1)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1) / 0.07
    pull = logits.softmax(1) - nn.functional.one_hot(torch.zeros(8, dtype=torch.long), 21)
    raw = (pull[:, :1] * k + pull[:, 1:] @ queue) / 0.07 / 8
    expected = raw - (raw * q).sum(1, keepdim=True) * q  # through the normalisation
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"hardest": 0},
        {"hardest": 4},
        {"hardest": 4, "skip": 2},
        {"hardest": 0, "skip": 3},
        {"hardest": 5, "guard": 0.4},
        {"hardest": 0, "guard": 0.1},
        {"hardest": 3, "skip": 1, "guard": 0.3, "temperature": 0.5},
    ],
)
def test_both_forms_are_the_formula(settings: dict[str, Any]) -> None:
    queue = unit(20, 3, 1)
    q1, q2, k1, k2 = (unit(8, 3, seed) for seed in range(2, 6))
    made = with_queue(queue, lam=0.3, **settings)
    terms = made.contrast({"query one": q1, "key two": k2}, {})
    assert set(terms) == {"query", "key"}
    assert float(terms["query"]) == pytest.approx(0.3 * by_loops(q1, k2, queue, made), rel=1e-9)
    assert float(terms["key"]) == pytest.approx(0.7 * by_loops(k2, q1, queue, made), rel=1e-9)
    made = with_queue(queue, form="symmetric", **settings)
    z = {"query one": q1, "query two": q2, "key one": k1, "key two": k2}
    expected = (by_loops(q1, k2, queue, made) + by_loops(q2, k1, queue, made)) / 2
    assert float(total(made.contrast(z, {}))) == pytest.approx(expected, rel=1e-9)


def test_the_hardest_are_chosen_for_each_anchor() -> None:
    """Each anchor has its own hard key; the best of the batch's mean would be the third."""
    queue = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.6, 0.6, 0.52915]], dtype=torch.float64)
    anchors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    positives = torch.tensor([[0.0, 0.0, 1.0]] * 2, dtype=torch.float64)
    made = with_queue(queue, lam=1.0, hardest=1, temperature=1.0)
    loss = float(total(made.contrast({"query one": anchors, "key two": positives}, {})))
    assert loss == pytest.approx(math.log(1 + math.e))


def test_dropped_keys_have_no_gradient_and_the_hardest_have_more() -> None:
    queue, q = unit(20, 6, 1), unit(1, 6, 2).requires_grad_()
    made = with_queue(queue, lam=1.0, hardest=1, guard=1.0)
    total(made.contrast({"query one": q, "key two": unit(1, 6, 3)}, {})).backward()
    nearest, k = queue[(q @ queue.T).argmax()], unit(1, 6, 3)[0]
    # Only one direction is left: that of the nearest key away from the own key.
    plane = torch.linalg.qr(torch.stack([nearest, k, q.detach()[0]]).T).Q
    torch.testing.assert_close(q.grad[0], plane @ (plane.T @ q.grad[0]))


def test_keys_as_anchors_still_train_the_student_through_the_positive() -> None:
    made = method(lam=0.0)
    z = made.embed(batch(made))
    terms = made.contrast(z, {})
    assert terms["query"].item() == 0
    terms["key"].backward()
    assert all(float(g.abs().max()) > 0 for name, g in gradients(made).items() if name.startswith("head"))
    # With k held, the negatives are a constant in the denominator: dC/dq = -(1 - p) k / t, along the sphere.
    queue, q, k = unit(20, 6, 1), unit(4, 6, 2).requires_grad_(), unit(4, 6, 3)
    plain = with_queue(queue, lam=0.0, hardest=0, temperature=0.5)
    plain.contrast({"query one": q, "key two": k}, {})["key"].backward()
    p = torch.cat([(q * k).sum(1, keepdim=True), k @ queue.T], dim=1).div(0.5).softmax(1)[:, :1].detach()
    raw = -(1 - p) * k / 0.5 / 4
    torch.testing.assert_close(q.grad, raw - (raw * q.detach()).sum(1, keepdim=True) * q.detach())


def test_how_many_negatives_are_counted() -> None:
    assert method(hardest=0).negatives(8) == 20
    assert method(hardest=5).negatives(8) == 5
    assert method(hardest=1024).negatives(8) == 20
    assert method(hardest=18, skip=4).negatives(8) == 16
    assert method(hardest=0, skip=4).negatives(8) == 16


def test_defaults_are_those_of_moco() -> None:
    defaults = {k: p.default for k, p in inspect.signature(MoCoDual.__init__).parameters.items()}
    paper = {"dim": 128, "queue": 65536, "momentum": 0.999, "temperature": 0.07, "form": "detached"}
    assert {name: defaults[name] for name in paper} == paper
    assert (defaults["skip"], defaults["guard"]) == (0, 1.0), "the guard is optional"
    assert 0 < defaults["hardest"] < defaults["queue"] / 10, "r is far below K"


# -- views, teacher and queue ----------------------------------------------------------------------


def test_the_two_views_of_a_picture_differ() -> None:
    made = method()
    prepared = batch(made)
    one, two = (prepared[view]["pixels"] for view in ("one", "two"))
    assert bool(((one - two).abs().flatten(1).amax(1) > 1e-3).all())
    assert not torch.equal(batch(made, seed=1)["one"]["pixels"], one)
    still = method(crop=1.0, flip=False, jitter=0.0, grey=0.0)
    assert torch.equal(batch(still)["one"]["pixels"], still.encoder.prepare(PICTURES)["pixels"])


@pytest.mark.parametrize("form", ["detached", "symmetric"])
def test_queries_are_of_the_student_and_keys_of_the_teacher(form: Any) -> None:
    made, prepared = method(form=form), batch(method())
    with torch.no_grad():
        for parameter in made.teacher.parameters():
            parameter.mul_(0.5)
    z = made.embed(prepared)
    wanted = {"query one", "key two"} | ({"query two", "key one"} if form == "symmetric" else set())
    assert set(z) == wanted
    encoder, head = made.teacher.model.children()
    for name, value in z.items():
        who, view = name.split()
        f, h = (made.encoder, made.head) if who == "query" else (encoder, head)
        torch.testing.assert_close(value, nn.functional.normalize(h(f(prepared[view]).pooled), dim=1))
        assert value.requires_grad == (who == "query")
    total(made.contrast(z, {})).backward()
    assert all(p.grad is None for p in made.teacher.parameters())
    assert made.queue.rows.grad is None
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in made.head.parameters())


@pytest.mark.parametrize("form", ["detached", "symmetric"])
def test_keys_enter_after_the_loss_and_the_teacher_moves_before_the_next_keys(form: Any) -> None:
    made = method(queue=20, momentum=0.75, form=form, hardest=0)
    optimiser = torch.optim.SGD([*made.encoder.parameters(), *made.head.parameters()], lr=0.5)
    per_step, position = (16 if form == "symmetric" else 8), 0
    assert all(
        torch.equal(own, new)
        for own, new in zip(
            made.teacher.parameters(), [*made.encoder.parameters(), *made.head.parameters()], strict=True
        )
    )
    for step in range(4):
        prepared, before = batch(made, seed=step), made.queue.rows.clone()
        teacher = copy.deepcopy(made.teacher.model)
        z = made.embed(prepared)
        terms = made.contrast(z, {})
        assert torch.equal(made.queue.rows, before), "a key pushed before the loss would be its own negative"
        expected = by_loops(z["query one"].detach().double(), z["key two"].double(), before.double(), made)
        assert next(iter(terms.values())).item() == pytest.approx(0.5 * expected, rel=1e-4)
        optimiser.zero_grad()
        total(terms).backward()  # the queue may change only after it
        optimiser.step()
        made.after_step({name: value.detach() for name, value in z.items()}, step + 1, 4)
        places = (position + torch.arange(per_step)) % 20
        pushed = torch.cat([value for name, value in z.items() if name.startswith("key")])
        assert torch.equal(made.queue.rows[places], pushed)
        position = (position + per_step) % 20
        assert int(made.queue.position) == position
        student = [*made.encoder.parameters(), *made.head.parameters()]
        for own, old, new in zip(made.teacher.parameters(), teacher.parameters(), student, strict=True):
            torch.testing.assert_close(own, 0.75 * old + 0.25 * new)
        assert not torch.equal(student[-1], next(reversed(list(made.teacher.parameters()))))


def test_a_backward_pass_survives_keys_that_are_pushed_before_it() -> None:
    made = method()
    z = made.embed(batch(made))
    loss = total(made.contrast(z, {}))
    made.after_step({name: value.detach() for name, value in z.items()}, 1, 2)
    loss.backward()


def test_nothing_leaks_between_the_rows_of_a_batch() -> None:
    """With batch statistics a key would tell its query which batch it came from; the small network has none."""
    torch.manual_seed(0)
    made = MoCoDual(make_encoder("tiny", Image, PICTURES), 6, 20).train()
    prepared = batch(made)
    other = {name: {"pixels": inputs["pixels"].clone()} for name, inputs in prepared.items()}
    for inputs in other.values():
        inputs["pixels"][1:] = 1 - inputs["pixels"][1:]
    z, changed = made.embed(prepared), made.embed(other)
    for name, value in z.items():
        torch.testing.assert_close(changed[name][:1], value[:1], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(changed[name][1:], value[1:], atol=1e-3)
    assert not [m for m in made.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_the_training_loop_fills_the_queue_and_moves_the_teacher() -> None:
    table = Table.from_columns({"image": cells("image", Image, 12)})
    made = method(queue=20, momentum=0.9)
    start, student = made.queue.rows.clone(), copy.deepcopy(made.encoder)
    train(made, table, Settings(steps=3, batch_size=4, learning_rate=1e-2, warmup=0.0, on_collapse="warn"))
    assert int(made.queue.position) == 12
    assert torch.equal(made.queue.rows[12:], start[12:])
    assert not bool((made.queue.rows[:12] == start[:12]).all(1).any())
    old, own, new = (next(m.parameters()).detach() for m in (student, made.teacher, made.encoder))
    assert 0 < float((own - old).norm()) < float((new - old).norm())


def test_the_teacher_of_the_recipe_moves_within_its_steps() -> None:
    """At 0.999, a thousand steps leave more than a third of the untrained teacher."""
    steps = ROWS // SETTINGS["batch_size"] * SETTINGS["epochs"]
    assert MOCO["momentum"] ** steps < 0.02 < 0.3 < 0.999**1000
    assert MOCO["queue"] % SETTINGS["batch_size"] == 0


def test_the_head_and_the_teacher_are_for_training_only() -> None:
    made = method()
    space = made.space()
    assert space.heads == {}
    assert space.encoders == {"image": made.encoder}
    assert space.encode(PICTURES).shape == (8, made.encoder.dim)


@pytest.mark.parametrize(
    ("name", "value"),
    [("skip", 20), ("hardest", -1), ("lam", -0.1), ("momentum", 1.5), ("guard", 2.0), ("queue", 0)],
)
def test_values_out_of_range_are_refused_before_anything_is_made(name: str, value: float) -> None:
    word = "decay" if name == "momentum" else name
    with pytest.raises(ArgumentError, match=f"{word} must be between"):
        method(**{"queue": 20, "hardest": 0, name: value})
