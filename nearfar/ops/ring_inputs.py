"""What the contrast across processes refuses, told on all of them alike: one that stopped alone would leave
the others waiting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nearfar.errors import ArgumentError

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FAULTS = (
    "queries and keys must be rows [b, d] of one shape, d at least 1: row i of one pairs with row i of the other",
    "queries and keys must be floating-point, of one type on one device: use .to()",
    "the back end gloo carries tensors on the CPU alone: use .cpu(), or the back end nccl",
    "temperature must be one finite number above 0",
)
ROW_FAULTS = tuple(
    f"{side}: row {{row}} {what}"
    for side in ("queries", "keys")
    for what in (
        "holds NaN or infinity",
        "is all zeros and has no direction",
        "is too long: its length overflows",
    )
)


class Facts(NamedTuple):
    """What every process tells the others about its input, all of it numbers.

    Attributes:
        fault: 0, or 1 + which of `FAULTS` and `ROW_FAULTS`.
        row: where, from 1.
        rows: b.
        width: d.
        dtype: which of `DTYPES`.
        temperature: of the scores.
        symmetric: whether columns are summed too.
        unit: whether rows have length one.
        wants_queries: whether the gradient of the queries or of the temperature is wanted.
        wants_keys: whether that of the keys is.
        longest_query: the largest length, 0 without rows.
        longest_key: the same of the keys.
    """

    fault: float = 0
    row: float = 0
    rows: float = 0
    width: float = 0
    dtype: float = 0
    temperature: float = 1
    symmetric: float = 0
    unit: float = 0
    wants_queries: float = 0
    wants_keys: float = 0
    longest_query: float = 0
    longest_key: float = 0


def facts_of(
    queries: Tensor,
    keys: Tensor,
    temperature: float | Tensor,
    *,
    symmetric: bool,
    unit: bool,
    on_cpu_alone: bool,
) -> Facts:
    """Look at the input of one process; a fault is noted, not raised."""
    if queries.ndim != 2 or queries.shape != keys.shape or not queries.shape[1]:
        return Facts(1)
    if queries.dtype not in DTYPES or (queries.dtype, queries.device) != (keys.dtype, keys.device):
        return Facts(2)
    if on_cpu_alone and queries.device.type != "cpu":
        return Facts(3)
    tau = _number(temperature)
    if not 0 < tau < math.inf:
        return Facts(4)
    longest = [0.0, 0.0]
    for side, x in enumerate((queries.detach(), keys.detach())):
        x = x if x.dtype == torch.float64 else x.float()
        lengths = torch.linalg.vector_norm(x, dim=1)
        tests = (~torch.isfinite(x).all(1), unit & (lengths == 0), unit & torch.isinf(lengths))
        for kind, bad in enumerate(tests):
            if bool(bad.any()):
                return Facts(1 + len(FAULTS) + 3 * side + kind, int(bad.nonzero()[0]) + 1)
        longest[side] = float(lengths.amax()) if len(lengths) else 0.0
    recording = torch.is_grad_enabled()
    tau_wants = isinstance(temperature, Tensor) and temperature.requires_grad
    return Facts(
        rows=len(queries),
        width=queries.shape[1],
        dtype=DTYPES.index(queries.dtype),
        temperature=tau,
        symmetric=symmetric,
        unit=unit,
        wants_queries=recording and (queries.requires_grad or tau_wants),
        wants_keys=recording and keys.requires_grad,
        longest_query=longest[0],
        longest_key=longest[1],
    )


def check_together(facts: Sequence[Facts]) -> None:
    """Raise ArgumentError if a process has a fault, if they differ, or if all together have too few rows."""
    for rank, one in enumerate(facts):
        if one.fault:
            fault = (*FAULTS, *ROW_FAULTS)[int(one.fault) - 1].format(row=int(one.row))
            where = f" (in process {rank}, counted from 0)" if len(facts) > 1 else ""
            raise ArgumentError(fault + where)
    first = facts[0]
    for rank, one in enumerate(facts):
        for name in ("width", "dtype", "temperature", "symmetric", "unit"):
            mine, other = getattr(first, name), getattr(one, name)
            if not math.isclose(mine, other, rel_tol=1e-6):
                said = [DTYPES[int(v)] if name == "dtype" else f"{v:g}" for v in (mine, other)]
                raise ArgumentError(
                    f"{name} must be the same in all processes, got {said[0]} in process 0 and {said[1]} "
                    f"in process {rank}, counted from 0"
                )
    total = sum(int(one.rows) for one in facts)
    if total < 2:
        raise ArgumentError(
            f"{total} row{'s' * (total != 1)} in all processes: without negatives nothing can be told apart; "
            "use a larger batch"
        )


def _number(temperature: float | Tensor) -> float:
    if isinstance(temperature, Tensor):
        return float(temperature.detach()) if temperature.numel() == 1 else math.nan
    return float(temperature)
