"""MO-SCNTM: topics from words, sets of texts, and two gradients combined where neither loses."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from nearfar.data.table import Table
from nearfar.encoders import load_encoder
from nearfar.encoders.words import BagOfWords, words_of
from nearfar.errors import ArgumentError
from nearfar.heads.topics import TopicDecoder, TopicHead
from nearfar.measures.topics import npmi, topic_diversity
from nearfar.methods.structure.mo_scntm import MOSCNTM
from nearfar.objectives.gaussian import gauss_kl, laplace_of_dirichlet
from nearfar.objectives.set_pools import random_sets, set_contrast
from nearfar.space import Space
from nearfar.training.pareto import pareto_share
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.building import build_method
from nearfar.views.words import replace_top_words, word_relations

ANIMALS, COLOURS = (
    ["cat", "dog", "horse", "cow", "sheep", "goat"],
    ["red", "green", "blue", "yellow", "black", "white"],
)


def texts(n: int = 80) -> list[str]:
    random = np.random.default_rng(0)
    return [" ".join(random.choice(COLOURS if i % 2 else ANIMALS, 8)) for i in range(n)]


def method(**given: object) -> MOSCNTM:
    torch.manual_seed(0)
    return MOSCNTM(BagOfWords.fitted(texts()), **{"topics": 4, **given})  # type: ignore[arg-type]


def generator_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shares(n: int = 12, t: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(n, t, generator=generator_of(seed), dtype=torch.float64).softmax(1)


# -- sets ------------------------------------------------------------------------------------------


def test_a_set_is_pooled_by_coordinates_and_contrasted_as_written() -> None:
    own, near, far, sets = shares(), shares(seed=1), shares(seed=2), torch.tensor([[0, 3, 5], [1, 2, 11]])
    cosine, t, beta = nn.CosineSimilarity(dim=0), 0.3, 0.7
    terms = []
    for members in sets:
        pull = cosine(own[members].min(0).values, near[members].min(0).values) / t
        push = cosine(own[members].max(0).values, far[members].max(0).values) / t
        terms.append(-torch.log(pull.exp() / (pull.exp() + beta * push.exp())))
    torch.testing.assert_close(
        set_contrast(own, near, far, sets, temperature=t, beta=beta), torch.stack(terms).mean()
    )


def test_the_order_in_a_set_does_not_matter_and_sets_of_one_are_texts() -> None:
    own, near, far, sets = shares(), shares(seed=1), shares(seed=2), torch.arange(12).view(3, 4)
    loss = set_contrast(own, near, far, sets, temperature=0.2)
    torch.testing.assert_close(set_contrast(own, near, far, sets.flip(1), temperature=0.2), loss)
    alone = set_contrast(own, near, far, torch.arange(12)[:, None], temperature=0.2)
    cosine = nn.CosineSimilarity(dim=1)
    logits = torch.stack([cosine(own, near), cosine(own, far)], 1) / 0.2
    torch.testing.assert_close(alone, nn.functional.cross_entropy(logits, torch.zeros(12, dtype=torch.long)))
    assert not torch.isclose(alone, loss)


def test_batches_are_cut_into_disjoint_sets_in_every_shuffle() -> None:
    torch.manual_seed(0)
    sets = random_sets(11, 3, 2)
    assert sets.shape == (6, 3)
    for shuffle in sets.view(2, 9):
        assert len(set(shuffle.tolist())) == 9
    with pytest.raises(ArgumentError, match="2 rows holds no set of 3"):
        random_sets(2, 3, 1)


# -- two gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_the_combined_gradient_is_the_shortest_and_raises_neither_loss(seed: int) -> None:
    x = nn.Parameter(torch.randn(5, generator=generator_of(seed), dtype=torch.float64))
    centres = torch.randn(2, 5, generator=generator_of(10 + seed), dtype=torch.float64)
    first, second = (x - centres[0]).square().sum(), (1 + seed) * (x - centres[1]).square().sum()
    a, b, lengths = pareto_share(first, second, [x])
    g, h = (torch.autograd.grad(loss, x, retain_graph=True)[0] for loss in (first, second))
    grid = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    best = grid[torch.stack([(s * g + (1 - s) * h).norm() for s in grid]).argmin()]
    assert float(a) == pytest.approx(float(best), abs=1e-4)
    assert float(a + b) == pytest.approx(1)
    step = a * g + b * h
    assert float(step @ g) >= -1e-9
    assert float(step @ h) >= -1e-9
    torch.testing.assert_close(lengths, torch.stack([g.norm(), h.norm()]))
    assert not a.requires_grad


def test_gradients_of_unit_length_are_met_in_the_middle() -> None:
    x = nn.Parameter(torch.tensor([0.0, 0.0]))
    first, second = 1000 * x[0], x[1]
    assert [round(float(w), 3) for w in pareto_share(first, second, [x])[:2]] == [0.0, 1.0]
    of_first, of_second, _ = pareto_share(first, second, [x], normalise=True)
    assert (float(of_first) * 1000, float(of_second)) == pytest.approx((0.5, 0.5))


def test_encoder_and_decoder_follow_what_they_should() -> None:
    made = method(topics=3)
    made.before_epoch(Table.from_columns({"text": texts()}), None)  # type: ignore[arg-type]
    batch = made.prepare({"text": texts()[:16]}, torch.Generator())
    torch.manual_seed(1)
    terms = made.loss(batch)
    encoder = [*made.encoder.parameters(), *made.head.parameters()]
    decoder = [made.decoder.phi, made.decoder.background]
    of = lambda term, ps: torch.autograd.grad(terms[term], ps, retain_graph=True, allow_unused=True)  # noqa: E731
    assert all(g is None for g in (*of("elbo", decoder), *of("set", decoder), *of("decoder", encoder)))
    of_set, of_elbo, of_decoder = of("set", encoder), of("elbo", encoder), of("decoder", decoder)
    made.total(terms).backward()
    a = made.shares[-1]
    for p, s, e in zip(encoder, of_set, of_elbo, strict=True):
        torch.testing.assert_close(p.grad, a * s + (1 - a) * e)
    for p, wanted in zip(decoder, of_decoder, strict=True):
        torch.testing.assert_close(p.grad, wanted)


def test_a_fixed_weight_and_no_sets_at_all() -> None:
    for weighting, names in (("fixed", {"elbo", "set", "decoder"}), ("elbo", {"elbo", "decoder"})):
        made = method(weighting=weighting, contrast=3.0)
        terms = made.loss(made.prepare({"text": texts()[:16]}, torch.Generator()))
        assert set(terms) == names
        wanted = sum(3 * v if n == "set" else v for n, v in terms.items())
        torch.testing.assert_close(made.total(terms), wanted)


# -- parts -----------------------------------------------------------------------------------------


def test_divergence_of_normals() -> None:
    mean, log_variance = (
        torch.randn(4, 3, generator=generator_of(0)),
        torch.randn(4, 3, generator=generator_of(1)),
    )
    for prior in ((0.0, 0.0), (0.3, -0.5)):
        wanted = kl_divergence(
            Normal(mean, (log_variance / 2).exp()), Normal(torch.tensor(prior[0]), math.exp(prior[1] / 2))
        ).sum(1)
        torch.testing.assert_close(gauss_kl(mean, log_variance, *prior), wanted)
    assert laplace_of_dirichlet(0.5, 10)[1] == pytest.approx(math.log((1 - 0.2) / 0.5 + 1 / 5))


def test_words_are_counted_and_the_vocabulary_leaves_out_the_rare_and_the_common() -> None:
    made = BagOfWords.fitted(["the red cat", "the red dog", "the blue cat", "the green bird"])
    assert made.vocabulary == [
        "the",
        "cat",
        "red",
        "bird",
        "blue",
        "dog",
        "green",
    ]  # so few that all are kept
    counts = made.prepare(["Red, red cat!", "nothing known"])["counts"]
    assert counts.tolist() == [[0, 1, 2, 0, 0, 0, 0], [0] * 7]
    names = [f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh"]
    many = BagOfWords.fitted([f"the {name} {name}{i}" for i, name in enumerate(names * 2)])
    assert many.vocabulary == sorted(names)
    assert made.note() == "1 texts hold no word of the vocabulary: nothing is known of what they are about"
    assert words_of("Über_die 2 Straßen, кот") == ["über", "die", "straßen", "кот"]
    with pytest.raises(ArgumentError, match="none of the 2 texts holds a word"):
        BagOfWords.fitted(["1 2", "!"])


def test_an_encoder_of_words_is_saved_whole(tmp_path: Path) -> None:
    made = BagOfWords.fitted(texts()).eval()
    made.save(tmp_path)
    again = load_encoder(tmp_path)
    inputs = made.prepare(texts()[:3])
    assert torch.equal(again(inputs).pooled, made(inputs).pooled)


def test_related_words_keep_the_length_of_a_text() -> None:
    encoder = BagOfWords.fitted(texts())
    counts = encoder.prepare(texts())["counts"]
    near, far = word_relations(counts.numpy())
    of_animals = torch.tensor([word in ANIMALS for word in encoder.vocabulary])
    assert torch.equal(of_animals[near], of_animals)
    assert torch.equal(of_animals[far], ~of_animals)
    assert not bool((near == torch.arange(len(near))).any())
    changed = replace_top_words(counts, torch.ones(counts.shape[1]), far, 3)
    torch.testing.assert_close(changed.sum(1), counts.sum(1))
    assert float((changed * of_animals).sum(1)[0]) < float((counts * of_animals).sum(1)[0])
    one = torch.tensor([[3.0, 2.0, 1.0]])
    swapped = replace_top_words(one, torch.tensor([1.0, 1.0, 9.0]), torch.tensor([1, 2, 0]), 1)
    assert swapped.tolist() == [[4.0, 2.0, 0.0]]  # the rarest word weighs most


def test_the_head_takes_the_mean_and_samples_around_it() -> None:
    head, x = TopicHead(6, 3).eval(), torch.randn(2, 6, generator=generator_of(0))
    mean, log_variance, _ = head.sample(x)
    torch.testing.assert_close(head(x), mean.softmax(1))
    drawn = torch.stack([head.sample(x)[2].log() for _ in range(4000)])
    between = (drawn[..., 0] - drawn[..., 1]).var(0)
    torch.testing.assert_close(between, log_variance[:, :2].exp().sum(1), rtol=0.15, atol=0)
    frozen = TopicDecoder(3, 5)(head(x), frozen=True)
    torch.testing.assert_close(frozen.exp().sum(1), torch.ones(2))


def test_coherence_and_diversity_by_hand() -> None:
    counts = np.array([[1, 1, 0, 0], [2, 1, 0, 1], [0, 1, 0, 0], [0, 0, 3, 0]])
    value = math.log(4 * 2 / (2 * 3)) / math.log(4 / 2)
    assert npmi([[0, 1]], counts) == pytest.approx(value)
    assert npmi([[0, 2]], counts) == 0.0
    assert npmi([[0, 1], [0, 2]], counts) == pytest.approx(value / 2)
    assert npmi([[0, 1]], np.ones((3, 2))) == 0.0
    assert topic_diversity([[0, 1], [1, 2]]) == 0.75
    with pytest.raises(ArgumentError, match="two words or more"):
        npmi([[0]], counts)


# -- in use ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["pareto", "elbo"])
def test_topics_are_found_told_and_kept(weighting: str, tmp_path: Path) -> None:
    table = Table.from_columns(
        {"text": texts(), "label": ["colour" if i % 2 else "animal" for i in range(80)]}
    )
    made = build_method("mo-scntm", table, hyperparameters={"topics": 2, "weighting": weighting})
    assert isinstance(made, MOSCNTM)
    train(
        made,
        table,
        Settings(steps=250, batch_size=40, learning_rate=2e-2, schedule="constant", on_collapse="warn"),
    )
    top = [set(words.split()) for words in made.decoder.described(made.encoder.vocabulary, 5)]
    assert sorted(map(len, (words & set(ANIMALS) for words in top))) == [0, 5]
    assert len(made.notes()) == (3 if weighting == "pareto" else 2)
    space = made.space()
    z = space.encode(texts(), normalize=False)
    np.testing.assert_allclose(z.sum(1), 1, atol=1e-5)
    assert (z.argmax(1)[::2] != z.argmax(1)[1::2]).all()
    again = Space.load(space.save(tmp_path / "space"))
    np.testing.assert_array_equal(again.encode(texts(), normalize=False), z)
    assert torch.equal(again.parts["topics"].top_words(3), made.decoder.top_words(3))  # type: ignore[operator]
