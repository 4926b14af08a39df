"""MERU: hyperbolic from the towers to the loss, the saved space, its index and its measures."""

from __future__ import annotations

import copy
import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_methods_catalogue import cells, total
from torch import Tensor, nn

from nearfar.data.kinds import Image, Text
from nearfar.data.table import Table
from nearfar.encoders.image import ConvNet
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError
from nearfar.geometry import exterior_angle, half_aperture, lorentz_exp0, lorentz_log0
from nearfar.heads.scalars import PositiveScalar
from nearfar.measures.hyperbolic import radii
from nearfar.methods.multimodal.meru import MERU
from nearfar.space import Space
from nearfar.training.optimiser import make_optimiser
from nearfar.training.settings import Settings
from nearfar.verbs.measure import measure
from nearfar.verbs.search import search_table

PICTURES = cells("image", Image, 5)
TEXTS = ["rain", "snow fell on the old town", "fog in the valley", "a storm", "hail and wind"]


@pytest.fixture(scope="module")
def towers() -> dict[str, Any]:
    torch.manual_seed(0)
    text = TransformerText.tiny(TEXTS, layers=1, dim=32, heads=2, ffn=48, max_length=16)
    return {"image": ConvNet(8, 8, 2), "text": text}


@pytest.fixture
def method(towers: dict[str, Any]) -> MERU:
    return MERU(**copy.deepcopy(towers), dim=6).eval()


@pytest.fixture
def bent(method: MERU) -> MERU:
    """As after some training: another curvature, and a factor of its own for each tower."""
    method.curvature.log.data.fill_(math.log(2.5))
    method.alpha["image"].log.data.fill_(math.log(0.9))
    method.alpha["text"].log.data.fill_(math.log(0.5))
    return method


def prepared(method: MERU) -> dict[str, Any]:
    return method.prepare({"image": PICTURES, "text": TEXTS}, torch.Generator())


def by_hand(x: Tensor, y: Tensor, c: float, t: float) -> tuple[float, float]:
    """The two terms of pictures x and texts y, pair by pair, from the formulas with time components written out."""
    n = len(x)
    lift = lambda p: [*p.tolist(), math.sqrt(1 / c + sum(v * v for v in p.tolist()))]  # noqa: E731
    images, texts = [lift(row) for row in x], [lift(row) for row in y]
    product = lambda a, b: sum(p * q for p, q in zip(a[:-1], b[:-1], strict=True)) - a[-1] * b[-1]  # noqa: E731
    logits = [[-math.acosh(-c * product(a, b)) / math.sqrt(c) / t for b in texts] for a in images]
    there = sum(math.log(sum(math.exp(v) for v in row)) - row[i] for i, row in enumerate(logits)) / n
    columns = list(zip(*logits, strict=True))
    back = sum(math.log(sum(math.exp(v) for v in col)) - col[i] for i, col in enumerate(columns)) / n
    outside = 0.0
    for image, text in zip(images, texts, strict=True):
        length, inner = math.hypot(*text[:-1]), c * product(text, image)
        phi = math.acos((image[-1] + text[-1] * inner) / (length * math.sqrt(inner**2 - 1)))
        outside += max(0.0, phi - math.asin(min(1.0, 2 * 0.1 / (math.sqrt(c) * length)))) / n
    return (there + back) / 2, outside


@pytest.mark.parametrize("c", [0.2, 1.0, 4.0])
def test_the_loss_is_that_of_the_formulas(method: MERU, c: float) -> None:
    method.curvature.log.data.fill_(math.log(c))
    torch.manual_seed(1)
    x, y = (lorentz_exp0(torch.randn(5, 6, dtype=torch.float64), c) for _ in range(2))
    terms = method.contrast({"image": x, "text": y}, {})
    contrast, outside = by_hand(x, y, c, 0.07)
    assert float(terms["info_nce"].detach()) == pytest.approx(contrast, rel=1e-5)
    assert float(terms["entailment"].detach()) == pytest.approx(0.2 * outside, rel=1e-5)
    assert outside > 0.1
    swapped = float(method.contrast({"image": y, "text": x}, {})["entailment"].detach())
    assert abs(swapped - 0.2 * outside) > 1e-3, "the text entails the picture, not the other way round"


