"""miCSE: the released attention term, which weights it reads, and SimCSE where it is off."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import pytest
import torch
from test_methods_catalogue import calm, total
from torch import Tensor

from nearfar.encoders.prefix import PrefixText
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError
from nearfar.method import Batch
from nearfar.methods.sentence.micse import MiCSE, attention_rows, attention_statistics
from nearfar.methods.sentence.simcse import SimCSE

TEXTS = [
    "rain",
    "snow fell on the old town",
    "fog in the valley",
    "a storm and a cold night",
    "hail and wind",
]


@pytest.fixture(scope="module")
def shared() -> TransformerText:
    torch.manual_seed(0)
    return TransformerText.tiny(TEXTS, layers=2, dim=32, heads=2, ffn=48, max_length=16, dropout=0.2)


@pytest.fixture
def encoder(shared: TransformerText) -> TransformerText:
    return copy.deepcopy(shared)


def made(encoder: TransformerText, **hyperparameters: Any) -> MiCSE:
    torch.manual_seed(1)
    return MiCSE(encoder, **{"samples": 8, **hyperparameters}).train()


def batch(method: MiCSE | SimCSE, texts: list[str] = TEXTS) -> Batch:
    return method.prepare({"text": texts}, torch.Generator().manual_seed(0))


# -- the released term -----------------------------------------------------------------------------


def released_maps() -> Tensor:
    """Maps of 2 sentences in 2 views, 12 layers, 2 heads, 6 tokens; 25 of 36 places are above 0: [4, 12, 2, 6, 6]."""
    i = torch.arange(4 * 12 * 2 * 36, dtype=torch.float64)
    maps = (torch.sin(i * 1.7) + torch.cos(i * 0.3)).exp().view(4, 12, 2, 6, 6)
    dropped = (torch.arange(36) * 7 % 36 < 11).view(6, 6)
    return (maps / maps.sum(-1, keepdim=True)).masked_fill(dropped, 0)


def ami(maps: Tensor, encoder: TransformerText) -> float:
    """The term, of maps whose rows 2i and 2i + 1 are the views of sentence i."""
    views = [attention_rows(tuple(maps[view::2].unbind(1))) for view in (0, 1)]
    method = MiCSE(encoder, information_weight=1.0)
    return float(method._ami(attention_statistics(*views, samples=150)))


@pytest.mark.parametrize(
    ("case", "released"),
    [
        ("all", -0.0005541867988675717),
        ("one row is short", -0.0006333121002021343),
        ("all are short", -0.0006861213971264128),
    ],
)
def test_the_term_is_that_of_the_released_code(encoder: TransformerText, case: str, released: float) -> None:
    """Numbers of `cl_forward` of SAP-samples/acl2023-micse on these maps; all places are drawn, so chance is out."""
    maps = released_maps()
    if case == "one row is short":
        maps[0, 1, 1] = 0
    if case == "all are short":
        maps = maps[:, :10]
    assert ami(maps, encoder) == pytest.approx(released, rel=1e-5)


def test_a_row_is_a_head_and_every_second_layer() -> None:
    maps = [torch.full((3, 2, 2, 2), layer) + torch.arange(2).view(1, 2, 1, 1) * 10.0 for layer in range(4)]
    rows = attention_rows(tuple(maps))
    assert rows.shape == (3, 4, 8)
    assert [sorted(set(row.tolist())) for row in rows[0]] == [[0, 2], [1, 3], [10, 12], [11, 13]]


# -- what is drawn ---------------------------------------------------------------------------------


def views(n: int = 60, rows: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    one = torch.randn(rows, n).exp()
    return one, (0.7 * one.log() + 0.5 * torch.randn(rows, n)).exp()


def test_both_views_are_read_at_the_same_places() -> None:
    one, _ = views()
    found = attention_statistics(one, one.square(), samples=20)[:, 0]
    torch.testing.assert_close(found, torch.full_like(found, -0.5 * math.log(1e-6)))


def test_only_places_above_zero_in_both_views_are_drawn_and_counted() -> None:
    one, two = views()
    one[:, ::3], two[:, 1::3] = 0, 0
    both = (one > 0) & (two > 0)
    found = attention_statistics(one, two, samples=60)
    assert found[:, 1].tolist() == [20] * 5
    assert found[:, 2].tolist() == [60] * 5
    kept = attention_statistics(one[both].view(5, 20), two[both].view(5, 20), samples=20)
    torch.testing.assert_close(found[:, 0], kept[:, 0])


def test_each_row_has_a_draw_of_its_own_and_each_step_another() -> None:
    one, two = views(rows=1)
    rows = attention_statistics(one.expand(4, -1), two.expand(4, -1), samples=20)[:, 0]
    assert len(set(rows.tolist())) == 4
    assert not torch.equal(attention_statistics(one, two, 20), attention_statistics(one, two, 20))


def test_weights_enter_as_logarithms() -> None:
    """A constant factor of a row is a shift of its logarithms, and powers are factors: nothing changes."""
    one, two = views()
    expected = attention_statistics(one, two, samples=60)
    torch.testing.assert_close(attention_statistics(one * 0.01, two, samples=60), expected)
    torch.testing.assert_close(
        attention_statistics(one.pow(3), two, samples=60), expected, rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(attention_statistics(one.exp(), two, samples=60), expected, atol=1e-2)


def test_the_scale_is_the_square_of_the_share(encoder: TransformerText) -> None:
    method = MiCSE(encoder, samples=10)
    statistics = torch.tensor([[[0.3, 20.0, 40.0], [0.5, 12.0, 40.0]], [[9.0, 9.0, 40.0], [0.4, 16.0, 40.0]]])
    expected = -(0.3 + 0.5 + 0.4) / 3 * ((48 / 120) ** 2 + 1e-6)
    assert float(method._ami(statistics)) == pytest.approx(expected, rel=1e-5)


# -- within training -------------------------------------------------------------------------------


def test_without_the_term_it_is_simcse_to_the_bit(encoder: TransformerText) -> None:
    def loss(cls: type[MiCSE] | type[SimCSE], **arguments: float) -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(3)
        method = cls(copy.deepcopy(encoder), **arguments).train()
        terms = method.loss(batch(method))
        total(terms).backward()
        found = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
        return total(terms), found

    ours, gradients = loss(MiCSE, information_weight=0.0)
    theirs, expected = loss(SimCSE)
    assert torch.equal(ours, theirs)
    assert gradients.keys() == expected.keys()
    assert all(torch.equal(gradients[name], expected[name]) for name in expected)


def test_the_term_is_weighed_and_negative(encoder: TransformerText) -> None:
    def term(weight: float) -> float:
        method = made(copy.deepcopy(encoder), information_weight=weight)
        torch.manual_seed(4)
        return float(method.loss(batch(method))["attention_information"])

    assert term(1.0) < 0
    assert term(0.25) == pytest.approx(term(1.0) / 4)


def test_attention_is_read_after_dropout(encoder: TransformerText) -> None:
    """Padded keys and dropped weights are 0 and do not count: about 0.8 squared of the places, and fewer by padding."""
    method = made(encoder)
    equal = ["snow fell on the old town"] * 30
    statistics = method.embed(batch(method, equal))["attention"]
    assert statistics.shape == (30, 4, 3)
    share = statistics[..., 1].sum() / statistics[..., 2].sum()
    assert float(share) == pytest.approx(0.64, abs=0.03)
    padded = method.embed(batch(method, [*equal, "rain"]))["attention"]
    length = int(method.encoder.prepare(["rain"])["mask"].sum())
    longest = method.encoder.prepare(equal)["mask"].shape[1]
    assert float((padded[-1, :, 1] / padded[-1, :, 2]).mean()) <= length / longest


def test_gradients_flow_through_the_attention_of_both_views(encoder: TransformerText) -> None:
    one, two = (rows.requires_grad_() for rows in views())
    attention_statistics(one, two, samples=20)[:, 0].sum().backward()
    for rows in (one, two):
        assert bool(rows.grad.isfinite().all())
        assert ((rows.grad != 0).sum(1) == 20).all(), "at the places drawn, and nowhere else"
    method = made(encoder, information_weight=1.0)
    method.loss(batch(method))["attention_information"].backward()
    for layer in method.encoder.model.encoder.layer:
        for part in (layer.attention.self.query, layer.attention.self.key):
            assert bool(part.weight.grad.any())
            assert bool(part.weight.grad.isfinite().all())


def test_zeros_do_not_spoil_the_gradient() -> None:
    one, two = views()
    one[:, :50], two[0] = 0, 0
    leaves = [rows.clone().requires_grad_() for rows in (one, two)]
    found = attention_statistics(leaves[0], leaves[1], samples=30)
    assert found[0].tolist() == [0, 0, 60]
    found[:, 0].sum().backward()
    assert all(bool(rows.grad.isfinite().all()) for rows in leaves)


def test_equal_views_have_the_most_information_and_dropout_lowers_it(encoder: TransformerText) -> None:
    def information(share: float) -> float:
        method = made(copy.deepcopy(encoder), samples=40)
        calm(method)
        for module in method.modules():
            if isinstance(module, torch.nn.Dropout) and share:
                module.p = share
        torch.manual_seed(5)
        return float(method.embed(batch(method, TEXTS[1:2] * 40))["attention"][..., 0].mean())

    none, little, much = (information(share) for share in (0.0, 0.05, 0.4))
    assert none == pytest.approx(-0.5 * math.log(1e-6), rel=1e-4)
    assert none > little > much > 0


def test_the_layers_are_those_of_the_paper_and_fewer_in_shallow_encoders(encoder: TransformerText) -> None:
    def read(depth: int, **arguments: int) -> list[int]:
        encoder.model.config.num_hidden_layers = depth
        return list(range(depth))[MiCSE(encoder, **arguments).read]

    assert read(12) == [7, 8, 9, 10]
    assert read(3, layers=2, above=0) == [1, 2]
    assert [read(depth) for depth in (2, 3, 4, 5, 6)] == [[0, 1], [0, 1], [1, 2], [0, 1, 2, 3], [1, 2, 3, 4]]
    with pytest.raises(ArgumentError, match="even number"):
        read(12, layers=3)
    with pytest.raises(ArgumentError, match="layers=4 of 1"):
        read(1)


def test_defaults_are_those_of_the_paper() -> None:
    defaults = {k: p.default for k, p in inspect.signature(MiCSE.__init__).parameters.items()}
    assert (defaults["temperature"], defaults["samples"]) == (0.05, 150)
    assert defaults["information_weight"] == 1e-3
    assert defaults["pooling"] == "own"


def test_states_are_pooled_as_is_said(encoder: TransformerText) -> None:
    assert made(encoder, pooling="mean").encoder.pooling == "mean"


def test_an_encoder_without_attention_weights_is_refused_at_once(encoder: TransformerText) -> None:
    prompted = PrefixText.around(encoder, 4)
    with pytest.raises(ArgumentError, match="PrefixText"):
        made(prompted)
    method = made(prompted, information_weight=0.0)
    assert set(method.loss(batch(method))) == {"info_nce"}


def test_what_is_left_is_the_encoder_without_the_head(encoder: TransformerText) -> None:
    method = made(encoder)
    method.loss(batch(method))
    assert method.space().encoders == {"text": encoder}
    assert method.space().heads == {}
    assert encoder.pooling == "cls"


def test_texts_too_short_for_the_draw_are_learned_from(encoder: TransformerText) -> None:
    """Three tokens have 9 places: with 150 asked for, every row gives what it has."""
    method = made(encoder, samples=150)
    terms = method.loss(batch(method, ["a", "rain", "fog", "a"]))
    assert float(terms["attention_information"]) < 0
    total(terms).backward()
    long = method.loss(batch(method, ["rain " * 10_000, "the of and", "дождь 雨 مطر", "rain"]))
    assert bool(total(long).isfinite())
