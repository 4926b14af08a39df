"""SepVAE: its loss in numbers of the release, whose gradient goes where, two spaces of one picture, and the twins."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pictures
from torch import Tensor
from torch.nn import functional

from nearfar.data.table import Table
from nearfar.encoders.image import ConvNet
from nearfar.errors import ArgumentError, TableError
from nearfar.heads import make_head
from nearfar.heads.decoders.convolutional import ConvDecoder
from nearfar.heads.gaussian import GaussianHead, drawn
from nearfar.method import Batch
from nearfar.methods.generation.sepvae import SepVAE, populations
from nearfar.objectives.density_ratio import ratio_discriminator, ratio_penalty
from nearfar.space import Space
from nearfar.steer.twins import common_twins
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.embed import embed
from nearfar.verbs.fit import fit
from nearfar.verbs.measure import embedded, measure
from nearfar.verbs.search import search_table

N = 12
SMALL: dict[str, Any] = {"common": 5, "salient": 3, "width": 4}
Y = torch.arange(N) % 3 != 0  # y of `batch`: 4 backgrounds, 8 targets


def made(seed: int = 0, **changed: Any) -> SepVAE:
    torch.manual_seed(seed)
    return SepVAE(ConvNet(8, 8, 2), **{**SMALL, **changed})


def pictures(n: int = N) -> list[Pictures.Image]:
    """Dark noise; two of three have a bright square."""
    noise = np.random.default_rng(0)
    found = []
    for i in range(n):
        canvas = noise.integers(0, 120, (8, 8, 3), dtype=np.uint8)
        if i % 3:
            canvas[2:6, 2:6] += 120
        found.append(Pictures.fromarray(canvas))
    return found


def table(names: tuple[str, str] = ("healthy", "sick"), n: int = N) -> Table:
    return Table.from_columns({"image": pictures(n), "label": [names[int(i % 3 != 0)] for i in range(n)]})


def batch(method: SepVAE) -> Batch:
    return method.prepare({"image": pictures(), "label": Y.long().tolist()}, torch.Generator())


def with_gradient(method: SepVAE, terms: dict[str, Tensor]) -> set[str]:
    """The parts of a method that terms send a gradient to, which is then taken away."""
    method.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    parts = {
        name.split(".")[0]
        for name, p in method.named_parameters()
        if p.grad is not None and float(p.grad.abs().sum()) > 0
    }
    method.zero_grad(set_to_none=True)
    return parts


def of_release(
    x: Tensor, rebuilt: Tensor, of_c: tuple[Tensor, Tensor], of_s: tuple[Tensor, Tensor], y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Reconstruction and both divergences as cifar_mnist/sep_vae.py computes them, from its formulas."""

    def standard(mean: Tensor, log_variance: Tensor) -> Tensor:
        return -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()

    (c_mean, c_log), (s_mean, s_log) = of_c, of_s
    reconstruction = ((x - rebuilt) ** 2).sum()
    salient = 0.5 * standard(s_mean[y], s_log[y]) + 0.5 * (1 / 0.01) * 0.5 * (s_mean[~y] ** 2).sum()
    return reconstruction, 0.5 * standard(c_mean, c_log), salient


# -- the loss --------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_release_but_for_constants() -> None:
    method = made(population_weight=0.5)
    method.discriminator[-1].bias.data.fill_(0.3)  # some logits on either side of 0
    given = batch(method)
    with torch.no_grad():
        torch.manual_seed(7)
        found = method.rebuild(given)
        torch.manual_seed(7)
        of_c, of_s = method.moments(given)
        c, s = drawn(*of_c), drawn(*of_s)
        latents = torch.cat([c, s], dim=1)
        zeroed = latents.clone()
        zeroed[~Y, 5:] = 0
        rebuilt = method.decoder(zeroed)
        reconstruction, common, salient = of_release(given["image"]["pixels"], rebuilt, of_c, of_s, Y)
        dropped = 0.5 * 4 * 3 * 0.5 * (0.1 / 0.01 - 1 + math.log(0.01) - math.log(0.1))
        d = torch.sigmoid(method.discriminator(latents))
        classified = torch.sigmoid(method.classifier(s)).squeeze(1)
    bce = functional.binary_cross_entropy(classified, Y.float(), reduction="sum")
    expected = {
        "reconstruction": reconstruction,
        "common": common,
        "salient": salient + dropped,
        "dependence": 2 * torch.log(d / (1 - d)).relu().sum(),
        "population": 0.5 * bce,
    }
    assert 0 < (d > 0.5).sum() < N
    assert list(found) == list(expected)
    for term, value in expected.items():
        torch.testing.assert_close(found[term], value, rtol=1e-5, atol=1e-5)


