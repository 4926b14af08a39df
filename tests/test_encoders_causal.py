"""Causal language models: read from folders, what they see, how they step, what is refused."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from samples import tiny_causal
from test_encoders_text import TEXTS
from transformers import BertConfig, BertLMHeadModel, LlamaConfig, LlamaForCausalLM

from nearfar.data.kinds import Text
from nearfar.encoders import load_encoder, make_encoder
from nearfar.encoders.bytepairs import END, train_byte_pairs
from nearfar.encoders.causal import READ, CausalText
from nearfar.encoders.gguf import gguf_file
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, ArtefactError
from nearfar.space import Space
from nearfar.steer.decoding import padded_left


@pytest.fixture(scope="module")
def tiny() -> CausalText:
    return tiny_causal(TEXTS).eval()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes it, with decoding settings that must not come through."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = train_byte_pairs(TEXTS, 280, 128)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **sizes))
    model.generation_config.update(repetition_penalty=5.0, no_repeat_ngram_size=1, eos_token_id=[0, 7])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def same(one: torch.Tensor, two: torch.Tensor) -> None:
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_a_token_does_not_see_what_comes_after(tiny: CausalText) -> None:
    ids = tiny.stack([tiny.split_prompts([TEXTS[4]])[0]])["ids"]
    changed = ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % len(tiny.tokenizer)
    one, two = (tiny.predict({"ids": i, "mask": torch.ones_like(i) > 0}) for i in (ids, changed))
    same(one[1][:, :-1], two[1][:, :-1])
    assert not torch.allclose(one[1][:, -1], two[1][:, -1], atol=1e-4)


def test_padding_changes_nothing_on_either_side(tiny: CausalText) -> None:
    rows = tiny.split_prompts(TEXTS)
    states, logits = tiny.predict(tiny.stack(rows))
    ids, mask = padded_left(rows, tiny.pad_id)
    last, following, _ = tiny.step(ids, mask)
    for i, row in enumerate(rows):
        alone, told = tiny.predict(tiny.stack([row]))
        for layer, own in zip(states, alone, strict=True):
            same(layer[i, : len(row)], own[0])
        same(logits[i, : len(row)], told[0])
        same(last[i, -len(row) :], alone[-1][0])
        same(following[i], told[0, -1])


def test_steps_with_a_cache_are_one_pass(tiny: CausalText) -> None:
    rows = tiny.split_prompts(TEXTS[:3])
    ids, mask = padded_left(rows, tiny.pad_id)
    _, _, cache = tiny.step(ids[:, :-2], mask[:, :-2])
    states, logits, _ = tiny.step(ids[:, -2:], mask, cache)
    whole, following, _ = tiny.step(ids, mask)
    same(states[mask[:, -2:]], whole[:, -2:][mask[:, -2:]])
    same(logits, following)


def test_the_last_states_are_those_that_the_head_reads(llama: Path, tiny: CausalText) -> None:
    for encoder in (tiny, CausalText.from_pretrained(llama)):
        inputs = encoder.prepare(TEXTS)
        states, logits = encoder.predict(inputs)
        same(encoder.model.get_output_embeddings()(states[-1]), logits)
        same(states[-1][inputs["mask"]], encoder(inputs).tokens[inputs["mask"]])
        assert len(states) == encoder.model.config.num_hidden_layers + 1


def test_a_folder_of_a_language_model_becomes_one(llama: Path) -> None:
    encoder = make_encoder(str(llama), Text, [])
    assert isinstance(encoder, CausalText)
    assert encoder.pretrained
    assert (encoder.max_length, encoder.end_ids, encoder.pooling) == (READ, [0, 7], "mean")
    assert make_encoder(str(llama), Text, [], max_length=9).max_length == 9
    config = encoder.model.generation_config
    assert (config.repetition_penalty, config.no_repeat_ngram_size) == (None, None)
    assert isinstance(Space.load(llama).encoders["text"], CausalText)


def test_saved_and_loaded_it_predicts_bit_for_bit(tiny: CausalText, tmp_path: Path) -> None:
    Space({"text": tiny}).save(tmp_path / "space")
    again = Space.load(tmp_path / "space").encoders["text"]
    assert isinstance(again, CausalText)
    assert torch.equal(again.predict(again.prepare(TEXTS))[1], tiny.predict(tiny.prepare(TEXTS))[1])
    assert again.end_ids == tiny.end_ids
    assert isinstance(make_encoder(str(tmp_path / "space" / "text"), Text, [], form="causal"), CausalText)


def test_tied_weights_are_saved_once_and_come_back(tiny: CausalText, tmp_path: Path) -> None:
    tiny.save(tmp_path)
    again = load_encoder(tmp_path)
    assert again.model.get_output_embeddings().weight is again.model.get_input_embeddings().weight


def test_the_tokenizer_writes_everything_and_is_the_same_each_time(tiny: CausalText) -> None:
    for text in ("Ж \n\t  zwölf 漢字", " a  b "):
        (ids,) = tiny.split_prompts([text])
        assert tiny.tokenizer.decode(ids) == text
    vocabulary = tiny.tokenizer.get_vocab()
    assert train_byte_pairs(TEXTS, 300, 64).get_vocab() == vocabulary
    assert vocabulary[END] == tiny.end_ids[0] != tiny.pad_id


def test_only_texts_in_whole_are_followed_by_the_end(tiny: CausalText) -> None:
    encoder = copy.deepcopy(tiny)
    lengths = [len(row) for row in encoder.split_prompts(TEXTS)]
    encoder.set_max_length(min(max(lengths) - 1, 8))
    inputs = encoder.prepare_ended(TEXTS)
    last = inputs["ids"][torch.arange(len(TEXTS)), inputs["mask"].sum(1) - 1]
    assert [int(i) == encoder.end_ids[0] for i in last] == [length < encoder.max_length for length in lengths]
    assert inputs["mask"].sum(1).max() <= encoder.max_length
    plain = encoder.prepare(TEXTS)["ids"]
    assert not bool((plain == encoder.end_ids[0]).any()), "a text that is only read has no end token"


def test_prompts_are_read_in_whole_and_not_counted(tiny: CausalText) -> None:
    encoder = copy.deepcopy(tiny)
    encoder.set_max_length(3)
    encoder.reset_counts()
    (ids,) = encoder.split_prompts([TEXTS[0]])
    assert len(ids) > 3
    assert encoder.seen == 0
    assert encoder.prepare([TEXTS[0]])["ids"].shape[1] == 3
    with pytest.raises(ArgumentError, match="no token"):
        encoder.split_prompts([""])


def test_reading_leaves_the_mode_as_it_was(tiny: CausalText) -> None:
    encoder = copy.deepcopy(tiny).train()
    with encoder.reading(), torch.random.fork_rng():
        assert not encoder.training
        assert not encoder.predict(encoder.prepare(TEXTS))[1].requires_grad
    assert encoder.training
    assert encoder.predict(encoder.prepare(TEXTS))[1].requires_grad


# -- what is refused -------------------------------------------------------------------------------


def test_an_encoder_of_another_kind_is_refused(tmp_path: Path) -> None:
    TransformerText.tiny(TEXTS, vocabulary=120, layers=1, dim=16, heads=2, ffn=16).save(tmp_path)
    with pytest.raises(ArgumentError, match="no causal language model"):
        make_encoder(str(tmp_path), Text, [], form="causal")
    (tmp_path / "encoder.json").unlink()
    with pytest.raises(ArtefactError, match="its architecture is BertModel"):
        make_encoder(str(tmp_path), Text, [], form="causal")


def test_a_model_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    encoder = TransformerText.tiny(TEXTS, vocabulary=120, layers=1, dim=16, heads=2, ffn=16)
    config = BertConfig.from_dict(encoder.model.config.to_dict())
    BertLMHeadModel(config).save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ArtefactError, match="depends on those that come after"):
        make_encoder(str(tmp_path), Text, [])


@pytest.mark.parametrize("what", ["pickle", "code"])
def test_a_folder_that_could_run_code_is_refused(llama: Path, tmp_path: Path, what: str) -> None:
    folder = shutil.copytree(llama, tmp_path / "model")
    if what == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}))
    with pytest.raises(ArtefactError, match="pickle" if what == "pickle" else "auto_map"):
        CausalText.from_pretrained(folder)


def test_files_of_weights_are_told_by_their_suffix(tmp_path: Path) -> None:
    assert gguf_file("minilm") is None
    assert gguf_file(tmp_path) is None
    with pytest.raises(ArtefactError, match=r"model\.gguf is missing"):
        gguf_file(tmp_path / "model.gguf")
    (tmp_path / "model.gguf").write_bytes(b"no model")
    with pytest.raises(
        (ArtefactError, ImportError), match=r"cannot be read as a language model|nearfar\[lm\]"
    ):
        CausalText.from_pretrained(tmp_path / "model.gguf")


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ArgumentError, match="no texts"):
        CausalText.tiny([])
    with pytest.raises(ArgumentError, match="heads=3 does not divide"):
        CausalText.tiny(TEXTS, dim=16, heads=3)
