"""What every score does first: enough precision, no rows without a direction.

Rows are counted from 1 in messages. Each check reads one flag back from the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.errors import ArgumentError


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def finite_rows(x: Tensor, name: str) -> Tensor:
    """Hand `x` [..., d] over in float32 or float64.

    Raises:
        ArgumentError: a value is NaN or infinite (the row is named).
    """
    _refuse(~torch.isfinite(x.detach()).all(dim=-1), name, "holds NaN or infinity")
    return at_least_float32(x)


def unit_rows(x: Tensor, name: str) -> Tensor:
    """Scale every row of `x` [..., d] to length one, in float32 or float64.

    Raises:
        ArgumentError: a row is NaN, infinite or all zeros, which has no direction (the row is named).
    """
    x = at_least_float32(x)
    lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    fine = torch.isfinite(lengths) & (lengths > 0)
    if not bool(fine.all()):
        finite_rows(x, name)
        _refuse(lengths[..., 0] == 0, name, "is all zeros and has no direction")
        _refuse(~fine[..., 0], name, "is too long: its length overflows")
    return x / lengths


def _refuse(bad: Tensor, name: str, what: str) -> None:
    if not bool(bad.any()):
        return
    places = bad.nonzero()
    where = ", key ".join(str(int(place) + 1) for place in places[0]) or "1"
    raise ArgumentError(f"{name}: row {where} {what} ({len(places)} such rows)")
