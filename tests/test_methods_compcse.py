"""CompCSE: the released loss; composed before the head, cut behind it; the parts are those of what is read."""

from __future__ import annotations

import copy
import inspect
import re

import pytest
import torch
from test_methods_catalogue import calm, total
from torch import Tensor, nn

from nearfar.data.table import Table
from nearfar.encoders.lengths import parts_read
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError
from nearfar.methods.sentence.compcse import CompCSE
from nearfar.objectives import info_nce
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.views.text import dropout_twins, encode_together, prepare_together

TEXTS = [
    "snow fell on the old town, and the road was closed",
    "fog in the valley but a clear sky above",
    "rain",
    "hail and wind and a cold night, with no moon at all",
]


@pytest.fixture(scope="module")
def shared() -> TransformerText:
    torch.manual_seed(0)
    encoder = TransformerText.tiny(TEXTS, layers=2, dim=32, heads=2, ffn=48, max_length=16, dropout=0.2)
    with torch.no_grad():
        for matrix in (
            encoder.model.embeddings.word_embeddings,
            encoder.model.encoder.layer[0].attention.self.value,
        ):
            matrix.weight.mul_(40)  # texts that differ also without training
    return encoder


@pytest.fixture
def encoder(shared: TransformerText) -> TransformerText:
    return copy.deepcopy(shared)


UNCUT = {"uncut": torch.zeros(4, dtype=torch.int64)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prepared(method: CompCSE, texts: list[str] = TEXTS) -> dict[str, dict[str, Tensor]]:
    return method.prepare({"text": texts}, seeded())


def waves(frequency: float, rows: int = 4, columns: int = 6) -> Tensor:
    """A fixed float64 matrix."""
    steps = torch.arange(rows * columns, dtype=torch.float64)
    return torch.sin(steps * frequency + frequency).view(rows, columns)


# -- the loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compose", "compared", "released"),
    [
        ("avg", 3, 8.443274618411946),
        ("avg", 6, 8.969871493083382),
        ("cat_first_last", 3, 14.898578414337948),
        ("cat_first_last", 6, 10.148387956460965),
    ],
)
def test_the_loss_is_that_of_the_released_code(compose: str, compared: int, released: float) -> None:
    """The numbers were had from `cl_forward` and `Composer` of perceptiveshawty/CompCSE on these states and weights."""
    encoder = TransformerText.tiny(TEXTS, layers=1, dim=6, heads=2, ffn=8, max_length=16)
    method = CompCSE(encoder, compose=compose, compared=compared)
    method.head.map[0].weight = nn.Parameter(waves(0.9, 6))
    method.head.map[0].bias = nn.Parameter(waves(1.7, 1)[0])
    text, left, right = (waves(frequency) for frequency in (1.3, 0.7, 2.1))
    states = {"text": text, "composed": method.composed(left, right)}
    z = {name: method.head(state)[:, : method.compared] for name, state in states.items()}
    assert total(method.contrast(z, UNCUT)).item() == pytest.approx(released, rel=1e-9)


def test_the_ways_to_compose() -> None:
    left, right = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[4.0, 0.0, 5.0, 1.0]])
    encoder = TransformerText.tiny(TEXTS, layers=1, dim=4, heads=2, ffn=8)
    made = {
        way: CompCSE(encoder, compose=way).composed(left, right).tolist()[0]
        for way in ("avg", "max", "cat_first_last")
    }
    assert made == {
        "avg": [2.5, 1.0, 4.0, 2.5],
        "max": [4.0, 2.0, 5.0, 4.0],
        "cat_first_last": [1.0, 2.0, 5.0, 1.0],
    }


def test_parts_are_composed_before_the_head_at_their_own_scale(encoder: TransformerText) -> None:
    encoder.normalise = True
    method = CompCSE(encoder, compared=8)
    calm(method)
    batch = prepared(method)
    text, left, right = (part.pooled for part in encode_together(encoder, batch["text"]))
    assert text.norm(dim=1).min().item() > 1.1, "states of unit length were composed"
    z = method.embed(batch)
    torch.testing.assert_close(z["composed"], method.head((left + right) / 2)[:, :8], rtol=1e-3, atol=1e-4)
    after = (method.head(left) + method.head(right))[:, :8] / 2
    assert not torch.allclose(z["composed"], after, atol=1e-3), "composing behind the head is something else"
    assert not torch.allclose(z["composed"], method.head(left + right)[:, :8], atol=1e-3), (
        "a sum is no mean before tanh"
    )


def test_only_the_first_coordinates_of_the_head_learn(encoder: TransformerText) -> None:
    method = CompCSE(encoder, compared=5)
    total(method.loss(prepared(method))).backward()
    gradient = method.head.map[0].weight.grad
    assert float(gradient[:5].abs().min()) > 0
    assert float(gradient[5:].abs().max()) == 0


def test_all_coordinates_make_the_plain_loss(encoder: TransformerText) -> None:
    method = CompCSE(encoder)
    assert method.compared == 32, "an encoder that is narrower than d0 is compared by all"
    z = method.embed(prepared(method))
    assert {name: value.shape for name, value in z.items()} == {"text": (4, 32), "composed": (4, 32)}
    torch.testing.assert_close(
        total(method.contrast(z, UNCUT)), info_nce(z["text"], z["composed"], temperature=0.05)
    )


