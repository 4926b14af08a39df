"""CSR against its official formulas written out, and what must be true of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_methods_catalogue import cells
from torch import Tensor

from nearfar.data.kinds import Text, Vector
from nearfar.data.table import Table
from nearfar.encoders.given import GivenVectors
from nearfar.encoders.text import TransformerText
from nearfar.encoders.vector import MLPVector
from nearfar.errors import ArgumentError
from nearfar.methods.retrieval.csr import CSR
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.fit import fit


def method(**changed: Any) -> CSR:
    torch.manual_seed(0)
    made = CSR(GivenVectors(4), **{"latents": 16, "k": 2, "revived": 3, "dead_after": 5, **changed}).double()
    with torch.no_grad():
        made.head.pre_bias.uniform_(-0.5, 0.5)
        made.head.latent_bias.uniform_(0, 0.5)
    return made.train()


def rows(seed: int = 1, n: int = 6) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(*columns: Tensor) -> dict[str, Any]:
    names = ("vector", "positive")
    return {name: {"values": x} for name, x in zip(names, columns, strict=False)}


class Official:
    """The released training step, pass by pass: counters inside the pass, a mask over what is not dead."""

    def __init__(self, made: CSR) -> None:
        self.W = made.head.encoder.weight.detach().clone().requires_grad_()
        self.b_pre = made.head.pre_bias.detach().clone().requires_grad_()
        self.b_lat = made.head.latent_bias.detach().clone().requires_grad_()
        self.c = made.head.idle.clone()
        self.k, self.aux, self.T = made.head.k, made.revived, made.head.dead_after

    def one_pass(self, x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        a = x @ self.W.T - self.b_pre @ self.W.T + self.b_lat
        z = torch.stack([torch.zeros(16, dtype=x.dtype).index_add(0, i, r[i]) for r, i in self.best(a, k)])
        z = z.clamp(min=0)
        for latent in range(16):
            self.c[latent] = 1 if (z[:, latent] > 1e-5).any() else self.c[latent] + 1
        masked = a * (self.c > self.T)
        aux = torch.stack(
            [torch.zeros(16, dtype=x.dtype).index_add(0, i, r[i]) for r, i in self.best(masked, self.aux)]
        )
        return z, z @ self.W + self.b_pre, aux.clamp(min=0) @ self.W + self.b_pre

    @staticmethod
    def best(a: Tensor, k: int) -> list[tuple[Tensor, Tensor]]:
        return [(row, row.argsort(descending=True)[:k]) for row in a]

    def side(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z, x_k, x_aux = self.one_pass(x, self.k)
        _, x_4k, _ = self.one_pass(x, 4 * self.k)
        target = (x - x_k + self.b_pre).detach()
        mean = target.mean(0)
        nmse = ((x_aux - target) ** 2).mean() / ((mean - target) ** 2).mean()
        return z, ((x - x_k) ** 2).mean(), ((x - x_4k) ** 2).mean(), nmse

    def terms(self, *columns: Tensor) -> dict[str, Tensor]:
        sides = [self.side(x) for x in columns]
        z = [s[0] / s[0].norm(dim=1, keepdim=True) for s in sides]
        if len(z) == 1:
            twin, _, _ = self.one_pass(columns[0], self.k)
            contrast = self.inbatch(z[0], twin / twin.norm(dim=1, keepdim=True))
        else:
            scores = z[0] @ z[1].T / 0.2
            contrast = -(scores.diag() - scores.exp().sum(1).log()).mean()
        rebuilt, longer, aux = (sum(s[i] for s in sides) / len(sides) for i in (1, 2, 3))
        return {
            "rebuilt": rebuilt,
            "rebuilt from 4k": 0.125 * longer,
            "revival": aux / 32,
            "contrast": 0.1 * contrast,
        }

    @staticmethod
    def inbatch(one: Tensor, two: Tensor) -> Tensor:
        z, n = torch.cat([one, two]), len(one)
        total = z.new_zeros(())
        for i in range(2 * n):
            sims = torch.stack([(z[i] @ z[j] / 0.2).exp() for j in range(2 * n)])
            pos = sum(sims[j] for j in range(2 * n) if j % n == i % n and j != i)
            neg = sum(sims[j] for j in range(2 * n) if j % n != i % n)
            total = total - (pos / (pos + neg)).log()
        return total / (2 * n)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("idle", [0, 4, 9])
def test_value_gradient_and_counters_are_those_of_the_official_step(paired: bool, idle: int) -> None:
    made = method()
    made.head.idle.fill_(idle)  # 4: latents die during the step; 9: all are dead but those just used
    columns = (rows(1), rows(2)) if paired else (rows(1),)
    official = Official(made)
    expected = official.terms(*columns)
    got = made.loss(batch(*columns))
    assert set(got) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, msg=name)
    assert made.head.idle.tolist() == official.c.tolist()
    torch.stack(list(expected.values())).sum().backward()
    torch.stack(list(got.values())).sum().backward()
    torch.testing.assert_close(made.head.encoder.weight.grad, official.W.grad)
    torch.testing.assert_close(made.head.latent_bias.grad, official.b_lat.grad)
    torch.testing.assert_close(made.head.pre_bias.grad, official.b_pre.grad)


def test_the_term_for_dead_latents_teaches_only_them_and_leaves_the_code_alone() -> None:
    made = method(contrast=0.0)
    made.head.idle.fill_(9)
    x = rows()
    alive = made.head(x).detach().gt(1e-5).any(0)
    made.loss(batch(x))["revival"].backward()
    gradient = made.head.encoder.weight.grad
    assert gradient is not None
    assert gradient[alive].count_nonzero() == 0
    assert gradient[~alive].count_nonzero() > 0


def test_without_pairs_the_contrast_is_lowest_where_codes_share_no_latent() -> None:
    made = method()
    apart = made._contrastive([torch.eye(6, 16, dtype=torch.float64)])
    assert float(apart) == pytest.approx(math.log1p(10 * math.exp(-1 / 0.2)))
    alike = made._contrastive([torch.ones(6, 16, dtype=torch.float64)])
    assert float(alike) == pytest.approx(math.log(11))
    assert float(made._contrastive([5 * torch.eye(6, 16, dtype=torch.float64)])) == pytest.approx(
        float(apart)
    )


def test_with_pairs_the_contrast_goes_one_way() -> None:
    made = method()
    one, two = (method().head(rows(seed)) for seed in (1, 2))
    there, back = (float(made._contrastive(pair).detach()) for pair in ([one, two], [two, one]))
    assert there != pytest.approx(back)


def test_a_code_without_entries_does_not_stop_training() -> None:
    made = method()
    with torch.no_grad():
        made.head.latent_bias.fill_(-100)
    terms = made.loss(batch(rows()))
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in made.head.parameters() if p.grad is not None)


def test_measuring_counts_nothing() -> None:
    made = method().eval()
    made.loss(batch(rows()))
    assert made.head.idle.count_nonzero() == 0


def test_weights_of_zero_turn_terms_off() -> None:
    assert set(method(revival=0.0, contrast=0.0).loss(batch(rows()))) == {"rebuilt", "rebuilt from 4k"}


# -- the encoder -----------------------------------------------------------------------------------


def test_the_encoder_stays_as_it_was_and_its_dropout_off() -> None:
    texts = cells("text", Text, 16)
    made = CSR(TransformerText.tiny(texts, max_length=16), k=2)
    before = {name: value.clone() for name, value in made.encoder.state_dict().items()}
    table = Table.from_columns({"text": texts})
    train(made, table, Settings(steps=3, batch_size=8, learning_rate=1e-2, on_collapse="warn"))
    assert all(torch.equal(value, before[name]) for name, value in made.encoder.state_dict().items())
    assert made.training
    assert not made.encoder.training
    inputs = made.prepare({"text": texts}, torch.Generator())
    assert torch.equal(made.embed(inputs)["text features"], made.embed(inputs)["text features"])


def test_vectors_are_taken_as_they_are() -> None:
    made = CSR(MLPVector(4), latents=16, k=2)
    assert isinstance(made.encoder, GivenVectors)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    features = made.embed(made.prepare({"vector": list(x)}, torch.Generator()))["vector features"]
    np.testing.assert_array_equal(features.numpy(), x)
    with pytest.raises(ArgumentError, match="row 2 of 2 has 3 numbers"):
        made.encoder.prepare([x[0], x[1][:3]])


def test_a_table_of_vectors_becomes_a_space_of_sparse_codes(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    table = Table.from_columns({"vector": vectors, "label": ["a", "b"] * 20}, {"vector": Vector})
    settings = {"k": 3, "latents": 32}
    fit("csr", table, tmp_path / "space", epochs=4, batch_size=8, hyperparameters=settings, holdout_share=0.3)
    space = Space.load(tmp_path / "space")
    z = space.encode(list(vectors), normalize=False)
    assert z.dtype == np.float32
    assert z.shape == (40, 32)
    assert (np.count_nonzero(z, axis=1) <= 3).all()
    assert (z >= 0).all()
    again = space.save(tmp_path / "again")
    np.testing.assert_array_equal(Space.load(again).encode(list(vectors), normalize=False), z)


@pytest.mark.parametrize(("dead", "told"), [(0, []), (1, []), (15, ["94% of the 16 latents are dead"])])
def test_many_dead_latents_are_told(dead: int, told: list[str]) -> None:
    made = method()
    made.head.idle[:dead] = 99
    assert [note.split(":")[0] for note in made.notes()] == told
