"""Temperatures: equal starts, exact charts, a limit that does not trap the parameter."""

import copy
import math

import pytest
import torch

from nearfar.errors import ArgumentError
from nearfar.objectives import Temperature, info_nce

LEARNED = ["exp", "softplus", "scaled_exp"]


@pytest.mark.parametrize("kind", ["fixed", "linear", *LEARNED])
@pytest.mark.parametrize("init", [0.01, 0.07, 2.0])
def test_every_kind_starts_at_the_same_temperature(kind: str, init: float) -> None:
    temperature = Temperature(kind, init, final=0.5 if kind == "linear" else None)
    assert temperature().item() == pytest.approx(init, rel=1e-5)
    assert temperature().shape == ()
    assert len(list(temperature.parameters())) == (kind in LEARNED)


def test_charts_are_the_ones_named() -> None:
    nu = torch.tensor(1.3)
    expected = {
        "exp": math.exp(1.3),
        "softplus": math.log(1 + math.exp(1.3)),
        "scaled_exp": math.exp(1.3 / 4),
    }
    for kind, inverse in expected.items():
        temperature = Temperature(kind, 0.1, scale=4.0)
        temperature.nu.data = nu.clone()
        assert 1 / temperature().item() == pytest.approx(inverse, rel=1e-5)


def test_the_schedule_is_linear_and_saved() -> None:
    temperature = Temperature("linear", 0.01, final=0.05)
    seen = []
    for fraction in (0.0, 0.25, 1.0):
        temperature.set_progress(fraction)
        seen.append(temperature().item())
    assert seen == pytest.approx([0.01, 0.02, 0.05])
    resumed = Temperature("linear", 0.01, final=0.05)
    resumed.load_state_dict(temperature.state_dict())
    assert float(resumed()) == pytest.approx(0.05)
    with pytest.raises(ArgumentError, match="progress"):
        temperature.set_progress(1.5)


@pytest.mark.parametrize("kind", LEARNED)
def test_the_minimum_holds_and_the_parameter_can_come_back(kind: str) -> None:
    temperature = Temperature(kind, 0.02, minimum=0.01)
    temperature.nu.data += 1000
    first, second = temperature(), temperature()
    assert first.item() == pytest.approx(0.01, rel=1e-5)
    (first + second).backward()
    assert temperature.nu.grad is not None
    assert float(temperature.nu.grad) < 0
    temperature.nu.data -= 0.1 * abs(temperature.nu.item())
    assert temperature().item() > 0.0105


@pytest.mark.parametrize("kind", LEARNED)
def test_it_learns_through_the_loss(kind: str) -> None:
    temperature = Temperature(kind, 0.5)
    z = torch.eye(4) + 0.1
    info_nce(z, z, temperature=temperature()).backward()
    # Pairs that are ordered rightly want a lower temperature, that is a larger nu.
    assert temperature.nu.grad is not None
    assert float(temperature.nu.grad) < 0


def test_the_optimiser_is_told_and_a_copy_too() -> None:
    temperature = Temperature("exp", 0.07, lr_mult=0.1)
    for module in (
        temperature,
        copy.deepcopy(temperature),
        copy.deepcopy(torch.nn.Sequential(temperature))[0],
    ):
        (parameter,) = module.parameters()
        assert parameter.no_weight_decay is True
        assert parameter.lr_mult == 0.1


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "log", "init": 0.1},
        {"kind": "exp", "init": 0.0},
        {"kind": "exp", "init": 0.1, "final": 0.2},
        {"kind": "linear", "init": 0.1},
        {"kind": "exp", "init": 0.01, "minimum": 0.02},
        {"kind": "scaled_exp", "init": 0.1, "scale": -1.0},
        {"kind": "exp", "init": 0.1, "lr_mult": math.nan},
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ArgumentError):
        Temperature(**arguments)
