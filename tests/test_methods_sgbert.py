"""SG-BERT: the released loss over all layers, a guide that never moves, and weights held in place."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from test_methods_catalogue import calm, gradients, total
from torch import Tensor
from torch.nn import functional

from nearfar.data.table import Table
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError
from nearfar.method import Batch
from nearfar.methods.sentence.sgbert import SGBERT
from nearfar.objectives import info_nce
from nearfar.training.settings import Settings
from nearfar.training.trainer import train

TEXTS = [
    "rain",
    "snow fell on the old town",
    "fog in the valley",
    "a storm",
    "hail and wind and a cold night",
]
ODD = ["the of and", "a", "wind " * 10_000, "雪 снег ثلج snow", "\t snow \n", "a", "🌧️", "Ω" * 200]


@pytest.fixture(scope="module")
def shared() -> TransformerText:
    torch.manual_seed(0)
    return TransformerText.tiny(TEXTS, layers=2, dim=32, heads=2, ffn=48, max_length=16, dropout=0.2)


@pytest.fixture
def encoder(shared: TransformerText) -> TransformerText:
    return copy.deepcopy(shared)


def prepared(method: SGBERT, texts: list[str] = TEXTS, seed: int = 0) -> Batch:
    return method.prepare({"text": texts}, torch.Generator().manual_seed(seed))


def waves(frequency: float, *shape: int) -> Tensor:
    """A fixed float64 tensor."""
    count = math.prod(shape)
    return torch.sin(torch.arange(count, dtype=torch.float64) * frequency + frequency).view(shape)


ONE, LAYERS = waves(1.3, 4, 3), waves(0.7, 4, 3, 3)
Z = {"one": ONE, "layers": LAYERS}


def contrast(encoder: TransformerText, one: Tensor, layers: Tensor, **settings: Any) -> Tensor:
    method = SGBERT(encoder, width=8, distance_weight=0, **settings)
    return total(method.contrast({"one": one, "layers": layers}, {}))


def by_loops(one: Tensor, layers: Tensor, temperature: float) -> float:
    """The paper's last form, one exponential at a time."""

    def e(a: Tensor, b: Tensor) -> float:
        return math.exp(float(functional.cosine_similarity(a, b, dim=0)) / temperature)

    texts, kinds = range(len(one)), range(layers.shape[1])
    losses = []
    for i in texts:
        far = sum(e(one[i], layers[m, n]) for m in texts if m != i for n in kinds)
        losses += [-math.log(e(one[i], layers[i, k]) / (e(one[i], layers[i, k]) + far)) for k in kinds]
    return float(np.mean(losses))


# -- the loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "temperature", "released"),
    [
        ("sg-opt", 0.01, 73.25326162496201),
        ("sg-opt", 0.5, 2.970753760027696),
        ("opt1", 0.01, 46.40681423077152),
        ("opt1", 0.5, 2.0632537907786093),
    ],
)
def test_the_loss_is_that_of_the_released_code(
    encoder: TransformerText, form: Any, temperature: float, released: float
) -> None:
    """The numbers were had from `NTXentLoss` and `NTXentLossOpt1` of galsang/SG-BERT on these tensors."""
    layers = LAYERS if form == "sg-opt" else LAYERS[:, 1]
    found = contrast(encoder, ONE, layers, form=form, temperature=temperature)
    assert float(found) == pytest.approx(released, rel=1e-9)


def test_every_layer_is_a_positive_alone_among_all_layers_of_other_texts(encoder: TransformerText) -> None:
    found = float(contrast(encoder, ONE, LAYERS, temperature=0.3))
    assert found == pytest.approx(by_loops(ONE, LAYERS, 0.3), rel=1e-9)
    same_layer_only = np.mean(
        [float(info_nce(ONE, LAYERS[:, k].contiguous(), temperature=0.3)) for k in range(3)]
    )
    assert found > same_layer_only + 0.5, "negatives come from every layer"
    # The other positives of a text are not in its denominator: one that is as near as can be costs nothing.
    near = LAYERS.clone()
    near[:, 1] = ONE
    apart = [float(contrast(encoder, ONE, layers, temperature=0.3)) for layers in (LAYERS, near)]
    assert apart == pytest.approx([by_loops(ONE, LAYERS, 0.3), by_loops(ONE, near, 0.3)], rel=1e-9)


