"""Two processes with half a batch each compute what one process computes with the whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import importlib, json, sys
import torch
from torch import nn
from nearfar.data.kinds import Label, Vector
from nearfar.data.table import Table
from nearfar.encoders.given import GivenVectors
from nearfar.method import Method
from nearfar.objectives import Pairing, Temperature, info_nce
from nearfar.space import Space
from nearfar.training.gather import process_rank
from nearfar.training.settings import Settings
from nearfar.training.trainer import train

info_nce_module = importlib.import_module("nearfar.objectives.info_nce")
rings = []
LABELS, ROWS, BATCH = (True, 48, 16) if sys.argv[3] == "labels" else (False, 2100, 1050)
original = info_nce_module.ring_info_nce
info_nce_module.ring_info_nce = lambda x, *rest, **given: (rings.append(len(x)), original(x, *rest, **given))[1]

class Pairs(Method):
    reads = {"vector": Vector, "positive": Vector, "label": Label}

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.temperature = nn.Linear(6, 4).double(), Temperature("exp", 0.5)

    def prepare(self, rows, generator):
        stack = lambda cells: torch.stack([torch.tensor(cell).double() for cell in cells])
        vectors = {role: stack(rows[role]) for role in ("vector", "positive")}
        return {**vectors, "label": torch.tensor(rows["label"])}

    def embed(self, batch):
        return {"one": self.net(batch["vector"]), "two": self.net(batch["positive"])}

    def contrast(self, z, batch):
        pairing = Pairing.diagonal().ignoring(batch["label"]) if LABELS else None
        temperature = self.temperature().double()
        return {"info_nce": info_nce(z["one"], z["two"], pairing, temperature=temperature, symmetric=True)}

    def space(self):
        return Space({"vector": GivenVectors(6)})

out, chunk = sys.argv[1], int(sys.argv[2]) or None
generator = torch.Generator().manual_seed(1)
make = lambda: torch.randn(ROWS, 6, generator=generator).numpy()
table = Table.from_columns({"vector": make(), "positive": make(), "label": [i % 7 for i in range(ROWS)]})
method = Pairs()
settings = Settings(steps=6, batch_size=BATCH, cache_chunk=chunk, learning_rate=0.05, schedule="constant")
run = train(method, table, settings)
if process_rank() == 0:
    weights = {name: p.tolist() for name, p in method.named_parameters()}
    json.dump({"losses": run.losses, "weights": weights, "rings": rings}, open(out, "w"))
"""

DIFFCSE = """
import json, sys
import torch
from torch import nn
from nearfar.data.table import Table
from nearfar.encoders.masked import MaskedText
from nearfar.methods.sentence.diffcse import DiffCSE
from nearfar.training.gather import process_rank
from nearfar.training.settings import Settings
from nearfar.training.trainer import train

words = ["rain", "snow", "fog", "hail", "wind", "sun"]
texts = [f"{one} and {two}" for one in words for two in words if one != two]
torch.manual_seed(0)
encoder = MaskedText.tiny(texts, layers=1, dim=8, heads=2, ffn=12, max_length=8, dropout=1e-12)
encoder.head_is_trained = True
method = DiffCSE(encoder, share=0.0, weight=1.0, temperature=0.5)  # nothing is drawn: shares of a batch see the same
method.head = nn.Linear(8, 8)  # no batch norms, which each process has of its own rows
run = train(method.double(), Table.from_columns({"text": texts}), Settings(steps=4, batch_size=10, learning_rate=0.01))
if process_rank() == 0:
    weights = {name: p.tolist() for name, p in method.named_parameters()}
    json.dump({"losses": run.losses, "weights": weights}, open(sys.argv[1], "w"))
"""


def outcome(
    folder: Path, processes: int, chunk: int, what: str = "labels", written: str = PROGRAM
) -> dict[str, object]:
    program, out = folder / "program.py", folder / f"{processes}-{chunk}.json"
    program.write_text(written)
    launcher = (
        []
        if processes == 1
        else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    )
    done = subprocess.run(
        [sys.executable, *launcher, str(program), str(out), str(chunk), what],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.mark.parametrize("chunk", [0, 3])
def test_two_processes_equal_one(tmp_path: Path, chunk: int) -> None:
    """Labels are gathered with their rows: a wrong alignment would ignore the wrong pairs."""
    one, two = outcome(tmp_path, 1, 0), outcome(tmp_path, 2, chunk)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-6)
    for name, values in one["weights"].items():
        assert flat(two["weights"][name]) == pytest.approx(flat(values), rel=1e-5, abs=1e-8), name


@pytest.mark.parametrize("chunk", [0, 200])
def test_processes_share_the_comparing_of_a_large_batch(tmp_path: Path, chunk: int) -> None:
    """Each compares its own rows with all keys, in a ring, and what is learned is what one process learns."""
    one, two = outcome(tmp_path, 1, 0, "large"), outcome(tmp_path, 2, chunk, "large")
    assert one["rings"] == []
    assert two["rings"] == [525] * 6
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-6)
    for name, values in one["weights"].items():
        assert flat(two["weights"][name]) == pytest.approx(flat(values), rel=1e-5, abs=1e-8), name


def test_a_loss_in_one_piece_gathers_what_it_contrasts(tmp_path: Path) -> None:
    """DiffCSE: else each process would meet its own rows alone."""
    one, two = (outcome(tmp_path, processes, 0, written=DIFFCSE) for processes in (1, 2))
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-6)
    for name, values in one["weights"].items():
        assert flat(two["weights"][name]) == pytest.approx(flat(values), rel=1e-4, abs=1e-7), name


def flat(values: object) -> list[float]:
    return [x for value in values for x in flat(value)] if isinstance(values, list) else [values]
