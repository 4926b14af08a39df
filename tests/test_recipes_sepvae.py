"""The recipe of sepvae: what its pictures are made of, and in what its arms differ."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from nearfar.encoders.image import ConvNet
from nearfar.experiment import DataFolder
from nearfar.methods.generation.sepvae import SepVAE
from nearfar.recipes.photographs_with_digits import BACKGROUND, TARGET, Overlaid, photographs_with_digits
from nearfar.recipes.sepvae import (
    ARMS,
    COMMON_DIGIT,
    COMMON_PHOTOGRAPH,
    INPUT,
    SALIENT_DIGIT,
    SALIENT_PHOTOGRAPH,
    TWIN,
    figures,
)
from nearfar.training.settings import Settings
from nearfar.training.trainer import train

EACH = 24


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Overlaid, Overlaid]:
    """Photographs of one grey each, whose class is their brightness; digits of one brightness each."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for i in range(4 * EACH):
        file = io.BytesIO()
        Image.fromarray(np.full((32, 32, 3), 40 + 100 * (i % 2), dtype=np.uint8)).save(file, "PNG")
        split = "train" if i < 2 * EACH else "test"
        rows.append({"image": file.getvalue(), "label": i % 2, "split": split})
    (folder / "cifar10_subset").mkdir()
    pd.DataFrame(rows).to_parquet(folder / "cifar10_subset" / "cifar10_subset.parquet")
    labels = np.arange(2 * EACH) % 3
    images = np.broadcast_to((80 * labels + 60)[:, None, None], (2 * EACH, 28, 28)).astype(np.uint8)
    (folder / "mnist_subset").mkdir()
    np.savez(
        folder / "mnist_subset" / "mnist_subset.npz",
        **{
            f"{side}_{what}": of
            for side in ("train", "test")
            for what, of in (("images", images), ("labels", labels))
        },
    )
    return photographs_with_digits(DataFolder(folder), EACH, EACH, 16)


def test_half_of_the_photographs_have_half_a_digit_over_them(sides: tuple[Overlaid, Overlaid]) -> None:
    for side in sides:
        assert side.target.tolist() == [False] * EACH + [True] * EACH
        names = side.table.label_names["label"]
        assert [names[i] for i in side.table.column("label")] == [BACKGROUND] * EACH + [TARGET] * EACH
        assert (side.digits[:EACH] == -1).all()
        assert (side.digits[EACH:] >= 0).all()
        assert np.array_equal(side.shown[:EACH], side.without[:EACH])
        halves = (20 + 50 * side.photographs) / 255
        np.testing.assert_allclose(
            side.without, np.broadcast_to(halves[:, None, None, None], (48, 16, 16, 3)), atol=1e-6
        )
        over = (side.shown - side.without)[EACH:]
        np.testing.assert_allclose(over[:, 4, 4, 0] * 255, 40 * side.digits[EACH:] + 30, atol=1e-3)
        assert not over[:, 0].any(), "the two outer pixels of 32 have no digit"
        for picture, pixels in zip(side.table.column("image"), side.shown, strict=True):
            np.testing.assert_allclose(np.asarray(picture) / 255, pixels, atol=1e-6)


def test_arms_leave_out_what_they_are_named_for(sides: tuple[Overlaid, Overlaid]) -> None:
    table = sides[0].table
    terms, variances = {}, {}
    for name, make in ARMS.items():
        torch.manual_seed(0)
        method: SepVAE = make(ConvNet(16, 8, 3), population_weight=1.0)
        method.discriminator[-1].bias.data.fill_(2.0)
        batch = method.prepare(method.examples(table, np.arange(4, 12)), torch.Generator())
        assert not batch["label"].any(), "backgrounds alone"
        with torch.no_grad():
            terms[name] = {term: float(value) for term, value in method.rebuild(batch).items()}
            variances[name] = method.moments(batch)[1][1].exp()
    assert all(terms["sepvae"].values())
    off = {name: {term for term, value in found.items() if value == 0} for name, found in terms.items()}
    assert off == {
        "sepvae": set(),
        "convae": {"salient", "dependence", "population"},
        "without discriminator": {"dependence"},
        "without narrow prior": {"salient"},
    }
    for name, variance in variances.items():
        assert torch.allclose(variance, torch.tensor(0.1)) == (name != "convae")
    assert len({found["common"] for found in terms.values()}) == 1


def test_all_figures_of_the_claims_are_measured(sides: tuple[Overlaid, Overlaid]) -> None:
    torch.manual_seed(0)
    method = SepVAE(ConvNet(16, 8, 3), common=4, salient=4, width=4)
    train(method, sides[0].table, Settings(steps=2, batch_size=16))
    found = figures(method.space(), *sides, seed=0)
    for name in (SALIENT_DIGIT, SALIENT_PHOTOGRAPH, COMMON_DIGIT, COMMON_PHOTOGRAPH):
        assert 0 <= found[name] <= 1
    side = sides[1]
    digits = np.square(side.shown - side.without)[side.target].sum(axis=(1, 2, 3)).mean()
    assert found[INPUT] == pytest.approx(digits, rel=1e-5)
    assert found[TWIN] > 0
