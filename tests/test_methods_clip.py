"""CLIP: two linear heads, one symmetric loss, a temperature that stops at a scale of 100."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from test_methods_catalogue import cells, total
from torch import Tensor, nn

from nearfar.data.kinds import Image
from nearfar.encoders.image import ConvNet
from nearfar.encoders.text import TransformerText
from nearfar.methods.multimodal.clip import CLIP
from nearfar.training.optimiser import make_optimiser
from nearfar.training.settings import Settings

PICTURES = cells("image", Image, 5)
TEXTS = ["rain", "snow fell on the old town", "fog in the valley", "a storm", "hail and wind"]


@pytest.fixture(scope="module")
def towers() -> dict[str, Any]:
    torch.manual_seed(0)
    text = TransformerText.tiny(TEXTS, layers=1, dim=32, heads=2, ffn=48, max_length=16)
    return {"image": ConvNet(8, 8, 2), "text": text}


@pytest.fixture
def method(towers: dict[str, Any]) -> CLIP:
    return CLIP(**copy.deepcopy(towers), dim=6)


def sym_ce(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    """1/2 [CE(s X Y^T) + CE(s Y X^T)], row by row."""
    x, y = (nn.functional.normalize(rows, dim=1) for rows in (x, y))
    logits = x @ y.T / temperature
    there = (logits.logsumexp(1) - logits.diagonal()).mean()
    back = (logits.logsumexp(0) - logits.diagonal()).mean()
    return (there + back) / 2


def test_the_loss_is_symmetric_cross_entropy(method: CLIP) -> None:
    torch.manual_seed(1)
    x, y = (torch.randn(5, 6, dtype=torch.float64) for _ in range(2))
    found = total(method.contrast({"image": x, "text": y}, {}))
    torch.testing.assert_close(found, sym_ce(x, y, 0.07), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found, total(method.contrast({"image": y, "text": x}, {})))
    one_way = nn.functional.cross_entropy(
        nn.functional.normalize(x, dim=1) @ nn.functional.normalize(y, dim=1).T / 0.07, torch.arange(5)
    )
    assert abs(float(found.detach() - one_way)) > 1e-3


def test_each_modality_has_a_linear_head_of_its_own(method: CLIP) -> None:
    heads, encoders = method.towers.heads, method.towers.encoders
    assert set(heads) == {"image", "text"}
    for name, head in heads.items():
        assert [type(layer) for layer in head.map] == [nn.Linear]
        assert head.map[0].weight.shape == (6, encoders[name].dim)
    assert heads["image"] is not heads["text"]
    batch = method.eval().prepare({"image": PICTURES, "text": TEXTS}, torch.Generator())
    z = method.embed(batch)
    for name in heads:
        torch.testing.assert_close(z[name], heads[name](encoders[name](batch[name]).pooled))
    space = method.space()
    assert dict(space.heads) == dict(heads.items())
    assert space.encode(PICTURES, "image").shape == space.encode(TEXTS, "text").shape == (5, 6)


def test_the_scale_stops_at_a_hundred_and_can_fall_again(method: CLIP) -> None:
    assert float(method.temperature().detach()) == pytest.approx(0.07)
    z = {name: torch.eye(5, 6) + 0.1 for name in ("image", "text")}
    method.temperature.nu.data.fill_(9.0)  # where a long training with pairs in order would have taken it
    torch.testing.assert_close(total(method.contrast(z, {})), sym_ce(*z.values(), 0.01), rtol=1e-4, atol=1e-6)
    assert float(1 / method.temperature().detach()) == pytest.approx(100, rel=1e-4)
    wrong = {"image": z["image"], "text": z["text"].flip(0)}
    total(method.contrast(wrong, {})).backward()
    assert method.temperature.nu.grad > 0.1, "a clamp in the graph would leave it stuck at the limit"
    torch.optim.SGD(method.temperature.parameters(), lr=0.01).step()
    assert float(1 / method.temperature().detach()) < 99


def test_towers_heads_and_temperature_all_learn(method: CLIP) -> None:
    batch = method.train().prepare({"image": PICTURES, "text": TEXTS}, torch.Generator())
    method.loss(batch)["info_nce"].backward()
    assert method.temperature.nu.grad != 0
    for part in (*method.towers.heads.values(), *method.towers.encoders.values()):
        assert sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None) > 0


def test_the_temperature_is_spared_weight_decay(method: CLIP) -> None:
    for group in make_optimiser(method, Settings(steps=1, weight_decay=0.3)).param_groups:
        holds = any(p is method.temperature.nu for p in group["params"])
        assert not holds or (group["weight_decay"], group["lr_mult"]) == (0.0, 1.0)


def test_defaults_are_those_of_the_paper() -> None:
    defaults = {k: p.default for k, p in inspect.signature(CLIP.__init__).parameters.items()}
    assert (defaults["dim"], defaults["temperature"]) == (512, 0.07)
