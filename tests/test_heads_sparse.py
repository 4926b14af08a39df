"""The sparse coder: how many entries, whose gradient, which latents are dead."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nearfar.errors import ArgumentError, ArtefactError
from nearfar.heads import make_head
from nearfar.heads.sparse import TopKSparseCoder
from nearfar.objectives.reconstruction import normalised_mse


def coder(d: int = 5, h: int = 12, k: int = 3, **options: int) -> TopKSparseCoder:
    torch.manual_seed(0)
    made = TopKSparseCoder(d, h, k=k, **options).double()
    with torch.no_grad():
        made.pre_bias.uniform_(-1, 1)
        made.latent_bias.uniform_(1, 2)  # most activations are positive
    return made


def rows(n: int = 7, d: int = 5) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_code_has_exactly_k_entries_and_they_are_the_largest_activations() -> None:
    made, x = coder(), rows()
    activations = (x - made.pre_bias) @ made.encoder.weight.T + made.latent_bias
    assert (activations > 0).sum(1).min() >= 3
    code = made(x)
    assert ((code != 0).sum(1) == 3).all()
    for code_row, row in zip(code, activations, strict=True):
        best = row.argsort(descending=True)[:3]
        assert set(code_row.nonzero().ravel().tolist()) == set(best.tolist())
        torch.testing.assert_close(code_row[best], row[best])


def test_signed_values_are_ranked_before_relu_takes_what_is_negative() -> None:
    activations = torch.tensor([[-5.0, 2.0, -0.1, 0.5, -9.0]])
    made = TopKSparseCoder(2, 5, k=3)
    assert made.select(activations).tolist() == [[0.0, 2.0, 0.0, 0.5, 0.0]]
    assert made.select(activations, 1).tolist() == [[0.0, 2.0, 0.0, 0.0, 0.0]]
    assert made.select(-activations.abs()).count_nonzero() == 0


def test_a_longer_code_holds_the_shorter_one() -> None:
    made = coder()
    activations = made.activations(rows())
    short, long = made.select(activations, 2), made.select(activations, 8)
    assert torch.equal(long[short != 0], short[short != 0])
    assert torch.equal(made.select(activations, 12), activations.relu())
    assert torch.equal(made.select(activations, 999), activations.relu())


def test_gradient_reaches_only_what_was_selected_and_positive() -> None:
    activations = torch.tensor([[3.0, -1.0, 2.0, 1.0], [-1.0, -2.0, 4.0, -3.0]], requires_grad=True)
    TopKSparseCoder(2, 4, k=2).select(activations).sum().backward()
    assert activations.grad is not None
    assert activations.grad.tolist() == [[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]]


def test_the_decoder_is_the_transposed_encoder_without_a_norm_to_keep() -> None:
    made = coder()
    code = made(rows())
    torch.testing.assert_close(made.decode(code), code @ made.encoder.weight + made.pre_bias)
    assert [name for name, _ in made.named_parameters()] == ["pre_bias", "latent_bias", "encoder.weight"]
    with torch.no_grad():
        made.encoder.weight.mul_(2)
    torch.testing.assert_close(made.decode(code), 2 * code @ made.encoder.weight / 2 + made.pre_bias)
    assert made.encoder.weight.norm(dim=1).std() > 0.01


def test_all_entries_of_an_orthogonal_coder_rebuild_the_features() -> None:
    made, x = TopKSparseCoder(5, 10, k=10).double(), rows()
    basis = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    with torch.no_grad():
        made.encoder.weight.copy_(
            torch.cat([basis, -basis])
        )  # a direction and its opposite: relu loses nothing
        made.pre_bias.uniform_(-1, 1)
    torch.testing.assert_close(made.decode(made(x)), x)
    torch.testing.assert_close(made.decode(made.select(made.activations(x), 5)), x)
    assert not torch.allclose(made.decode(made.select(made.activations(x), 4)), x)


def test_latents_die_after_their_passes_and_one_use_brings_them_back() -> None:
    made = coder(h=4, k=1, dead_after=3)
    code = torch.tensor([[0.0, 2.0, 0.0, 1e-6], [0.0, 0.0, 0.5, 0.0]])
    for passed in range(1, 5):
        made.count(code)
        assert made.idle.tolist() == [passed, 1, 1, passed]  # 1e-6 is no use
        assert made.dead.tolist() == [passed > 3, False, False, passed > 3]
    made.count(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    assert made.idle.tolist() == [1, 2, 2, 5]
    assert made.dead.tolist() == [False, False, False, True]


def test_only_dead_latents_are_revived_and_the_activations_stay_as_they_are() -> None:
    made = coder(h=6, k=2, dead_after=3)
    activations = torch.tensor([[9.0, 1.0, 8.0, 3.0, -2.0, 2.0]], requires_grad=True)
    kept = activations.detach().clone()
    assert made.select_dead(activations, 4).count_nonzero() == 0
    made.idle.copy_(torch.tensor([0, 9, 3, 9, 9, 4]))
    found = made.select_dead(activations, 2)
    assert found.tolist() == [[0.0, 0.0, 0.0, 3.0, 0.0, 2.0]]
    assert torch.equal(activations.detach(), kept)
    found.sum().backward()
    assert activations.grad is not None
    assert activations.grad.tolist() == [[0.0, 0.0, 0.0, 1.0, 0.0, 1.0]]


def test_the_head_is_made_again_from_its_settings() -> None:
    made = coder(k=2, dead_after=7)
    again = make_head(made.settings()).double()
    assert isinstance(again, TopKSparseCoder)
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(rows()), made(rows()))
    assert again.settings() == made.settings()


@pytest.mark.parametrize(
    ("dims", "options", "word"),
    [((5,), {"k": 2}, "two widths"), ((5, 4), {"k": 5}, "k must be"), ((5, 4), {"k": 0}, "k must be")],
)
def test_what_cannot_be_is_refused(dims: tuple[int, ...], options: dict[str, int], word: str) -> None:
    with pytest.raises(ArgumentError, match=word):
        TopKSparseCoder(*dims, **options)
    with pytest.raises(ArtefactError, match="TopKSparseCoder are broken"):
        make_head({"class": "TopKSparseCoder", "dims": list(dims), **options})


def test_the_normalised_error_is_one_for_the_mean_and_zero_for_the_truth() -> None:
    target = rows()
    assert float(normalised_mse(target, target)) == 0
    assert float(normalised_mse(target.mean(0).expand_as(target), target)) == pytest.approx(1)
    assert float(normalised_mse(3 * target, 3 * target + 3)) == pytest.approx(
        float(normalised_mse(target, target + 1))
    )


def test_a_target_of_equal_rows_gives_zero_and_no_gradient_that_is_not_a_number() -> None:
    rebuilt = rows().requires_grad_()
    loss = normalised_mse(rebuilt, torch.ones_like(rebuilt))
    assert float(loss) == 0
    (loss + rebuilt.sum()).backward()
    assert rebuilt.grad is not None
    assert torch.equal(rebuilt.grad, torch.ones_like(rebuilt))