def test_a_text_that_is_both_of_its_parts_has_the_mean_of_two_twins_as_positive(
    encoder: TransformerText,
) -> None:
    method = CompCSE(encoder, compared=32)
    batch = prepared(method, ["rain", "snow", "fog"])
    torch.manual_seed(0)
    z = method.embed(batch)
    torch.manual_seed(0)
    one, two, three = dropout_twins(encoder, encoder.prepare(["rain", "snow", "fog"]), n=3)
    torch.testing.assert_close(z["text"], method.head(one.pooled))
    torch.testing.assert_close(z["composed"], method.head((two.pooled + three.pooled) / 2))
    assert not torch.allclose(z["text"], z["composed"], atol=1e-3)


def test_without_dropout_such_a_text_meets_itself(encoder: TransformerText) -> None:
    method = CompCSE(encoder, compared=32)
    calm(method)
    z = method.embed(prepared(method, ["rain", "snow", "fog"]))
    torch.testing.assert_close(z["text"], z["composed"], rtol=1e-4, atol=1e-5)


# -- one pass --------------------------------------------------------------------------------------


def test_anchors_and_parts_go_through_in_one_pass_each_under_a_mask_of_its_own(
    encoder: TransformerText,
) -> None:
    passes: list[int] = []
    encoder.register_forward_hook(lambda module, inputs, out: passes.append(len(out.pooled)))
    inputs = prepare_together(encoder, *[["snow fell"] * 4] * 3)
    parts = torch.cat([part.pooled for part in encode_together(encoder.train(), inputs)])
    assert passes == [12]
    assert float((torch.cdist(parts, parts) + torch.eye(12)).min()) > 1e-3


def test_columns_of_any_lengths_are_what_they_are_alone(encoder: TransformerText) -> None:
    encoder.eval()
    columns = (TEXTS, TEXTS[::-1], ["a"] * 4)
    inputs = prepare_together(encoder, *columns)
    assert all(value.shape[:2] == (4, 3) for value in inputs.values())
    for column, part in zip(columns, encode_together(encoder, inputs), strict=True):
        alone = encoder(encoder.prepare(column)).pooled
        torch.testing.assert_close(part.pooled, alone, rtol=1e-4, atol=1e-5)


# -- the parts -------------------------------------------------------------------------------------


def tokens(method: CompCSE, texts: list[str]) -> list[list[str]]:
    """What is read of anchor, left and right of the first text."""
    batch = prepared(method, texts)["text"]
    words = [
        method.encoder.tokenizer.convert_ids_to_tokens(row[m])
        for row, m in zip(batch["ids"][0], batch["mask"][0], strict=True)
    ]
    return [row[1:-1] for row in words]


def test_the_parts_are_of_what_is_read_of_a_long_text(encoder: TransformerText) -> None:
    """A text of 10,000 words: parts of the whole would be the anchor itself and words that no anchor holds."""
    long = "snow fell, and " + "the road was closed and the town " * 2000
    for way in ("clauses", "middle", "random"):
        anchor, left, right = tokens(CompCSE(encoder, split=way), [long])
        assert anchor == left + right
        assert len(anchor) == 14
    assert encoder.truncated > 0


def test_a_short_text_is_read_whole(encoder: TransformerText) -> None:
    assert parts_read(encoder, [*TEXTS, "  rain \n", "我们走吧"]) == [*TEXTS, "  rain \n", "我们走吧"]


def test_texts_that_cannot_be_cut_are_counted(encoder: TransformerText) -> None:
    method = CompCSE(encoder)
    method.loss(prepared(method, TEXTS[:2]))
    assert method.notes() == []
    method.loss(prepared(method))
    assert re.match(r"1 of 6 texts read could not be cut by 'clauses'", method.notes()[0])


def test_two_halves_that_are_alike_are_a_cut(encoder: TransformerText) -> None:
    method = CompCSE(encoder, split="middle")
    batch = prepared(method, ["very very", "rain"])
    assert batch["uncut"].tolist() == [0, 1]


@pytest.mark.parametrize("given", [{}, {"cache_chunk": 2}])
def test_what_was_learned_from_is_counted_once_and_kept_with_a_checkpoint(
    encoder: TransformerText, given: dict[str, int]
) -> None:
    """Batches that are only made ahead are not counted, and a resumed run goes on counting."""
    method = CompCSE(encoder)
    train(method, Table.from_columns({"text": TEXTS * 3}), Settings(steps=2, batch_size=4, **given))
    assert method.texts[1] == 8
    again = CompCSE(copy.deepcopy(encoder))
    again.load_state_dict(method.state_dict())
    assert again.notes() == method.notes()


def test_random_cuts_follow_the_generator(encoder: TransformerText) -> None:
    method = CompCSE(encoder, split="random")
    one, again, other = (method.prepare({"text": TEXTS}, seeded(seed))["text"]["ids"] for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert one.shape != other.shape or not torch.equal(one, other)


def test_the_space_is_the_encoder_with_all_its_coordinates(encoder: TransformerText) -> None:
    space = CompCSE(encoder, compared=5).space()
    assert space.encoders == {"text": encoder}
    assert space.heads == {}
    assert space.encode(TEXTS).shape == (4, 32)


def test_defaults_are_those_of_the_paper_for_bert(encoder: TransformerText) -> None:
    defaults = {k: p.default for k, p in inspect.signature(CompCSE.__init__).parameters.items()}
    assert (defaults["temperature"], defaults["compose"], defaults["compared"]) == (0.05, "avg", 256)
    CompCSE(encoder)
    assert encoder.pooling == "cls"


def test_widths_that_cannot_be_are_refused(encoder: TransformerText) -> None:
    with pytest.raises(ArgumentError, match="compared must be between 1"):
        CompCSE(encoder, compared=0)
    odd = TransformerText.tiny(TEXTS, layers=1, dim=9, heads=3, ffn=8)
    with pytest.raises(ArgumentError, match="even width"):
        CompCSE(odd, compose="cat_first_last")
