"""DiffCSE: the released loss, and what moves what: encoder, discriminator and generator."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from test_methods_catalogue import total
from torch import Tensor, nn
from torch.nn import functional

from nearfar.data.table import Table
from nearfar.encoders.masked import MaskedText
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, TrainingError
from nearfar.heads.language import IGNORED
from nearfar.method import Batch
from nearfar.methods.sentence.diffcse import DiffCSE
from nearfar.objectives import info_nce
from nearfar.recipes.diffcse import FOUND, GAIN, Edited, WithoutEdits, counted, detection, sensitivity
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.views.text import dropout_twins
from nearfar.views.token_masks import hide_tokens

TEXTS = ["rain", "snow fell on the old town", "fog in the valley", "hail and wind and a cold night"]
SEP, PAD = 3, 0


@pytest.fixture(scope="module")
def shared() -> MaskedText:
    torch.manual_seed(0)
    encoder = MaskedText.tiny(TEXTS, layers=2, dim=16, heads=2, ffn=24, max_length=16, dropout=0.2)
    encoder.head_is_trained = True
    return encoder


@pytest.fixture
def encoder(shared: MaskedText) -> MaskedText:
    return copy.deepcopy(shared)


def prepared(method: DiffCSE, texts: list[str] = TEXTS, seed: int = 0) -> Batch:
    return method.prepare({"text": texts}, torch.Generator().manual_seed(seed))


def losses(method: DiffCSE, batch: Batch, seed: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return method.loss(batch)


class Fixed(nn.Module):
    """Whatever it is given, it gives this."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return self.value


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


# -- the loss --------------------------------------------------------------------------------------


def waves(frequency: float, *shape: int) -> Tensor:
    places = torch.arange(int(np.prod(shape)), dtype=torch.float64)
    return torch.sin(places * frequency + frequency).view(*shape)


@pytest.mark.parametrize(("weight", "released"), [(0.05, 27.34846852188484), (0.0, 27.313480726814465)])
def test_the_loss_is_that_of_the_released_code(
    encoder: MaskedText, monkeypatch: pytest.MonkeyPatch, weight: float, released: float
) -> None:
    """The numbers were had from `cl_forward` of voidism/DiffCSE with these ids, guesses, vectors and logits.

    The guesses change the first token, unhidden ones, the end and padding: the first stays, padding stays.
    """
    guesses = torch.tensor(
        [
            [7, 5, 6, 8, 3],
            [2, 8, 3, 4, 9],
            [5, 9, 9, 3, 1],
            [3, 5, 10, 7, 3],
            [2, 6, 3, 0, 9],
            [9, 9, 4, 5, 1],
        ]
    )
    method = DiffCSE(encoder, weight=weight).train()
    method.head = Fixed(functional.pad(waves(1.3, 6, 4), (0, 12)))  # zeros leave cosines as they are
    method.detect = Fixed(waves(0.7, 6, 5, 2) * 2)
    ids = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 3, 0, 0], [2, 9, 4, 3, 0]])
    mask = ids > 0
    where = mask.repeat(2, 1)
    where[:, 0] = False
    monkeypatch.setattr(method.generator, "predict", lambda states: functional.one_hot(guesses, 11)[where])
    read: list[Tensor] = []
    method.discriminator.trunk.register_forward_pre_hook(
        lambda module, args, given: read.append(given["input_ids"]), with_kwargs=True
    )
    found = total(method.loss({"text": {"ids": ids, "mask": mask}, "hidden": ids, "hidden_twin": ids}))
    assert float(found) == pytest.approx(released, rel=1e-9)
    assert read[0].tolist() == [
        [2, 5, 6, 8, 3],
        [2, 8, 3, 0, 0],
        [2, 9, 9, 3, 0],
        [2, 5, 10, 7, 3],
        [2, 6, 3, 0, 0],
        [2, 9, 4, 5, 0],
    ]


def test_without_weight_it_is_simcse_with_a_head_of_batch_norms(encoder: MaskedText) -> None:
    method = DiffCSE(encoder, weight=0).train()
    terms = losses(method, prepared(method))
    assert not terms["replaced"]
    total(terms).backward()
    found = {name: p.grad.clone() for name, p in method.encoder.named_parameters() if p.grad is not None}
    method.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    twins = dropout_twins(method.encoder, prepared(method)["text"])
    one, two = method.head(torch.cat([twin.pooled for twin in twins])).chunk(2)
    loss = info_nce(one, two, temperature=0.05)
    torch.testing.assert_close(terms["info_nce"], loss)
    loss.backward()
    for name, parameter in method.encoder.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad)


