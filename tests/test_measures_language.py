"""Measures of language models and of what they write: definitions, pooling, what must not be counted."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from samples import tiny_causal
from test_encoders_text import TEXTS
from torch.nn import functional

from nearfar.encoders.causal import CausalText
from nearfar.errors import ArgumentError
from nearfar.measures import isotropy
from nearfar.measures.generation import coherence, diversity, rep_n
from nearfar.measures.language import language_measures, layer_isotropy
from nearfar.measures.tokens import token_self_similarity


@pytest.fixture(scope="module")
def lm() -> CausalText:
    return tiny_causal(TEXTS).eval()


# -- token states ----------------------------------------------------------------------------------


def batch(lengths: list[int], d: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    states = torch.randn(len(lengths), max(lengths), d) + 0.5
    return states, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def test_self_similarity_is_the_mean_over_pairs_of_all_texts_together() -> None:
    states, mask = batch([2, 5, 3])
    pairs = [
        float(functional.cosine_similarity(states[b, i], states[b, j], dim=0))
        for b in range(3)
        for i in range(5)
        for j in range(5)
        if i != j and mask[b, i] and mask[b, j]
    ]
    (found,) = token_self_similarity([((states,), mask)])
    assert found == pytest.approx(np.mean(pairs), abs=1e-6)
    of_texts = [token_self_similarity([((states[b : b + 1],), mask[b : b + 1])])[0] for b in range(3)]
    assert found != pytest.approx(np.mean(of_texts), abs=1e-3), "a mean of means weighs short texts more"
    split = [((states[b : b + 1],), mask[b : b + 1]) for b in range(3)]
    assert token_self_similarity(split)[0] == pytest.approx(found, abs=1e-12)


def test_one_text_is_the_isotropy_of_its_rows() -> None:
    states, mask = batch([5])
    assert 1 - token_self_similarity([((states,), mask)])[0] == pytest.approx(isotropy(states[0]), abs=1e-6)


def test_limits_of_isotropy() -> None:
    mask = torch.ones(1, 4, dtype=torch.bool)
    equal, apart = torch.ones(1, 4, 4), torch.eye(4)[None]
    np.testing.assert_allclose(
        token_self_similarity([((equal, apart, 7 * apart), mask)]), [1, 0, 0], atol=1e-12
    )
    with pytest.raises(ArgumentError, match="no text has two"):
        token_self_similarity([((torch.ones(2, 1, 4),), torch.ones(2, 1, dtype=torch.bool))])


def test_a_model_is_audited_layer_by_layer_however_it_is_batched(lm: CausalText) -> None:
    found = layer_isotropy(lm, TEXTS, batch_size=2)
    assert found.shape == (3,)
    np.testing.assert_allclose(found, layer_isotropy(lm, TEXTS, batch_size=6), atol=1e-6)
    states = [lm.predict(lm.stack([row]))[0] for row in lm.split_prompts(TEXTS)]
    for layer in range(3):
        cosines = [functional.normalize(one[layer][0], dim=-1) for one in states]
        total = sum(float((u @ u.T).sum() - len(u)) for u in cosines)
        count = sum(len(u) * (len(u) - 1) for u in cosines)
        assert found[layer] == pytest.approx(1 - total / count, abs=1e-5)


# -- predictions -----------------------------------------------------------------------------------


def test_language_measures_are_their_definitions(lm: CausalText) -> None:
    """One text at a time, one token at a time."""
    costs, right, repeated, wrong = [], [], [], []
    for row in lm.split_prompts(TEXTS):
        _, logits = lm.predict(lm.stack([row]))
        for t in range(len(row) - 1):
            costs.append(-float(logits[0, t].log_softmax(-1)[row[t + 1]]))
            guess = int(logits[0, t].argmax())
            right.append(guess == row[t + 1])
            repeated.append(guess in row[: t + 1])
            wrong.append(repeated[-1] and not right[-1])
    found = language_measures(lm, TEXTS, batch_size=4)
    assert found["perplexity"].value == pytest.approx(math.exp(np.mean(costs)), rel=1e-4)
    expected = {"next_token_accuracy": right, "token_repetition": repeated, "wrong_repetition": wrong}
    for name, values in expected.items():
        assert found[name].value == pytest.approx(np.mean(values)), name
    assert {m.n for m in found.values()} == {len(costs)}
    assert found["token_isotropy"].value == pytest.approx(float(layer_isotropy(lm, TEXTS)[-1]), abs=1e-6)
    assert not any(name.startswith("self_similarity") for name in found)


def test_layers_are_told_when_asked_for(lm: CausalText) -> None:
    found = language_measures(lm, TEXTS, by_layer=True)
    told = [found[f"self_similarity/layer-{i}"].value for i in range(3)]
    np.testing.assert_allclose(told, 1 - layer_isotropy(lm, TEXTS), atol=1e-6)


def test_a_model_that_knows_the_next_token_has_a_perplexity_of_one(lm: CausalText) -> None:
    sure = copy.deepcopy(lm)
    head = torch.nn.Linear(16, len(lm.tokenizer))
    torch.nn.init.zeros_(head.weight)
    (ids,) = lm.split_prompts(["aaaa"])
    assert len(set(ids)) == 1
    with torch.no_grad():
        head.bias.fill_(-50.0)
        head.bias[ids[0]] = 50.0
    sure.model.lm_head = head
    found = language_measures(sure, ["aaaa" * 3])
    assert found["perplexity"].value == pytest.approx(1.0)
    assert (found["next_token_accuracy"].value, found["wrong_repetition"].value) == (1.0, 0.0)
    assert found["token_repetition"].value == 1.0


def test_nothing_is_counted_as_read_and_training_goes_on(lm: CausalText) -> None:
    encoder = copy.deepcopy(lm).train()
    encoder.reset_counts()
    one, two = language_measures(encoder, TEXTS), language_measures(encoder, TEXTS)
    assert one == two, "dropout is off"
    assert encoder.seen == 0
    assert encoder.training


def test_texts_of_one_token_leave_nothing_to_measure(lm: CausalText) -> None:
    found = language_measures(lm, ["r", "a"])
    assert list(found) == ["left_out/language"]


# -- texts -----------------------------------------------------------------------------------------

WRITTEN = ["the old man the old man said", "a b a b a b", "one", ""]


def test_repetition_pools_counts_and_is_of_a_text_with_itself() -> None:
    # bigrams: 6, of them 4 different; 5, of them 2; none; none
    assert rep_n(WRITTEN, 2) == pytest.approx(100 * (1 - 6 / 11))
    # trigrams: 5, of them 4; 4, of them 2
    assert rep_n(WRITTEN, 3) == pytest.approx(100 * (1 - 6 / 9))
    assert rep_n(["a b", "a b"], 2) == 0, "two texts may say the same"
    assert rep_n(["one"], 2) == 0
    expected = (6 / 11) * (6 / 9) * (1 - rep_n(WRITTEN, 4) / 100)
    assert diversity(WRITTEN) == pytest.approx(expected)


def test_the_released_evaluation_leaves_out_each_last_n_gram() -> None:
    # bigrams: 5, of them 3; 4, of them 2
    assert rep_n(WRITTEN, 2, compat=True) == pytest.approx(100 * (1 - 5 / 9))
    rounded = [round(rep_n(WRITTEN, n, compat=True), 2) for n in (2, 3, 4)]
    assert diversity(WRITTEN, compat=True) == pytest.approx(math.prod(1 - r / 100 for r in rounded))


def test_diversity_has_its_limits() -> None:
    assert diversity(["a b c d e f g h"]) == 1.0
    assert diversity(["a a a a a a a a a a a a"]) < 0.01
    with pytest.raises(ArgumentError, match="n must be"):
        rep_n(WRITTEN, 0)


def test_coherence_is_the_mean_of_means_and_only_of_what_was_added(lm: CausalText) -> None:
    prompts = lm.split_prompts(["two red", "the quick brown", "rain"])
    added = [*lm.split_prompts([" dogs sleep in the", " fox"]), []]
    means = []
    for prompt, more in zip(prompts[:2], added[:2], strict=True):
        _, logits = lm.predict(lm.stack([prompt + more]))
        told = logits[0].log_softmax(-1)
        means.append(np.mean([float(told[len(prompt) + i - 1, token]) for i, token in enumerate(more)]))
    assert coherence(lm, prompts, added) == pytest.approx(np.mean(means), abs=1e-5)
    assert math.isnan(coherence(lm, prompts, [[], [], []]))
