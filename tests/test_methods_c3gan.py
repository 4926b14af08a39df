"""C3-GAN: composition, codes, whose gradient goes where, clusters as the result, and every trap of its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pictures
from torch import Tensor
from torch.nn import functional

from nearfar.data.kinds import Image
from nearfar.data.table import Table
from nearfar.encoders.image import ConvNet
from nearfar.encoders.pictures import PictureSize
from nearfar.errors import ArgumentError
from nearfar.heads.decoders.layered import composed, pixels
from nearfar.heads.prototypes import Prototypes
from nearfar.measures.clustering import clustering_metrics
from nearfar.method import Batch
from nearfar.methods.generation.c3gan import C3GAN, mask_penalty, shuffled
from nearfar.objectives import nt_xent
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.fit import fit
from nearfar.verbs.measure import measure

SMALL: dict[str, Any] = {"clusters": 4, "dim": 12, "width": 16, "flip": False, "jitter": 0.0, "grey": 0.0}


def made(seed: int = 0, **changed: Any) -> C3GAN:
    torch.manual_seed(seed)
    return C3GAN(ConvNet(8, 8, 2), **{**SMALL, **changed})


def pictures(n: int = 12) -> list[Pictures.Image]:
    """Bright halves, left or right, up or down, with noise."""
    drawn = np.random.default_rng(0)
    found = []
    for i in range(n):
        canvas = drawn.integers(0, 60, (8, 8, 3), dtype=np.uint8)
        half = np.s_[:, :4] if i % 2 else np.s_[4:, :]
        canvas[half] += 180
        found.append(Pictures.fromarray(canvas))
    return found


def batch(method: C3GAN, n: int = 8) -> Batch:
    return method.prepare({"image": pictures(n)}, torch.Generator().manual_seed(0))


def with_gradient(method: C3GAN, terms: dict[str, Tensor]) -> set[str]:
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


# -- codes and composition -------------------------------------------------------------------------


def test_clusters_of_a_batch_are_drawn_without_replacement() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        assert len(set(shuffled(50, 40).tolist())) == 40, (
            "drawn with replacement, 40 of 50 would hardly differ"
        )
        counts = torch.bincount(shuffled(4, 11), minlength=4)
        assert sorted(counts.tolist()) == [2, 3, 3, 3], (
            "more rows than clusters take every cluster equally often"
        )
    assert not torch.equal(shuffled(50, 40), shuffled(50, 40))


def test_a_full_mask_is_the_foreground_and_an_empty_one_the_background() -> None:
    b, f = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    assert torch.equal(composed(b, torch.ones(2, 1, 4, 4), f), f)
    assert torch.equal(composed(b, torch.zeros(2, 1, 4, 4), f), b)
    method = made().train()
    clusters, drawn = method.draw(8, torch.device("cpu"))
    assert len(clusters) == 8
    torch.testing.assert_close(drawn.picture, composed(drawn.background, drawn.mask, drawn.foreground))
    assert drawn.mask.min() >= 0
    assert drawn.mask.max() <= 1


def test_the_loss_sees_warped_foregrounds_and_generation_does_not() -> None:
    method = made().train()
    generator = method.generator
    codes = torch.randn(6, 64), torch.arange(6) % 4, torch.randn(6, 8)
    straight = generator(*codes)
    turned = generator(*codes, torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]]).expand(6, 2, 3))
    torch.testing.assert_close(turned.background, straight.background)
    torch.testing.assert_close(turned.mask, straight.mask.rot90(1, (2, 3)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(turned.foreground, straight.foreground.rot90(1, (2, 3)), atol=1e-5, rtol=1e-5)
    calls: list[bool] = []
    generator.register_forward_pre_hook(
        lambda module, given: calls.append(len(given) > 3 and given[3] is not None), with_kwargs=False
    )
    method.discriminate(batch(method))
    method.deceive(batch(method))
    generator.generate([0, 1])
    assert calls == [True, True, False]


def test_generation_is_in_evaluation_mode_and_repeats_itself() -> None:
    generator = made().train().generator
    one = generator.generate([0, 1, 2, 2])
    assert torch.equal(one, generator.generate([0, 1, 2, 2]))
    with_another = generator.generate([0, 1, 2, 3])
    torch.testing.assert_close(
        one[:3], with_another[:3]
    )  # with batch statistics a picture would know the others
    assert not torch.allclose(one[3], with_another[3])
    assert not torch.equal(one, generator.generate([0, 1, 2, 2], seed=1))
    assert not torch.equal(one[2], one[3])
    assert generator.training
    assert one.shape == (4, 3, 8, 8)
    assert one.min() >= 0
    assert one.max() <= 1


# -- the terms -------------------------------------------------------------------------------------


def test_info_is_the_softmax_over_cosines_with_the_centroids() -> None:
    method = made(temperature=0.3)
    phi, clusters = torch.randn(5, 12), torch.tensor([3, 0, 0, 2, 1])
    f, e = functional.normalize(phi), functional.normalize(method.prototypes.rows)
    expected = functional.cross_entropy(f @ e.T / 0.3, clusters)
    torch.testing.assert_close(method.info(phi, clusters), expected)


def test_real_views_and_entropies_do_not_depend_on_what_is_generated() -> None:
    """A contrast of views of generated pictures is one of the traps."""
    method = made().train()
    given = batch(method)
    torch.manual_seed(1)
    before = method.discriminate(given)
    with torch.no_grad():
        for parameter in method.generator.parameters():
            parameter.mul_(-0.5)
    torch.manual_seed(1)
    after = method.discriminate(given)
    for name in ("views", "entropy"):
        assert torch.equal(before[name], after[name])
    for name in ("hinge", "info", "info_foreground"):
        assert not torch.equal(before[name], after[name])
    real, other = (method.see(given[which]["pixels"])[0] for which in ("real", "other"))
    torch.testing.assert_close(before["views"], nt_xent(real, other, temperature=0.1))


def test_the_discriminator_learns_the_clusters_in_its_own_space_and_nothing_reaches_the_generator() -> None:
    method = made().train()
    terms = method.discriminate(batch(method))
    assert with_gradient(method, terms) == {"encoder", "head", "realness", "prototypes"}
    terms = method.discriminate(batch(method))
    assert with_gradient(method, {"info": terms["info"]}) == {"encoder", "head", "prototypes"}, (
        "a separate classifier of clusters is one of the traps"
    )
    terms = method.discriminate(batch(method))
    assert with_gradient(method, {"entropy": terms["entropy"]}) == {"encoder", "head", "prototypes"}


def test_the_generator_learns_from_both_and_moves_alone() -> None:
    method = made().train()
    state = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    turns = {turn.name: {id(p) for p in turn.train} for turn in method.turns()}
    assert not turns["discriminator"] & turns["generator"]
    assert len(turns["discriminator"] | turns["generator"]) == len(list(method.parameters()))
    for name in ("hinge", "info", "info_foreground", "mask"):
        terms = method.deceive(batch(method))
        assert "generator" in with_gradient(method, {name: terms[name]}), name
    train(method, table(), Settings(steps=1, batch_size=8, warmup=0.0))
    moved = {name.split(".")[0] for name, t in method.state_dict().items() if not torch.equal(t, state[name])}
    assert moved == {"encoder", "head", "realness", "prototypes", "generator"}


def test_the_foreground_alone_knows_the_cluster() -> None:
    generator = made().eval().generator
    z, c_z = torch.randn(1, 64).expand(2, 64), torch.randn(1, 8).expand(2, 8)
    drawn = generator(z, torch.tensor([0, 1]), c_z)
    assert torch.equal(drawn.background[0], drawn.background[1])
    assert not torch.allclose(drawn.foreground[0], drawn.foreground[1])


def test_the_masked_picture_is_grey_where_the_background_is() -> None:
    """m x in [-1, 1] is 0 there, not black."""
    method = made().train()
    clusters, drawn = method.draw(8, torch.device("cpu"))
    empty = drawn._replace(mask=torch.zeros_like(drawn.mask))
    grey, _ = method.see(torch.full((8, 3, 8, 8), 0.5))
    _, terms = method.judge(empty, clusters)
    torch.testing.assert_close(terms["info_foreground"], method.info(grey, clusters))
    _, whole = method.judge(drawn, clusters)
    seen, _ = method.see(pixels(drawn.picture))
    torch.testing.assert_close(whole["info"], 5 * method.info(seen, clusters))


def test_masks_are_kept_from_covering_nothing_everything_or_half() -> None:
    def of(value: float) -> float:
        return float(mask_penalty(torch.full((2, 1, 4, 4), value)))

    def bits(p: float) -> float:
        return float(-p * np.log2(p + 1e-6) - (1 - p) * np.log2(1 - p + 1e-6))

    assert of(0.0) == pytest.approx(0.1, abs=1e-5)
    assert of(1.0) == pytest.approx(0.1, abs=1e-5)
    for inside in (0.1, 0.5, 0.9):
        assert of(inside) == pytest.approx(bits(inside), abs=1e-5)
    assert of(0.04) == pytest.approx(0.06 + bits(0.04), abs=1e-5)
    sharp = torch.zeros(2, 1, 4, 4)
    sharp[..., :2] = 1
    assert float(mask_penalty(sharp)) == pytest.approx(0.0, abs=1e-5)
    edge = torch.tensor([0.0, 1.0, 0.5, 0.3]).view(1, 1, 2, 2).requires_grad_()
    mask_penalty(edge).backward()
    assert edge.grad is not None
    assert bool(edge.grad.isfinite().all()), "beyond a warped picture masks are exactly 0"


# -- clusters as the result ------------------------------------------------------------------------


def table() -> Table:
    shown = pictures()
    return Table.from_columns(
        {"image": shown, "label": ["left" if i % 2 else "down" for i in range(len(shown))]}
    )


def test_the_space_gives_clusters_and_is_the_same_after_saving(tmp_path: Path) -> None:
    method = made()
    train(method, table(), Settings(steps=3, batch_size=8, learning_rate=1e-3))
    space = method.space()
    space.save(tmp_path / "space")
    again = Space.load(tmp_path / "space")
    z = space.encode(pictures())
    assert np.array_equal(again.encode(pictures()), z)
    clusters = again.parts["clusters"]
    assert isinstance(clusters, Prototypes)
    expected = (z @ functional.normalize(method.prototypes.rows).detach().numpy().T).argmax(axis=1)
    assert clusters.assign(torch.from_numpy(z)).tolist() == expected.tolist()
    generators = [one.parts["generator"].generate([0, 1, 3]) for one in (space, again)]
    assert torch.equal(*generators)
    measured = measure(again, table(), report=tmp_path / "page.html")
    against = clustering_metrics(expected, table().column("label"))
    assert measured["own_cluster_accuracy"].value == pytest.approx(against.accuracy)
    assert measured["own_clusters_used"].value == len(set(expected.tolist()))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Drawn for each cluster" in page
    assert "Rows in each cluster" in page


@pytest.mark.parametrize("clusters", [3, 7])
def test_figures_of_the_release_where_clusters_are_as_many_as_classes_and_a_plain_table_else(
    clusters: int,
) -> None:
    """The release repeats a square table when there are more clusters than classes, which counts rows several times."""
    drawn = np.random.default_rng(1)
    y = drawn.integers(0, 3, 300)
    found = np.where(drawn.random(300) < 0.6, (y + 1) % 3, drawn.integers(0, clusters, 300))
    ours = clustering_metrics(found, y)
    joint = np.histogram2d(found, y, bins=(np.arange(clusters + 1), np.arange(4)))[0] / 300
    rows, columns = joint.sum(1), joint.sum(0)

    def entropy(p: np.ndarray) -> float:
        return float(-(p * np.log2(p + 1e-6)).sum())

    mutual = float((joint * np.log2(joint / (rows[:, None] * columns + 1e-6) + 1e-6)).sum())
    if clusters == 3:
        best = max(sum(joint[(k + turn) % 3, k] for k in range(3)) for turn in range(3))
        assert ours.accuracy == pytest.approx(best)
    own = ours.nmi * (entropy(rows) + entropy(columns)) / 2
    assert own == pytest.approx(mutual, abs=1e-3), (
        "the release divides by the larger entropy, not by their mean"
    )
    assert ours.purity == pytest.approx(joint.max(axis=1).sum())
    assert ours.accuracy <= ours.purity


# -- a user's table --------------------------------------------------------------------------------


def test_it_fits_pictures_in_a_folder_and_its_card_tells_of_the_clusters(tmp_path: Path) -> None:
    for number, picture in enumerate(pictures(24)):
        place = tmp_path / "shown" / ("left" if number % 2 else "down")
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{number}.png")
    chosen = {**SMALL, "clusters": 3, "warp": "weak"}
    given: dict[str, Any] = {"steps": 2, "batch_size": 8, "holdout_share": 0.3, "hyperparameters": chosen}
    space = fit("c3gan", tmp_path / "shown", tmp_path / "space", **given)
    assert {"own_cluster_accuracy", "own_cluster_nmi"} <= space.card["measures"].keys()
    assert space.card["measures"]["own_clusters_used"]["n"] == space.card["data"]["measured_rows"]
    assert "own_cluster_purity" in (tmp_path / "space" / "README.md").read_text(encoding="utf-8")
    with pytest.raises(ArgumentError, match="clusters must be between 2 and"):
        fit("c3gan", tmp_path / "shown", tmp_path / "no", **{**given, "hyperparameters": {"clusters": 1}})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"clusters": 1}, "clusters must be between 2"),
        ({"temperature": 0.0}, "temperature must be between"),
        ({"info_weight": -1.0}, "info_weight must be between 0"),
        ({"width": 2}, "width must be between 4"),
    ],
)
def test_hyperparameters_out_of_range_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        made(**changed)


def test_pictures_that_are_not_square_are_refused() -> None:
    encoder = ConvNet(8, 8, 2)
    encoder.plan = PictureSize(8, 12)
    with pytest.raises(ArgumentError, match="square pictures, and this encoder reads 8 x 12"):
        C3GAN(encoder, **SMALL)


def test_it_reads_pictures_only() -> None:
    assert C3GAN.reads == {"image": Image}
    assert made().negatives(8) == 0
