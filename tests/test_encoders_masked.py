"""Masked language models as encoders: the head of checkpoints, saving, taps, and what other methods get."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nearfar.data.kinds import Text
from nearfar.encoders import load_encoder, make_encoder
from nearfar.encoders.masked import MaskedText
from nearfar.encoders.taps import first_place
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError
from nearfar.methods.sentence.mlm import MLM
from nearfar.space import Space

TEXTS = ["rain", "snow fell on the old town", "fog in the valley", "hail and wind and a cold night"]


def tiny(seed: int = 0) -> MaskedText:
    torch.manual_seed(seed)
    return MaskedText.tiny(TEXTS, layers=2, dim=16, heads=2, ffn=24, max_length=16)


@pytest.mark.parametrize("kind", ["Bert", "old Bert", "Roberta", "DistilBert"])
def test_the_head_of_a_checkpoint_predicts_as_transformers_does(tmp_path: Path, kind: str) -> None:
    import transformers
    from safetensors.torch import load_file, save_file

    kind, old = kind.removeprefix("old "), kind.startswith("old ")

    encoder = tiny()
    sizes = {"vocab_size": len(encoder.tokenizer), "max_position_embeddings": 20, "pad_token_id": 0}
    if kind == "DistilBert":
        sizes |= {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24}
    else:
        sizes |= {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 24,
        }
    whole = getattr(transformers, f"{kind}ForMaskedLM")(
        getattr(transformers, f"{kind}Config")(**sizes)
    ).eval()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    whole.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    if old:  # as in bert-base-uncased on the hub
        weights = {
            name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): value
            for name, value in load_file(tmp_path / "model.safetensors").items()
        }
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    read = MaskedText.from_pretrained(tmp_path)
    assert read.head_is_trained
    inputs = read.eval().prepare(TEXTS[1:2])
    expected = whole(input_ids=inputs["ids"], attention_mask=inputs["mask"]).logits
    torch.testing.assert_close(read.predict(read(inputs).tokens), expected, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_without_a_head_gets_a_new_one_and_is_refused_where_one_is_needed(
    tmp_path: Path,
) -> None:
    tiny().plain().save(tmp_path)
    (tmp_path / "encoder.json").unlink()
    read = MaskedText.from_pretrained(tmp_path)
    assert not read.head_is_trained
    with pytest.raises(ArgumentError, match="nearfar fit mlm"):
        read.require_trained_head("diffcse")


def test_a_model_whose_embeddings_are_narrower_than_its_states_is_refused(tmp_path: Path) -> None:
    from transformers import ElectraConfig, ElectraModel

    tokenizer = tiny().tokenizer
    sizes = {"embedding_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ElectraModel(ElectraConfig(vocab_size=len(tokenizer), intermediate_size=24, **sizes))
    assert TransformerText(model, tokenizer, max_length=16).dim == 16, "as a plain encoder it will do"
    with pytest.raises(ArgumentError, match="embeddings are 8 wide and its hidden states 16"):
        MaskedText(model, tokenizer, max_length=16)


def test_saved_and_read_again_it_predicts_the_same(tmp_path: Path) -> None:
    encoder = MLM(tiny()).encoder.eval()
    torch.nn.init.normal_(encoder.head.bias)
    Space({"text": encoder}).save(tmp_path / "space")
    read = make_encoder(str(tmp_path / "space"), Text, [], form="masked")
    assert isinstance(read, MaskedText)
    read.require_trained_head("any")
    inputs = encoder.prepare(TEXTS)
    assert torch.equal(read.eval().predict(read(inputs).tokens), encoder.predict(encoder(inputs).tokens))


def test_a_method_that_predicts_nothing_gets_the_encoder_alone(tmp_path: Path) -> None:
    """A head without gradient would stop distributed training, and be decayed."""
    encoder = tiny().eval()
    Space({"text": encoder}).save(tmp_path / "space")
    for folder in (tmp_path / "space", tmp_path / "space" / "text"):
        read = make_encoder(str(folder), Text, [])
        assert type(read) is TransformerText
        assert torch.equal(read.eval()(read.prepare(TEXTS)).pooled, encoder(encoder.prepare(TEXTS)).pooled)
    assert isinstance(load_encoder(tmp_path / "space" / "text"), MaskedText)


def test_tiny_encoders_are_equal_whether_or_not_words_are_predicted() -> None:
    """So that methods of both kinds are compared from one start."""
    plain = make_encoder("tiny", Text, TEXTS, seed=3)
    masked = make_encoder("tiny", Text, TEXTS, seed=3, form="masked")
    own = masked.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in plain.state_dict().items())


def test_an_edit_reaches_the_first_layer_and_nothing_else_is_changed() -> None:
    encoder = tiny().eval()
    inputs = encoder.prepare(TEXTS)
    usual = encoder(inputs, layers=True)
    same = encoder(inputs, layers=True, edit=lambda states: states)
    assert torch.equal(usual.tokens, same.tokens)
    seen: list[Tensor] = []

    def first_is_zero(states: Tensor) -> Tensor:
        seen.append(states)
        return torch.cat([torch.zeros_like(states[:, :1]), states[:, 1:]], dim=1)

    edited = encoder(inputs, layers=True, edit=first_is_zero)
    assert torch.equal(seen[0], usual.layers[0])
    assert not edited.layers[0][:, 0].any()
    assert torch.equal(edited.layers[0][:, 1:], usual.layers[0][:, 1:])
    assert not torch.allclose(edited.tokens[:, 1], usual.tokens[:, 1])
    assert torch.equal(encoder(inputs).tokens, encoder(inputs).tokens), "the edit ends with the call"


def test_a_vector_in_the_first_place_conditions_all_others() -> None:
    encoder = tiny().eval()
    inputs = encoder.prepare(TEXTS)
    vectors = torch.randn(4, 16, requires_grad=True)
    found = encoder(inputs, layers=True, edit=first_place(vectors))
    assert torch.equal(found.layers[0][:, 0], vectors)
    assert torch.equal(found.layers[0][:, 1:], encoder(inputs, layers=True).layers[0][:, 1:])
    (gradient,) = torch.autograd.grad(found.tokens[1, 2].pow(3).sum(), vectors)
    assert gradient[1].any()
    assert not gradient[[0, 2, 3]].any(), "every text has its own"


def test_attention_is_what_is_left_after_dropout() -> None:
    encoder = tiny().train()
    weights = encoder(encoder.prepare(TEXTS * 8), attention=True).attention
    assert len(weights) == 2
    sums = weights[0].sum(-1)
    assert not torch.allclose(sums, torch.ones_like(sums)), "rows of what is left need not sum to 1"
    encoder.eval()
    sums = encoder(encoder.prepare(TEXTS), attention=True).attention[0].sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_a_pooling_that_the_folder_names_is_kept_unless_another_is_asked_for() -> None:
    encoder = tiny().plain()
    encoder.choose_pooling("own")
    assert encoder.pooling == "cls"
    encoder.pooling, encoder.pooling_is_own = "mean", True
    encoder.choose_pooling("own")
    assert encoder.pooling == "mean"
    encoder.choose_pooling("top2")
    assert encoder.pooling == "top2"


def test_a_saved_plain_encoder_that_gets_a_head_keeps_its_pooling_and_its_past(tmp_path: Path) -> None:
    plain = tiny().plain()
    plain.choose_pooling("max")
    plain.save(tmp_path)
    read = make_encoder(str(tmp_path), Text, [], form="masked")
    assert isinstance(read, MaskedText)
    read.choose_pooling("own", default="cls")
    assert read.pooling == "max"
    plain.pooling_is_own, plain.pretrained = False, True
    made = MaskedText.around(plain)
    assert (made.pooling_is_own, made.pretrained) == (False, True)


def test_a_pooling_that_nobody_chose_is_still_open_after_saving(tmp_path: Path) -> None:
    """What `fit mlm` leaves is pooled as the next method's paper says, and what a method chose stays."""
    tiny().save(tmp_path / "open")
    encoder = MaskedText.load(tmp_path / "open")
    assert encoder.pooling == "mean"
    encoder.choose_pooling("own")
    assert encoder.pooling == "cls"
    encoder.save(tmp_path / "chosen")
    again = MaskedText.load(tmp_path / "chosen")
    again.choose_pooling("own", default="top2")
    assert again.pooling == "cls"
