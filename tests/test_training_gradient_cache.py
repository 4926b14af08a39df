"""Gradient caching: the gradients of the whole batch in the memory of a chunk."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nearfar.objectives import info_nce
from nearfar.training.gradient_cache import cached_backward, chunks


def network(dropout: float) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 5)).double()


def batch() -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return {name: {"x": torch.randn(10, 6, generator=generator, dtype=torch.float64)} for name in ("a", "b")}


def embed(net: nn.Module):
    return lambda piece: {name: net(inputs["x"]) for name, inputs in piece.items()}


def loss(z: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"info_nce": info_nce(z["a"], z["b"], temperature=0.3), "size": z["a"].square().mean()}


def backward(terms: dict[str, Tensor]) -> None:
    torch.stack(list(terms.values())).sum().backward()


def gradients(net: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("chunk", [1, 3, 10, 64])
def test_equals_the_whole_batch_without_dropout(chunk: int) -> None:
    net = network(0.0)
    sum(loss(embed(net)(batch())).values()).backward()
    expected = gradients(net)
    net.zero_grad()
    terms, z = cached_backward(embed(net), loss, batch(), chunk, backward)
    for got, want in zip(gradients(net), expected, strict=True):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-9)
    assert len(z["a"]) == 10
    assert not terms["info_nce"].requires_grad


@pytest.mark.parametrize("chunk", [2, 4])
def test_equals_the_uncached_chunks_with_dropout(chunk: int) -> None:
    net = network(0.5)
    torch.manual_seed(7)
    parts = [embed(net)(piece) for piece in chunks(batch(), chunk)]
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    terms = loss(whole)
    sum(terms.values()).backward()
    expected, state = gradients(net), torch.get_rng_state()
    net.zero_grad()
    torch.manual_seed(7)
    cached, _ = cached_backward(embed(net), loss, batch(), chunk, backward)
    for got, want in zip(gradients(net), expected, strict=True):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(cached["info_nce"], terms["info_nce"].detach())
    assert torch.equal(torch.get_rng_state(), state), "the masks of the next step must not repeat this one's"


def test_a_wrong_replay_of_dropout_would_be_seen() -> None:
    """The equality above is no accident: other masks give other gradients."""
    net = network(0.5)
    torch.manual_seed(7)
    cached_backward(embed(net), loss, batch(), 2, backward)
    first = gradients(net)
    net.zero_grad()
    torch.manual_seed(8)
    cached_backward(embed(net), loss, batch(), 2, backward)
    assert not torch.allclose(gradients(net)[0], first[0], rtol=1e-3)


def test_embeddings_without_gradient_stay_without() -> None:
    student, teacher = network(0.0), network(0.0)

    def both(piece: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        with torch.no_grad():
            key = teacher(piece["b"]["x"])
        return {"a": student(piece["a"]["x"]), "b": key}

    cached_backward(both, loss, batch(), 4, backward)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_a_learned_temperature_gets_its_gradient_once() -> None:
    net, log_temperature = network(0.0), nn.Parameter(torch.zeros((), dtype=torch.float64))

    def tempered(z: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"info_nce": info_nce(z["a"], z["b"], temperature=log_temperature.exp())}

    tempered(embed(net)(batch()))["info_nce"].backward()
    expected = log_temperature.grad.clone()
    log_temperature.grad = None
    cached_backward(embed(net), tempered, batch(), 3, backward)
    torch.testing.assert_close(log_temperature.grad, expected)
