"""Pooling never sees padding; heads can be built again from JSON."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.nn.functional import gelu

from nearfar.errors import ArgumentError, ArtefactError
from nearfar.heads import make_head
from nearfar.heads.bilinear import Bilinear
from nearfar.heads.dynamics import ActionDynamics
from nearfar.heads.mlp import mlp
from nearfar.heads.pool import POOLINGS, check_pooling, layer_of, needs_layers, pool, pooled_places
from nearfar.heads.projection import Projection

TOKENS = torch.tensor([[[1.0, 8.0], [3.0, 2.0], [9.0, 9.0]], [[5.0, -1.0], [6.0, 0.0], [-2.0, 4.0]]])
MASK = torch.tensor([[True, True, False], [True, True, True]])
WANTED = {
    "mean": [[2.0, 5.0], [3.0, 1.0]],
    "cls": [[1.0, 8.0], [5.0, -1.0]],
    "last": [[3.0, 2.0], [-2.0, 4.0]],
    "max": [[3.0, 8.0], [6.0, 4.0]],
}


@pytest.mark.parametrize("kind", sorted(WANTED))
def test_pool_by_hand(kind: str) -> None:
    torch.testing.assert_close(pool(TOKENS, MASK, kind), torch.tensor(WANTED[kind]))


@pytest.mark.parametrize("kind", [*POOLINGS, "layer_1", "layer_3"])
@pytest.mark.parametrize("trap", [0.0, 1e9, -1e9, math.inf, math.nan])
def test_padding_never_enters_a_pool(kind: str, trap: float) -> None:
    layers = tuple(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(i)) for i in range(4))
    traps = tuple(layer.masked_fill(~MASK.unsqueeze(-1), trap) for layer in layers)
    whole = pool(layers[-1], MASK, kind, layers)
    torch.testing.assert_close(pool(traps[-1], MASK, kind, traps), whole)
    alone = pool(layers[-1][:1, :2], MASK[:1, :2], kind, tuple(layer[:1, :2] for layer in layers))
    torch.testing.assert_close(whole[:1], alone)


def test_padding_gets_no_gradient() -> None:
    for kind in WANTED:
        tokens = TOKENS.clone().requires_grad_()
        pool(tokens, MASK, kind).sum().backward()
        assert tokens.grad is not None
        assert tokens.grad[0, 2].abs().sum() == 0
        assert tokens.grad[1].abs().sum() > 0


def test_first_and_last_follow_padding_on_the_left() -> None:
    flipped, mask = TOKENS.flip(1), MASK.flip(1)
    assert pool(flipped, mask, "cls")[0].tolist() == [3.0, 2.0]
    assert pool(flipped, mask, "last")[0].tolist() == [1.0, 8.0]


def test_layer_pools_take_layer_one_and_the_last_two() -> None:
    layers = tuple(torch.full((2, 3, 1), float(i)) for i in (100, 1, 2, 5))  # 100: input embeddings
    assert pool(layers[-1], MASK, "first_last", layers).tolist() == [[3.0], [3.0]]
    assert pool(layers[-1], MASK, "top2", layers).tolist() == [[3.5], [3.5]]
    assert needs_layers("top2")
    assert not needs_layers("mean")


def test_one_layer_is_counted_from_the_input_embeddings() -> None:
    layers = tuple(torch.full((2, 3, 1), float(i)) for i in (100, 1, 2, 5))
    assert pool(layers[-1], MASK, "layer_2", layers).tolist() == [[2.0], [2.0]]
    assert pool(layers[-1], MASK, "layer_3", layers).tolist() == [[5.0], [5.0]]
    assert needs_layers("layer_3")
    assert (layer_of("layer_12"), layer_of("mean")) == (12, None)
    for wrong in ("layer_0", "layer_", "layer_-1", "layer_1.5"):
        with pytest.raises(ArgumentError, match="layer_K"):
            needs_layers(wrong)
    check_pooling("layer_3", 3)
    with pytest.raises(ArgumentError, match="has 3 layers"):
        check_pooling("layer_4", 3)
    with pytest.raises(ArgumentError, match="at least 4 layers"):
        pool(layers[-1], MASK, "layer_4", layers)


def test_the_mean_of_a_layer_leaves_out_the_ends_of_a_text_but_never_all_of_it() -> None:
    cls, sep, word = 1, 2, 7
    ids = torch.tensor([[cls, word, word, sep, 0], [cls, sep, 0, 0, 0]])
    mask, ends = ids > 0, torch.tensor([cls, sep])
    assert pooled_places("layer_2", mask, ids, ends).tolist() == [
        [False, True, True, False, False],
        [True, True, False, False, False],
    ]
    assert pooled_places("mean", mask, ids, ends) is mask
    assert torch.equal(pooled_places("layer_2", mask, ids, torch.tensor([], dtype=torch.int64)), mask)


def test_pool_says_what_is_wrong() -> None:
    with pytest.raises(ArgumentError, match="example 2"):
        pool(TOKENS, torch.tensor([[True, False, False], [False, False, False]]))
    with pytest.raises(ArgumentError, match="mean, cls, last"):
        pool(TOKENS, MASK, "average")
    with pytest.raises(ArgumentError, match="layers=True"):
        pool(TOKENS, MASK, "top2")


@pytest.mark.parametrize(
    ("dims", "kind"),
    [
        ((6, 4), "linear"),
        ((6, 6), "tanh"),
        ((6, 4), "normed"),
        ((6, 4), "norm_tanh"),
        ((6, 8, 4), "mlp"),
        ((6, 8, 8, 4), "mlp_bn"),
        ((6, 8, 8), "gelu_wide"),
        ((6, 8, 6), "stacked"),
        ((6, 8, 4), "bn2"),
    ],
)
def test_head_is_rebuilt_from_json_and_weights(dims: tuple[int, ...], kind: str) -> None:
    head = Projection(*dims, kind=kind)  # type: ignore[arg-type]
    again = make_head(json.loads(json.dumps(head.settings())))
    again.load_state_dict(head.state_dict())
    x = torch.randn(5, 6)
    head.eval(), again.eval()
    assert torch.equal(head(x), again(x))
    assert head(x).shape == (5, dims[-1])


def test_projection_formulas() -> None:
    x = torch.randn(7, 5)
    tanh = Projection(5, 5, kind="tanh")
    weight, bias = tanh.map[0].weight, tanh.map[0].bias
    torch.testing.assert_close(tanh(x), torch.tanh(x @ weight.T + bias))  # type: ignore[operator]
    normed = Projection(5, 4, kind="normed")
    linear, norm = normed.map
    torch.testing.assert_close(normed(x), norm(x @ linear.weight.T + linear.bias))  # type: ignore[operator]
    torch.testing.assert_close(normed(x).square().mean(1), torch.ones(7), atol=1e-3, rtol=0)
    trunk = Projection(5, 4, kind="norm_tanh")
    mapped = x @ trunk.map[0].weight.T + trunk.map[0].bias
    centred = mapped - mapped.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(trunk(x), torch.tanh(normed))
    hidden = Projection(5, 6, 3, kind="mlp")
    one, two = hidden.map[0], hidden.map[2]
    torch.testing.assert_close(hidden(x), two(one(x).relu()))  # type: ignore[operator]


def test_wide_and_stacked_heads() -> None:
    x = torch.randn(7, 5)
    wide = Projection(5, 400, 300, kind="gelu_wide")
    one, two = wide.map[0], wide.map[2]
    torch.testing.assert_close(wide(x), gelu(two(gelu(one(x)))))  # type: ignore[operator]
    for layer in (one, two):
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.1)  # type: ignore[operator, union-attr]
        assert not layer.bias.any()  # type: ignore[operator, union-attr]
    stacked = Projection(5, 50, 5, kind="stacked")
    expected = x
    for block in (0, 3, 6):
        expected = stacked.map[block + 2](stacked.map[block](expected).relu())
    torch.testing.assert_close(stacked(x), expected)
    assert [type(layer).__name__ for layer in stacked.map] == ["Linear", "ReLU", "Linear"] * 3
    assert len({id(layer) for layer in stacked.map}) == 9, "blocks of their own"


def test_a_bilinear_head_turns_its_score_into_an_inner_product() -> None:
    head = Bilinear(5, 3)
    queries, keys = torch.randn(4, 5), torch.randn(6, 3)
    scores = torch.einsum("id,de,je->ij", queries, head.weight, keys)
    torch.testing.assert_close(head(queries) @ keys.T, scores)
    assert 0 <= float(head.weight.detach().min()) < float(head.weight.detach().max()) < 1


def test_dynamics_read_every_action_in_its_place() -> None:
    head = ActionDynamics(4, 2, horizon=3, hidden=8)
    states, actions = torch.randn(5, 4), torch.randn(5, 3, 2)
    queries = head(states, actions)
    assert queries.shape == (5, 4)
    assert not torch.allclose(head(states, actions.flip(1)), queries)
    for step in range(3):
        changed = actions.clone()
        changed[:, step] += 1
        assert not torch.allclose(head(states, changed), queries)
    again = make_head(json.loads(json.dumps(head.settings())))
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(states, actions), queries)
    with pytest.raises(ArgumentError, match="horizon must be between 1"):
        ActionDynamics(4, 2, horizon=0, hidden=8)


def test_batch_norm_only_where_it_is_named() -> None:
    x = torch.randn(8, 5)
    for kind, alone_is_the_same in (("mlp", True), ("mlp_bn", False)):
        head = Projection(5, 6, 3, kind=kind).train()  # type: ignore[arg-type]
        assert torch.allclose(head(x)[:4], head(x[:4]), atol=1e-6) == alone_is_the_same


def test_bn2_standardises_what_it_gives_and_has_no_bias() -> None:
    head = Projection(5, 6, 3, kind="bn2").train()
    one, norm, _, two, last = head.map
    assert one.bias is None
    assert two.bias is None
    assert norm.affine
    assert not last.affine
    x = torch.randn(40, 5)
    out = head(x)
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(0, unbiased=False), torch.ones(3), atol=1e-2, rtol=0)
    torch.testing.assert_close(out, last(two(norm(one(x)).relu())))


def test_mlp_hidden_layers_only() -> None:
    x = torch.randn(4, 3) * 100
    assert mlp((3, 2))(x).shape == (4, 2)
    assert [type(layer).__name__ for layer in mlp((3, 5, 2), norm="layer", dropout=0.5)] == [
        "Linear",
        "LayerNorm",
        "ReLU",
        "Dropout",
        "Linear",
    ]
    with pytest.raises(ArgumentError, match="at least two widths"):
        mlp((3,))
    with pytest.raises(ArgumentError, match="norm"):
        mlp((3, 4, 5), norm="instance")


def test_heads_say_what_is_wrong() -> None:
    with pytest.raises(ArgumentError, match="two widths"):
        Projection(4, 4, 4, kind="tanh")
    with pytest.raises(ArgumentError, match="at least three"):
        Projection(4, 4, kind="mlp")
    with pytest.raises(ArgumentError, match="width it begins with"):
        Projection(4, 8, 5, kind="stacked")
    with pytest.raises(ArtefactError, match=r"os\.system"):
        make_head({"class": "os.system", "dims": []})
    with pytest.raises(ArtefactError, match="broken"):
        make_head({"class": "Projection", "dims": [3, 4], "surprise": 1})