def test_a_text_is_pulled_towards_the_root_of_its_picture(method: MERU) -> None:
    """Gradient of the cones alone: where a text lies further out than its picture, on its ray, it moves inwards."""
    image = lorentz_exp0(torch.tensor([[1.0, 0.1, 0, 0, 0, 0]]))
    text = lorentz_exp0(torch.tensor([[1.5, 0.0, 0, 0, 0, 0]])).requires_grad_()
    both = {"image": image.expand(2, -1), "text": text.expand(2, -1)}
    (gradient,) = torch.autograd.grad(method.contrast(both, {})["entailment"], text)
    before = float((exterior_angle(text, image) - half_aperture(text)).detach())
    moved = text.detach() - 0.5 * gradient / gradient.norm()
    assert before > 0
    assert float(exterior_angle(moved, image) - half_aperture(moved)) < before


def test_as_the_curvature_vanishes_it_is_clip_with_euclidean_distances(towers: dict[str, Any]) -> None:
    flat = MERU(**copy.deepcopy(towers), dim=6, curvature=1e-8).double()
    torch.manual_seed(2)
    u, v = (torch.randn(5, 6, dtype=torch.float64) for _ in range(2))
    logits, own = -torch.cdist(u, v) / 0.07, torch.arange(5)
    wanted = (nn.functional.cross_entropy(logits, own) + nn.functional.cross_entropy(logits.T, own)) / 2
    c = flat.curvature().detach()
    z = {"image": lorentz_exp0(u, c), "text": lorentz_exp0(v, c)}
    torch.testing.assert_close(flat.contrast(z, {})["info_nce"].detach(), wanted, rtol=1e-4, atol=1e-4)


def test_features_are_scaled_but_never_normalised(bent: MERU) -> None:
    batch = prepared(bent)
    z, v = bent.embed(batch), bent.towers.embed(batch)
    for name, alpha in (("image", 0.9), ("text", 0.5)):
        torch.testing.assert_close(lorentz_log0(z[name], 2.5), alpha * v[name], rtol=1e-4, atol=1e-6)
    lengths = {name: rows.norm(dim=1) for name, rows in v.items()}
    with torch.no_grad():
        for parameter in bent.towers.heads.parameters():
            parameter.mul_(3)
    for name, rows in bent.towers.embed(batch).items():
        torch.testing.assert_close(rows.norm(dim=1), 3 * lengths[name], rtol=1e-4, atol=0)


@pytest.mark.parametrize("dim", [6, 512])
def test_alpha_starts_at_one_over_root_d_so_that_points_start_near_the_root(
    towers: dict[str, Any], dim: int
) -> None:
    method = MERU(**copy.deepcopy(towers), dim=dim)
    for scalar in method.alpha.values():
        assert float(scalar().detach()) == pytest.approx(dim**-0.5)
    for rows in method.embed(prepared(method)).values():
        assert 0.05 < float(np.median(radii(rows.detach()))) < 3


def test_scalars_stop_at_their_limits_and_can_come_back(method: MERU) -> None:
    scalars = {"image": method.alpha["image"], "text": method.alpha["text"], "c": method.curvature}
    for scalar in scalars.values():
        scalar.log.data.fill_(5.0)
    assert [float(s().detach()) for s in scalars.values()] == pytest.approx([1.0, 1.0, 10.0])
    method.curvature.log.data.fill_(-5.0)
    assert float(method.curvature().detach()) == pytest.approx(0.1)
    method.temperature.nu.data.fill_(9.0)
    assert float(1 / method.temperature().detach()) == pytest.approx(100, rel=1e-4)
    total(method.loss(prepared(method))).backward()
    for name, scalar in scalars.items():
        assert float(scalar.log.grad.abs()) > 0, f"a clamp in the graph would leave {name} stuck at its limit"


def test_scalars_are_spared_weight_decay_also_in_a_copy(method: MERU) -> None:
    for model in (method, copy.deepcopy(method)):
        scalars = [*(s.log for s in model.alpha.values()), model.curvature.log, model.temperature.nu]
        assert all(parameter.no_weight_decay for parameter in scalars)
        groups = make_optimiser(model, Settings(steps=1, weight_decay=0.3)).param_groups
        found = [group for group in groups if any(p is s for p in group["params"] for s in scalars)]
        assert [group["weight_decay"] for group in found] == [0.0]


