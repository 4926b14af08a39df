"""Views inside an encoder: what is cut, what stays, and how strong the noise is."""

from __future__ import annotations

import pytest
import torch
from samples import tiny_text
from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.views.text_latent import LATENT, latent_edit

LENGTHS = torch.tensor([20, 12, 2, 1] * 50)
MASK = torch.arange(20) < LENGTHS.unsqueeze(1)
STATES = torch.randn(200, 20, 32, generator=torch.Generator().manual_seed(1)) * 3


def changed(name: str, rate: float, seed: int = 0) -> Tensor:
    return latent_edit(name, rate, MASK, torch.Generator().manual_seed(seed))(STATES)


@pytest.mark.parametrize("name", LATENT)
def test_a_seed_decides_rate_0_changes_nothing_and_padding_stays(name: str) -> None:
    assert torch.equal(changed(name, 0.4, 3), changed(name, 0.4, 3))
    assert not torch.equal(changed(name, 0.4, 3), changed(name, 0.4, 4))
    torch.testing.assert_close(changed(name, 0.0), STATES, rtol=0, atol=0)
    assert changed(name, 0.4).shape == STATES.shape
    if name != "feature-cutoff":
        assert torch.equal(changed(name, 0.4)[~MASK], STATES[~MASK])


@pytest.mark.parametrize("name", LATENT)
def test_without_a_generator_it_draws_as_dropout_does(name: str) -> None:
    torch.manual_seed(5)
    one = latent_edit(name, 0.4, MASK)(STATES)
    torch.manual_seed(5)
    assert torch.equal(latent_edit(name, 0.4, MASK)(STATES), one)


@pytest.mark.parametrize("name", ["token-cutoff", "span-cutoff"])
def test_a_share_of_whole_tokens_is_cut_never_the_first(name: str) -> None:
    found = changed(name, 0.3)
    cut = (found == 0).all(dim=2)
    assert torch.equal(found[~cut], STATES[~cut])
    assert not bool(cut[:, 0].any())
    assert float(cut.sum() / (LENGTHS - 1).sum()) == pytest.approx(0.3, abs=0.05)


def test_a_span_is_one_piece() -> None:
    cut = (changed("span-cutoff", 0.5) == 0).all(dim=2).float()
    assert int((cut.diff(dim=1) == 1).sum(dim=1).max()) == 1
    assert bool((cut.sum(dim=1) - 0.5 * (LENGTHS - 1)).abs().max() <= 1)
    full = (changed("span-cutoff", 1.0) == 0).all(dim=2)
    assert torch.equal(full[:, 1:], MASK[:, 1:])


def test_a_feature_is_cut_in_all_tokens_of_a_text_alike() -> None:
    gone = changed("feature-cutoff", 0.3) == 0
    assert torch.equal(gone, gone[:, :1].expand_as(gone))
    assert float(gone.float().mean()) == pytest.approx(0.3, abs=0.03)
    assert not torch.equal(gone[0], gone[1])


def test_noise_is_as_strong_as_the_rate_says() -> None:
    for scale in (1.0, 7.0):
        edit = latent_edit("noise", 0.2, MASK, torch.Generator().manual_seed(0))
        added = edit(scale * STATES) - scale * STATES
        strength = (added[0].norm() / (scale * STATES[0]).norm()).item()
        assert strength == pytest.approx(0.2, rel=0.1)


def test_mixup_mixes_every_text_with_another() -> None:
    states = torch.arange(200.0).view(-1, 1, 1).expand(200, 20, 32)
    edit = latent_edit("mixup", 0.25, torch.ones(200, 20, dtype=torch.bool), torch.Generator().manual_seed(0))
    first = edit(states)
    assert torch.equal(first, first[:, :1, :1].expand_as(first))
    partner = (first[:, 0, 0] - 0.75 * states[:, 0, 0]) / 0.25
    assert sorted(partner.round().int().tolist()) == list(range(200)), "each is mixed into one other"
    assert bool(((partner - states[:, 0, 0]).abs() > 0.5).all())


@pytest.mark.parametrize("name", LATENT)
def test_encoders_read_what_it_makes_and_gradients_pass(name: str) -> None:
    encoder = tiny_text(["rain and snow", "fog"])
    inputs = encoder.eval().prepare(["rain and snow", "fog", "snow"])
    edit = latent_edit(name, 0.5, inputs["mask"], torch.Generator().manual_seed(1))
    plain, found = encoder(inputs).pooled, encoder(inputs, edit=edit).pooled
    assert not torch.allclose(plain, found, atol=1e-4)
    found.sum().backward()
    assert bool(encoder.model.get_input_embeddings().weight.grad.isfinite().all())


def test_unknown_views_and_rates_are_refused() -> None:
    with pytest.raises(ArgumentError, match="no latent view 'cutoff'; there are token-cutoff"):
        latent_edit("cutoff", 0.1, MASK)
    with pytest.raises(ArgumentError, match="rate must be between 0 and 1"):
        latent_edit("noise", 1.2, MASK)
