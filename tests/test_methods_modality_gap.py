"""What narrows the modality gap: temperatures that start alike, and entries that are swapped."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from test_methods_catalogue import cells, total
from test_methods_clip import sym_ce
from torch import Tensor, nn

from nearfar.data.kinds import Image
from nearfar.data.table import Table
from nearfar.encoders.image import ConvNet
from nearfar.errors import ArgumentError
from nearfar.measures.modality import modality_gap
from nearfar.methods.multimodal.modality_gap import ModalityGap, swap_features
from nearfar.training.optimiser import make_optimiser, set_rate
from nearfar.training.settings import Settings
from nearfar.training.trainer import train

KINDS = ("exp", "linear", "softplus", "scaled_exp", "fixed")
LEARNED = ("exp", "softplus", "scaled_exp")


class PictureAsText(ConvNet):
    """A quick second tower: what is swapped or scaled does not depend on what the towers read."""


def method(**hyperparameters: Any) -> ModalityGap:
    torch.manual_seed(0)
    return ModalityGap(ConvNet(8, 4, 1), PictureAsText(8, 4, 1), dim=6, **hyperparameters)


def pair(rows: int = 5, dim: int = 6, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randn(rows, dim, dtype=torch.float64, generator=generator) for _ in range(2))
    return dict(zip(("image", "text"), drawn, strict=True))


def tau(made: ModalityGap) -> float:
    return float(made.temperature().detach())


# -- temperature -----------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0.01, 0.03])
def test_every_kind_starts_at_the_same_temperature_and_loss(start: float) -> None:
    losses = []
    for kind in KINDS:
        made = method(temperature=start, temperature_kind=kind)
        assert tau(made) == pytest.approx(start, rel=1e-5)
        losses.append(float(total(made.contrast(pair(), {})).detach()))
    assert losses == pytest.approx([float(sym_ce(*pair().values(), start))] * len(KINDS), rel=1e-4)


def test_only_the_learned_kinds_learn() -> None:
    for kind in KINDS:
        made = method(temperature=0.05, temperature_kind=kind)
        learned = list(made.temperature.parameters())
        assert len(learned) == (kind in LEARNED)
        total(made.contrast(pair(), {})).backward() if learned else None
        assert all(p.grad != 0 for p in learned)


@pytest.mark.parametrize("final", [0.02, 0.03, 0.04, 0.05])
def test_the_schedule_rises_from_the_first_step_to_its_end(final: float) -> None:
    made = method(final_temperature=final)
    seen = [tau(made)]
    for step in range(1, 5):
        made.after_step(pair(), step, 4)
        seen.append(tau(made))
    np.testing.assert_allclose(seen, np.linspace(0.01, final, 5), rtol=1e-5)
    for kind in set(KINDS) - {"linear"}:
        other = method(temperature=0.02, temperature_kind=kind, final_temperature=final)
        other.after_step(pair(), 4, 4)
        assert tau(other) == pytest.approx(0.02, rel=1e-5), f"{kind} follows no schedule"


def test_the_training_loop_follows_the_schedule() -> None:
    columns = {role: cells(role, Image, 6) for role in ("image", "text")}
    table = Table.from_columns(columns, dict.fromkeys(columns, Image))
    made = method(final_temperature=0.03)
    train(made, table, Settings(steps=2, batch_size=3, on_collapse="warn"))
    assert tau(made) == pytest.approx(0.03, rel=1e-5)
    resumed = method(final_temperature=0.03)
    resumed.load_state_dict(made.state_dict())
    assert tau(resumed) == pytest.approx(0.03, rel=1e-5)


@pytest.mark.parametrize("kind", LEARNED)
def test_a_slow_temperature_moves_at_a_tenth_of_the_rate(kind: str) -> None:
    made = method(temperature=0.05, temperature_kind=kind, temperature_lr=0.1)
    optimiser = make_optimiser(made, Settings(steps=1))
    set_rate(optimiser, 0.02)
    for group in optimiser.param_groups:
        holds = any(p is made.temperature.nu for p in group["params"])
        assert group["lr"] == pytest.approx(0.002 if holds else 0.02)
        assert not holds or (len(group["params"]) == 1 and group["weight_decay"] == 0)
    before = made.temperature.nu.item()
    total(made.contrast(pair(), {})).backward()
    optimiser.step()
    # The first step of Adam is the rate itself, whatever the gradient.
    assert abs(made.temperature.nu.item() - before) == pytest.approx(0.002, rel=1e-2)


def test_charts_of_the_temperature() -> None:
    """The same step of nu moves 1/t by itself times the step (exp), a tenth of it (scaled), or the step (softplus)."""
    moved = {}
    for kind in LEARNED:
        made = method(temperature=0.05, temperature_kind=kind)
        made.temperature.nu.data += 1e-3
        moved[kind] = 1 / tau(made) - 20
    assert moved["exp"] == pytest.approx(20 * 1e-3, rel=0.02)
    assert moved["scaled_exp"] == pytest.approx(2 * 1e-3, rel=0.02)
    assert moved["softplus"] == pytest.approx(1e-3, rel=0.02)


def test_defaults_are_those_of_the_paper() -> None:
    defaults = {k: p.default for k, p in inspect.signature(ModalityGap.__init__).parameters.items()}
    paper = {"temperature": 0.01, "final_temperature": 0.05, "temperature_lr": 1.0, "swap": "none"}
    assert {name: defaults[name] for name in paper} == paper
    assert defaults["swap_share"] == 0.05
    assert method(temperature_kind="scaled_exp").temperature.scale == 10
    with pytest.raises(ArgumentError, match="minimum"):
        method(temperature=0.005, temperature_kind="exp")


# -- swapping --------------------------------------------------------------------------------------


def signs(rows: int = 400, dim: int = 16) -> tuple[Tensor, Tensor]:
    """Unit rows of +1/sqrt(d) and of -1/sqrt(d): whatever entries are exchanged, the rows keep their length."""
    x = torch.full((rows, dim), dim**-0.5, dtype=torch.float64)
    return x, -x


def test_hard_swapping_exchanges_entries_and_not_rows() -> None:
    torch.manual_seed(0)
    one, two = signs()
    x, y = swap_features(one, two, hard=True)
    torch.testing.assert_close(x.abs(), one)
    assert torch.equal(y, -x), "an entry goes over in exchange for its partner"
    exchanged = x < 0
    assert float(exchanged.double().mean()) == pytest.approx(0.5, abs=0.03)
    per_row, per_column = exchanged.sum(1), exchanged.sum(0)
    assert int(per_row.min()) > 0
    assert int(per_row.max()) < 16
    assert int(per_column.min()) > 140
    assert int(per_column.max()) < 260
    assert len(torch.unique(exchanged, dim=0)) > 380, "each row draws its own entries"


def test_soft_swapping_mixes_every_entry_in_its_own_proportion() -> None:
    """x = (1, 0), y = (0, 1) give x' ~ (l1, 1 - l2) and y' ~ (1 - l1, l2): both proportions can be told."""
    torch.manual_seed(0)
    x, y = torch.eye(2, dtype=torch.float64).repeat_interleave(3000, dim=0).view(2, 3000, 2)
    mixed, other = swap_features(x, y, hard=False)
    r, s = mixed[:, 0] / mixed[:, 1], other[:, 0] / other[:, 1]
    l2 = (1 - r) / (s - r)
    l1 = r * (1 - l2)
    for proportion in (l1, l2):
        assert float(proportion.min()) > -1e-6
        assert float(proportion.max()) < 1 + 1e-6
        quantiles = torch.quantile(proportion, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
        torch.testing.assert_close(quantiles, torch.tensor([0.1, 0.5, 0.9]).double(), rtol=0, atol=0.03)
    assert abs(float(torch.corrcoef(torch.stack([l1, l2]))[0, 1])) < 0.06


@pytest.mark.parametrize("hard", [True, False])
def test_swapped_rows_are_unit_and_both_sides_get_gradient(hard: bool) -> None:
    torch.manual_seed(0)
    x, y = (rows.requires_grad_() for rows in pair().values())
    mixed, other = swap_features(x, y, hard=hard)
    for rows in (mixed, other):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(5, dtype=torch.float64))
    (mixed * torch.randn(5, 6)).sum().backward()  # one result alone reaches both modalities
    for rows in (x, y):
        assert bool((rows.grad.abs().sum(1) > 0).all())
    one, two = pair().values()
    torch.manual_seed(0)
    longer = swap_features(one * torch.tensor([3.0, 0.2, 9, 1, 5])[:, None], two * 7, hard=hard)
    for a, b in zip(longer, (mixed, other), strict=True):
        torch.testing.assert_close(a, b.detach(), msg="features are of unit length before they are swapped")


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_the_loss_is_that_of_new_rows_and_not_of_the_old_ones_in_other_places(kind: Any) -> None:
    """Whole rows, swapped, would still be the old rows: the pairs stay as far apart as they were."""
    x, y = (nn.functional.normalize(rows, dim=1) for rows in pair(rows=8, dim=24).values())
    torch.manual_seed(1)
    torch.rand(())  # whether this step is one of those that swap
    mixed = swap_features(x, y, hard=kind == "hard")
    assert float(torch.cdist(torch.cat(mixed), torch.cat([x, y])).min()) > 0.05
    made = method(temperature=0.1, temperature_kind="fixed", swap=kind, swap_share=1.0).train()
    torch.manual_seed(1)
    found = total(made.contrast({"image": x, "text": y}, {}))
    torch.testing.assert_close(found, sym_ce(*mixed, 0.1), rtol=1e-6, atol=1e-6)
    assert abs(float(found - sym_ce(x, y, 0.1))) > 1e-2


def test_features_are_swapped_on_the_share_of_training_steps_and_never_in_evaluation() -> None:
    z = pair()

    def share(steps: int, training: bool = True, **hyperparameters: Any) -> float:
        made = method(temperature_kind="fixed", temperature=0.1, **hyperparameters).train(training)
        plain = sym_ce(*z.values(), 0.1)
        torch.manual_seed(0)
        moved = [abs(float(total(made.contrast(z, {})) - plain)) > 1e-5 for _ in range(steps)]
        return sum(moved) / steps

    for kind in ("hard", "soft"):
        assert share(300, swap=kind, swap_share=0.3) == pytest.approx(0.3, abs=0.09)
        assert share(20, swap=kind, swap_share=1.0) == 1
        assert share(20, swap=kind, swap_share=0.0) == 0
        assert share(20, swap=kind, swap_share=1.0, training=False) == 0
    assert share(20, swap_share=1.0) == 0


# -- the gap ---------------------------------------------------------------------------------------


def test_the_gap_is_measured_on_unit_rows() -> None:
    x, y = (rows.numpy() for rows in pair(rows=30).values())
    one, two = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))
    expected = np.linalg.norm(one.mean(0) - two.mean(0))
    lengths = np.linspace(0.1, 40, 30)[:, None]
    for scaled in (modality_gap(x, y), modality_gap(x * lengths, y), modality_gap(x, y * 7)):
        assert scaled.distance == pytest.approx(expected, rel=1e-5)


def test_two_towers_stay_two() -> None:
    made = method()
    copied = copy.deepcopy(made)
    batch = made.prepare(
        {"image": cells("image", Image, 4), "text": cells("text", Image, 4)}, torch.Generator()
    )
    z = made.embed(batch)
    with torch.no_grad():
        for parameter in copied.towers.encoders["text"].parameters():
            parameter.add_(1)
    moved = copied.embed(batch)
    torch.testing.assert_close(moved["image"], z["image"])
    assert not torch.allclose(moved["text"], z["text"])


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_of_steps_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ArgumentError, match="swap_share must be between 0 and 1"):
        method(swap_share=share)
