"""Contrastive losses of the same values, as nearfar, the textbook and other libraries compute them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from nearfar.objectives import Pairing, info_nce, nt_xent, sup_con

TEMPERATURE = 0.05
CHUNKS = {"": 32, ", 1,024 rows at a time": 1024}
"""Rows at a time of sentence-transformers' cached losses: their default, and what suits the loss alone better."""

Kind = Literal["one direction", "symmetric", "NT-Xent", "SupCon"]
Loss = Callable[[Tensor, Tensor], Tensor]
"""Two tensors of N rows to the loss; one without a graph has computed its gradient already."""


@dataclass(frozen=True)
class Form:
    """Somebody's implementation of a loss.

    Attributes:
        kind: which loss.
        make: imports what it needs and returns the function.
        package: the distribution that has it; None: no other than PyTorch and nearfar.
    """

    kind: Kind
    make: Callable[[], Loss]
    package: str | None = None

    @property
    def version(self) -> str | None:
        """Of the package; None where it is not installed."""
        try:
            return version(self.package or "torch")
        except PackageNotFoundError:
            return None


def pairs(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Rows and their partners at a cosine of about 0.4: a loss that is neither 0 nor the logarithm of n."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(n, d, generator=generator)
    keys = 0.4 * queries + 0.92 * torch.randn(n, d, generator=generator)
    return queries.requires_grad_(), keys.requires_grad_()


def side(form: Form, n: int, d: int) -> Callable[[], float]:
    """Loss and gradient on `pairs(n, d)`; the call returns the value."""
    loss, inputs = form.make(), pairs(n, d)

    def run() -> float:
        value = loss(*inputs)
        if value.requires_grad:
            torch.autograd.grad(value, inputs)
        return float(value.detach())

    return run


def _labels(n: int) -> Tensor:
    """Of 2n views: every label has four."""
    return torch.arange(2 * n) % max(1, n // 2)


# -- nearfar -----------------------------------------------------------------------------------------


def _one_direction() -> Loss:
    return lambda a, b: info_nce(a, b, temperature=TEMPERATURE)


def _symmetric() -> Loss:
    return lambda a, b: info_nce(a, b, temperature=TEMPERATURE, symmetric=True)


def _kernel(symmetric: bool) -> Loss:
    def loss(a: Tensor, b: Tensor) -> Tensor:
        # Pairs given by number never take the textbook form, however few.
        numbers = Pairing.index(torch.arange(len(a)))
        return info_nce(a, b, numbers, temperature=TEMPERATURE, symmetric=symmetric)

    return loss


def _nt_xent() -> Loss:
    return lambda a, b: nt_xent(a, b, temperature=TEMPERATURE)


def _sup_con() -> Loss:
    return lambda a, b: sup_con(torch.cat([a, b]), _labels(len(a)), temperature=TEMPERATURE)


NEARFAR: dict[Kind, Form] = {
    "one direction": Form("one direction", _one_direction),
    "symmetric": Form("symmetric", _symmetric),
    "NT-Xent": Form("NT-Xent", _nt_xent),
    "SupCon": Form("SupCon", _sup_con),
}

KERNEL: dict[Kind, Form] = {
    "one direction": Form("one direction", lambda: _kernel(False)),
    "symmetric": Form("symmetric", lambda: _kernel(True)),
}

# -- the textbook ------------------------------------------------------------------------------------


def _textbook(symmetric: bool) -> Loss:
    def loss(a: Tensor, b: Tensor) -> Tensor:
        logits = functional.normalize(a, dim=1) @ functional.normalize(b, dim=1).T / TEMPERATURE
        own = torch.arange(len(a))
        rows = functional.cross_entropy(logits, own)
        return (rows + functional.cross_entropy(logits.T, own)) / 2 if symmetric else rows

    return loss


TEXTBOOK: dict[Kind, Form] = {
    "one direction": Form("one direction", lambda: _textbook(False)),
    "symmetric": Form("symmetric", lambda: _textbook(True)),
}

# -- other libraries ---------------------------------------------------------------------------------


def module_alone(name: str, unused: Sequence[str] = ()) -> ModuleType:
    """Import one module of a package without running the package's `__init__` files.

    These import torchvision, which not every build of PyTorch has beside it, and which a loss does not need.

    Args:
        name: dotted name of the module.
        unused: modules that it imports and does not call; they are left empty.
    """
    if name in sys.modules:
        return sys.modules[name]
    package = name.split(".")[0]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no package {package}")
    root = Path(spec.submodule_search_locations[0])
    for initial in root.rglob("__init__.py"):
        folder = initial.parent
        bare = ModuleType(".".join([package, *folder.relative_to(root).parts]))
        bare.__path__ = [str(folder)]
        sys.modules[bare.__name__] = bare
    sys.modules |= {empty: ModuleType(empty) for empty in unused}
    return importlib.import_module(name)


def _metric_learning(name: str) -> Loss:
    computed = getattr(importlib.import_module("pytorch_metric_learning.losses"), name)(
        temperature=TEMPERATURE
    )

    def loss(a: Tensor, b: Tensor) -> Tensor:
        labels = torch.arange(len(a)).repeat(2) if name == "NTXentLoss" else _labels(len(a))
        return computed(torch.cat([a, b]), labels)

    return loss


def _lightly() -> Loss:
    # Called only where rows are gathered from other processes.
    module = module_alone("lightly.loss.ntx_ent_loss", unused=["lightly.models.utils"])
    loss: Loss = module.NTXentLoss(temperature=TEMPERATURE)
    return loss


def _open_clip() -> Loss:
    computed = module_alone("open_clip.loss").ClipLoss()

    def loss(a: Tensor, b: Tensor) -> Tensor:
        # Its models scale their features to length one before they give them to the loss.
        return computed(functional.normalize(a, dim=1), functional.normalize(b, dim=1), 1 / TEMPERATURE)

    return loss


def _sentence_transformers(symmetric: bool) -> Loss:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    ways = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    computed = MultipleNegativesRankingLoss(None, scale=1 / TEMPERATURE, **(ways if symmetric else {}))
    return lambda a, b: computed.compute_loss_from_embeddings([a, b], None)


def _sentence_transformers_cached(symmetric: bool, chunk: int) -> Loss:
    from sentence_transformers.sentence_transformer import losses

    name = f"CachedMultipleNegatives{'Symmetric' if symmetric else ''}RankingLoss"
    # Only its type is looked at.
    no_model = torch.nn.Sequential(torch.nn.Identity())
    computed = getattr(losses, name)(no_model, scale=1 / TEMPERATURE, mini_batch_size=chunk)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        chunks = [[part.detach().requires_grad_() for part in rows.split(chunk)] for rows in (a, b)]
        return computed.calculate_loss(chunks, with_backward=True)

    return loss


PEERS: dict[str, Form] = {
    "pytorch-metric-learning NTXentLoss": Form(
        "NT-Xent", lambda: _metric_learning("NTXentLoss"), "pytorch-metric-learning"
    ),
    "pytorch-metric-learning SupConLoss": Form(
        "SupCon", lambda: _metric_learning("SupConLoss"), "pytorch-metric-learning"
    ),
    "lightly NTXentLoss": Form("NT-Xent", _lightly, "lightly"),
    "open_clip ClipLoss": Form("symmetric", _open_clip, "open_clip_torch"),
    "sentence-transformers ranking loss": Form(
        "one direction", lambda: _sentence_transformers(False), "sentence-transformers"
    ),
    "sentence-transformers symmetric ranking loss": Form(
        "symmetric", lambda: _sentence_transformers(True), "sentence-transformers"
    ),
    **{
        f"sentence-transformers cached {'symmetric ' if kind == 'symmetric' else ''}ranking loss{said}": Form(
            kind, partial(_sentence_transformers_cached, kind == "symmetric", chunk), "sentence-transformers"
        )
        for kind in TEXTBOOK
        for said, chunk in CHUNKS.items()
    },
}


def form_of(who: str, kind: Kind) -> Form:
    """nearfar's, that of its streaming kernel alone, the textbook's or a peer's."""
    named = {"nearfar": NEARFAR, "kernel": KERNEL, "textbook": TEXTBOOK}
    return PEERS[who] if who in PEERS else named[who][kind]