def test_padding_counts_as_not_replaced(encoder: MaskedText) -> None:
    """Leaving it out of the mean would make the weight mean more, the shorter the texts."""
    method = DiffCSE(encoder, weight=1.0).train()
    batch = prepared(method)
    mask = batch["text"]["mask"].repeat(2, 1)
    logits = torch.zeros(*mask.shape, 2)
    logits[~mask] = torch.tensor([50.0, -50.0])  # sure that padding was kept
    method.detect = Fixed(logits)
    expected = float(torch.tensor(2.0).log()) * float(mask.float().mean())
    assert float(losses(method, batch)["replaced"]) == pytest.approx(expected, rel=1e-5)


def test_defaults_are_those_of_the_paper(encoder: MaskedText) -> None:
    defaults = {k: p.default for k, p in inspect.signature(DiffCSE.__init__).parameters.items()}
    assert (defaults["temperature"], defaults["share"], defaults["weight"]) == (0.05, 0.3, 0.005)
    method = DiffCSE(encoder)
    assert method.encoder.pooling == "cls"
    assert method.head.settings() == {"class": "Projection", "dims": [16, 32, 16], "kind": "bn2"}


@pytest.mark.parametrize(("chosen", "expected"), [("own", "cls"), ("mean", "mean")])
def test_the_pooling_is_chosen_for_all_but_the_generator(
    encoder: MaskedText, chosen: str, expected: str
) -> None:
    method = DiffCSE(encoder, pooling=chosen)  # type: ignore[arg-type]
    assert (method.encoder.pooling, method.discriminator.pooling) == (expected, expected)


def test_a_collapse_below_the_batch_norms_sounds_the_alarm(encoder: MaskedText) -> None:
    """Behind them it would not be seen: they spread any point."""
    method, rows = DiffCSE(encoder), Table.from_columns({"text": TEXTS * 4})
    norm = [module for module in method.encoder.model.modules() if isinstance(module, nn.LayerNorm)][-1]
    nn.init.ones_(norm.bias)
    nn.init.constant_(norm.weight, 1e-3)
    with pytest.raises(TrainingError, match=r"any two embeddings 'states' have cosine 1\.000"):
        train(method, rows, Settings(steps=50, batch_size=8, learning_rate=1e-6))
    assert method.watched == {}, "what was looked at is not kept"


# -- the edits -------------------------------------------------------------------------------------


def test_both_copies_are_hidden_by_themselves_and_special_tokens_never(encoder: MaskedText) -> None:
    method = DiffCSE(encoder, share=0.9)
    batch = prepared(method, TEXTS * 5)
    ids = batch["text"]["ids"]
    special = torch.isin(ids, encoder.special_ids)
    one, two = batch["hidden"], batch["hidden_twin"]
    assert (one != ids).any(1).float().mean() > 0.8
    assert (one != two).any(1).float().mean() > 0.8
    for hidden in (one, two):
        assert torch.equal(hidden[special], ids[special])
    assert torch.equal(prepared(DiffCSE(encoder, share=0))["hidden"], prepared(method)["text"]["ids"])


def test_labels_come_from_comparing_tokens_not_from_what_was_hidden(encoder: MaskedText) -> None:
    method = DiffCSE(encoder).eval()
    inputs = encoder.prepare(TEXTS)
    hidden, labels = hide_tokens(method.generator, inputs, 0.3, torch.Generator().manual_seed(1))
    ids, replaced = method.edited(inputs, hidden["ids"])
    assert torch.equal(replaced, ids != inputs["ids"])
    assert bool((replaced & (labels == IGNORED))[:, 1:].any()), (
        "an untrained generator changes unhidden words too"
    )
    assert not replaced[:, 0].any()
    assert not replaced[~inputs["mask"]].any()


def test_the_generator_predicts_under_dropout_only_where_asked(encoder: MaskedText) -> None:
    for dropout in (True, False):
        method = DiffCSE(encoder, generator_dropout=dropout).train()
        assert method.generator.training is dropout
        assert method.discriminator.training
        assert not method.eval().generator.training


def test_a_drawn_edit_depends_on_the_draw_and_the_likeliest_does_not(encoder: MaskedText) -> None:
    for edit, same in (("argmax", True), ("sample", False)):
        method = DiffCSE(encoder, edit=edit, generator_dropout=False).train()  # type: ignore[arg-type]
        inputs = encoder.prepare(TEXTS)
        one, two = (method.edited(inputs, inputs["ids"])[0] for _ in range(2))
        assert torch.equal(one, two) is same


# -- what moves what -------------------------------------------------------------------------------


def test_the_discriminator_reaches_the_encoder_through_the_vector_alone(encoder: MaskedText) -> None:
    method = DiffCSE(encoder, weight=1.0).train()

    def pull() -> float:
        method.zero_grad(set_to_none=True)
        losses(method, prepared(method))["replaced"].backward()
        found = [p.grad.abs().max() for p in method.encoder.parameters() if p.grad is not None]
        return float(max(found, default=torch.tensor(0.0)))

    assert pull() > 1e-6
    assert any(p.grad is not None and p.grad.any() for p in method.head.parameters())
    method.head = nn.Sequential(method.head, Detached())
    assert pull() == 0, "by no other way than h"