def test_with_one_layer_all_forms_but_sg_and_opt1_are_one_infonce(encoder: TransformerText) -> None:
    plain = info_nce(ONE, LAYERS[:, 0], temperature=0.2)
    torch.testing.assert_close(contrast(encoder, ONE, LAYERS[:, :1], temperature=0.2), plain)
    torch.testing.assert_close(contrast(encoder, ONE, LAYERS[:, 0], form="opt2", temperature=0.2), plain)
    with_others = contrast(encoder, ONE, LAYERS[:, 0], form="opt1", temperature=0.2)
    both_ways = contrast(encoder, ONE, LAYERS[:, 0], form="sg", temperature=0.2)
    assert float(with_others) > float(plain)
    turned = contrast(encoder, LAYERS[:, 0].contiguous(), ONE, form="opt1", temperature=0.2)
    torch.testing.assert_close(both_ways, (with_others + turned) / 2)


def test_texts_may_come_in_any_order_and_layers_too(encoder: TransformerText) -> None:
    found = contrast(encoder, ONE, LAYERS, temperature=0.3)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(contrast(encoder, ONE[order], LAYERS[order], temperature=0.3), found)
    torch.testing.assert_close(contrast(encoder, ONE, LAYERS[:, [2, 0, 1]], temperature=0.3), found)
    assert not torch.allclose(contrast(encoder, ONE, LAYERS[order], temperature=0.3), found)


def test_defaults_are_those_of_the_paper(encoder: TransformerText) -> None:
    defaults = {k: p.default for k, p in inspect.signature(SGBERT.__init__).parameters.items()}
    assert (defaults["temperature"], defaults["distance_weight"], defaults["width"]) == (0.01, 0.1, 4096)
    assert (defaults["form"], defaults["layer_pooling"]) == ("sg-opt", "mean")
    method = SGBERT(encoder)
    assert encoder.pooling == "cls"
    assert [tuple(layer.weight.shape) for layer in method.head.map[::2]] == [(4096, 32), (4096, 4096)]
    assert method.negatives(16) == 15 * 3


# -- the guide -------------------------------------------------------------------------------------


