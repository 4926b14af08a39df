"""Alignment and uniformity as a loss, from a batch and from a queue."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from test_methods_catalogue import cells, total
from torch import Tensor, nn

from nearfar.data.kinds import Image
from nearfar.data.table import Table
from nearfar.encoders.image import ConvNet
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError
from nearfar.methods.theory.align_uniform import AlignUniform
from nearfar.objectives import uniform_optimum
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.fitting import fit_rows

PICTURES = cells("image", Image, 8)
TEXTS = ["rain", "snow fell on the old town", "fog in the valley", "hail and wind and a cold night"]


def method(dim: int = 6, **hyperparameters: Any) -> AlignUniform:
    torch.manual_seed(0)
    return AlignUniform(ConvNet(8, 8, 2), dim, **hyperparameters)


def batch(made: AlignUniform, seed: int = 0, **columns: list[Any]) -> dict[str, Any]:
    return made.prepare(columns or {"image": PICTURES}, torch.Generator().manual_seed(seed))


def waves(frequency: float, rows: int = 4) -> Tensor:
    """A fixed float64 matrix [rows, 3] of unit rows."""
    found = torch.sin(torch.arange(3 * rows, dtype=torch.float64) * frequency + frequency)
    return nn.functional.normalize(found.view(rows, 3), dim=1)


def with_queue(rows: Tensor, **hyperparameters: Any) -> AlignUniform:
    made = method(rows.shape[1], queue=len(rows), **hyperparameters).double()
    made.queue.rows.copy_(rows)
    return made


# -- the loss --------------------------------------------------------------------------------------

ALIGN = {1.0: 1.2524317739889872, 2.0: 1.8210452302922366, 3.0: 2.9128908873664803}
UNIFORM = {2.0: (-3.0754797202087487, -1.774824642936351), 3.0: (-4.027332392948852, -1.790579341112101)}
UNIFORM_TO_QUEUE = {2.0: -1.8295880558295115, 3.0: -2.1147602416872164}
CONTRAST_TO_QUEUE = 11.224908030814438


@pytest.mark.parametrize("power", ALIGN)
@pytest.mark.parametrize("t", UNIFORM)
def test_both_terms_are_those_of_the_released_code(power: float, t: float) -> None:
    """The numbers were had from align_uniform of SsnL/align_uniform on these matrices."""
    made = method(align_power=power, uniform_t=t, align_weight=0.5, uniform_weight=3.0)
    terms = made.contrast({"one": waves(1.3), "two": waves(0.7)}, {})
    assert set(terms) == {"align", "uniform"}
    assert float(terms["align"]) == pytest.approx(0.5 * ALIGN[power], rel=1e-9)
    assert float(terms["uniform"]) == pytest.approx(3.0 * sum(UNIFORM[t]) / 2, rel=1e-9)


@pytest.mark.parametrize("t", UNIFORM_TO_QUEUE)
def test_the_form_for_moco_is_that_of_the_released_code(t: float) -> None:
    """The numbers are those of `forward` in moco/builder.py of SsnL/moco_align_uniform, temperature 0.07."""
    made = with_queue(waves(0.9, rows=5), uniform_t=t, contrast_weight=2.0)
    terms = made.contrast({"one": waves(1.3), "two": waves(0.7)}, {})
    assert float(terms["align"]) == pytest.approx(ALIGN[2.0], rel=1e-9)
    assert float(terms["uniform"]) == pytest.approx(UNIFORM_TO_QUEUE[t], rel=1e-9)
    assert float(terms["info_nce"]) == pytest.approx(2 * CONTRAST_TO_QUEUE, rel=1e-9), (
        "against its own key and the queue only, never the keys of other rows"
    )


def test_only_distinct_pairs_of_unit_rows_count() -> None:
    made = method(align_weight=0.0)
    one, two = waves(1.3, rows=2), waves(0.7, rows=2)
    expected = -2 * ((one[0] - one[1]).square().sum() + (two[0] - two[1]).square().sum()) / 2
    torch.testing.assert_close(total(made.contrast({"one": one, "two": two}, {})), expected)
    scales = torch.tensor([[5.0], [0.1]], dtype=torch.float64)
    for queued in (made, with_queue(waves(0.9, rows=5) * 7)):
        plain = queued.contrast({"one": one, "two": two}, {})
        longer = queued.contrast({"one": one * scales, "two": two * 3}, {})
        for name, term in plain.items():
            torch.testing.assert_close(longer[name], term)


def test_every_row_counts_not_the_means_of_classes() -> None:
    """Two tight classes at opposite poles: their means could not be further apart, half of the pairs agree."""
    pole = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    z = torch.stack([pole, pole, -pole, -pole])
    made = method(align_weight=0.0)
    expected = math.log((2 * 1 + 4 * math.exp(-8)) / 6)
    assert float(total(made.contrast({"one": z, "two": z}, {}))) == pytest.approx(expected)


def test_an_even_spread_reaches_the_optimum_and_a_collapse_is_worst() -> None:
    made, collapsed = method(align_weight=0.0), torch.ones(9, 128)
    torch.manual_seed(0)
    z = torch.randn(2000, 128)
    found = float(total(made.contrast({"one": z, "two": z.roll(1, 0)}, {})))
    assert found == pytest.approx(uniform_optimum(128, 2.0), abs=0.02)
    assert float(total(made.contrast({"one": collapsed, "two": collapsed}, {}))) == pytest.approx(0, abs=1e-5)


def test_both_views_get_gradient_from_both_terms() -> None:
    made = method()
    for name in ("align", "uniform"):
        one, two = waves(1.3).requires_grad_(), waves(0.7).requires_grad_()
        made.contrast({"one": one, "two": two}, {})[name].backward()
        assert one.grad.abs().sum() > 0.1
        assert two.grad.abs().sum() > 0.1


def test_a_term_without_weight_is_left_out() -> None:
    z = {"one": waves(1.3), "two": waves(0.7)}
    assert set(method(uniform_weight=0.0).contrast(z, {})) == {"align"}
    assert set(method(align_weight=0.0).contrast(z, {})) == {"uniform"}
    only = method(align_weight=0.0, uniform_weight=0.0, contrast_weight=0.5, temperature=0.2)
    logits = z["one"] @ z["two"].T / 0.2
    expected = 0.5 * nn.functional.cross_entropy(logits, torch.arange(4))
    torch.testing.assert_close(total(only.contrast(z, {})), expected)
    assert (only.negatives(8), method().negatives(8)) == (7, 0)
    queued = method(align_weight=0.0, uniform_weight=0.0, contrast_weight=1.0, queue=20)
    assert queued.negatives(8) == 20


def test_defaults_are_those_of_the_paper() -> None:
    defaults = {k: p.default for k, p in inspect.signature(AlignUniform.__init__).parameters.items()}
    paper = {"dim": 128, "align_weight": 1.0, "uniform_weight": 1.0, "align_power": 2.0, "uniform_t": 2.0}
    paper |= {"contrast_weight": 0.0, "momentum": 0.999, "queue": 0, "temperature": 0.07}
    paper |= {"crop": 0.08, "flip": True, "jitter": 0.4, "grey": 0.2}
    assert {name: defaults[name] for name in paper} == paper
    assert method().views == {"crop": (0.08, 1.0), "flip": True, "jitter": 0.4, "grey": 0.2}


# -- views -----------------------------------------------------------------------------------------


def test_positives_of_pictures_are_two_different_views() -> None:
    made = method()
    prepared = batch(made)
    assert set(prepared) == {"image", "positive"}
    plain = made.encoder.prepare(PICTURES)["pixels"]
    one, two = prepared["image"]["pixels"], prepared["positive"]["pixels"]
    for view, other in ((one, two), (one, plain), (two, plain)):
        assert bool(((view - other).abs().flatten(1).amax(1) > 1e-3).all())
    assert not torch.equal(batch(made, seed=1)["image"]["pixels"], one), "other views at every step"
    assert float(made.contrast(made.embed(prepared), {})["align"].detach()) > 1e-3


def test_a_given_positive_is_taken_instead() -> None:
    made = method(crop=1.0, flip=False, jitter=0.0, grey=0.0)
    others = cells("positive", Image, 8)
    prepared = batch(made, image=PICTURES, positive=others)
    for role, column in (("image", PICTURES), ("positive", others)):
        assert torch.equal(prepared[role]["pixels"], made.encoder.prepare(column)["pixels"])
    z = made.eval().embed(prepared)
    for name, role in (("one", "image"), ("two", "positive")):
        expected = nn.functional.normalize(made.head(made.encoder(prepared[role]).pooled), dim=1)
        torch.testing.assert_close(z[name], expected)


def test_texts_are_twins_under_dropout_and_pairs_where_there_are_pairs() -> None:
    torch.manual_seed(0)
    encoder = TransformerText.tiny(TEXTS, layers=1, dim=32, heads=2, ffn=48, max_length=16)
    made = AlignUniform(encoder, 8).train()
    z = made.embed(batch(made, text=TEXTS))
    assert bool(((z["one"] - z["two"]).abs().amax(1) > 1e-3).all())
    assert float((z["one"] * z["two"]).sum(1).detach().min()) > 0.5, "row i of both is one text"
    paired = made.eval().embed(batch(made, text=TEXTS, positive=TEXTS[::-1]))
    torch.testing.assert_close(paired["two"], paired["one"].flip(0), rtol=1e-4, atol=1e-5)
    assert made.space().modalities == ["text"]


# -- the queue -------------------------------------------------------------------------------------


def test_only_the_query_gets_gradient_with_a_queue() -> None:
    made = method(queue=12, contrast_weight=1.0).train()
    z = made.embed(batch(made))
    assert not z["two"].requires_grad
    total(made.contrast(z, {})).backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in made.head.parameters())
    assert all(p.grad is None for p in made.teacher.parameters())
    assert made.queue.rows.grad is None
    assert not made.queue.rows.requires_grad
    torch.testing.assert_close(z["one"].norm(dim=1), torch.ones(8))
    torch.testing.assert_close(z["two"].norm(dim=1), torch.ones(8))


def test_keys_come_from_the_teacher_and_enter_the_queue_after_the_loss() -> None:
    made = method(queue=12, momentum=0.75, contrast_weight=1.0).train()
    optimiser = torch.optim.SGD([*made.encoder.parameters(), *made.head.parameters()], lr=0.5)
    for step in range(3):
        prepared, before = batch(made, seed=step), made.queue.rows.clone()
        teacher = copy.deepcopy(made.teacher.model)
        z = made.embed(prepared)
        encoder, head = teacher.children()
        keys = nn.functional.normalize(head(encoder(prepared["positive"]).pooled), dim=1)
        torch.testing.assert_close(z["two"], keys)
        terms = made.contrast(z, {})
        assert torch.equal(made.queue.rows, before), "a key pushed before the loss would be its own negative"
        optimiser.zero_grad()
        total(terms).backward()
        optimiser.step()
        made.after_step({name: value.detach() for name, value in z.items()}, step + 1, 3)
        places = (8 * step + torch.arange(8)) % 12
        assert torch.equal(made.queue.rows[places], z["two"])
        student = [*made.encoder.parameters(), *made.head.parameters()]
        for own, old, new in zip(made.teacher.parameters(), teacher.parameters(), student, strict=True):
            torch.testing.assert_close(own, 0.75 * old + 0.25 * new)


def test_without_a_queue_there_is_no_teacher() -> None:
    made = method()
    assert made.teacher is None
    assert made.queue is None
    made.after_step({"one": waves(1.3), "two": waves(0.7)}, 1, 2)
    assert len(made.encoders()) == 1


def test_training_pulls_and_spreads() -> None:
    table = Table.from_columns({"image": cells("image", Image, 16)})
    measured = []
    for steps in (1, 25):
        made = method(12, jitter=0.0, grey=0.0)
        train(made, table, Settings(steps=steps, batch_size=16, learning_rate=3e-3, warmup=0.0))
        z = made.embed(batch(made, image=table.column("image")))
        measured.append(float(total(made.contrast(z, {})).detach()))
    assert measured[1] < measured[0] - 0.1


def test_measures_are_taken_on_rows_that_training_did_not_see() -> None:
    training, held_out = (
        Table.from_columns({"image": cells(role, Image, n), "label": ["a", "b"] * (n // 2)})
        for role, n in (("image", 20), ("held out", 12))
    )
    fitting = fit_rows("align-uniform", training, held_out, encoder="tiny", steps=1, batch_size=4)
    for found in (fitting.before, fitting.after):
        assert found["uniformity"].n == 12
    seen = fitting.embedded[1][0]["image"]
    np.testing.assert_array_equal(seen, fitting.method.space().encode(held_out.column("image")))


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_weights_that_teach_nothing_are_refused(weight: float) -> None:
    with pytest.raises(ArgumentError, match="one of them above 0"):
        method(align_weight=0.0, uniform_weight=weight)
