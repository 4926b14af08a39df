"""SimCSE: the released loss, twins from one pass, and a head that stays only with pairs."""

from __future__ import annotations

import copy
import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_methods_catalogue import calm, gradients, total
from torch import Tensor, nn

from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError
from nearfar.measures.sts import sts
from nearfar.methods.sentence.simcse import SimCSE
from nearfar.recipes.simcse import IdenticalViews
from nearfar.space import Space

TEXTS = [
    "rain",
    "snow fell on the old town",
    "fog in the valley",
    "a storm",
    "hail and wind and a cold night",
]
POSITIVES = ["it rains", "snow", "the valley lies in fog", "thunder and lightning", "hail"]
NEGATIVES = ["it is dry", "sand in the desert", "a clear view", "no wind at all", "sun"]


@pytest.fixture(scope="module")
def shared() -> TransformerText:
    torch.manual_seed(0)
    texts = TEXTS + POSITIVES + NEGATIVES
    return TransformerText.tiny(texts, layers=2, dim=32, heads=2, ffn=48, max_length=16, dropout=0.2)


@pytest.fixture
def encoder(shared: TransformerText) -> TransformerText:
    return copy.deepcopy(shared)


def batch(method: SimCSE, *columns: list[str]) -> dict[str, dict[str, Tensor]]:
    """A prepared batch of texts, and of positives and negatives where they are given."""
    rows = dict(zip(("text", "positive", "negative"), columns, strict=False))
    return method.prepare(rows, torch.Generator().manual_seed(0))


def waves(frequency: float) -> Tensor:
    """A fixed float64 matrix [4, 3]."""
    return torch.sin(torch.arange(12, dtype=torch.float64) * frequency + frequency).view(4, 3)


def by_loops(z: dict[str, Tensor], temperature: float, alpha: float) -> float:
    """The loss as the paper writes it, one exponential at a time."""

    def e(a: Tensor, b: Tensor) -> float:
        return math.exp(float(a @ b / (a.norm() * b.norm())) / temperature)

    losses, rows = [], range(len(z["one"]))
    for i in rows:
        below = sum(e(z["one"][i], z["two"][j]) for j in rows)
        if "negative" in z:
            weight = [math.exp(alpha) if i == j else 1.0 for j in rows]
            below += sum(weight[j] * e(z["one"][i], z["negative"][j]) for j in rows)
        losses.append(-math.log(e(z["one"][i], z["two"][i]) / below))
    return float(np.mean(losses))


# -- the loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "names", "released"),
    [
        (0.0, ("one", "two"), 12.446113761598761),
        (0.0, ("one", "two", "negative"), 12.456131239352361),
        (1.5, ("one", "two", "negative"), 12.464344097720984),
    ],
)
def test_the_loss_is_that_of_the_released_code(
    encoder: TransformerText, alpha: float, names: tuple[str, ...], released: float
) -> None:
    """The numbers were had from `cl_forward` of princeton-nlp/SimCSE on these matrices, temperature 0.05."""
    z = {name: waves(frequency) for name, frequency in zip(names, (1.3, 0.7, 2.1), strict=False)}
    method = SimCSE(encoder, hard_negative_log_weight=alpha)
    assert float(total(method.contrast(z, {}))) == pytest.approx(released, rel=1e-9)


@pytest.mark.parametrize("alpha", [-2.0, 0.0, 0.7])
@pytest.mark.parametrize("names", [("one", "two"), ("one", "two", "negative")])
def test_the_loss_is_the_formula(encoder: TransformerText, alpha: float, names: tuple[str, ...]) -> None:
    torch.manual_seed(1)
    z = {name: torch.randn(7, 5, dtype=torch.float64) for name in names}
    method = SimCSE(encoder, temperature=0.3, hard_negative_log_weight=alpha)
    assert float(total(method.contrast(z, {}))) == pytest.approx(by_loops(z, 0.3, alpha), rel=1e-9)


def test_alpha_is_the_logarithm_of_a_weight(encoder: TransformerText) -> None:
    """Weight 2, that is alpha = log 2, counts the row's own hard negative twice; it is no factor on its cosine."""
    one, two, hard = (waves(frequency) for frequency in (1.3, 0.7, 2.1))
    twice = SimCSE(encoder, temperature=0.5, hard_negative_log_weight=math.log(2))
    logits = torch.cat([f(a, b) for f, a, b in ((cosines, one, two), (cosines, one, hard))], dim=1) / 0.5
    logits = torch.cat([logits, (cosines(one, hard) / 0.5).diagonal()[:, None]], dim=1)
    expected = nn.functional.cross_entropy(logits, torch.arange(4))
    found = total(twice.contrast({"one": one, "two": two, "negative": hard}, {}))
    torch.testing.assert_close(found, expected)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return nn.functional.normalize(a, dim=1) @ nn.functional.normalize(b, dim=1).T


