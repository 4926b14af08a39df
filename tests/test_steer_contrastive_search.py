"""Contrastive search and the other decoders: exact identities, batches, ends, and what each setting does."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from samples import tiny_causal
from test_encoders_text import TEXTS
from torch import Tensor
from torch.nn import functional

from nearfar.encoders.causal import CausalText
from nearfar.errors import ArgumentError
from nearfar.steer.contrastive_search import contrastive_scores, contrastive_search
from nearfar.steer.decoding import (
    DECODERS,
    Decoding,
    added_text,
    continue_prompts,
    continue_texts,
    padded_left,
)

PROMPTS = ["two red dogs", "rain", "snow falls on the old stone bridge while"]
NEW = 12


@pytest.fixture(scope="module")
def lm() -> CausalText:
    """Weights large enough for probabilities that differ, and no end token among the first words."""
    made = tiny_causal(TEXTS, seed=3).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3.0)
    made.end_ids = []
    return made


def added(lm: CausalText, prompts: list[str] = PROMPTS, **settings: Any) -> list[list[int]]:
    return continue_prompts(lm, lm.split_prompts(prompts), Decoding(**{"new_tokens": NEW, **settings}))


def slow_search(lm: CausalText, prompt: list[int], k: int, alpha: float, new_tokens: int = NEW) -> list[int]:
    """The definition, token by token, with no cache and no batch."""
    ids = list(prompt)

    def read(row: list[int]) -> tuple[Tensor, Tensor]:
        states, logits = lm.predict(lm.stack([row]))
        return functional.normalize(states[-1][0], dim=-1), logits[0, -1].softmax(-1)

    with torch.no_grad():
        for _ in range(new_tokens):
            context, probabilities = read(ids)
            scores = []
            for token in probabilities.topk(k).indices.tolist():
                own = read([*ids, token])[0][-1]
                penalty = max(float(own @ other) for other in context)
                scores.append(((1 - alpha) * float(probabilities[token]) - alpha * penalty, token))
            ids.append(max(scores)[1])
    return ids[len(prompt) :]


# -- the rule --------------------------------------------------------------------------------------


def test_the_score_is_the_formula_and_padding_never_enters_the_maximum() -> None:
    torch.manual_seed(0)
    p = torch.rand(2, 3)
    candidates, context = (functional.normalize(torch.randn(2, n, 5), dim=-1) for n in (3, 4))
    mask = torch.tensor([[False, True, True, True], [True, True, True, True]])
    context[0, 0] = candidates[0, 1]  # the nearest of all is padding
    found = contrastive_scores(p, candidates, context, mask, 0.6)
    for b in range(2):
        for v in range(3):
            most = max(float(candidates[b, v] @ context[b, j]) for j in range(4) if mask[b, j])
            assert float(found[b, v]) == pytest.approx(0.4 * float(p[b, v]) - 0.6 * most, abs=1e-6)


@pytest.mark.parametrize(("k", "alpha"), [(3, 0.6), (5, 0.3), (8, 1.0)])
def test_the_cached_search_of_a_batch_is_the_definition_one_by_one(
    lm: CausalText, k: int, alpha: float
) -> None:
    """Prompts of different lengths: their padding, the order of the cache and the prompt's states are all right."""
    expected = [slow_search(lm, ids, k, alpha) for ids in lm.split_prompts(PROMPTS)]
    assert added(lm, k=k, alpha=alpha) == expected
    assert expected != added(lm, decoder="greedy"), "the penalty must have changed something"


@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {"k": 1}, {"k": 1, "alpha": 1.0}])
def test_without_penalty_or_choice_it_is_greedy_search(lm: CausalText, settings: dict[str, Any]) -> None:
    assert added(lm, **settings) == added(lm, decoder="greedy")


def test_the_probability_is_that_of_the_whole_vocabulary(lm: CausalText) -> None:
    """Renormalised over the k candidates, p would be larger and the penalty would count for less."""
    ids = lm.split_prompts(PROMPTS[:1])[0]
    k, alpha = 4, 0.15
    _, logits = lm.predict(lm.stack([ids]))
    assert float(logits[0, -1].softmax(-1).topk(k).values.sum()) < 0.9
    assert added(lm, PROMPTS[:1], k=k, alpha=alpha)[0] == slow_search(lm, ids, k, alpha)


def test_the_first_tokens_do_not_depend_on_how_many_are_asked_for(lm: CausalText) -> None:
    assert [row[:5] for row in added(lm)] == added(lm, new_tokens=5)


def test_one_forward_pass_a_step(lm: CausalText, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int]] = []
    step = lm.step
    monkeypatch.setattr(lm, "step", lambda ids, *rest: shapes.append(tuple(ids.shape)) or step(ids, *rest))
    added(lm, ["two red dogs"] * 2, k=3, new_tokens=4)
    assert [rows for rows, _ in shapes] == [2, 6, 6, 6, 6]
    assert {length for _, length in shapes[1:]} == {1}