def test_the_discriminator_learns_from_salient_latents_rolled_by_one() -> None:
    method = made()
    given = batch(method)
    with torch.no_grad():
        torch.manual_seed(7)
        found = method.judge(given)["dependence"]
        torch.manual_seed(7)
        c, s = (drawn(*moments) for moments in method.moments(given))
        rolled = torch.cat([s[1:], s[:1]])
        together, apart = (torch.sigmoid(method.discriminator(torch.cat([c, t], 1))) for t in (s, rolled))
    bce = functional.binary_cross_entropy
    expected = bce(together, torch.ones(N, 1), reduction="sum") + bce(
        apart, torch.zeros(N, 1), reduction="sum"
    )
    torch.testing.assert_close(found, expected)


def test_every_term_is_a_sum_over_rows_pixels_and_dimensions() -> None:
    """Twice the rows, twice the loss; a mean would stay."""
    method = made()
    given = batch(method)
    once = method.moments(given)
    twice = {
        "image": {"pixels": given["image"]["pixels"].repeat(2, 1, 1, 1)},
        "label": given["label"].repeat(2),
    }
    for one, two in zip(once, method.moments(twice), strict=True):
        torch.testing.assert_close(two[0], one[0].repeat(2, 1))
    logits = torch.tensor([[2.0], [-1.0], [0.5]])
    assert float(ratio_penalty(logits)) == 2.5, "nothing is asked of pairs that look put together at random"
    assert float(ratio_penalty(logits.repeat(2, 1))) == 5.0
    torch.testing.assert_close(
        ratio_discriminator(logits.repeat(2, 1), logits),
        ratio_discriminator(logits, logits) + functional.softplus(-logits).sum(),
    )
    torch.manual_seed(0)
    small, large = (method.rebuild(b) for b in (given, twice))
    for term in ("common", "salient"):
        torch.testing.assert_close(large[term], 2 * small[term])
    mean_square = small["reconstruction"].item() / (N * 3 * 8 * 8)
    assert 0.001 < mean_square < 1, "summed over pixels, it is hundreds of times as large"


def test_the_ratio_is_the_logit_itself_where_a_quotient_would_overflow() -> None:
    logits = torch.tensor([200.0, -200.0], requires_grad=True)
    penalty = ratio_penalty(logits) + ratio_discriminator(-logits, logits)
    penalty.backward()
    assert bool(torch.isfinite(penalty))
    assert torch.equal(logits.grad, torch.tensor([1.0 + 2.0, 0.0]))


def test_the_discriminators_best_logit_is_the_log_of_the_density_ratio() -> None:
    """Two symbols that agree in 3 of 4 pairs: at the minimum the logit is log(p(c, s) / p(c) p(s))."""
    logit = torch.zeros(2, requires_grad=True)  # of pairs that agree, of pairs that do not
    agree, differ = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1])
    optimiser = torch.optim.SGD([logit], lr=0.2)
    for _ in range(500):
        optimiser.zero_grad()
        ratio_discriminator(logit[agree], logit[differ]).backward()
        optimiser.step()
    torch.testing.assert_close(
        logit.detach(), torch.tensor([0.75 / 0.5, 0.25 / 0.5]).log(), atol=1e-4, rtol=0
    )


# -- two populations -------------------------------------------------------------------------------


def test_a_backgrounds_salient_variance_is_one_tenth() -> None:
    """A variance: as a standard deviation it would be 0.01; as a log-variance, 1.1."""
    method = made()
    _, (_, log_variance) = method.moments(batch(method))
    torch.testing.assert_close(log_variance[~Y].exp(), torch.full((4, 3), 0.1))
    assert not torch.allclose(log_variance[Y].exp(), torch.tensor(0.1), atol=1e-2)
    torch.manual_seed(0)
    zeros = torch.zeros(200_000)
    assert float(drawn(zeros, zeros + math.log(0.1)).var()) == pytest.approx(0.1, rel=0.02)


def test_backgrounds_are_decoded_without_what_is_salient_and_targets_with_it() -> None:
    method = made()
    given = batch(method)
    seen: list[Tensor] = []
    method.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    method.rebuild(given)
    salient = seen[0][:, 5:]
    assert torch.equal(salient[~Y], torch.zeros(4, 3)), "not their draw: exactly nothing"
    assert bool((salient[Y] != 0).all())


def test_reconstruction_of_backgrounds_teaches_the_salient_side_nothing() -> None:
    method = made()
    given = batch(method)
    given["label"] = torch.zeros_like(given["label"])
    terms = method.rebuild(given)
    parts = with_gradient(method, {"reconstruction": terms["reconstruction"]})
    assert parts == {"encoder", "common_head", "decoder"}