def test_only_rows_are_contrasted_never_columns_nor_the_same_view(encoder: TransformerText) -> None:
    method = SimCSE(encoder, temperature=0.5)
    one, two = waves(1.3), waves(0.7)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return total(method.contrast({"one": a, "two": b}, {}))

    assert abs(float(loss(one, two) - loss(two, one))) > 1e-2
    # Row i of the first view is nobody's negative: its change moves the loss of row i alone.
    changed = one.clone()
    changed[0] = one[2]
    logits = cosines(one, two) / 0.5
    own = logits.logsumexp(1) - logits.diagonal()
    moved = (cosines(changed, two) / 0.5)[0]
    expected = loss(one, two) + (moved.logsumexp(0) - moved[0] - own[0]) / 4
    torch.testing.assert_close(loss(changed, two), expected)


def test_defaults_are_those_of_the_paper(encoder: TransformerText) -> None:
    defaults = {k: p.default for k, p in inspect.signature(SimCSE.__init__).parameters.items()}
    assert defaults["temperature"] == 0.05
    assert defaults["hard_negative_log_weight"] == 0.0
    assert defaults["head"] == "tanh"
    method = SimCSE(encoder)
    assert encoder.pooling == "cls"
    weight, bias = method.head.map[0].weight, method.head.map[0].bias
    assert weight.shape == (encoder.dim, encoder.dim)
    states = torch.randn(3, encoder.dim)
    torch.testing.assert_close(method.head(states), torch.tanh(states @ weight.T + bias))


# -- the twins -------------------------------------------------------------------------------------


def test_twins_come_from_one_pass_of_2b_rows_under_masks_of_their_own(encoder: TransformerText) -> None:
    method = SimCSE(encoder).train()
    passes: list[int] = []
    encoder.register_forward_hook(lambda module, inputs, out: passes.append(len(out.pooled)))
    torch.manual_seed(0)
    z = {name: value.detach() for name, value in method.embed(batch(method, [TEXTS[1]] * 4)).items()}
    assert passes == [8]
    assert {name: value.shape for name, value in z.items()} == dict.fromkeys(("one", "two"), (4, 32))
    # One text eight times: no two of the eight rows may share their dropout masks.
    apart = torch.cdist(*[torch.cat([z["one"], z["two"]])] * 2)
    assert float((apart + torch.eye(8)).min()) > 1e-3


