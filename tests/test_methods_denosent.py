"""DenoSent: both losses by their formulas, what the denoiser is told, and what is pooled."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from test_methods_catalogue import calm, total
from torch import Tensor, nn
from torch.nn import functional

from nearfar.encoders.masked import MaskedText
from nearfar.encoders.prompted import PromptedText
from nearfar.errors import ArgumentError
from nearfar.method import Batch
from nearfar.methods.sentence.denosent import DenoSent
from nearfar.recipes.denosent import GAIN, RECOVERED, VECTORS, ContrastAlone, of_text, recovery
from nearfar.space import Space

TEXTS = ["rain", "snow fell on the old town", "fog in the valley", "hail and wind and a cold night"]
POSITIVES = ["it rains", "the old town lies in snow and snow and snow", "foggy valley", "a cold night"]
NEGATIVES = ["dry", "no snow", "a clear view of the valley", "a warm day"]


@pytest.fixture(scope="module")
def shared() -> MaskedText:
    torch.manual_seed(0)
    texts = TEXTS + POSITIVES + NEGATIVES
    return MaskedText.tiny(texts, layers=2, dim=16, heads=2, ffn=24, max_length=24, dropout=0.2)


@pytest.fixture
def encoder(shared: MaskedText) -> MaskedText:
    return copy.deepcopy(shared)


def made(encoder: MaskedText, **chosen: float) -> DenoSent:
    torch.manual_seed(0)
    return DenoSent(encoder, **{"layers": 2, **chosen}).train()  # type: ignore[arg-type]


def prepared(method: DenoSent, *columns: list[str]) -> Batch:
    rows = dict(zip(("text", "positive", "negative"), columns, strict=False))
    return method.prepare(rows, torch.Generator().manual_seed(0))


class Told(nn.Module):
    """In place of the denoiser: remembers what it is told, and gives the embeddings back."""

    embedded: Tensor
    memory: Tensor

    def forward(self, embedded: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        self.embedded, self.memory = embedded, memory
        return embedded + memory.unsqueeze(1)


# -- the losses ------------------------------------------------------------------------------------


def test_the_terms_are_the_formula(encoder: MaskedText) -> None:
    drawn = torch.Generator().manual_seed(1)
    one, two, far = torch.randn(3, 5, 6, generator=drawn, dtype=torch.float64)
    method = made(encoder, temperature=0.3, contrastive_weight=2.0, denoising_weight=3.0)
    batch = {"tokens": torch.tensor([5, 1, 2, 7, 3])}
    summed = torch.tensor([10.0, 4.0, 1.0, 20.0, 6.0])
    z = {"one": one, "two": two, "reconstruction": summed}
    terms = method.contrast(z, batch)
    unit = [functional.normalize(x, dim=1) for x in (one, two, far)]
    logits = unit[0] @ unit[1].T / 0.3
    rows = torch.arange(5)
    torch.testing.assert_close(terms["contrastive"], 2 * functional.cross_entropy(logits, rows))
    assert float(terms["denoising"]) == pytest.approx(3 * 41 / 18), "a mean over tokens, not over texts"
    logits = torch.cat([logits, unit[0] @ unit[2].T / 0.3], dim=1)
    terms = method.contrast({**z, "negative": far}, batch)
    torch.testing.assert_close(terms["contrastive"], 2 * functional.cross_entropy(logits, rows))


@pytest.mark.parametrize("columns", [(TEXTS,), (TEXTS, POSITIVES)], ids=["texts", "pairs"])
def test_every_token_of_the_prompted_copy_counts_and_padding_does_not(
    encoder: MaskedText, columns: tuple[list[str], ...]
) -> None:
    method = made(encoder).eval()
    method.denoiser.noise.train()
    calm(method)
    method.encoder.train()
    batch = prepared(method, *columns)
    inputs = batch[("text", "positive")[len(columns) - 1]]
    assert int((inputs["ids"] == encoder.tokenizer.mask_token_id).sum()) == 4, (
        "the prompt is to be rebuilt too"
    )
    found = method.contrast(method.embed(batch), batch)["denoising"] / 7
    told = method.encoder({**inputs}, layers=True).layers[0]
    vectors = method.head(method.encoder(batch["text"]).pooled)
    logits = method.vocabulary(
        method.denoiser(told, vectors, inputs["mask"]), method.encoder.model.get_input_embeddings().weight
    )
    labels = inputs["ids"].masked_fill(~inputs["mask"], -100)
    torch.testing.assert_close(found, functional.cross_entropy(logits.flatten(0, 1), labels.flatten()))


def test_the_text_must_rebuild_its_positive(encoder: MaskedText) -> None:
    """e comes from the text, and embeddings and labels from the positive."""
    method = made(encoder).eval()
    method.denoiser = told = Told()
    batch = prepared(method, TEXTS, POSITIVES)
    z = method.embed(batch)
    assert torch.equal(told.memory, z["one"])
    assert torch.equal(told.embedded, method.encoder(batch["positive"], layers=True).layers[0])
    assert not torch.allclose(z["one"], z["two"], atol=1e-3)


def test_texts_alone_are_their_own_copies_in_one_pass_of_twins(encoder: MaskedText) -> None:
    method = made(encoder)
    method.denoiser = told = Told()
    passes: list[int] = []
    method.encoder.register_forward_hook(lambda module, args, out: passes.append(len(out.pooled)))
    z = method.embed(prepared(method, TEXTS))
    assert passes == [8]
    assert torch.equal(told.memory, z["one"])
    assert told.embedded.shape[0] == 4
    assert not torch.allclose(z["one"], z["two"])


def test_the_embeddings_that_are_noised_get_no_gradient(encoder: MaskedText) -> None:
    """Otherwise the model could make them small, and the noise with them."""
    method = made(encoder)
    method.denoiser = told = Told()
    method.embed(prepared(method, TEXTS, POSITIVES))
    assert not told.embedded.requires_grad
    assert told.memory.requires_grad


def test_the_vector_is_told_the_denoiser_and_learns_from_it(encoder: MaskedText) -> None:
    method = made(encoder, contrastive_weight=0.0)
    batch = prepared(method, TEXTS, POSITIVES)
    z = method.embed(batch)
    z["one"].retain_grad()
    total(method.contrast(z, batch)).backward()
    assert bool((z["one"].grad.abs().sum(1) > 0).all())
    layer = method.encoder.model.encoder.layer[0].attention.self.query.weight
    assert layer.grad.any(), "through the vector the denoising loss reaches the encoder"
    without = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert without == [], "it would stop distributed training"


def test_the_head_over_the_vocabulary_is_the_encoders_own_and_learns(encoder: MaskedText) -> None:
    method = made(encoder)
    assert method.vocabulary is encoder.head
    batch = prepared(method, TEXTS)
    total(method.loss(batch)).backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.head.parameters())


def test_the_noise_is_there_in_training_only(encoder: MaskedText) -> None:
    method = made(encoder, noise=1.0)
    batch = prepared(method, TEXTS)
    ids, mask = batch["text"]["ids"], batch["text"]["mask"]
    method.eval()
    embedded = torch.randn(*ids.shape, 16)
    vectors = torch.randn(4, 16)
    clean = method.predicted(embedded, vectors, mask)
    method.denoiser.noise.train()
    lost = method.predicted(embedded, vectors, mask)
    assert not torch.allclose(clean, lost)
    rows = mask.nonzero()[:, 0]
    first = lost[rows == 1]
    torch.testing.assert_close(first, first[:1].expand_as(first))  # with all noise, no position knows its own


def test_defaults_are_those_of_the_released_command(encoder: MaskedText) -> None:
    defaults = {k: p.default for k, p in inspect.signature(DenoSent.__init__).parameters.items()}
    wanted = {
        "temperature": 0.05,
        "contrastive_weight": 5.0,
        "denoising_weight": 7.0,
        "noise": 0.825,
        "layers": 16,
        "heads": 1,
        "ffn": 2048,
        "template": '"[X]" means [MASK].',
    }
    assert {name: defaults[name] for name in wanted} == wanted
    block = DenoSent(encoder, layers=1).denoiser.blocks[0]
    assert (block.wide.out_features, block.dropout.p) == (2048, 0.1)


@pytest.mark.parametrize("wrong", [{"noise": 2.0}, {"contrastive_weight": -1.0}, {"layers": 0}, {"heads": 7}])
def test_hyperparameters_are_checked(encoder: MaskedText, wrong: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        made(encoder, **wrong)


# -- what is left ----------------------------------------------------------------------------------


def test_the_space_embeds_by_the_mask_token_without_the_map(encoder: MaskedText, tmp_path: Path) -> None:
    method = made(encoder)
    total(method.loss(prepared(method, TEXTS, POSITIVES))).backward()
    space = method.space()
    assert (space.heads, space.parts) == ({}, {})
    prompted = PromptedText.around(encoder).eval()
    raw = functional.normalize(prompted(prompted.prepare(TEXTS)).pooled, dim=1).detach().numpy()
    np.testing.assert_allclose(space.encode(TEXTS), raw, atol=1e-5)
    again = Space.load(space.save(tmp_path / "space"))
    assert type(again.encoders["text"]) is PromptedText
    assert np.array_equal(again.encode(TEXTS), space.encode(TEXTS))


def test_a_new_head_is_told_of_and_a_trained_one_is_not(encoder: MaskedText) -> None:
    assert any("was new" in note for note in made(encoder).notes())
    encoder.head_is_trained = True
    assert made(encoder).notes() == []


@pytest.mark.parametrize(
    "texts",
    [["the", "a", "of", "and"], ["rain"] * 4, ["雨 rain дождь", "🌧", "[MASK] a [X]", "snow " * 10_000]],
    ids=["stop words", "duplicates", "scripts, marks and ten thousand tokens"],
)
def test_odd_texts_are_learned_from(encoder: MaskedText, texts: list[str]) -> None:
    method = made(encoder)
    terms = method.loss(prepared(method, texts))
    assert all(bool(term.isfinite()) for term in terms.values())


# -- the experiment --------------------------------------------------------------------------------


def test_the_words_of_a_text_are_counted_without_its_prompt(encoder: MaskedText) -> None:
    prompted = PromptedText.around(encoder)
    inputs = prompted.prepare(TEXTS)
    kept = of_text(prompted, inputs["mask"])
    bare = encoder.prepare(TEXTS)
    for row in range(4):
        assert torch.equal(inputs["ids"][row][kept[row]], bare["ids"][row][bare["mask"][row]][1:-1])


def test_recovery_names_every_vector_under_one_noise(encoder: MaskedText) -> None:
    method = made(encoder)
    found = recovery(method, TEXTS, POSITIVES)
    own, others, none = (found[RECOVERED.format(name)] for name in VECTORS)
    assert found[GAIN] == own - others
    for block in method.denoiser.blocks:  # deaf to the vector: it makes no difference whose it is
        nn.init.zeros_(block.memory_out.weight)
    found = recovery(method, TEXTS, POSITIVES)
    assert len({found[RECOVERED.format(name)] for name in VECTORS}) == 1
    assert found[GAIN] == 0
    assert 0 <= none <= 1


def test_contrast_alone_leaves_the_denoiser_as_it_is(encoder: MaskedText) -> None:
    torch.manual_seed(0)
    method = ContrastAlone(encoder, layers=1).train()
    terms = method.loss(prepared(method, TEXTS, POSITIVES))
    assert not terms["denoising"]
    total(terms).backward()
    assert all(p.grad is None for p in method.denoiser.parameters())
    assert all(p.grad is not None for p in method.head.parameters())
