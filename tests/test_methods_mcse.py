"""MCSE: the released loss; grounded from the states before the head, text to picture; pictures never learn."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from test_methods_catalogue import total
from torch import Tensor, nn

from nearfar.data.kinds import Image, Missing, Text, Vector
from nearfar.data.table import Table
from nearfar.encoders.given import GivenVectors
from nearfar.encoders.image import ConvNet
from nearfar.encoders.text import TransformerText
from nearfar.encoders.vector import MLPVector
from nearfar.errors import ArgumentError, TableError
from nearfar.methods.sentence.mcse import MCSE
from nearfar.objectives import info_nce
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.views.text import dropout_twins

TEXTS = ["snow fell on the old town", "fog in the valley", "rain", "hail and wind and a cold night"]
WIDTH = 5


@pytest.fixture(scope="module")
def shared() -> TransformerText:
    torch.manual_seed(0)
    return TransformerText.tiny(TEXTS, layers=1, dim=32, heads=2, ffn=48, max_length=16, dropout=0.2)


@pytest.fixture
def encoder(shared: TransformerText) -> TransformerText:
    return copy.deepcopy(shared)


def vectors(n: int = 4, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(n, WIDTH)).astype(np.float32))


def prepared(method: MCSE, pictures: list[Any] | None = None) -> dict[str, Any]:
    rows = {"text": TEXTS, "image": vectors() if pictures is None else pictures}
    return method.prepare(rows, torch.Generator().manual_seed(0))


def waves(frequency: float, rows: int, columns: int) -> Tensor:
    """A fixed float64 matrix."""
    steps = torch.arange(rows * columns, dtype=torch.float64)
    return torch.sin(steps * frequency + frequency).view(rows, columns)


def set_head(head: nn.Module, of_weight: float, of_bias: float) -> None:
    linear = head.map[0]
    linear.bias = nn.Parameter(waves(of_bias, 1, len(linear.bias))[0])
    linear.weight = nn.Parameter(waves(of_weight, *linear.weight.shape))


# -- the loss --------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_released_code() -> None:
    """The numbers were had from `MCSE.compute_loss` of uds-lsv/MCSE on these states, features and weights."""
    text = TransformerText.tiny(TEXTS, layers=1, dim=6, heads=2, ffn=8, max_length=16)
    method = MCSE(text, GivenVectors(5), weight=1.0, image_temperature=0.1, dim=3)
    for head, weight, bias in (
        (method.head, 0.9, 1.7),
        (method.sentence_head, 0.4, 1.1),
        (method.picture_head, 0.6, 1.9),
    ):
        set_head(head, weight, bias)
    one, two, picture = waves(1.3, 4, 6), waves(0.7, 4, 6), waves(2.1, 4, 5)
    z = {
        "one": method.head(one),
        "two": method.head(two),
        "sentence one": method.sentence_head(one),
        "sentence two": method.sentence_head(two),
        "picture": method.picture_head(picture),
    }
    terms = {
        name: term.item()
        for name, term in method.contrast(z, {"content": torch.arange(len(z["picture"]))}).items()
    }
    assert terms == pytest.approx({"info_nce": 10.809807043975802, "grounding": 1.165297942245966}, rel=1e-9)


def test_grounding_starts_from_the_states_not_from_the_head(encoder: TransformerText) -> None:
    encoder.normalise = True
    method = MCSE(encoder, GivenVectors(WIDTH), dim=8)
    batch = prepared(method)
    torch.manual_seed(0)
    z = method.embed(batch)
    torch.manual_seed(0)
    one, two = (twin.pooled for twin in dropout_twins(encoder, batch["text"]))
    assert one.norm(dim=1).min().item() > 1.1, "states of unit length"
    torch.testing.assert_close(z["sentence one"], method.sentence_head(one))
    torch.testing.assert_close(z["sentence two"], method.sentence_head(two))
    torch.testing.assert_close(z["two"], method.head(two))
    assert z["sentence one"].shape == z["picture"].shape == (4, 8)


def test_pictures_are_keys_only(encoder: TransformerText) -> None:
    """A picture that is added to a batch of one would be found by no text: rows of texts, never of pictures."""
    method = MCSE(encoder, GivenVectors(WIDTH), weight=1.0, dim=4)
    torch.manual_seed(1)
    z = {name: torch.randn(6, 4) for name in ("one", "two", "sentence one", "sentence two", "picture")}
    forward = [info_nce(z[f"sentence {twin}"], z["picture"], temperature=0.05) for twin in ("one", "two")]
    backward = [info_nce(z["picture"], z[f"sentence {twin}"], temperature=0.05) for twin in ("one", "two")]
    found = method.contrast(z, {"content": torch.arange(len(z["picture"]))})["grounding"]
    torch.testing.assert_close(found, (forward[0] + forward[1]) / 2)
    assert abs(found - (sum(forward) + sum(backward)) / 4).item() > 1e-2


def test_without_weight_a_batch_with_pictures_is_simcse(encoder: TransformerText) -> None:
    method = MCSE(encoder, GivenVectors(WIDTH), weight=0.0)

    def learned(batch: dict[str, Any]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        total(method.contrast(method.embed(batch), batch)).backward()
        found = {name: p.grad.clone() for name, p in method.text.named_parameters() if p.grad is not None}
        method.zero_grad(set_to_none=True)
        return found

    seen, unseen = learned(prepared(method)), learned(prepared(method, [None] * 4))
    assert seen
    assert all(torch.equal(seen[name], gradient) for name, gradient in unseen.items())


def test_the_weight_is_of_the_second_term_alone(encoder: TransformerText) -> None:
    z = {name: torch.randn(6, 4) for name in ("one", "two", "sentence one", "sentence two", "picture")}
    content = {"content": torch.arange(6)}
    light, heavy = (
        MCSE(copy.deepcopy(encoder), GivenVectors(WIDTH), weight=w).contrast(z, content) for w in (0.01, 1.0)
    )
    torch.testing.assert_close(light["grounding"], 0.01 * heavy["grounding"])
    torch.testing.assert_close(light["info_nce"], heavy["info_nce"])


# -- what learns -----------------------------------------------------------------------------------


def picture_cells(n: int = 4) -> list[PIL.Image.Image]:
    drawn = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return [PIL.Image.fromarray(cell) for cell in drawn]


def test_the_encoder_of_pictures_never_learns_its_head_does(encoder: TransformerText) -> None:
    method = MCSE(encoder, ConvNet(8, width=8, norm="batch")).train()
    assert not method.image.model.training, "running statistics would follow the batches"
    before = {name: value.clone() for name, value in method.image.state_dict().items()}
    batch = prepared(method, picture_cells())
    total(method.contrast(method.embed(batch), batch)).backward()
    assert all(not p.requires_grad and p.grad is None for p in method.image.parameters())
    assert method.picture_head.map[0].weight.grad.abs().sum().item() > 0
    assert method.sentence_head.map[0].weight.grad.abs().sum().item() > 0
    assert all(torch.equal(value, before[name]) for name, value in method.image.state_dict().items())


def test_features_are_taken_as_they_are(encoder: TransformerText) -> None:
    method = MCSE(encoder, MLPVector(WIDTH))
    z = method.embed(prepared(method))
    torch.testing.assert_close(z["picture"], method.picture_head(torch.from_numpy(np.stack(vectors()))))
    assert method.notes() == []
    assert "trained" in MCSE(encoder, ConvNet(8)).notes()[0]


def test_heads_are_tanh_of_the_width_asked_for(encoder: TransformerText) -> None:
    method = MCSE(encoder, GivenVectors(WIDTH))
    assert [type(part) for part in method.picture_head.map] == [nn.Linear, nn.Tanh]
    assert method.picture_head.map[0].weight.shape == (256, WIDTH)
    assert method.sentence_head.map[0].weight.shape == (256, encoder.dim)


def test_the_space_is_the_text_encoder_alone(encoder: TransformerText) -> None:
    space = MCSE(encoder, GivenVectors(WIDTH)).space()
    assert space.encoders == {"text": encoder}
    assert space.heads == {}


def test_defaults_are_those_of_the_paper(encoder: TransformerText) -> None:
    defaults = {k: p.default for k, p in inspect.signature(MCSE.__init__).parameters.items()}
    assert [defaults[k] for k in ("weight", "temperature", "image_temperature", "dim")] == [
        0.01,
        0.05,
        0.05,
        256,
    ]
    MCSE(encoder, GivenVectors(WIDTH))
    assert encoder.pooling == "cls"


# -- batches of two kinds --------------------------------------------------------------------------


def mixture(texts: int, pictures: int) -> Table:
    """Rows of both kinds in turn; those with pictures are not the first."""
    there = np.random.default_rng(0).permutation(texts + pictures) < pictures
    cells = [
        vector.tolist() if seen else None for vector, seen in zip(vectors(len(there)), there, strict=True)
    ]
    columns = {"text": [f"{TEXTS[i % 4]} {chr(97 + i % 26)}{i}" for i in range(len(there))], "image": cells}
    return Table.from_columns(columns, {"text": Text, "image": Vector | Missing})


def test_batches_are_of_one_kind_and_every_nth_has_pictures(encoder: TransformerText) -> None:
    table, method = mixture(texts=34, pictures=10), MCSE(encoder, GivenVectors(WIDTH))
    method.begin(table)
    order = method.order(len(table), 4, 0, 0)[:44].reshape(-1, 4)
    kinds = [set(table.present("image")[batch]) for batch in order]
    assert kinds == [{i % 3 == 0} for i in range(11)]


def test_it_trains_on_a_mixture_and_gradients_of_both_kinds_can_be_added(encoder: TransformerText) -> None:
    for accumulate in (1, 2):
        method = MCSE(copy.deepcopy(encoder), GivenVectors(WIDTH))
        settings = Settings(
            steps=6, batch_size=4, accumulate=accumulate, learning_rate=1e-3, on_collapse="warn"
        )
        run = train(method, mixture(texts=34, pictures=10), settings)
        assert np.isfinite(run.losses).all()


def test_right_pictures_are_found_and_shuffled_ones_are_not(encoder: TransformerText) -> None:
    method = MCSE(encoder, GivenVectors(WIDTH), weight=1.0)
    batch = prepared(method)
    z = method.embed(batch)
    found = {}
    for name, moved in (("right", 0), ("shuffled", 1)):
        places = torch.eye(4).roll(moved, 0)
        one_hot = {"sentence one": torch.eye(4), "sentence two": torch.eye(4), "picture": places}
        found[name] = method.contrast({**z, **one_hot}, batch)["grounding"].item()
    assert found["right"] == pytest.approx(math.log1p(3 * math.exp(-20)), abs=1e-6)
    assert found["shuffled"] == pytest.approx(20, abs=1e-3)


def test_a_picture_in_several_rows_is_no_negative_of_their_texts(encoder: TransformerText) -> None:
    """As with the five captions of a picture of Flickr30k: nothing could tell them apart."""
    method = MCSE(encoder, GivenVectors(WIDTH), weight=1.0)
    one, two = vectors(2)
    for pictures, met in (([one] * 4, 1), ([one, one, two, two], 3)):
        batch = prepared(method, pictures)
        z = {name: torch.ones(4, 3) for name in method.embed(batch)}
        assert method.contrast(z, batch)["grounding"].item() == pytest.approx(math.log(met), abs=1e-6)


@pytest.mark.parametrize("name", ["temperature", "image_temperature"])
def test_temperatures_out_of_range_are_refused(encoder: TransformerText, name: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{name} must be"):
        MCSE(encoder, GivenVectors(WIDTH), **{name: 0.0})


def test_a_batch_of_both_kinds_is_refused(encoder: TransformerText) -> None:
    method = MCSE(encoder, GivenVectors(WIDTH))
    with pytest.raises(ArgumentError, match="in all of its rows or in none"):
        prepared(method, [None, *vectors(3)])


def test_a_table_without_pictures_is_sent_to_simcse(encoder: TransformerText) -> None:
    table = Table.from_columns({"text": TEXTS, "image": [None] * 4}, {"image": Image | Missing})
    with pytest.raises(TableError, match=r"column 'image': no row has a picture.*simcse"):
        MCSE(encoder, GivenVectors(WIDTH)).begin(table)


def test_too_few_pictures_for_a_batch_are_told(encoder: TransformerText) -> None:
    with pytest.raises(
        ArgumentError, match=r"column image: .* 3 rows of the first kind do not fill a batch of 8"
    ):
        train(MCSE(encoder, GivenVectors(WIDTH)), mixture(20, 3), Settings(steps=1, batch_size=8))


def test_a_negative_weight_is_refused(encoder: TransformerText) -> None:
    with pytest.raises(ArgumentError, match="weight must be between 0"):
        MCSE(encoder, GivenVectors(WIDTH), weight=-1)
