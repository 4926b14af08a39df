"""SimCTG: both terms on the same tokens, the plain language model as its limit, and what its space keeps."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

import pytest
import torch
from samples import tiny_causal
from test_encoders_text import TEXTS
from torch import Tensor
from torch.nn import functional

from nearfar.data.table import Table
from nearfar.encoders.causal import CausalText
from nearfar.errors import ArgumentError
from nearfar.heads.decoding import ContrastiveDecoding
from nearfar.measures.language import language_measures
from nearfar.method import Batch
from nearfar.methods.generation.simctg import IGNORED, SimCTG
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train


@pytest.fixture(scope="module")
def shared() -> CausalText:
    return tiny_causal(TEXTS)


@pytest.fixture
def lm(shared: CausalText) -> CausalText:
    return copy.deepcopy(shared)


def prepared(method: SimCTG, texts: list[str]) -> Batch:
    return method.prepare({"text": texts}, torch.Generator())


def value(term: Tensor) -> float:
    return float(term.detach())


class PlainLM(SimCTG):
    """The language model loss and nothing else."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"mle": super().loss(batch)["mle"]}


def test_both_terms_are_those_of_texts_read_one_by_one(lm: CausalText) -> None:
    """The official sums over a padded batch: all tokens in one mean, all ordered pairs in another."""
    method = SimCTG(lm.eval(), margin=0.9)
    found = method.loss(prepared(method, TEXTS))
    costs, hinges = [], []
    for row in lm.split_prompts(TEXTS):
        states, logits = lm.predict(lm.stack([row]))
        following = [*row[1:], lm.end_ids[0]]
        costs += [-float(logits[0, t].log_softmax(-1)[token].detach()) for t, token in enumerate(following)]
        unit = functional.normalize(states[-1][0].detach(), dim=-1)
        for i in range(len(row)):
            hinges += [max(0.0, 0.9 - 1 + float(unit[i] @ unit[j])) for j in range(len(row)) if i != j]
    assert value(found["mle"]) == pytest.approx(sum(costs) / len(costs), abs=1e-4)
    assert value(found["contrast"]) == pytest.approx(sum(hinges) / len(hinges), abs=1e-5)
    assert list(found) == ["mle", "contrast"]


def test_a_text_that_was_cut_reads_all_but_its_last_token(lm: CausalText) -> None:
    lm.set_max_length(5)
    method = SimCTG(lm.eval(), margin=0.9)
    (row,) = lm.split_prompts([TEXTS[4]])
    states, logits = lm.predict(lm.stack([row[:4]]))
    expected = method.terms(states[-1], logits, torch.tensor([row[1:5]]))
    for name, term in method.loss(prepared(method, [TEXTS[4]])).items():
        assert value(term) == pytest.approx(value(expected[name]), abs=1e-5)


def test_the_number_that_padding_has_may_be_a_word(lm: CausalText) -> None:
    """The released data class takes its padding for no text wherever it stands: here it is a word as any."""
    method = SimCTG(lm.eval(), margin=0.9)
    expected = {name: value(term) for name, term in method.loss(prepared(method, TEXTS)).items()}
    lm._pad_id = lm.pad_id = lm.split_prompts([TEXTS[0]])[0][1]
    assert bool((prepared(method, TEXTS)["text"]["ids"][0, :5] == lm.pad_id).any())
    found = {name: value(term) for name, term in method.loss(prepared(method, TEXTS)).items()}
    assert found == pytest.approx(expected, abs=1e-5)


def test_without_margin_it_is_the_language_model_bit_for_bit(shared: CausalText) -> None:
    table = Table.from_columns({"text": TEXTS * 4})
    weights = []
    for cls in (SimCTG, PlainLM):
        method = cls(copy.deepcopy(shared), margin=0.0)
        run = train(method, table, Settings(steps=4, batch_size=6, learning_rate=1e-3))
        weights.append((run.losses, method.state_dict()))
    (losses, ours), (plain_losses, plain) = weights
    assert losses == plain_losses
    assert all(torch.equal(ours[name], plain[name]) for name in plain)


def test_the_contrast_moves_states_apart(shared: CausalText) -> None:
    table = Table.from_columns({"text": TEXTS * 4})
    isotropy = []
    for margin in (0.0, 1.0):
        lm = copy.deepcopy(shared)
        train(SimCTG(lm, margin=margin), table, Settings(steps=30, batch_size=12, learning_rate=3e-3))
        isotropy.append(language_measures(lm, TEXTS)["token_isotropy"].value)
    assert isotropy[1] > isotropy[0] + 0.05


def test_the_end_is_predicted_and_never_contrasted(lm: CausalText) -> None:
    method = SimCTG(lm.eval(), margin=0.9)
    with_end = method.loss(prepared(method, TEXTS))
    lm.end_ids = []
    without = method.loss(prepared(method, TEXTS))
    assert value(with_end["mle"]) != pytest.approx(value(without["mle"]), abs=1e-3)
    one = method.loss(prepared(method, ["r"]))
    assert value(one["mle"]) == 0.0, "one token and no end: nothing to predict"
    sum(one.values()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in lm.parameters() if p.grad is not None)


def test_nothing_of_the_loss_comes_from_where_no_token_is_read(lm: CausalText) -> None:
    method = SimCTG(lm)
    states, logits = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 7, requires_grad=True)
    labels = torch.tensor([[1, 2, 3], [4, IGNORED, IGNORED]])
    sum(method.terms(states, logits, labels).values()).backward()
    for gradient in (states.grad, logits.grad):
        assert float(gradient[1, 1:].abs().max()) == 0.0
        assert float(gradient[0].abs().min(-1).values.max()) > 0.0


def test_the_space_keeps_how_to_decode(lm: CausalText, tmp_path: Path) -> None:
    Space.save(SimCTG(lm, k=3, alpha=0.25).space(), tmp_path / "space")
    decoder = Space.load(tmp_path / "space").parts["decoder"]
    assert isinstance(decoder, ContrastiveDecoding)
    assert (decoder.k, decoder.alpha, len(decoder.isotropy)) == (3, 0.25, 0)


def test_defaults_are_those_of_the_paper_and_wrong_ones_are_named(lm: CausalText) -> None:
    defaults = inspect.signature(SimCTG.__init__).parameters
    assert [defaults[name].default for name in ("margin", "k", "alpha")] == [0.5, 8, 0.6]
    for wrong in ({"margin": -1.0}, {"k": 0}, {"alpha": 2.0}):
        with pytest.raises(ArgumentError, match=f"{next(iter(wrong))} must be between"):
            SimCTG(lm, **wrong)
    assert SimCTG(lm).negatives(64) == 0