def test_backgrounds_are_drawn_to_the_narrow_prior_by_their_means_alone() -> None:
    method = made()
    mean = torch.full((2, 3), 0.2, requires_grad=True)
    log_variance = torch.zeros(2, 3, requires_grad=True)
    kl = method.salient_kl(mean, log_variance, torch.tensor([0, 1]))
    kl.sum().backward()
    torch.testing.assert_close(mean.grad, torch.tensor([[20.0] * 3, [0.2] * 3]))  # mu / variance of the prior
    given = batch(method)
    given["label"] = torch.zeros_like(given["label"])
    method.zero_grad()
    method.rebuild(given)["salient"].backward()
    assert method.salient_head.mean.weight.grad.abs().sum() > 0
    untouched = method.salient_head.log_variance.weight.grad
    assert untouched is None or not untouched.any(), "their variance is a constant"


@pytest.mark.parametrize(
    ("names", "target", "expected"),
    [
        (("healthy", "sick"), "", [0, 1, 1]),
        (("case", "control"), "case", [1, 0, 0]),
        (("0", "1"), "0", [1, 0, 0]),
    ],
)
def test_the_target_population_is_the_one_named(
    names: tuple[str, str], target: str, expected: list[int]
) -> None:
    method = made(target=target)
    assert method.notes() == []
    found = method.examples(table(names), np.arange(3))
    assert found["label"] == expected
    assert repr(names[expected[1] if target == "" else 0]) in method.notes()[0].split("target population")[1]
    assert ("the later name" in method.notes()[0]) == (target == "")


def test_other_than_two_populations_and_an_unknown_target_are_refused(tmp_path: Path) -> None:
    three = Table.from_columns({"image": pictures(6), "label": ["a", "b", "c"] * 2}, name="three.csv")
    with pytest.raises(TableError, match=r"three\.csv, column 'label': 3 labels .*exactly two"):
        populations(three, "")
    with pytest.raises(TableError, match=r"exactly two populations.*--column label=NAME"):
        fit("sepvae", three, tmp_path / "out", batch_size=2, steps=1, holdout_share=0)
    with pytest.raises(ArgumentError, match=r"target 'ill' is no label.*choose 'healthy' or 'sick'"):
        populations(table(), "ill")


# -- the two turns ---------------------------------------------------------------------------------


def test_each_turn_moves_its_own_side_alone() -> None:
    method = made()
    given = batch(method)
    assert with_gradient(method, method.judge(given)) == {"discriminator"}, "its latents are detached"
    one, two = method.turns()
    assert not {id(p) for p in one.train} & {id(p) for p in two.train}
    assert {id(p) for p in [*one.train, *two.train]} == {id(p) for p in method.parameters()}
    method.discriminator[-1].bias.data.fill_(1.0)
    parts = with_gradient(method, {"dependence": method.rebuild(given)["dependence"]})
    assert {"encoder", "salient_encoder"} <= parts, "what the discriminator finds goes into both encoders"


