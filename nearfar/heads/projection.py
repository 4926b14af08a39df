"""What stands between an encoder and the loss."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import Tensor, nn

from nearfar.errors import ArgumentError
from nearfar.heads.mlp import mlp

Kind = Literal[
    "linear", "tanh", "normed", "norm_tanh", "mlp", "mlp_bn", "mlp_elu", "gelu_wide", "stacked", "bn2"
]
BLOCKS = 3
"""Of a stack, as in SCT's released code."""


class Projection(nn.Module):
    """A small map from features to the space in which they are compared.

    linear:  W x + b                                                    (CLIP without b)
    tanh:    tanh(W x + b)                      Gao et al., SimCSE, EMNLP 2021
    normed:  LayerNorm(W x + b)                 Xiong et al., ANCE, ICLR 2021
    mlp:     W2 relu(W1 x + b1) + b2            Chen et al., SimCLR, ICML 2020; MoCo v2
    mlp_bn:  the same with batch norm before each relu   SimCLR as released, Barlow Twins
    norm_tanh: tanh(LayerNorm(W x + b))         trunks of DrQ-v2 (Yarats et al., ICLR 2022), TACO
    bn2:     norm(W2 relu(norm(W1 x)))          Chuang et al., DiffCSE, NAACL 2022; batch norms, the last without affine
    mlp_elu: W2 elu(W1 x + b1) + b2             Zhu et al., GRACE, 2020, and other methods for graphs
    gelu_wide: gelu(W2 gelu(W1 x + b1) + b2), W drawn with deviation 0.02, b = 0   Kim et al., SG-BERT, ACL 2021
    stacked: three times W2 relu(W1 x + b1) + b2, nothing between them   Limkonchotiwat et al., SCT, TACL 2023

    Args:
        dims: widths, input first: two where there is one linear layer, at least three for the others.
        kind: see above.

    Raises:
        ArgumentError: an unknown kind, or the wrong number of widths for it, or a stack that ends in another width
            than it begins with.
    """

    def __init__(self, *dims: int, kind: Kind = "linear") -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise ArgumentError(f"kind={kind!r} is unknown: choose one of {', '.join(get_args(Kind))}")
        one_layer = kind in ("linear", "tanh", "normed", "norm_tanh")
        if (len(dims) == 2) != one_layer or len(dims) < 2:
            wanted = "two widths (in, out)" if one_layer else "at least three widths (in, hidden, out)"
            raise ArgumentError(f"Projection of kind {kind!r} takes {wanted}; got {dims}")
        if kind == "stacked" and dims[0] != dims[-1]:
            raise ArgumentError(f"a stack of blocks ends in the width it begins with; got {dims}")
        self.dims, self.kind = dims, kind
        activation = {"mlp_elu": nn.ELU, "gelu_wide": nn.GELU}.get(kind, nn.ReLU)
        norm = "batch" if kind in ("mlp_bn", "bn2") else None
        blocks = BLOCKS if kind == "stacked" else 1
        self.map = nn.Sequential(
            *[layer for _ in range(blocks) for layer in mlp(dims, norm, activation=activation)]
        )
        if kind == "bn2":
            self.map[-1] = nn.Linear(dims[-2], dims[-1], bias=False)
            self.map.append(nn.BatchNorm1d(dims[-1], affine=False))
        if kind in ("normed", "norm_tanh"):
            self.map.append(nn.LayerNorm(dims[-1]))
        if kind in ("tanh", "norm_tanh"):
            self.map.append(nn.Tanh())
        if kind == "gelu_wide":
            self.map.append(nn.GELU())
            for layer in (layer for layer in self.map if isinstance(layer, nn.Linear)):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dims[0]] -> [..., dims[-1]] (2-D only for mlp_bn and bn2)."""
        return self.map(x)

    def settings(self) -> dict[str, Any]:
        """What `make_head` needs to build this head again, as JSON values."""
        return {"class": "Projection", "dims": list(self.dims), "kind": self.kind}
