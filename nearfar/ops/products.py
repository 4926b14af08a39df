"""Products of matrices, by the faster of the two libraries that PyTorch carries.

MKL, to which PyTorch sends float32 matrix products, uses AVX-512 on Intel's processors only; oneDNN, to which it
sends convolutions when it has more than one thread, uses it wherever it exists. A row is a position of a picture
one pixel high, its entries are channels, and a matrix product is a 1x1 convolution: on an AMD EPYC with two
threads 2.1 times as fast, in the same float32 arithmetic.
"""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional


@functools.cache
def onednn_is_faster() -> bool:
    """Whether this processor has AVX-512 but is not Intel's."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkl.is_available():
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    cpuinfo = Path("/proc/cpuinfo")
    vendor = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else platform.processor()
    faster = "AuthenticAMD" in vendor
    if faster:
        # oneDNN compiles a kernel for every shape and keeps 1,024 of them, and batches of texts come in hundreds of
        # shapes: a step on 4,096 captions with gradient caching takes 0.25 GB less with 32 kept. It reads this once,
        # when it is first used.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    return faster


def _convolves(x: Tensor) -> bool:
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or torch.get_num_threads() == 1
    return not plain and onednn_is_faster()


def scores(x: Tensor, keys: Tensor, out: Tensor) -> Tensor:
    """x keys^T, in `out` or in a new tensor.

    Args:
        x: [r, d].
        keys: [c, d].
        out: [r, c], may be overwritten.
    """
    if not _convolves(x):
        return torch.mm(x, keys.mT, out=out)
    return _rows(functional.conv2d(_picture(x), keys[:, :, None, None]))


def add_products(g: Tensor, x: Tensor, keys: Tensor, d_x: Tensor | None, d_keys: Tensor | None) -> None:
    """d_x += g keys and d_keys += g^T x, the backward pass of `scores`.

    Args:
        g: [r, c].
        x: [r, d].
        keys: [c, d].
        d_x: [r, d] or None, changed in place.
        d_keys: [c, d] or None, changed in place.
    """
    if not _convolves(x):
        if d_x is not None:
            d_x.addmm_(g, keys)
        if d_keys is not None:
            d_keys.addmm_(g.mT, x)
        return
    of_x, of_keys, _ = torch.ops.aten.convolution_backward(
        _picture(g),
        _picture(x),
        keys[:, :, None, None],
        None,
        [1, 1],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        1,
        [d_x is not None, d_keys is not None, False],
    )
    if d_x is not None:
        d_x.add_(_rows(of_x))
    if d_keys is not None:
        d_keys.add_(of_keys[:, :, 0, 0])


def _picture(rows: Tensor) -> Tensor:
    """[r, d] as a picture [1, d, 1, r], channels last: no copy."""
    return rows[None, None].permute(0, 3, 1, 2)


def _rows(picture: Tensor) -> Tensor:
    return picture.permute(0, 2, 3, 1)[0, 0]
