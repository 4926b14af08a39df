"""CESNA: the margin loss on pairs of texts, and emojis that are labels and never input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nearfar.data.kinds import Label, Text
from nearfar.data.table import Table
from nearfar.encoders.recurrent import CharacterText
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, TableError
from nearfar.methods.sentence.cesna import CESNA
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.building import build_method

TEXTS = [
    "so good 😂",
    "no way 😍😂",
    "muito bom 😂",
    "que lindo ❤️",
    "love this ❤",
    "nada mal 😍🏽",
    "ok",
    "😂😂",
]
LANGUAGES = ["en", "en", "pt", "pt", "en", "pt", "en", "pt"]


def method_of(**settings: Any) -> CESNA:
    torch.manual_seed(0)
    return CESNA(CharacterText.fitted(TEXTS, embedding=6, dim=8), **{"dim": 5, **settings})


def table(**columns: Any) -> Table:
    kinds = {"text": Text, "label": Label, "language": Label}
    return Table.from_columns({"text": TEXTS, **columns}, {role: kinds[role] for role in ["text", *columns]})


def loss(method: CESNA, z: Tensor, emojis: list[list[int]]) -> Tensor:
    return method.contrast({"z": z}, {"emojis": torch.tensor(emojis)})["pairs"]


SAME, OTHER = [[0], [0]], [[0], [1]]

# -- the loss --------------------------------------------------------------------------------------


def test_the_loss_is_half_the_squared_hinge() -> None:
    z = torch.tensor([[0.0, 0.0], [0.3, 0.4], [0.0, 0.0], [0.3, 0.4]])
    assert float(loss(method_of(), z[:2], SAME)) == pytest.approx(0.5 * 0.25)
    assert float(loss(method_of(), z[:2], OTHER)) == pytest.approx(0.5 * 0.25)
    assert float(loss(method_of(margin=2.0), z[:2], OTHER)) == pytest.approx(0.5 * 2.25)
    both = loss(method_of(margin=2.0), z, [*SAME, *OTHER])
    assert float(both) == pytest.approx((0.125 + 1.125) / 2), "a mean over pairs"


def test_the_cosine_is_a_distance_too() -> None:
    method = method_of(distance="cosine")
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert float(loss(method, z, SAME)) == pytest.approx(0.5)
    assert float(loss(method, z, OTHER)) == pytest.approx(0.0)
    assert float(loss(method, torch.tensor([[1.0, 1.0], [3.0, 3.0]]), OTHER)) == pytest.approx(0.5)
    assert method.space().geometry == "cosine"


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_swapping_the_twins_changes_nothing(distance: str) -> None:
    method, z = method_of(distance=distance, margin=1.5), torch.randn(8, 5)
    emojis = [[0], [0], [1], [2], [1], [1], [0], [2]]
    swapped = [1, 0, 3, 2, 5, 4, 7, 6]
    torch.testing.assert_close(
        loss(method, z, emojis), loss(method, z[swapped], [emojis[row] for row in swapped])
    )


def test_equal_texts_with_one_emoji_cost_nothing_and_far_ones_have_no_gradient() -> None:
    same = torch.ones(2, 5, requires_grad=True)
    value = loss(method_of(), same, SAME)
    value.backward()
    assert float(value.detach()) == 0
    assert float(same.grad.abs().sum()) == 0
    far = torch.tensor([[0.0, 0.0], [3.0, 0.0]], requires_grad=True)
    value = loss(method_of(), far, OTHER)
    value.backward()
    assert float(value.detach()) == 0
    assert float(far.grad.abs().sum()) == 0


def test_texts_are_near_if_they_have_one_emoji_in_common() -> None:
    z = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    assert float(loss(method_of(), z, [[0, 1], [1, 2]])) == pytest.approx(4.5)
    assert float(loss(method_of(), z, [[0, 1], [2, 3]])) == 0
    assert float(loss(method_of(), z, [[0, -1], [1, -1]])) == 0, "what fills up is no emoji"


def test_one_set_of_weights_reads_both_twins() -> None:
    method = method_of().eval()
    inputs = {"text": method.encoder.prepare(["so good", "que lindo", "que lindo", "so good"])}
    z = method.embed(inputs)["z"]
    torch.testing.assert_close(z[0], z[3])
    torch.testing.assert_close(z[1], z[2])
    assert not torch.allclose(z[0], z[1], atol=1e-5)


# -- emojis ----------------------------------------------------------------------------------------


def prepared(method: CESNA, rows: Table) -> dict[str, Any]:
    method.begin(rows)
    return method.prepare(method.examples(rows, np.arange(len(rows))), torch.Generator())


def test_without_a_label_column_the_emojis_are_the_labels() -> None:
    method = method_of()
    emojis = prepared(method, table())["emojis"].tolist()
    assert emojis == [[0, -1], [1, 0], [0, -1], [2, -1], [2, -1], [1, -1], [-1, -1], [-1, -1]]
    assert method.notes() == ["3 labels on 6 of 8 texts; 1 with nothing but emojis were not used"]


def test_the_label_column_wins_over_emojis_in_the_texts() -> None:
    emojis = prepared(method_of(), table(label=list("abababab")))["emojis"]
    assert emojis[:, 0].tolist() == [0, 1, 0, 1, 0, 1, 0, -1], "a text of nothing but emojis is not used"


def test_the_encoder_reads_no_emoji_in_training_nor_after() -> None:
    method = method_of().eval()
    bare = ["so good", "no way", "muito bom", "que lindo", "love this", "nada mal", "ok"]
    ids = prepared(method, table())["text"]["ids"]
    assert torch.equal(ids[:7], method.encoder.first.prepare(bare)["ids"])
    space = method.space()
    np.testing.assert_array_equal(space.encode(TEXTS[:7]), space.encode(bare))


def test_rows_left_out_are_never_paired() -> None:
    method = method_of()
    method.begin(table(language=LANGUAGES))
    assert set(method.order(400, 4, 0, 0)) == {0, 1, 2, 3, 4, 5}


def test_near_and_far_pairs_of_all_languages_take_part() -> None:
    method, rows = method_of(), table(language=LANGUAGES)
    method.begin(rows)
    pairs = method.order(600, 4, 0, 0).reshape(-1, 2)
    languages = np.array(LANGUAGES)[pairs]
    assert {tuple(sorted(pair)) for pair in languages} == {("en", "en"), ("en", "pt"), ("pt", "pt")}


def test_a_language_without_labels_is_left_out_and_named() -> None:
    texts = ["so nice 😂", "how sad 😍", "well well 😂", "too late 😍", "क्या बात", "ठीक है"]
    method = method_of()
    method.begin(table(text=texts, language=["en"] * 4 + ["hi"] * 2))
    for epoch in range(3):
        assert set(method.order(6, 2, 0, epoch)) <= {0, 1, 2, 3}
    assert "no text in hi has a label" in method.notes()[0]


def test_texts_without_emojis_and_labels_are_refused() -> None:
    plain = Table.from_columns({"text": ["so good", "no way", "ok"]}, {"text": Text})
    with pytest.raises(TableError, match=r"no two rows share one.*--column label=NAME"):
        method_of().begin(plain)
    one = Table.from_columns({"text": ["a 😂", "b 😂"]}, {"text": Text})
    with pytest.raises(TableError, match="only one label"):
        method_of().begin(one)


# -- around it -------------------------------------------------------------------------------------


def test_characters_are_its_own_and_any_text_encoder_will_do(tmp_path: Path) -> None:
    rows = table()
    own = build_method("cesna", rows, max_length=50)
    assert type(own.encoder.first) is CharacterText
    assert own.encoder.first.max_length == 50
    torch.manual_seed(0)
    TransformerText.tiny(TEXTS, layers=1, dim=16, heads=2, ffn=16, max_length=16).save(tmp_path)
    other = build_method("cesna", rows, encoder=str(tmp_path))
    assert type(other.encoder.first) is TransformerText
    run = train(other, rows, Settings(steps=2, batch_size=4, on_collapse="warn"))
    assert np.isfinite(run.losses).all()


def test_the_head_stays_and_the_space_takes_emojis_out(tmp_path: Path) -> None:
    space = method_of().space()
    again = Space.load(space.save(tmp_path / "space"))
    assert again.geometry == "euclidean"
    assert again.encode(TEXTS).shape == (8, 5)
    assert np.array_equal(again.encode(TEXTS), space.encode(TEXTS))
    np.testing.assert_allclose(again.encode(["so good"]), again.encode(TEXTS[:1]), atol=1e-6)


def test_it_learns_to_put_one_emoji_together_across_languages() -> None:
    texts = ["haha lol", "kkk rs", "love you", "te amo", "haha no", "kkk nao", "so lovely", "amo isso"] * 4
    labels, languages = ["😂", "😂", "❤", "❤"] * 8, ["en", "pt"] * 16
    rows = Table.from_columns({"text": texts, "label": labels, "language": languages}, {"label": Label})
    torch.manual_seed(0)
    method = CESNA(CharacterText.fitted(texts, embedding=16, dim=16), dim=8)
    train(method, rows, Settings(steps=120, batch_size=16, learning_rate=1e-2, on_collapse="warn"))
    z = torch.from_numpy(method.space().encode(texts[:8]))
    same = torch.tensor([label == other for label in labels[:8] for other in labels[:8]]).view(8, 8)
    apart = torch.cdist(z, z)
    assert float(apart[same].max()) < float(apart[~same].min())


@pytest.mark.parametrize("text", ["the of and", "\u200b", "雨 снег مطر", "word " * 10_000, "x", "© ™ 3 # *"])
def test_odd_texts_have_a_vector(text: str) -> None:
    assert np.isfinite(method_of().space().encode([text, "rain"])).all()


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ArgumentError, match="margin"):
        method_of(margin=0)
    with pytest.raises(ArgumentError, match="margin must be between 1e-06 and 2"):
        method_of(margin=3, distance="cosine")
    with pytest.raises(ArgumentError, match="begin"):
        method_of().order(8, 4, 0, 0)