def test_row_i_of_both_twins_is_text_i(encoder: TransformerText) -> None:
    method = SimCSE(encoder).train()
    calm(method)
    z = method.embed(batch(method, TEXTS))
    torch.testing.assert_close(z["one"], z["two"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(z["one"][1:], z["two"][:-1], atol=1e-3)


def test_evaluation_mode_would_give_no_twins_and_is_refused(encoder: TransformerText) -> None:
    method = SimCSE(encoder).eval()
    with pytest.raises(ArgumentError, match="evaluation mode"):
        method.embed(batch(method, TEXTS))


def test_identical_views_have_nothing_to_align(encoder: TransformerText) -> None:
    """The pull on positives has a gradient only where the twins differ."""

    def pull(method: SimCSE) -> float:
        torch.manual_seed(0)
        z = method.train().embed(batch(method, TEXTS))
        nn.functional.cosine_similarity(z["one"], z["two"]).mean().neg().backward()
        return max(float(gradient.abs().max()) for gradient in gradients(method).values())

    assert pull(IdenticalViews(copy.deepcopy(encoder))) < 1e-5
    assert pull(SimCSE(encoder)) > 1e-2


def test_the_loss_of_identical_views_is_that_of_a_positive_at_one(encoder: TransformerText) -> None:
    method = IdenticalViews(encoder).train()
    z = method.embed(batch(method, TEXTS))
    pushed = (cosines(z["one"], z["one"]) / 0.05).logsumexp(1) - 1 / 0.05
    torch.testing.assert_close(total(method.contrast(z, {})), pushed.mean(), rtol=1e-4, atol=1e-4)


def test_every_column_takes_part_and_gets_gradient(encoder: TransformerText) -> None:
    method = SimCSE(encoder).train()
    z = method.embed(batch(method, TEXTS, POSITIVES, NEGATIVES))
    assert set(z) == {"one", "two", "negative"}
    leaves = {name: value.detach().requires_grad_() for name, value in z.items()}
    total(method.contrast(leaves, {})).backward()
    for name, value in leaves.items():
        assert bool((value.grad.abs().sum(1) > 0).all()), name
    assert set(method.embed(batch(method, TEXTS, POSITIVES))) == {"one", "two"}


def test_pairs_are_embedded_from_their_own_columns(encoder: TransformerText) -> None:
    method = SimCSE(encoder).eval()
    z = method.embed(batch(method, TEXTS, POSITIVES, NEGATIVES))
    for name, column in (("one", TEXTS), ("two", POSITIVES), ("negative", NEGATIVES)):
        expected = method.head(encoder(encoder.prepare(column)).pooled)
        torch.testing.assert_close(z[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean", "first_last", "top2"])
def test_padding_does_not_enter_the_pooling(encoder: TransformerText, pooling: str) -> None:
    method = SimCSE(encoder, pooling=pooling).eval()
    together = method.embed(batch(method, TEXTS, POSITIVES))["one"]
    alone = method.embed(batch(method, TEXTS[:1], POSITIVES[:1]))["one"]
    assert method.encoder.pooling == pooling
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)


def test_an_encoder_that_names_its_pooling_keeps_it(encoder: TransformerText) -> None:
    encoder.pooling, encoder.pooling_is_own, encoder.normalise = "mean", True, True
    assert SimCSE(copy.deepcopy(encoder)).encoder.pooling == "mean"
    assert SimCSE(copy.deepcopy(encoder), pooling="cls").encoder.pooling == "cls"
    assert SimCSE(copy.deepcopy(encoder)).encoder.normalise is False, (
        "the head sees states at their own scale"
    )
    assert SimCSE(copy.deepcopy(encoder), head="none").encoder.normalise is True


# -- what is left ----------------------------------------------------------------------------------


def unit_rows(rows: Tensor) -> np.ndarray:
    return nn.functional.normalize(rows, dim=1).detach().numpy()


def test_without_pairs_the_head_is_for_training_only(encoder: TransformerText, tmp_path: Path) -> None:
    method = SimCSE(encoder).train()
    method.loss(batch(method, TEXTS))
    space = method.space()
    assert space.heads == {}
    found = space.encode(TEXTS)
    first_states = encoder.eval()(encoder.prepare(TEXTS)).tokens[:, 0]
    np.testing.assert_allclose(found, unit_rows(first_states), atol=1e-5)
    again = Space.load(space.save(tmp_path / "space"))
    assert again.heads == {}
    assert np.array_equal(again.encode(TEXTS), found)


def test_with_pairs_the_head_stays(encoder: TransformerText, tmp_path: Path) -> None:
    method = SimCSE(encoder).train()
    assert method.space().heads == {}
    method.loss(batch(method, TEXTS, POSITIVES))
    space = method.space()
    found = space.encode(TEXTS)
    headed = method.eval().embed(batch(method, TEXTS, POSITIVES))["one"]
    np.testing.assert_allclose(found, unit_rows(headed), atol=1e-5)
    again = Space.load(space.save(tmp_path / "space"))
    assert np.array_equal(again.encode(TEXTS), found)
    assert set(again.heads) == {"text"}
    resumed = SimCSE(copy.deepcopy(encoder))
    resumed.load_state_dict(method.state_dict())
    assert np.array_equal(resumed.space().encode(TEXTS), found), "a resumed run must know that its head stays"
    bare = SimCSE(copy.deepcopy(encoder), head="none")
    bare.loss(batch(bare, TEXTS, POSITIVES))
    assert bare.space().heads == {}


def test_similarity_is_ranked_over_all_pairs_together() -> None:
    """The protocol of the paper: Spearman, and subsets joined before one correlation is taken."""
    cosine, gold = [[0.1, 0.2, 0.3], [0.7, 0.8, 0.9]], [[3.0, 4.0, 5.0], [0.0, 1.0, 2.0]]
    joined = sts(cosine, gold)
    assert joined < 0, "each subset alone is ranked perfectly; together they are not"
    assert joined == pytest.approx(sts(np.ravel(cosine), np.ravel(gold)))
    assert sts(np.exp(9 * np.ravel(cosine)), np.ravel(gold)) == pytest.approx(joined), "ranks, not values"
