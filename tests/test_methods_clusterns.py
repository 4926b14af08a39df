"""ClusterNS: the released loss, a start that waits, and clusters that only look."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from test_methods_catalogue import calm, gradients, total
from torch import Tensor, nn

from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError
from nearfar.methods.sentence.clusterns import ClusterNS, mean_cosine
from nearfar.methods.sentence.simcse import SimCSE

TEXTS = ["rain", "snow fell on the old town", "fog in the valley", "a storm", "the", "hail and a cold night"]
NOW, NEVER = 1.0, -1.1
"""Mean cosines at which clustering begins at once, and never."""


@pytest.fixture(scope="module")
def shared() -> TransformerText:
    torch.manual_seed(0)
    return TransformerText.tiny(TEXTS, layers=1, dim=16, heads=2, ffn=24, max_length=16, dropout=0.2)


@pytest.fixture
def made(shared: TransformerText) -> Any:
    def make(width: int = 16, **settings: Any) -> ClusterNS:
        method = ClusterNS(copy.deepcopy(shared), **{"clusters": 4, "momentum": 0.1, **settings}).train()
        method.kmeans.centroids = torch.zeros(len(method.kmeans.centroids), width)
        return method

    return make


def waves(frequency: float, rows: int = 8) -> Tensor:
    """A fixed matrix [rows, 3]."""
    return (
        torch.sin(torch.arange(rows * 3, dtype=torch.float64) * frequency + frequency).float().view(rows, 3)
    )


def twins() -> dict[str, Tensor]:
    return {"one": waves(1.3), "two": waves(1.3) + 0.5 * waves(0.7)}


def begun(method: ClusterNS, rows: Tensor | None = None) -> ClusterNS:
    method.kmeans.start(waves(0.9) if rows is None else rows)
    return method


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return nn.functional.normalize(a, dim=1) @ nn.functional.normalize(b, dim=1).T


def plain(z: dict[str, Tensor]) -> Tensor:
    """The loss of SimCSE."""
    return nn.functional.cross_entropy(cosines(z["one"], z["two"]) / 0.05, torch.arange(len(z["one"])))


def batch(method: ClusterNS, texts: list[str]) -> dict[str, Any]:
    return method.prepare({"text": texts}, torch.Generator().manual_seed(0))


# -- the loss --------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_released_code(made: Any) -> None:
    """The numbers were had from `kmeans_cluster` and the loss of djz233/ClusterNS: start, one update, then these."""
    settings = {"low": 0.1, "high": 0.3, "weight": 1.0, "hard_negative_log_weight": 1.5, "variant": "repo"}
    method, z = begun(made(width=3, **settings)), twins()
    method.kmeans.follow(z["one"])
    terms = method.contrast(z, {})
    assert float(terms["info_nce"]) == pytest.approx(0.8007720708847046, rel=1e-5)
    assert float(terms["band"]) == pytest.approx(0.10003543645143509, rel=1e-5)


def test_the_hard_negative_is_the_second_centroid_of_every_row_for_all_rows(made: Any) -> None:
    method, z = begun(made(width=3, weight=0.0)), twins()
    best = cosines(z["one"], method.kmeans.centroids).argsort(dim=1, descending=True)
    hard = method.kmeans.centroids[best[:, 1]]
    logits = torch.cat([cosines(z["one"], z["two"]), cosines(z["one"], hard)], dim=1) / 0.05
    torch.testing.assert_close(
        method.contrast(z, {})["info_nce"], nn.functional.cross_entropy(logits, torch.arange(8))
    )


def test_the_band_by_loops(made: Any) -> None:
    method, z = begun(made(width=3, low=0.05, high=0.2, weight=2.0)), twins()
    near, scores, cost = method.kmeans.nearest(z["one"]), cosines(z["one"], z["two"]), 0.0
    for i in range(8):
        for j in range(8):
            fellow = i != j and near[i] == near[j]
            gap = float(scores[i, j] - scores[i, i]) if fellow else 0.0
            cost += max(0.0, gap + 0.05) + max(0.0, -gap - 0.2)
    assert float(method.contrast(z, {})["band"]) == pytest.approx(2 * cost / 64, rel=1e-5)


def test_false_negatives_stay_in_the_softmax(made: Any) -> None:
    method, z = begun(made(width=3, hard_negatives=False, weight=0.0)), twins()
    assert int(method.kmeans.same_cluster(z["one"]).sum()) > 0
    torch.testing.assert_close(total(method.contrast(z, {})), plain(z))


@pytest.mark.parametrize("seen", ["nothing", "spread rows"])
def test_until_clusters_begin_it_is_simcse(made: Any, seen: str) -> None:
    method, z = made(width=3, start=NEVER), twins()
    for _ in range(3 if seen == "spread rows" else 0):
        method.after_step(z, 1, 9)
    assert not method.kmeans.started
    torch.testing.assert_close(total(method.contrast(z, {})), plain(z))
    bare = SimCSE(copy.deepcopy(method.encoder))
    torch.testing.assert_close(total(method.contrast(z, {})), total(bare.contrast(z, {})))


@pytest.mark.parametrize(("degrees", "sign"), [(10, -1), (40, 0), (50, 1)])
def test_the_band_pushes_fellows_that_are_too_near_and_pulls_those_too_far(
    made: Any, degrees: int, sign: int
) -> None:
    """Two fellows 10, 40 and 50 degrees apart, and a band of cosines from 0.1 to 0.3 below that of the twins."""
    method = begun(made(width=2, clusters=2, low=0.1, high=0.3), torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    angle = torch.tensor(math.radians(degrees), requires_grad=True)
    rows = torch.stack([torch.tensor([1.0, 0.0]), torch.stack([angle.cos(), angle.sin()])])
    (slope,) = torch.autograd.grad(method.contrast({"one": rows, "two": rows}, {})["band"], angle)
    assert torch.sign(slope.where(slope.abs() > 1e-9, 0)) == sign


# -- clusters --------------------------------------------------------------------------------------


def test_clusters_wait_until_the_space_is_spread(made: Any) -> None:
    method, z = made(width=3, start=0.4), twins()
    narrow = {name: value + 9 for name, value in z.items()}
    assert mean_cosine(narrow["one"], narrow["two"]) > 0.9
    torch.testing.assert_close(mean_cosine(**z), float(cosines(z["one"], z["two"]).mean()))
    method.after_step(narrow, 1, 9)
    assert int(method.kmeans.made) == 0
    assert "no clusters" in method.notes()[0]
    method.after_step(z, 2, 9)
    assert method.kmeans.started
    assert method.notes() == []
    assert torch.equal(method.kmeans.centroids[0], z["one"][0]), "the batch that begins only initialises"
    before = method.kmeans.centroids.clone()
    method.after_step(narrow, 3, 9)
    assert not torch.equal(method.kmeans.centroids, before), "once begun it goes on"


def test_the_loss_changes_no_state_and_no_gradient_reaches_the_centroids(made: Any) -> None:
    method, z = begun(made(width=3, weight=1.0)), {k: v.requires_grad_() for k, v in twins().items()}
    before = method.kmeans.centroids.clone()
    first = total(method.contrast(z, {}))
    first.backward()
    assert torch.equal(method.kmeans.centroids, before)
    assert float(total(method.contrast(z, {})).detach()) == float(first.detach())
    assert not method.kmeans.centroids.requires_grad
    assert not any(name.startswith("kmeans") for name, _ in method.named_parameters())


def test_half_precision_meets_the_centroids(made: Any) -> None:
    method, z = begun(made(width=3)), {name: value.bfloat16() for name, value in twins().items()}
    assert math.isfinite(float(total(method.contrast(z, {}))))
    method.after_step(z, 1, 1)
    assert method.kmeans.centroids.dtype == torch.float32


def test_a_batch_smaller_than_k_begins_over_several(made: Any) -> None:
    method = made(width=3, clusters=12, start=NOW)
    method.after_step(twins(), 1, 9)
    assert int(method.kmeans.made) == 8
    torch.testing.assert_close(total(method.contrast(twins(), {})), plain(twins()))
    method.after_step({"one": waves(2.3), "two": waves(2.3)}, 2, 9)
    assert method.kmeans.started


def test_a_resumed_run_knows_its_clusters(made: Any) -> None:
    method = begun(made(width=3))
    again = made(width=3)
    again.load_state_dict(method.state_dict())
    z = twins()
    assert torch.equal(total(again.contrast(z, {})), total(method.contrast(z, {})))
    assert not torch.isclose(total(again.contrast(z, {})), plain(z))


# -- the rest --------------------------------------------------------------------------------------


def test_what_is_left_is_the_encoder_without_head(made: Any) -> None:
    method = made()
    assert method.space().encoders == {"text": method.encoder}
    assert method.space().heads == {}
    assert method.encoder.pooling == "cls"


def test_twins_are_of_one_text_and_the_head_is_the_formula(made: Any) -> None:
    method = made()
    calm(method)
    z = method.embed(batch(method, TEXTS))
    torch.testing.assert_close(z["one"], z["two"], rtol=1e-4, atol=1e-5)
    states = method.encoder(method.encoder.prepare(TEXTS)).tokens[:, 0]
    weight, bias = method.head.map[0].weight, method.head.map[0].bias
    torch.testing.assert_close(z["one"], torch.tanh(states @ weight.T + bias), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "texts",
    [["same"] * 6, ["the", "a", "of", "and"], ["rain " * 10_000, "дождь", "雨", "r"]],
    ids=["duplicates", "stop words", "long and mixed scripts"],
)
def test_hard_input_gives_a_finite_loss_and_gradient(made: Any, texts: list[str]) -> None:
    method = made(start=NOW, weight=1.0)
    inputs = batch(method, texts)
    method.after_step({k: v.detach() for k, v in method.embed(inputs).items()}, 1, 9)
    assert method.kmeans.started
    loss = total(method.loss(inputs))
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(method).values())


def test_wrong_arguments_are_named(made: Any) -> None:
    for wrong, named in (
        ({"clusters": 1}, "clusters"),
        ({"momentum": 2.0}, "momentum"),
        ({"weight": -1.0}, "weight"),
        ({"low": 0.4}, "low must not be above high"),
        ({"temperature": 0.0}, "temperature"),
    ):
        with pytest.raises(ArgumentError, match=named):
            made(**wrong)


def test_hard_negatives_are_counted_once_there_are_clusters(made: Any) -> None:
    method = made(width=3, start=NOW)
    assert method.negatives(64) == 63
    method.kmeans.start(waves(0.9))
    assert method.kmeans.started
    assert method.negatives(64) == 127


@pytest.mark.parametrize(
    ("name", "value"),
    [("hard_negative_log_weight", math.inf), ("start", math.nan), ("variant", "Repo"), ("weight", -1.0)],
)
def test_arguments_out_of_range_are_refused_before_training(made: Any, name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=f"^{name} must be"):
        made(**{name: value})
