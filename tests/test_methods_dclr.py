"""DCLR: the formula and the released loss, noise that climbs, and a gate that nothing learns from."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_methods_catalogue import calm, gradients, total
from torch import Tensor, nn

from nearfar.data.table import Table
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError
from nearfar.methods.sentence.dclr import DCLR
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train

TEXTS = ["rain", "snow fell on the old town", "fog in the valley", "a storm", "the", "hail and a cold night"]
NEVER = 2.0
"""A threshold that no cosine reaches."""


@pytest.fixture(scope="module")
def shared() -> TransformerText:
    torch.manual_seed(0)
    return TransformerText.tiny(TEXTS, layers=1, dim=16, heads=2, ffn=24, max_length=16, dropout=0.2)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a space, as `fit` writes it, of another width, vocabulary and pooling."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("judge")
    other = TransformerText.tiny(["other words", *TEXTS], layers=1, dim=8, heads=2, ffn=12, max_length=12)
    return Space({"text": other}).save(folder / "space")


@pytest.fixture
def made(shared: TransformerText, judge: Path) -> Any:
    def make(**settings: Any) -> DCLR:
        return DCLR(copy.deepcopy(shared), complement=str(judge), **settings).train()

    return make


def waves(frequency: float, rows: int = 4) -> Tensor:
    """A fixed float64 matrix [rows, 3]."""
    return torch.sin(torch.arange(rows * 3, dtype=torch.float64) * frequency + frequency).view(rows, 3)


def embedded() -> dict[str, Tensor]:
    return {"one": waves(1.3), "two": waves(0.7), "judged": waves(1.7)}


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return nn.functional.normalize(a, dim=1) @ nn.functional.normalize(b, dim=1).T


def batch(method: DCLR, texts: list[str]) -> dict[str, Any]:
    return method.prepare({"text": texts}, torch.Generator().manual_seed(0))


@pytest.fixture
def fixed_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn", lambda rows, width, **_: waves(0.4, rows))


# -- the loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "noise", "climbs", "released"),
    [
        (NEVER, 1.0, 4, 2.063502981862837),
        (0.5, 1.0, 4, 2.1173601274643983),
        (0.5, 2.5, 4, 1.24783750307973),
        (0.5, 1.0, 0, 2.1110307500410666),
    ],
)
def test_the_loss_as_released(
    made: Any, fixed_noise: None, threshold: float, noise: float, climbs: int, released: float
) -> None:
    """The numbers were had from `cl_vat_forward` of RUCAIBox/DCLR on these matrices and this noise."""
    method = made(threshold=threshold, noise=noise, climbs=climbs, variant="repo")
    assert float(total(method.contrast(embedded(), {}))) == pytest.approx(released, rel=1e-6)


@pytest.mark.parametrize("threshold", [NEVER, 0.5, -1.0])
def test_the_loss_is_the_formula(made: Any, fixed_noise: None, threshold: float) -> None:
    """Gated pairs are out of the sum, the twin never is, and noise always is in it."""
    z, noise, losses = embedded(), waves(0.4, 10), []
    judged = cosines(z["judged"], z["judged"])
    for i in range(4):
        near = math.exp(cosines(z["one"], z["two"])[i, i] / 0.3)
        below = near + sum(math.exp(score / 0.3) for score in cosines(z["one"], noise)[i].tolist())
        for j in range(4):
            if j != i and judged[i, j] < threshold:
                below += math.exp(cosines(z["one"], z["two"])[i, j] / 0.3)
        losses.append(-math.log(near / below))
    method = made(threshold=threshold, noise=2.5, climbs=0, temperature=0.3)
    assert float(total(method.contrast(z, {}))) == pytest.approx(sum(losses) / 4, rel=1e-9)


def test_without_noise_and_gate_it_is_simcse(made: Any) -> None:
    z = embedded()
    expected = nn.functional.cross_entropy(cosines(z["one"], z["two"]) / 0.05, torch.arange(4))
    torch.testing.assert_close(total(made(noise=0.0, threshold=NEVER).contrast(z, {})), expected)


def test_with_every_pair_gated_and_no_noise_nothing_is_left(made: Any) -> None:
    z = {name: value.requires_grad_() for name, value in embedded().items()}
    loss = total(made(noise=0.0, threshold=-1.0).contrast(z, {}))
    loss.backward()
    assert loss.item() == 0
    assert float(z["one"].grad.abs().max()) == 0


def test_the_released_loss_is_finite_where_the_twin_has_all_the_probability(made: Any) -> None:
    z = {"one": 3 * torch.eye(4), "two": torch.eye(4), "judged": torch.eye(4)}
    z["one"].requires_grad_()
    loss = total(made(noise=0.0, temperature=0.01, variant="repo").contrast(z, {}))
    loss.backward()
    assert math.isfinite(loss.item())
    assert bool(z["one"].grad.isfinite().all())


# -- noise -----------------------------------------------------------------------------------------


def test_noise_climbs_the_ungated_loss_and_hardly_turns_at_the_published_step(made: Any) -> None:
    torch.manual_seed(0)
    one, two = torch.randn(8, 64), torch.randn(8, 64)
    found = {}
    for name, settings in {"drawn": {"climbs": 0}, "published": {}, "far": {"rate": 1.0}}.items():
        torch.manual_seed(3)
        found[name] = made(threshold=-1.0, **settings).climbed(one, two)
    heights = {name: float(made().compared(one, two, noise)) for name, noise in found.items()}
    assert heights["drawn"] < heights["published"] < heights["far"]
    turned = nn.functional.cosine_similarity(found["drawn"], found["published"])
    assert float(turned.min()) > 0.999999
    assert float(nn.functional.cosine_similarity(found["drawn"], found["far"]).max()) < 0.99
    assert len(made(noise=2.5).climbed(one, two)) == 20


def test_noise_is_new_for_every_batch_and_replayed_with_the_random_state(made: Any) -> None:
    method, one = made(), torch.randn(4, 6)
    torch.manual_seed(1)
    first, second = method.climbed(one, one), method.climbed(one, one)
    torch.manual_seed(1)
    assert torch.equal(method.climbed(one, one), first)
    assert not torch.allclose(first, second)


def test_no_weight_learns_from_the_ascent(made: Any) -> None:
    """The gradient is that of a loss in which the noise after its ascent is a constant."""
    method = made(rate=0.5)
    z = embedded()
    z["one"].requires_grad_(), z["two"].requires_grad_()
    torch.manual_seed(2)
    total(method.contrast(z, {})).backward()
    got = z["one"].grad.clone()
    torch.manual_seed(2)
    noise = method.climbed(z["one"].detach(), z["two"].detach())
    again = embedded()
    again["one"].requires_grad_()
    logits = cosines(again["one"], torch.cat([again["two"], noise])) / 0.05
    logits = logits.masked_fill(nn.functional.pad(method.gated(again["judged"]), (0, 4)), -torch.inf)
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    torch.testing.assert_close(got, again["one"].grad)


# -- the complementary encoder ---------------------------------------------------------------------


def test_the_gate_takes_copies_and_paraphrases_but_never_the_own_twin(made: Any) -> None:
    method = made(threshold=0.999)
    z = method.embed(batch(method, [*TEXTS, TEXTS[1]]))
    gated = method.gated(z["judged"])
    assert {tuple(pair) for pair in gated.nonzero().tolist()} == {(1, 6), (6, 1)}
    assert not bool(made(threshold=-1.0).gated(z["judged"]).diagonal().any())


def test_a_gated_pair_gets_no_gradient(made: Any) -> None:
    z = {"one": waves(1.3), "two": waves(0.7), "judged": torch.eye(4)[[0, 0, 1, 2]].double()}
    z["one"].requires_grad_()
    loss = total(made(noise=0.0, threshold=0.9).contrast(z, {}))
    (slope,) = torch.autograd.grad(loss, z["one"])
    z["two"] = z["two"].clone()
    z["two"][1] = waves(2.9)[1]  # row 0 never meets key 1
    (other,) = torch.autograd.grad(total(made(noise=0.0, threshold=0.9).contrast(z, {})), z["one"])
    torch.testing.assert_close(slope[0], other[0])
    assert not torch.allclose(slope[2], other[2])


def test_nothing_of_the_complement_learns_and_its_dropout_is_off(made: Any) -> None:
    method = made()
    assert method.training
    assert not method.complement.training
    inputs = batch(method, TEXTS)
    assert torch.equal(method.embed(inputs)["judged"], method.embed(inputs)["judged"])
    assert not method.embed(inputs)["judged"].requires_grad
    total(method.loss(inputs)).backward()
    learned = gradients(method)
    assert any(name.startswith("encoder") for name in learned)
    assert not any(name.startswith("complement") for name in learned)
    assert not any(p.requires_grad for p in method.complement.parameters())


def test_the_complement_reads_texts_by_its_own_tokenizer(made: Any) -> None:
    method = made()
    inputs = batch(method, TEXTS)
    assert not torch.equal(inputs["text"]["ids"], inputs["judged"]["ids"])
    expected = method.complement(method.complement.model.prepare(TEXTS)).pooled
    torch.testing.assert_close(method.embed(inputs)["judged"], expected)


def test_a_resumed_run_keeps_the_complement_it_began_with(made: Any) -> None:
    method = made()
    with torch.no_grad():
        for parameter in method.complement.parameters():
            parameter.add_(0.1)
    again = made()
    again.load_state_dict(method.state_dict())
    texts = batch(method, TEXTS)["judged"]
    assert torch.equal(again.complement(texts).pooled, method.complement(texts).pooled)


def test_a_gate_that_takes_nearly_all_is_told(made: Any) -> None:
    method = made(threshold=-1.0)
    assert method.notes() == []
    z = method.embed(batch(method, TEXTS))
    method.contrast(z, {})
    assert "100.0%" in method.notes()[0]
    assert "tells few texts apart" in method.notes()[0]
    open_gate = made(threshold=NEVER)
    open_gate.contrast(z, {})
    assert open_gate.notes() == ["the complementary encoder took 0.0% of the negatives in a batch away"]


@pytest.mark.parametrize("given", [{"accumulate": 2}, {"cache_chunk": 3}])
def test_pairs_that_never_met_are_not_counted(made: Any, given: dict[str, int]) -> None:
    method, rows = made(), Table.from_columns({"text": TEXTS * 2})
    train(method, rows, Settings(steps=2, batch_size=6, **given))
    assert method.pairs[1] == 2 * given.get("accumulate", 1) * 6 * 5


def test_a_complement_that_tells_no_texts_apart_is_told_and_does_not_stop_the_run(made: Any) -> None:
    method = made()
    with torch.no_grad():
        for parameter in method.complement.model.model.embeddings.word_embeddings.parameters():
            parameter.fill_(1.0)
        for parameter in method.complement.model.model.embeddings.position_embeddings.parameters():
            parameter.fill_(1.0)
    rows = Table.from_columns({"text": [f"{text} {word}" for text in TEXTS for word in ("", "rain", "fog")]})
    judged = method.complement(method.complement.model.prepare(rows.column("text"))).pooled
    assert float(cosines(judged, judged).min()) > 0.99
    run = train(method, rows, Settings(steps=60, batch_size=12, learning_rate=1e-3))
    assert run.warnings == []
    assert "tells few texts apart" in method.notes()[0]


# -- the rest --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chosen", "expected"), [("own", "cls"), ("mean", "mean")])
def test_the_pooling_is_chosen(made: Any, chosen: str, expected: str) -> None:
    assert made(pooling=chosen).encoder.pooling == expected


def test_what_is_left_is_the_encoder_without_head(made: Any) -> None:
    method = made()
    assert method.space().encoders == {"text": method.encoder}
    assert method.space().heads == {}
    assert method.encoder.pooling == "cls"
    assert method.negatives(4) == 7
    assert made(variant="repo").negatives(4) == 0


def test_twins_are_of_one_text(made: Any) -> None:
    method = made()
    calm(method)
    z = method.embed(batch(method, TEXTS))
    torch.testing.assert_close(z["one"], z["two"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "texts",
    [["same"] * 4, ["the", "a", "of", "and"], ["rain " * 10_000, "дождь", "雨", "r"]],
    ids=["duplicates", "stop words", "long and mixed scripts"],
)
@pytest.mark.parametrize("variant", ["paper", "repo"])
def test_hard_input_gives_a_finite_loss_and_gradient(made: Any, texts: list[str], variant: str) -> None:
    method = made(variant=variant)
    loss = total(method.loss(batch(method, texts)))
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(method).values())


def test_wrong_arguments_are_named(made: Any, shared: TransformerText) -> None:
    with pytest.raises(ArgumentError, match="random weights"):
        DCLR(copy.deepcopy(shared), complement="tiny")
    for wrong in ({"threshold": -1.5}, {"noise": -1.0}, {"climbs": -1}, {"temperature": 0.0}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            made(**wrong)
