"""Masked language modelling: what is hidden, what is predicted, and with which matrix."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nearfar.encoders.masked import MaskedText
from nearfar.errors import ArgumentError
from nearfar.heads.language import IGNORED, MLMHead
from nearfar.method import Batch
from nearfar.methods.sentence.mlm import MLM
from nearfar.views.token_masks import mask_tokens

TEXTS = ["rain", "snow fell on the old town", "fog in the valley", "hail and wind and a cold night"]
MASK, VOCABULARY = 3, 1000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def shared() -> MaskedText:
    torch.manual_seed(0)
    return MaskedText.tiny(TEXTS, layers=1, dim=32, heads=2, ffn=48, max_length=16)


@pytest.fixture
def encoder(shared: MaskedText) -> MaskedText:
    return copy.deepcopy(shared)


def prepared(method: MLM, texts: list[str] = TEXTS, seed: int = 0) -> Batch:
    return method.prepare({"text": texts}, generator(seed))


# -- hiding ----------------------------------------------------------------------------------------


def masked(share: float = 0.15, seed: int = 0, n: int = 400) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ids = torch.randint(10, VOCABULARY, (n, 500), generator=generator(9))
    maskable = torch.rand(ids.shape, generator=generator(10)) < 0.7
    hidden, labels = mask_tokens(
        ids, maskable, share=share, mask_id=MASK, vocabulary=VOCABULARY, generator=generator(seed)
    )
    return ids, maskable, hidden, labels


def test_fifteen_in_a_hundred_are_chosen_and_split_80_10_10() -> None:
    """200,000 places: four standard deviations of each share are below the tolerances."""
    ids, maskable, hidden, labels = masked()
    chosen = labels != IGNORED
    assert float(chosen[maskable].float().mean()) == pytest.approx(0.15, abs=0.004)
    to_mask, kept = hidden[chosen] == MASK, hidden[chosen] == ids[chosen]
    drawn = hidden[chosen & (hidden != MASK) & (hidden != ids)]
    for found, share in ((to_mask.float().mean(), 0.8), (kept.float().mean(), 0.1)):
        assert float(found) == pytest.approx(share, abs=0.012)
    assert len(drawn) / int(chosen.sum()) == pytest.approx(0.1, abs=0.012)
    assert int(drawn.min()) < 0.02 * VOCABULARY
    assert int(drawn.max()) > 0.98 * VOCABULARY
    assert float(drawn.float().mean()) == pytest.approx(VOCABULARY / 2, rel=0.06)


def test_nothing_else_is_touched_and_labels_are_the_originals() -> None:
    ids, maskable, hidden, labels = masked()
    chosen = labels != IGNORED
    assert not bool((chosen & ~maskable).any())
    assert torch.equal(hidden[~chosen], ids[~chosen])
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.nn.CrossEntropyLoss().ignore_index == IGNORED


def test_the_fate_of_a_place_does_not_depend_on_whether_it_is_chosen() -> None:
    """One draw for both would make every chosen place a masked one."""
    _, _, hidden, labels = masked(share=0.5, n=100)
    assert float((hidden[labels != IGNORED] == MASK).float().mean()) == pytest.approx(0.8, abs=0.02)


def test_masks_follow_the_generator_alone() -> None:
    torch.manual_seed(0)
    first = masked(seed=1, n=4)[2:]
    torch.manual_seed(1)
    for one, two in zip(first, masked(seed=1, n=4)[2:], strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(first[0], masked(seed=2, n=4)[2])


def test_every_split_can_be_had() -> None:
    ids = torch.arange(10, 110).view(1, -1)
    everywhere = torch.ones_like(ids, dtype=torch.bool)

    def hide(split: tuple[float, float, float]) -> Tensor:
        return mask_tokens(
            ids, everywhere, share=1.0, mask_id=MASK, vocabulary=5, generator=generator(), split=split
        )[0]

    assert (hide((1, 0, 0)) == MASK).all()
    assert (hide((0, 1, 0)) < 5).all()
    assert torch.equal(hide((0, 0, 1)), ids)


# -- the method ------------------------------------------------------------------------------------


def test_special_and_padding_tokens_are_never_chosen(encoder: MaskedText) -> None:
    batch = prepared(MLM(encoder, share=1.0), [*TEXTS, "rain [MASK] rain"])
    inputs = encoder.prepare([*TEXTS, "rain [MASK] rain"])
    special = torch.isin(inputs["ids"], torch.tensor(encoder.tokenizer.all_special_ids))
    assert int(special.sum()) > 10
    assert not bool(inputs["mask"].all()), "the batch must have padding"
    assert torch.equal(batch["labels"] != IGNORED, inputs["mask"] & ~special)
    assert torch.equal(batch["text"]["ids"][special], inputs["ids"][special])
    assert torch.equal(batch["text"]["mask"], inputs["mask"])


def test_the_mask_is_that_of_the_tokenizer_and_random_words_are_of_its_vocabulary(
    encoder: MaskedText,
) -> None:
    batch = prepared(MLM(encoder, share=1.0), TEXTS * 40)
    chosen = batch["labels"] != IGNORED
    hidden = batch["text"]["ids"][chosen]
    assert float((hidden == encoder.tokenizer.mask_token_id).float().mean()) == pytest.approx(0.8, abs=0.06)
    assert int(hidden.max()) < len(encoder.tokenizer)


def test_the_share_is_that_of_the_paper(encoder: MaskedText) -> None:
    assert inspect.signature(MLM.__init__).parameters["share"].default == 0.15
    batch = prepared(MLM(encoder), [TEXTS[3]] * 500)
    words = int(encoder.prepare([TEXTS[3]])["mask"].sum()) - 2
    assert int((batch["labels"] != IGNORED).sum()) / (500 * words) == pytest.approx(0.15, abs=0.025)


def test_the_loss_is_the_mean_over_chosen_places_only(encoder: MaskedText) -> None:
    method = MLM(encoder, share=0.5).eval()
    batch = prepared(method)
    states = encoder(batch["text"]).tokens
    logits = method.encoder.head(states, encoder.model.get_input_embeddings().weight)
    expected = functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)
    terms = method.loss(batch)
    assert list(terms) == ["mlm"]
    torch.testing.assert_close(terms["mlm"], expected, rtol=1e-4, atol=1e-5)


def test_the_output_matrix_is_that_of_the_input_and_learns(encoder: MaskedText) -> None:
    method = MLM(encoder, share=0.5)
    assert not any(
        p.numel() >= encoder.dim * len(method.encoder.head.bias) for p in method.encoder.head.parameters()
    )
    batch = prepared(method, TEXTS[3:])
    assert bool((batch["labels"] != IGNORED).any())
    method.loss(batch)["mlm"].backward()
    gradient = encoder.model.get_input_embeddings().weight.grad
    unseen = torch.ones(len(gradient), dtype=torch.bool)
    unseen[batch["text"]["ids"].flatten()] = False
    unseen[encoder.tokenizer.pad_token_id] = False
    assert int(unseen.sum()) > 5
    assert bool((gradient[unseen].abs().sum(1) > 0).all()), (
        "words that were not read are still predicted against"
    )
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in encoder.head.parameters())


def test_the_head_is_the_formula() -> None:
    torch.manual_seed(0)
    head, states, embeddings = MLMHead(6, 11), torch.randn(5, 6), torch.randn(11, 6)
    with torch.no_grad():
        head.bias.copy_(torch.arange(11.0))
    hidden = functional.gelu(states @ head.dense.weight.T + head.dense.bias)
    normed = (hidden - hidden.mean(1, keepdim=True)) / hidden.var(1, unbiased=False, keepdim=True).add(
        1e-5
    ).sqrt()
    torch.testing.assert_close(head(states, embeddings), normed @ embeddings.T + torch.arange(11.0))


def test_a_batch_in_which_nothing_was_drawn_costs_nothing(encoder: MaskedText) -> None:
    method = MLM(encoder, share=1e-9)
    loss = method.loss(prepared(method))["mlm"]
    assert loss.item() == 0
    loss.backward()
    assert float(method.encoder.head.bias.grad.abs().sum()) == 0


def test_what_is_left_is_the_encoder_and_no_negatives_are_counted(encoder: MaskedText) -> None:
    method = MLM(encoder)
    assert method.space().encoders == {"text": encoder}
    assert method.space().heads == {}
    assert method.negatives(64) == 0


def test_a_tokenizer_without_a_mask_is_refused(encoder: MaskedText) -> None:
    encoder.tokenizer.mask_token = None
    with pytest.raises(ArgumentError, match="mask token"):
        MaskedText(encoder.model, encoder.tokenizer, max_length=16)


def test_a_share_of_tokens_out_of_range_is_refused(encoder: MaskedText) -> None:
    with pytest.raises(ArgumentError, match="share must be between 0 and 1"):
        MLM(encoder, share=1.5)