def test_half_precision_ends_at_the_towers(bent: MERU) -> None:
    batch = prepared(bent)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        v, z = bent.towers.embed(batch), bent.embed(batch)
        terms = bent.contrast(z, batch)
    assert v["image"].dtype == torch.bfloat16
    assert {rows.dtype for rows in z.values()} == {torch.float32}
    assert {term.dtype for term in terms.values()} == {torch.float32}
    torch.testing.assert_close(z["image"], lorentz_exp0(v["image"].float() * 0.9, 2.5))
    outside = bent.contrast(z, batch)
    assert all(torch.equal(terms[name], outside[name]) for name in terms)


def test_all_parts_learn_and_without_cones_their_term_is_nothing(
    method: MERU, towers: dict[str, Any]
) -> None:
    total(method.train().loss(prepared(method))).backward()
    for name, parameter in method.named_parameters():
        if "towers.encoders" not in name:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.abs().sum() > 0), name
    without = MERU(**copy.deepcopy(towers), dim=6, entailment=0.0)
    assert float(without.loss(prepared(without))["entailment"].detach()) == 0


def test_the_space_has_curvature_one_and_keeps_the_order_of_distances(bent: MERU, tmp_path: Path) -> None:
    space = bent.space()
    assert space.geometry == "lorentz"
    with torch.no_grad():
        z = bent.embed(prepared(bent))
    x, y = space.encode(PICTURES, "image"), space.encode(TEXTS, "text")
    np.testing.assert_allclose(x, math.sqrt(2.5) * z["image"].numpy(), rtol=1e-4, atol=1e-6)
    c = 2.5
    times = [torch.sqrt(1 / c + z[name].double().square().sum(1)) for name in ("image", "text")]
    inner = z["image"].double() @ z["text"].double().T - times[0][:, None] * times[1]
    wanted = -torch.acosh(-c * inner)
    np.testing.assert_allclose(space.score(x, y), wanted.numpy(), rtol=1e-3)
    assert (np.argsort(-space.score(x, y), axis=1) == torch.argsort(-inner, dim=1).numpy()).all()
    again = Space.load(space.save(tmp_path / "space"))
    assert np.array_equal(again.encode(TEXTS, "text"), y)
    assert (again.geometry, again.fingerprint) == ("lorentz", space.fingerprint)
    with torch.no_grad():
        bent.curvature.log.fill_(0.0)
    assert bent.space().fingerprint != space.fingerprint, "the curvature is part of the space"
    assert np.array_equal(again.encode(TEXTS, "text"), y)


def test_the_saved_space_is_measured_and_searched_by_hyperbolic_distance(bent: MERU, tmp_path: Path) -> None:
    table = Table.from_columns({"image": PICTURES, "text": TEXTS}, {"image": Image, "text": Text})
    folder = bent.space().save(tmp_path / "space")
    space = Space.load(folder)
    x, y = space.encode(PICTURES, "image"), space.encode(TEXTS, "text")
    measured = measure(folder, table)
    for role, rows in (("image", x), ("text", y)):
        assert measured[f"radius/{role}"].value == pytest.approx(float(np.median(radii(rows))))
    ranks = (space.score(x, y) >= np.diag(space.score(x, y))[:, None]).sum(axis=1)
    assert measured["mrr@10/image-to-text"].value == pytest.approx(float(np.mean(1 / ranks)))
    hits = search_table(folder, table, ["rain"], k=5, role="image")[0]
    scores = space.score(space.encode(["rain"], "text"), x)[0]
    assert [hit.row for hit in hits] == (np.argsort(-scores) + 1).tolist()
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1], rtol=1e-3)


def test_defaults_are_those_of_the_paper() -> None:
    defaults = {k: p.default for k, p in inspect.signature(MERU.__init__).parameters.items()}
    assert {k: v for k, v in defaults.items() if isinstance(v, (int, float))} == {
        "dim": 512,
        "temperature": 0.07,
        "curvature": 1.0,
        "entailment": 0.2,
    }


def test_wrong_numbers_are_refused(towers: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="entailment"):
        MERU(**copy.deepcopy(towers), entailment=-0.1)
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ArgumentError, match="positive"):
            MERU(**copy.deepcopy(towers), curvature=wrong)
    with pytest.raises(ArgumentError, match="positive"):
        PositiveScalar(2.0, maximum=1.0)
