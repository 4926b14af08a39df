"""PromCSE: the released loss, a frozen body, and a prompt that stays."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_methods_catalogue import gradients, total
from torch import Tensor

from nearfar.data.kinds import Text
from nearfar.data.table import Table
from nearfar.encoders import make_encoder
from nearfar.encoders.prefix import PrefixText
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, TableError
from nearfar.geometry import cosine
from nearfar.method import Batch
from nearfar.methods.sentence.promcse import PromCSE
from nearfar.methods.sentence.simcse import SimCSE
from nearfar.recipes.promcse import _margin
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.fitting import SCRATCH_RATE, _rate

TEXTS = ["rain", "snow fell on the old town", "fog in the valley", "a storm and a cold night"]
POSITIVES = ["it rains", "snow", "the valley lies in fog", "thunder and lightning"]
NEGATIVES = ["it is dry", "sand in the desert", "a clear view", "no wind at all"]
P = 4


@pytest.fixture(scope="module")
def shared() -> TransformerText:
    torch.manual_seed(0)
    texts = TEXTS + POSITIVES + NEGATIVES
    return TransformerText.tiny(texts, layers=2, dim=32, heads=2, ffn=48, max_length=16, dropout=0.2)


@pytest.fixture
def encoder(shared: TransformerText) -> TransformerText:
    return copy.deepcopy(shared)


def made(encoder: TransformerText, **hyperparameters: Any) -> PromCSE:
    torch.manual_seed(1)
    return PromCSE(encoder, prompt_length=P, **hyperparameters).train()


def batch(method: PromCSE | SimCSE, *columns: list[str]) -> Batch:
    rows = dict(zip(("text", "positive", "negative"), columns, strict=False))
    return method.prepare(rows, torch.Generator().manual_seed(0))


def waves(frequency: float) -> Tensor:
    """A fixed float64 matrix [4, 3]."""
    return torch.sin(torch.arange(12, dtype=torch.float64) * frequency + frequency).view(4, 3)


def triplets() -> dict[str, Tensor]:
    return {"text": waves(1.3), "positive": waves(0.7), "negative": waves(2.1)}


# -- the loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("margin", "weight", "released"),
    [(0.2, 10.0, 20.58499521237807), (0.5, 1.0, 13.569017636654932), (0.2, 0.0, 12.456131239352361)],
)
def test_the_loss_is_that_of_the_released_code(
    encoder: TransformerText, margin: float, weight: float, released: float
) -> None:
    """The numbers were had from `cl_forward` of YJiangcm/PromCSE on these matrices, temperature 0.05."""
    method = made(encoder, hinge_margin=margin, hinge_weight=weight)
    assert float(total(method.contrast(triplets(), {}))) == pytest.approx(released, rel=1e-9)


def test_without_negatives_the_loss_is_that_of_simcse(encoder: TransformerText) -> None:
    one, two = waves(1.3), waves(0.7)
    expected = SimCSE(copy.deepcopy(encoder)).contrast({"one": one, "two": two}, {})
    found = made(encoder).contrast({"text": one, "positive": two}, {})
    assert found == expected


def test_the_hinge_is_on_cosines_without_temperature(encoder: TransformerText) -> None:
    cold, warm = (made(copy.deepcopy(encoder), temperature=t).contrast(triplets(), {}) for t in (0.01, 1.0))
    assert torch.equal(cold["hinge"], warm["hinge"])
    assert not torch.equal(cold["info_nce"], warm["info_nce"])
    assert float(warm["hinge"]) < 10 * (0.2 + 2)


def test_the_own_positive_is_no_negative_but_those_of_others_are(encoder: TransformerText) -> None:
    method = made(encoder, hinge_weight=1.0)

    def hinge(positive: Tensor, negative: Tensor) -> float:
        z = {"text": torch.eye(4)[:3], "positive": positive, "negative": negative}
        return float(method.contrast(z, {})["hinge"])

    own, none = torch.eye(4)[:3], torch.eye(4)[3:].expand(3, -1)
    assert hinge(own, none) == 0, "all others are at right angles, 1 below the own positive"
    assert hinge(own.roll(1, 0), none) == pytest.approx(1.2), "another row's positive is at cosine 1"
    assert hinge(own, own.roll(1, 0)) == pytest.approx(0.2), "and so is another row's negative"
    assert hinge(own, torch.cat([own[1:2], none[1:]])) == pytest.approx(0.2 / 3), "the mean is over rows"


def test_a_margin_of_minus_two_costs_nothing(encoder: TransformerText) -> None:
    terms = made(encoder, hinge_margin=-2.0).contrast(triplets(), {})
    assert float(terms["hinge"]) == 0


def test_the_hinge_widens_the_margin_to_the_hardest_negative(encoder: TransformerText) -> None:
    def margin(weight: float) -> float:
        z = {name: rows.clone().requires_grad_() for name, rows in triplets().items()}
        total(made(copy.deepcopy(encoder), hinge_weight=weight).contrast(z, {})).backward()
        with torch.no_grad():
            moved = {name: rows - 0.01 * rows.grad for name, rows in z.items()}
            far = cosine(moved["text"], torch.cat([moved["positive"], moved["negative"]]))
            near = far.diagonal().clone()
            return float((near - far.masked_fill(torch.eye(4, 8, dtype=torch.bool), -2).amax(1)).mean())

    assert margin(10.0) > margin(0.0) + 1e-3


# -- what learns -----------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [(TEXTS,), (TEXTS, POSITIVES), (TEXTS, POSITIVES, NEGATIVES)])
def test_the_body_is_frozen_and_prompt_and_head_learn(
    encoder: TransformerText, columns: tuple[list[str], ...]
) -> None:
    method = made(encoder)
    total(method.loss(batch(method, *columns))).backward()
    assert all(p.grad is None for p in method.encoder.model.parameters())
    found = gradients(method)
    assert set(found) == {"encoder.prompt.states", "head.map.0.weight", "head.map.0.bias"}
    assert all(bool(gradient.any()) for gradient in found.values())
    learning = sum(p.numel() for p in method.parameters() if p.requires_grad)
    assert learning == 2 * 2 * 32 * P + 32 * 32 + 32


def test_each_column_is_embedded_with_the_prompt(encoder: TransformerText) -> None:
    method = made(encoder).eval()
    z = method.embed(batch(method, TEXTS, POSITIVES, NEGATIVES))
    for rows, column in zip(z.values(), (TEXTS, POSITIVES, NEGATIVES), strict=True):
        expected = method.head(method.encoder(method.encoder.prepare(column)).tokens[:, 0])
        torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-5)
    assert method.encoder.pooling == "cls"
    torch.nn.init.normal_(method.encoder.prompt.states)
    moved = method.embed(batch(method, TEXTS, POSITIVES, NEGATIVES))
    assert all(not torch.allclose(moved[name], z[name], atol=1e-2) for name in z)


def test_twins_of_one_pass_differ_by_dropout(encoder: TransformerText) -> None:
    method = made(encoder)
    passes: list[int] = []
    method.encoder.register_forward_hook(lambda module, inputs, out: passes.append(len(out.pooled)))
    z = method.embed(batch(method, TEXTS))
    assert list(z) == ["text", "positive"]
    assert passes == [8]
    assert float((z["text"] - z["positive"]).detach().norm(dim=1).min()) > 1e-3
    with pytest.raises(ArgumentError, match="evaluation mode"):
        made(copy.deepcopy(encoder)).eval().embed(batch(method, TEXTS))


def test_defaults_are_those_of_the_paper() -> None:
    defaults = {k: p.default for k, p in inspect.signature(PromCSE.__init__).parameters.items()}
    assert defaults["prompt_length"] == 16
    assert defaults["temperature"] == 0.05
    assert (defaults["hinge_weight"], defaults["hinge_margin"]) == (10.0, 0.2)
    assert defaults["pooling"] == "own"


def test_no_excess_is_shown_since_the_hinge_compares_with_nothing(encoder: TransformerText) -> None:
    assert made(encoder).negatives(16) == 0


def test_columns_keep_their_names_whichever_are_given(encoder: TransformerText) -> None:
    method = made(encoder).eval()
    rows = {"negative": NEGATIVES, "positive": POSITIVES, "text": TEXTS}
    z = method.embed(method.prepare(rows, torch.Generator().manual_seed(0)))
    for role, column in rows.items():
        expected = method.head(method.encoder(method.encoder.prepare(column)).pooled)
        torch.testing.assert_close(z[role], expected, rtol=1e-4, atol=1e-5)
    table = Table.from_columns({"text": TEXTS, "negative": NEGATIVES})
    with pytest.raises(TableError, match=r"column 'negative' is read as negative.*--column positive="):
        train(method, table, Settings(steps=1, batch_size=4))


def test_hyperparameters_out_of_range_are_refused(encoder: TransformerText) -> None:
    for name, value in {"temperature": 0.0, "hinge_weight": -1.0, "hinge_margin": 3.0}.items():
        with pytest.raises(ArgumentError, match=name):
            PromCSE(copy.deepcopy(encoder), P, **{name: value})
    with pytest.raises(ArgumentError, match="prompt_length"):
        PromCSE(encoder, prompt_length=0)


# -- what is left ----------------------------------------------------------------------------------


def test_the_space_embeds_with_the_prompt_and_without_the_head(
    encoder: TransformerText, tmp_path: Path
) -> None:
    method = made(encoder)
    torch.nn.init.normal_(method.encoder.prompt.states)
    method.loss(batch(method, TEXTS))
    space = method.space()
    assert space.heads == {}
    found = space.encode(TEXTS)
    bare = TransformerText(encoder.model, encoder.tokenizer, "cls", max_length=16)
    assert np.abs(found - Space({"text": bare}).encode(TEXTS)).max() > 0.05
    again = Space.load(space.save(tmp_path / "space"))
    assert isinstance(again.encoders["text"], PrefixText)
    assert np.array_equal(again.encode(TEXTS), found)


def test_with_pairs_the_head_stays_also_after_a_resume(encoder: TransformerText) -> None:
    method = made(encoder)
    method.loss(batch(method, TEXTS, POSITIVES))
    found = method.space().encode(TEXTS)
    z = method.eval().embed(batch(method, TEXTS, POSITIVES))["text"]
    np.testing.assert_allclose(found, torch.nn.functional.normalize(z, dim=1).detach().numpy(), atol=1e-5)
    resumed = made(copy.deepcopy(encoder))
    resumed.load_state_dict(method.state_dict())
    assert np.array_equal(resumed.space().encode(TEXTS), found)


def test_training_can_go_on_from_a_space_with_a_prompt(encoder: TransformerText) -> None:
    first = made(encoder).encoder
    again = made(first)
    assert again.encoder is first
    total(again.loss(batch(again, TEXTS))).backward()
    assert bool(first.prompt.states.grad.any())


def test_a_saved_prompt_learns_at_the_rate_of_a_new_one(encoder: TransformerText, tmp_path: Path) -> None:
    place = made(encoder).space().save(tmp_path / "space")
    read = make_encoder(str(place), Text, [])
    assert read.pretrained
    assert _rate(made(read)) == _rate(made(copy.deepcopy(encoder))) == SCRATCH_RATE


def test_mean_pooling_leaves_the_prompt_out(encoder: TransformerText) -> None:
    """The mask that attention sees is longer than the states; the pooling must take the mask of the text."""
    method = made(encoder, pooling="mean").eval()
    inputs = method.encoder.prepare(TEXTS)
    found = method.encoder(inputs)
    expected = [tokens[mask].mean(0) for tokens, mask in zip(found.tokens, inputs["mask"], strict=True)]
    torch.testing.assert_close(found.pooled, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_lines_of_any_length_and_script_are_read(encoder: TransformerText) -> None:
    method = made(encoder)
    odd = ["the of and", "a", "rain " * 10_000, "дождь 雨 مطر", "rain", "rain", "rain", "\U0001f327"]
    terms = method.loss(batch(method, odd))
    assert bool(total(terms).isfinite())


def test_the_margin_of_the_experiment_is_to_the_nearest_of_all_others() -> None:
    z = {name: torch.nn.functional.normalize(rows, dim=1) for name, rows in triplets().items()}
    far = z["text"] @ torch.cat([z["positive"], z["negative"]]).T
    expected = [float(row[i] - max(x for j, x in enumerate(row) if j != i)) for i, row in enumerate(far)]
    assert _margin(*(rows.numpy() for rows in z.values())) == pytest.approx(float(np.mean(expected)))