def test_more_candidates_than_words_are_all_words(lm: CausalText) -> None:
    assert added(lm, k=10_000, new_tokens=3) == added(lm, k=len(lm.tokenizer), new_tokens=3)


# -- ends, batches, modes --------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_text_stops_at_its_end_and_the_others_go_on(
    lm: CausalText, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = added(lm, decoder=decoder)
    end = whole[0][4]
    monkeypatch.setattr(lm, "end_ids", [end])
    stopped = added(lm, decoder=decoder)
    if decoder == "beam":  # an end changes which hypotheses are compared
        assert all(end not in row for row in stopped)
        return
    first = [row[: row.index(end)] if end in row else row for row in whole]
    if decoder in ("contrastive-search", "greedy"):
        assert stopped == first
    else:  # a row that has ended draws no more, so those after it draw other numbers
        assert stopped[0] == first[0]


@pytest.mark.parametrize("decoder", ["contrastive-search", "greedy", "beam"])
def test_a_prompt_does_not_depend_on_its_neighbours(lm: CausalText, decoder: str) -> None:
    together = added(lm, decoder=decoder)
    assert together == [added(lm, [prompt], decoder=decoder)[0] for prompt in PROMPTS]
    ids = lm.split_prompts(PROMPTS)
    assert together == continue_prompts(lm, ids, Decoding(decoder, NEW), batch_size=1)


@pytest.mark.parametrize("decoder", ["top-k", "nucleus", "typical"])
def test_samplers_follow_the_seed_alone(lm: CausalText, decoder: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = added(lm, decoder=decoder, seed=5)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers stay as they are"
    torch.manual_seed(2)
    assert added(lm, decoder=decoder, seed=5) == one
    assert added(lm, decoder=decoder, seed=6) != one


def test_limits_of_the_samplers(lm: CausalText) -> None:
    greedy = added(lm, decoder="greedy")
    assert added(lm, decoder="top-k", top_k=1) == greedy
    assert added(lm, decoder="nucleus", top_p=1e-6) == greedy
    assert added(lm, decoder="nucleus", top_p=1.0) == added(lm, decoder="top-k", top_k=10_000)


def test_decoding_settings_of_the_model_do_not_come_through(lm: CausalText) -> None:
    before = added(lm, decoder="greedy")
    config = lm.model.generation_config
    assert [config.repetition_penalty, config.top_p, config.do_sample] == [None] * 3
    said = Decoding("nucleus", top_p=0.9).of_transformers()
    assert (said["top_k"], said["top_p"], said["temperature"]) == (0, 0.9, 1.0)
    assert before == added(lm, decoder="greedy")


def test_the_mode_is_left_as_it_was_and_dropout_is_off(lm: CausalText) -> None:
    expected = added(lm)
    lm.train()
    try:
        assert added(lm) == expected
        assert lm.training
    finally:
        lm.eval()


def test_texts_are_what_the_tokens_say(lm: CausalText) -> None:
    texts = continue_texts(lm, PROMPTS, Decoding(new_tokens=NEW))
    for prompt, ids, tokens, text in zip(PROMPTS, lm.split_prompts(PROMPTS), added(lm), texts, strict=True):
        assert text == added_text(lm, ids, tokens)
        assert lm.tokenizer.decode(ids + tokens, skip_special_tokens=True) == prompt + text


def test_padding_is_on_the_left() -> None:
    ids, mask = padded_left([[1, 2, 3], [4]], 9)
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert mask.tolist() == [[True] * 3, [False, False, True]]


# -- what is refused -------------------------------------------------------------------------------


def test_defaults_are_those_of_the_paper() -> None:
    found = inspect.signature(contrastive_search).parameters
    assert (found["k"].default, found["alpha"].default) == (5, 0.6)
    plain = Decoding()
    assert (plain.k, plain.alpha, plain.beams, plain.top_k, plain.top_p) == (5, 0.6, 4, 50, 0.95)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decoder": "magic"}, "decoder must be one of contrastive-search, greedy"),
        ({"alpha": 1.5}, "alpha must be between 0 and 1"),
        ({"k": 0}, "k must be between 1"),
        ({"new_tokens": 0}, "new_tokens must be between 1"),
        ({"beams": 1}, "beams must be between 2"),
        ({"top_p": 0.0}, "top_p must be between"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Decoding(**settings)


def test_more_than_the_model_has_positions_for_is_refused(lm: CausalText) -> None:
    with pytest.raises(ArgumentError, match=r"positions for 64 tokens; a prompt of \d+ and 64 new ones"):
        added(lm, new_tokens=64)