def test_every_copy_is_judged_under_its_own_vector(encoder: MaskedText) -> None:
    method = DiffCSE(encoder, weight=1.0).train()
    vectors = torch.randn(8, 16)
    method.head = Fixed(vectors)
    seen: list[Tensor] = []
    first = method.discriminator.trunk.encoder.layer[0]
    first.register_forward_pre_hook(lambda module, args: seen.append(args[0][:, 0]))
    losses(method, prepared(method))
    assert torch.equal(seen[0], vectors)


def test_the_discriminator_is_another_encoder_that_starts_from_the_same_weights(encoder: MaskedText) -> None:
    method = DiffCSE(encoder)
    pairs = list(zip(method.encoder.parameters(), method.discriminator.parameters(), strict=True))
    assert all(torch.equal(one, two) and one.data_ptr() != two.data_ptr() for one, two in pairs)


def test_the_generator_never_learns_and_all_that_can_learn_does(encoder: MaskedText) -> None:
    method = DiffCSE(encoder, weight=1.0).train()
    total(losses(method, prepared(method))).backward()
    assert not any(p.requires_grad for p in method.generator.parameters())
    without = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert without == [], "it would stop distributed training"
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.add_(1)
    assert not torch.equal(
        method.generator.model.get_input_embeddings().weight,
        method.encoder.model.get_input_embeddings().weight,
    )


def test_a_head_that_was_never_trained_is_refused(encoder: MaskedText) -> None:
    encoder.head_is_trained = False
    with pytest.raises(ArgumentError, match="diffcse needs a masked language model whose head is trained"):
        DiffCSE(encoder)


@pytest.mark.parametrize("wrong", [{"share": 1.5}, {"weight": -1.0}])
def test_hyperparameters_are_checked(encoder: MaskedText, wrong: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        DiffCSE(encoder, **wrong)  # type: ignore[arg-type]


# -- what is left ----------------------------------------------------------------------------------


def test_the_space_keeps_the_encoder_alone(encoder: MaskedText, tmp_path: Path) -> None:
    method = DiffCSE(encoder).train()
    losses(method, prepared(method))
    space = method.space()
    assert (space.heads, space.parts) == ({}, {})
    states = method.eval().encoder(encoder.prepare(TEXTS)).tokens[:, 0]
    np.testing.assert_allclose(space.encode(TEXTS), functional.normalize(states, dim=1).detach(), atol=1e-5)
    again = Space.load(space.save(tmp_path / "space"))
    assert type(again.encoders["text"]) is TransformerText
    assert np.array_equal(again.encode(TEXTS), space.encode(TEXTS))


@pytest.mark.parametrize(
    "texts",
    [["the", "a", "of", "and"], ["rain"] * 4, ["雨 rain дождь", "🌧", "a", "snow " * 10_000]],
    ids=["stop words", "duplicates", "scripts, one token and ten thousand"],
)
def test_odd_texts_are_learned_from(encoder: MaskedText, texts: list[str]) -> None:
    method = DiffCSE(encoder).train()
    assert bool(total(losses(method, prepared(method, texts))).isfinite())


# -- the experiment --------------------------------------------------------------------------------


def test_the_ablation_is_simcse_with_a_head_of_batch_norms(encoder: MaskedText) -> None:
    method, ablated = DiffCSE(copy.deepcopy(encoder)).train(), WithoutEdits(encoder).train()
    ablated.head.load_state_dict(method.head.state_dict())
    found = losses(ablated, prepared(ablated))
    assert set(found) == {"info_nce"}
    torch.testing.assert_close(found["info_nce"], losses(method, prepared(method))["info_nce"])


def test_a_discriminator_that_is_deaf_to_the_vector_gains_nothing_from_it(encoder: MaskedText) -> None:
    method = DiffCSE(encoder)
    texts = encoder.prepare(TEXTS)
    where = counted(texts)
    replaced = where & (torch.arange(where.shape[1]) % 2 == 0)
    edited = Edited(texts, {**texts, "ids": texts["ids"].masked_fill(replaced, 5)}, replaced, texts)
    found = detection(method, edited)
    assert set(found) == {GAIN, *(FOUND.format(name) for name in ("own", "another's", "no"))}
    method.detect = Fixed(functional.one_hot(replaced.long(), 2).float())
    found = detection(method, edited)
    assert found == {GAIN: 0.0, **{FOUND.format(name): 1.0 for name in ("own", "another's", "no")}}
    assert next(iter(sensitivity(method.encoder, edited).values())) < 0, (
        "a paraphrase that is the text is nearest"
    )