def test_no_gradient_of_the_model_is_left_for_the_discriminator() -> None:
    """Step for step the same as the discriminator's own loss by a fresh Adam, whatever the other turn leaves."""
    method, alone = made(), made()
    data = table()
    settings = Settings(
        steps=1,
        batch_size=N,
        learning_rate=1e-2,
        warmup=0.0,
        weight_decay=0.0,
        clip_norm=0.0,
        schedule="constant",
    )
    seen: list[Tensor] = []
    method.discriminator.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    train(method, data, settings)
    optimiser = torch.optim.Adam(alone.discriminator.parameters(), lr=1e-2)
    ratio_discriminator(alone.discriminator(seen[0]), alone.discriminator(seen[1])).backward()
    optimiser.step()
    assert len(seen) == 3, "joint and rolled pairs, then joint ones in the other turn"
    for got, expected in zip(
        method.discriminator.parameters(), alone.discriminator.parameters(), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


# -- two spaces ------------------------------------------------------------------------------------


def test_common_and_salient_are_two_modalities_that_live_on(tmp_path: Path) -> None:
    method = made()
    train(method, table(), Settings(steps=2, batch_size=6, learning_rate=1e-3, warmup=0.0))
    space = method.space()
    assert space.modality_for("image", pictures(1)[0]) == "salient"
    assert space.modality_for("image", pictures(1)[0], "common") == "common"
    with pytest.raises(ArgumentError, match="modality must be one of salient, common"):
        space.modality_for("image", pictures(1)[0], "comon")
    space.save(tmp_path / "space")
    again = Space.load(tmp_path / "space")
    with torch.no_grad():
        (c, _), (s, _) = method.eval().moments(batch(method))
    for modality, mean in (("common", c), ("salient", s)):
        found = space.encode(pictures(), modality)
        assert np.array_equal(found, again.encode(pictures(), modality))
        np.testing.assert_allclose(found, mean, atol=1e-6)
    assert np.array_equal(common_twins(space, pictures()), common_twins(again, pictures()))


def test_one_encoder_under_two_modalities_is_saved_twice_and_loads_bit_equal(tmp_path: Path) -> None:
    encoder = ConvNet(8, 8, 2).eval()
    shared = Space(
        {"salient": encoder, "common": encoder},
        {"salient": GaussianHead(16, 8, 3), "common": GaussianHead(16, 8, 5)},
        geometry="euclidean",
    )
    shared.save(tmp_path / "space")
    again = Space.load(tmp_path / "space")
    for modality, dim in (("salient", 3), ("common", 5)):
        z = shared.encode(pictures(), modality)
        assert z.shape == (N, dim)
        assert np.array_equal(z, again.encode(pictures(), modality))


def test_verbs_read_a_column_with_the_modality_that_is_named(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    space, data = made().space(), table()
    space.save(tmp_path / "space")
    for modality in ("salient", "common"):
        z = space.encode(pictures(), modality)
        assert np.array_equal(embedded(space, data, modality=modality)[0]["image"], z)
        out = embed(tmp_path / "space", data, tmp_path / f"{modality}.parquet", modality=modality)
        assert np.array_equal(np.stack(pq.read_table(out)["image"].to_numpy()), z)
        [hits] = search_table(tmp_path / "space", data, [pictures()[4]], k=3, modality=modality)
        order = np.argsort(((z - z[4]) ** 2).sum(1))
        assert [hit.row for hit in hits] == (order[:3] + 1).tolist()
        assert hits[0].score == pytest.approx(0, abs=1e-3)
    default = embedded(space, data)[0]["image"]
    assert np.array_equal(default, space.encode(pictures(), "salient"))
    assert measure(space, data, modality="common") != measure(space, data, modality="salient")
    with pytest.raises(ArgumentError, match="modality must be one of"):
        measure(space, data, modality="image")


def test_twins_are_drawn_from_common_latents_alone() -> None:
    method = made()
    space = method.space()
    twins = common_twins(space, pictures(), batch_size=5)
    assert twins.shape == (N, 3, 8, 8)
    with torch.no_grad():
        (c, _), _ = method.eval().moments(batch(method))
        np.testing.assert_allclose(twins, method.decoder(torch.cat([c, torch.zeros(N, 3)], dim=1)), atol=1e-6)
    before = common_twins(space, pictures())
    for parameter in [*method.salient_encoder.parameters(), *method.salient_head.parameters()]:
        parameter.data.zero_()
    assert np.array_equal(common_twins(space, pictures()), before), "the salient side has no say"
    with pytest.raises(ArgumentError, match="twins need a space with a modality 'common'"):
        common_twins(Space({"image": ConvNet(8, 8, 2)}), pictures())


def test_fit_says_which_population_it_took_for_the_target(tmp_path: Path) -> None:
    space = fit(
        "sepvae",
        table(n=60),
        tmp_path / "out",
        steps=3,
        batch_size=8,
        hyperparameters={**SMALL, "target": "healthy"},
    )
    assert any("target population: 'healthy'" in note for note in space.card["notes"])
    assert Space.load(tmp_path / "out").fingerprint == space.fingerprint


# -- parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (3, 4), (8, 8), (12, 12), (16, 10), (28, 28), (32, 32)]
)
def test_a_decoder_draws_pictures_of_any_size(height: int, width: int) -> None:
    decoder = ConvDecoder(5, height, width, channels=4, hidden=8)
    shown = decoder(torch.randn(2, 5)).detach()
    assert shown.shape == (2, 3, height, width)
    assert 0 < shown.min() <= shown.max() < 1
    again = make_head(decoder.settings())
    again.load_state_dict(decoder.state_dict())
    assert torch.equal(again(torch.ones(1, 5)), decoder(torch.ones(1, 5)))
    with pytest.raises(ArgumentError, match="dim must be between 1"):
        ConvDecoder(0, height, width)


def test_draws_carry_gradient_to_both_moments() -> None:
    mean, log_variance = torch.zeros(4, 3, requires_grad=True), torch.zeros(4, 3, requires_grad=True)
    torch.manual_seed(0)
    draw = drawn(mean, log_variance)
    draw.sum().backward()
    torch.testing.assert_close(mean.grad, torch.ones(4, 3))
    torch.testing.assert_close(log_variance.grad, draw.detach() / 2)
    head = GaussianHead(6, 4, 3)
    features = torch.randn(2, 6)
    torch.testing.assert_close(head(features), head.moments(features)[0])
