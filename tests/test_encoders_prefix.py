"""Encoders with a deep prompt: what every layer attends to, where texts begin, and what is saved."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nearfar.data.kinds import Text
from nearfar.encoders import load_encoder, make_encoder
from nearfar.encoders.masked import MaskedText
from nearfar.encoders.prefix import PrefixText
from nearfar.encoders.pretrained import load_model
from nearfar.encoders.prompted import PromptedText
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, ArtefactError
from nearfar.space import Space
from nearfar.training.optimiser import make_optimiser
from nearfar.training.settings import Settings

TEXTS = ["rain", "snow fell on the old town", "fog in the valley", "hail and wind and a cold night"]
P = 4
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
    "pad_token_id": 0,
}


def tiny() -> TransformerText:
    torch.manual_seed(0)
    return TransformerText.tiny(TEXTS, layers=2, dim=16, heads=2, ffn=24, max_length=16, dropout=0.2)


def of_kind(kind: str) -> TransformerText:
    """A random encoder of an architecture of transformers."""
    import transformers

    start = tiny()
    sizes: dict[str, Any] = dict(SIZES)
    if kind == "DistilBert":
        sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 24}
    if kind == "Albert":
        sizes["embedding_size"] = 16
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(start.tokenizer), **sizes)
    return TransformerText(getattr(transformers, f"{kind}Model")(config), start.tokenizer, max_length=12)


def lively(encoder: TransformerText) -> PrefixText:
    """With a prompt large enough to be seen."""
    made = PrefixText.around(encoder, P)
    torch.nn.init.normal_(made.prompt.states)
    return made.eval()


def by_hand(encoder: PrefixText, text: str) -> Tensor:
    """States of one text, layer by layer, with the prompt's keys and values before those of the tokens."""
    model, ids = encoder.model, encoder.prepare([text])["ids"]
    length, dim, heads = ids.shape[1], encoder.dim, model.config.num_attention_heads
    words = model.embeddings
    positions = torch.arange(P, P + length)
    x = words.word_embeddings(ids[0]) + words.position_embeddings(positions)
    x = words.LayerNorm(x + words.token_type_embeddings.weight[0])

    def by_head(states: Tensor) -> Tensor:
        return states.view(length, heads, dim // heads).transpose(0, 1)

    for layer, (more_keys, more_values) in zip(model.encoder.layer, encoder.prompt.states, strict=True):
        own = layer.attention.self
        keys = torch.cat([more_keys, by_head(own.key(x))], dim=1)
        values = torch.cat([more_values, by_head(own.value(x))], dim=1)
        weights = (by_head(own.query(x)) @ keys.transpose(1, 2) / (dim // heads) ** 0.5).softmax(-1)
        mixed = layer.attention.output.dense((weights @ values).transpose(0, 1).reshape(length, dim))
        x = layer.attention.output.LayerNorm(mixed + x)
        inner = functional.gelu(layer.intermediate.dense(x))
        x = layer.output.LayerNorm(layer.output.dense(inner) + x)
    return x


def test_every_layer_attends_to_its_part_and_texts_begin_at_position_p() -> None:
    encoder = lively(tiny())
    for text in TEXTS:
        found = encoder(encoder.prepare([text])).tokens[0]
        torch.testing.assert_close(found, by_hand(encoder, text), rtol=1e-4, atol=1e-5)


def test_padding_and_grouping_by_length_change_nothing() -> None:
    encoder = lively(tiny())
    many = [TEXTS[0]] * 10 + [TEXTS[3]] * 10 + TEXTS
    whole = encoder(encoder.prepare(many))
    assert whole.tokens.shape[1] == whole.mask.shape[1] == int(whole.mask.sum(1).max()), (
        "the prompt has no tokens"
    )
    for text, tokens, mask, pooled in zip(many, whole.tokens, whole.mask, whole.pooled, strict=True):
        alone = by_hand(encoder, text)
        torch.testing.assert_close(tokens[mask], alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pooled, alone.mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "first"), [("Bert", P), ("DistilBert", P), ("Roberta", P + 1), ("Albert", P)]
)
def test_other_architectures_count_positions_in_their_own_way(kind: str, first: int) -> None:
    encoder = lively(of_kind(kind))
    seen: list[Tensor] = []
    encoder.model.embeddings.position_embeddings.register_forward_hook(
        lambda module, given, out: seen.append(given[0])
    )
    together = encoder(encoder.prepare(TEXTS)).tokens
    assert seen[0][0].tolist() == list(range(first, first + together.shape[1]))
    alone = encoder(encoder.prepare(TEXTS[:1])).tokens
    torch.testing.assert_close(together[:1, : alone.shape[1]], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(
        alone, TransformerText.forward(of_kind(kind).eval(), encoder.prepare(TEXTS[:1])).tokens
    )


@pytest.mark.parametrize("kind", ["DebertaV2", "GPT2", "MobileBert"])
def test_a_model_that_the_prompt_does_not_reach_is_refused_by_name(kind: str) -> None:
    encoder = of_kind(kind)
    usual = encoder.eval()(encoder.prepare(TEXTS)).tokens
    with pytest.raises(ArgumentError, match=f"{kind}Model cannot be given a prompt"):
        PrefixText.around(encoder, P)
    assert torch.equal(encoder(encoder.prepare(TEXTS)).tokens, usual), "it must be left as it was"


def test_without_its_prompt_the_shared_model_is_what_it_was() -> None:
    encoder = tiny().eval()
    inputs = encoder.prepare(TEXTS)
    usual = encoder(inputs).tokens
    prefixed = lively(encoder)
    assert not torch.allclose(prefixed(inputs).tokens, usual, atol=1e-2)
    assert torch.equal(encoder(inputs).tokens, usual)
    with pytest.raises(ArgumentError, match="attention weights"):
        prefixed(inputs, attention=True)
    assert torch.equal(encoder(inputs).tokens, usual)


def test_every_row_has_its_own_dropout_of_the_prompt_and_all_of_it_learns() -> None:
    encoder = PrefixText.around(tiny(), P).train()
    (keys, values), _ = encoder.prompt(6)
    assert keys.shape == values.shape == (6, 2, P, 8)
    kept = keys != 0
    assert 0 < float(kept.float().mean()) < 1
    assert any(not torch.equal(kept[0], kept[i]) for i in range(1, 6))
    torch.testing.assert_close(keys[kept], (encoder.prompt.states[0, 0] / 0.8).expand_as(keys)[kept])
    encoder(encoder.prepare(TEXTS)).pooled.square().sum().backward()
    gradient = encoder.prompt.states.grad
    assert bool((gradient.abs().sum((2, 3, 4)) > 0).all()), "keys and values of every layer"
    assert (encoder.prompt.eval()(2).__next__()[0][1] == encoder.prompt.states[0, 0]).all()


def test_texts_are_cut_to_the_positions_that_the_prompt_leaves() -> None:
    encoder = PrefixText.around(tiny(), P)
    assert encoder.max_length == 16 - P
    assert encoder.prepare(["rain " * 10_000])["ids"].shape == (1, 12)
    assert "longer than 12 tokens" in (encoder.note() or "")
    encoder.set_max_length(5)
    assert encoder.max_length == 5
    short = tiny()
    short.set_max_length(8)
    assert PrefixText.around(short, P).max_length == 8
    with pytest.raises(ArgumentError, match=r"prompt_length=14.*16 positions"):
        PrefixText.around(tiny(), 14)
    with pytest.raises(ArgumentError, match="prompt_length"):
        PrefixText.around(tiny(), 0)


def test_saved_and_read_again_it_embeds_with_its_prompt(tmp_path: Path) -> None:
    encoder = lively(tiny())
    space = Space({"text": encoder})
    found = space.encode(TEXTS)
    again = Space.load(space.save(tmp_path / "space"))
    assert (again.encode(TEXTS) == found).all()
    assert again.fingerprint == space.fingerprint
    with torch.no_grad():
        encoder.prompt.states[1, 1, 0, 0, 0] += 1
    assert again.fingerprint != space.fingerprint
    folder = tmp_path / "space" / "text"
    assert isinstance(make_encoder(str(tmp_path / "space"), Text, []), PrefixText)
    assert not (folder / "modules.json").exists(), "sentence-transformers would embed without the prompt"
    bare = TransformerText(load_model(folder), encoder.tokenizer, max_length=12).eval()
    assert not torch.allclose(
        bare(bare.prepare(TEXTS)).pooled, load_encoder(folder).eval()(bare.prepare(TEXTS)).pooled
    )
    (folder / "prompt.safetensors").unlink()
    with pytest.raises(ArtefactError, match=r"prompt\.safetensors"):
        load_encoder(folder)


@pytest.mark.parametrize("copied", [False, True])
def test_weight_decay_spares_the_prompt(copied: bool) -> None:
    encoder = PrefixText.around(tiny(), P)
    encoder = copy.deepcopy(encoder) if copied else encoder
    optimiser = make_optimiser(encoder, Settings(steps=1, batch_size=2, weight_decay=0.3))
    [decay] = {
        group["weight_decay"]
        for group in optimiser.param_groups
        if any(parameter is encoder.prompt.states for parameter in group["params"])
    }
    assert decay == 0


def test_an_encoder_that_embeds_in_another_way_is_refused_by_its_class() -> None:
    plain = tiny()
    with pytest.raises(ArgumentError, match="PromptedText cannot be given a prompt"):
        PrefixText.around(PromptedText.around(plain), P)
    masked = MaskedText(plain.model, plain.tokenizer, max_length=16)
    assert PrefixText.around(masked, P).model is plain.model


def test_an_encoder_with_a_prompt_keeps_it() -> None:
    encoder = lively(tiny())
    assert PrefixText.around(encoder, P) is encoder
    with pytest.raises(ArgumentError, match="4 positions, not 3"):
        PrefixText.around(encoder, 3)
    named = tiny()
    named.pooling, named.pooling_is_own, named.normalise = "cls", True, True
    made = PrefixText.around(copy.deepcopy(named), P)
    assert (made.pooling, made.pooling_is_own, made.normalise) == ("cls", True, True)
    assert made.training == named.training
