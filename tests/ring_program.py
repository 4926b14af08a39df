"""What the processes of test_ops_ring.py do: called with a folder of cases, which gets the results."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing import start_processes
from torch.utils._python_dispatch import TorchDispatchMode

from nearfar.errors import ArgumentError
from nearfar.objectives import info_nce
from nearfar.ops import ring
from nearfar.ops.ring import ring_info_nce
from nearfar.training.gather import average_gradients, gather


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that an operation returns."""

    numel = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: dict[str, Any] | None = None
    ) -> Any:
        made = function(*arguments, **(options or {}))
        for tensor in made if isinstance(made, list | tuple) else [made]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size())
        return made


class Laps(ring._Laps):
    """Notes what is taken from the scores."""

    shifts: list[float | None] = []

    def __init__(self, problem: Any, x: Tensor, keys: Tensor, shift: float | None) -> None:
        Laps.shifts.append(shift)
        super().__init__(problem, x, keys, shift)


def largest(compute: Callable[[], None]) -> int:
    with Largest() as mode:
        compute()
    return mode.numel


def trained(case: dict[str, Any], rank: int) -> dict[str, Any]:
    """The loss of this process's rows, through an encoder that all share, and all gradients of 3 times that."""
    ring.TILE, Laps.shifts = case["tile"], []
    dtype, share = getattr(torch, case["dtype"]), case["shares"][rank]
    start = sum(case["shares"][:rank])
    whole = [torch.tensor(rows, dtype=dtype) for rows in case["rows"]]
    raw = [rows[start : start + share].requires_grad_() for rows in whole]
    made = [torch.tensor(case[name], dtype=dtype) for name in ("weight", "bias", "temperature")]
    weight, bias, tau = (torch.nn.Parameter(values) for values in made)
    queries, keys = (torch.nn.functional.linear(rows, weight, bias) for rows in raw)
    loss = ring_info_nce(queries, keys, temperature=tau, symmetric=case["symmetric"], unit=case["unit"])
    (3 * loss).backward()
    of_tau = float(tau.grad)
    average_gradients([weight, bias, tau])
    return {
        "loss": float(loss.detach()),
        "shifts": list(Laps.shifts),
        "start": start,
        "tau": of_tau,
        "tau_mean": float(tau.grad),
        "weight": weight.grad.tolist(),
        "bias": bias.grad.tolist(),
        "rows": [rows.grad.tolist() for rows in raw],
    }


def refused(queries: Tensor, keys: Tensor, **options: Any) -> str | None:
    try:
        ring_info_nce(queries, keys, **{"temperature": 0.1, **options})
    except ArgumentError as found:
        return str(found)
    return None


def refusals(rank: int) -> dict[str, str | None]:
    """What is said where one of the processes gives bad input."""
    good = torch.randn(3, 4)
    bad = good.clone()
    bad[1, 2] = torch.nan if rank == 1 else 0.0
    narrow, lone = good[:, : 4 - rank], good[: int(rank == 1)]
    wide = good if rank else good.double()
    return {
        "nan": refused(bad, good),
        "zeros": refused(good, good * (rank != 0)),
        "width": refused(narrow, narrow),
        "dtype": refused(wide, wide),
        "shape": refused(good[: 2 + (rank == 0)], good),
        "temperature": refused(good, good, temperature=1.0 + rank),
        "below": refused(good, good, temperature=-1.0 if rank else 1.0),
        "symmetric": refused(good, good, symmetric=rank == 0),
        "one": refused(lone, lone),
    }


def work(rank: int, size: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{size}", rank=rank, world_size=size)
    ring._Laps = Laps
    cases = json.loads((folder / f"{size}.json").read_text())
    results: dict[str, Any] = {name: trained(case, rank) for name, case in cases.items()}
    ring.TILE = 1024
    x, y = (torch.randn(24, 40, requires_grad=True) for _ in range(2))
    options: dict[str, Any] = {"temperature": 0.1, "symmetric": True}
    results["largest"] = largest(lambda: ring_info_nce(x, y, **options).backward())
    results["largest_gathered"] = largest(lambda: info_nce(gather(x), gather(y), **options).backward())
    results["refused"] = refusals(rank)
    last = dist.new_group([size - 1])
    if rank == size - 1:
        results["group"] = float(ring_info_nce(x, y, group=last, **options).detach())
        results["alone"] = float(info_nce(x, y, **options).detach())
    else:
        results["outside"] = refused(x, y, group=last)
    (folder / f"{size}-{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for processes in (2, 4):
        # Forked, so that the imports are done once.
        start_processes(work, (processes, Path(sys.argv[1])), nprocs=processes, start_method="fork")