def test_all_layers_of_the_guide_are_pooled_without_padding_the_first_included(
    encoder: TransformerText,
) -> None:
    method = SGBERT(encoder, width=24).train()
    calm(method)
    z = method.embed(prepared(method))
    assert z["layers"].shape == (5, 3, 24)
    for i, text in enumerate(TEXTS):  # one text alone has no padding
        alone = encoder.eval()(encoder.prepare([text]), layers=True)
        means = torch.stack([states[0].mean(0) for states in alone.layers])
        torch.testing.assert_close(z["layers"][i], method.head(means), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(z["one"][i], method.head(alone.tokens[0, 0]), rtol=1e-3, atol=1e-5)


def test_the_guide_has_no_dropout_and_the_encoder_has(encoder: TransformerText) -> None:
    method = SGBERT(encoder, width=8).train()
    batch = prepared(method)
    one, again = method.embed(batch), method.embed(batch)
    assert torch.equal(one["layers"], again["layers"])
    assert not torch.allclose(one["one"], again["one"], atol=1e-4)


def test_encoder_and_head_learn_but_neither_the_guide_nor_the_embedding_layer(
    encoder: TransformerText,
) -> None:
    method = SGBERT(encoder, width=8).train()
    total(method.loss(prepared(method))).backward()
    learned = set(gradients(method))
    assert {name.split(".")[0] for name in learned} == {"encoder", "head"}
    assert not [name for name in learned if ".embeddings." in name]
    assert [name for name in learned if ".layer.0." in name]
    assert {name for name, p in method.named_parameters() if p.requires_grad} == learned
    # The head learns from both sides: it is one head, not one for each.
    z = method.embed(prepared(method))
    assert z["one"].requires_grad
    assert z["layers"].requires_grad


def test_training_moves_the_encoder_and_not_what_is_frozen(encoder: TransformerText) -> None:
    method = SGBERT(encoder, width=8)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    settings = Settings(steps=3, batch_size=5, learning_rate=1e-3, warmup=0.0, on_collapse="warn")
    train(method, Table.from_columns({"text": TEXTS}), settings)
    moved = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {"encoder", "head"}
    assert not [name for name in moved if ".embeddings." in name]


# -- the weights -----------------------------------------------------------------------------------


def test_the_distance_is_a_sum_over_all_weights_of_the_encoder(encoder: TransformerText) -> None:
    method = SGBERT(encoder, width=8, distance_weight=0.1)
    assert float(method.contrast(Z, {})["weight distance"].detach()) == 0
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.5
    count = sum(p.numel() for p in encoder.parameters())
    found = float(method.contrast(Z, {})["weight distance"].detach())
    assert found == pytest.approx(0.1 * 0.25 * count, rel=1e-4)
    assert set(SGBERT(encoder, width=8, distance_weight=0).contrast(Z, {})) == {"info_nce"}


def test_the_heavier_the_distance_the_less_the_encoder_moves(encoder: TransformerText) -> None:
    def moved(weight: float) -> float:
        torch.manual_seed(0)
        method = SGBERT(copy.deepcopy(encoder), width=8, distance_weight=weight)
        settings = Settings(steps=40, batch_size=5, learning_rate=1e-3, on_collapse="warn")
        train(method, Table.from_columns({"text": TEXTS}), settings)
        return math.sqrt(float(method.contrast(Z, {})["weight distance"].detach()) / weight)

    free, held, fixed = moved(1e-9), moved(1.0), moved(1e6)
    assert free > 1.5 * held
    assert held > 1.5 * fixed


# -- forms with one layer --------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["sg", "opt1", "opt2"])
def test_one_layer_a_text_is_drawn_uniformly_by_the_generator(encoder: TransformerText, form: Any) -> None:
    method = SGBERT(encoder, width=8, form=form).train()
    every = SGBERT(encoder, width=8).train()
    every.head = method.head
    texts = TEXTS * 60
    layers = every.embed(prepared(every, texts))["layers"]
    chosen = method.embed(prepared(method, texts))["layers"]
    which = (layers - chosen[:, None]).detach().abs().sum(-1)
    assert float(which.min(dim=1).values.max()) < 1e-4
    counts = torch.bincount(which.argmin(dim=1), minlength=3)
    assert int(counts.min()) > 70, "300 draws of three layers"
    again = method.embed(prepared(method, texts))["layers"]
    assert torch.equal(again, chosen)
    assert not torch.allclose(method.embed(prepared(method, texts, seed=1))["layers"], chosen)
    assert method.negatives(16) == (15 if form == "opt2" else 30)


# -- data and arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("texts", [ODD, ["a"] * 8])
def test_odd_texts_and_copies_train(encoder: TransformerText, texts: list[str], pooling: Any) -> None:
    method = SGBERT(encoder, width=8, layer_pooling=pooling)
    settings = Settings(steps=3, batch_size=4, learning_rate=1e-3, on_collapse="warn")
    run = train(method, Table.from_columns({"text": texts}), settings)
    assert np.isfinite(run.losses).all()


def test_the_head_is_for_training_only_and_the_space_is_the_encoder(encoder: TransformerText) -> None:
    method = SGBERT(encoder, width=8)
    assert method.space().heads == {}
    first = encoder.eval()(encoder.prepare(TEXTS)).tokens[:, 0]
    expected = functional.normalize(first, dim=1).detach().numpy()
    np.testing.assert_allclose(method.space().encode(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"distance_weight": -1}, {"width": 0}])
def test_what_cannot_be_is_refused(encoder: TransformerText, settings: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=r"temperature|distance_weight|width"):
        SGBERT(encoder, **settings)
