"""What is measured in a process of its own: `python -m benchmarks.contrast_jobs JOB ARGUMENTS` as JSON."""

from __future__ import annotations

import json
import math
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.contrast_forms import Kind, form_of, pairs, side
from benchmarks.ratios import Side, in_turn

PRODUCT = 4096
"""Rows and columns of the matrix product that rates are held against."""
OPERATIONS: dict[Kind, int] = {"one direction": 6, "symmetric": 8}
"""Floating-point operations over N N d that a loss and its gradient need at least."""
PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "torch.mm": torch.mm,
    "convolution": lambda left, right: functional.conv1d(right[None], left[:, :, None]),
}
"""Both ways to a product of matrices: MKL, which may leave units of other processors unused, and oneDNN."""
LEAST_SECONDS = 0.03
"""Shorter calls are made several times within a repeat."""
CHUNK, MAX_LENGTH = 64, 32
STATUS = Path("/proc/self/status")

Found = dict[str, Any]


def rate(kind: Kind, n: int, d: int, product: str) -> Found:
    """Operations of loss and gradient, and seconds in turn with those of one large matrix product.

    Args:
        kind: which loss.
        n: rows.
        d: width.
        product: a key of `PRODUCTS`.
    """
    left, right = torch.randn(2, PRODUCT, PRODUCT)
    multiply = PRODUCTS[product]
    times = in_turn("", "", "", side(form_of("nearfar", kind), n, d), lambda: multiply(left, right))
    operations = OPERATIONS[kind] * n * n * d / (2 * PRODUCT**3)
    return {"ours": times.ours, "theirs": times.theirs, "operations": operations}


def beside(who: str, kind: Kind, n: int, d: int, ours: str = "nearfar") -> Found:
    """nearfar and somebody else in turn: seconds of a call in every repeat, and both values."""
    both = [side(form_of(name, kind), n, d) for name in (ours, who)]
    first = [_timed(one) for one in both]
    # The first call may have loaded something: only a second one tells how short calls are.
    calls = [
        1 if taken > LEAST_SECONDS else math.ceil(LEAST_SECONDS / _timed(one)[1])
        for one, (_, taken) in zip(both, first, strict=True)
    ]
    repeated = [_several(one, count) for one, count in zip(both, calls, strict=True)]
    repeats = 21 if max(taken for _, taken in first) < 0.5 else 5
    times = in_turn("", "", "", repeated[0], repeated[1], repeats=repeats)
    return {
        "ours": [taken / calls[0] for taken in times.ours],
        "theirs": [taken / calls[1] for taken in times.theirs],
        "values": [value for value, _ in first],
    }


def _timed(one: Callable[[], float]) -> tuple[float, float]:
    started = time.perf_counter()
    value = one()
    return value, time.perf_counter() - started


def _several(one: Side, calls: int) -> Side:
    def run() -> None:
        for _ in range(calls):
            one()

    return run


def peak(who: str, kind: Kind, n: int, d: int) -> Found:
    """Most memory that a loss and its gradient add to what the process holds, gradients included, in bytes."""
    form = form_of(who, kind)
    side(form, 64, d)()
    run = side(form, n, d)
    before = _forget_peak()
    run()
    return {"bytes": _resident("VmHWM") - before}


def saved(kind: Kind, n: int, d: int) -> Found:
    """Bytes that are kept from the forward to the backward pass, as multiples of the embeddings' own."""
    loss, inputs = form_of("nearfar", kind).make(), pairs(n, d)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss(*inputs)
    assert value.requires_grad
    total, own = sum(kept.values()), sum(rows.nbytes for rows in inputs)
    return {"bytes": total, "embeddings_bytes": own, "multiple": total / own}


def step(data_dir: str, n: int) -> Found:
    """One step of SimCSE on n captions with MiniLM and gradient caching: peak memory of the whole process."""
    from nearfar.data.table import Table
    from nearfar.training.settings import Settings
    from nearfar.training.trainer import train
    from nearfar.verbs.building import build_method

    table = Table.from_columns({"text": _captions(Path(data_dir), n)})
    method = build_method(
        "simcse", table, encoder="minilm", hyperparameters={"head": "none"}, max_length=MAX_LENGTH
    )
    settings = Settings(steps=1, batch_size=n, cache_chunk=CHUNK, learning_rate=1e-6)
    before = _forget_peak()
    run = train(method, table, settings)
    return {
        "bytes": _resident("VmHWM"),
        "before_bytes": before,
        "embeddings_bytes": 2 * n * 384 * 4,
        "loss": run.losses[0],
    }


def _captions(data_dir: Path, n: int) -> list[str]:
    import pandas as pd

    frame = pd.read_parquet(data_dir / "multi30k" / "captions.parquet")
    texts = [text for number in range(1, 6) for text in frame[f"caption{number}"]]
    return (texts * math.ceil(n / len(texts)))[:n]


def _resident(field: str) -> int:
    """VmRSS or VmHWM of this process (Linux), in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{STATUS} does not say {field}: memory is measured on Linux only")
    return 1024 * int(found[1])


def _forget_peak() -> int:
    """Set VmHWM back to what is resident now; returns this."""
    Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


JOBS: dict[str, Callable[..., Found]] = {
    "rate": rate,
    "beside": beside,
    "peak": peak,
    "saved": saved,
    "step": step,
}


def main() -> None:
    """Run one job; the last line on standard output is what it found, or how it failed for want of memory."""
    arguments = json.loads(sys.argv[2])
    limit = arguments.pop("limit", None)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        found = JOBS[sys.argv[1]](**arguments)
    except (MemoryError, RuntimeError) as error:
        asked = re.search(r"can't allocate memory: you tried to allocate (\d+) bytes", str(error))
        if asked is None and not isinstance(error, MemoryError):
            raise
        found = {"does_not_fit": int(asked[1]) if asked else None}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
