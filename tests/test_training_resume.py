"""A run that is killed with -9 at any moment and resumed is the run that was never killed, bit for bit."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import nearfar, sentences
from safetensors.torch import load_file

from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError
from nearfar.method import Method
from nearfar.methods import method_class
from nearfar.verbs.fit import fit

FIT = ("--encoder", "tiny", "--epochs", "30", "--batch-size", "32", "--seed", "3", "--measure-every", "10",
       "--watch", "uniformity", "--checkpoint-every", "3", "--holdout-share", "0.2",
       "--on-collapse", "warn")  # fmt: skip


def losses(folder: Path) -> list[str]:
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        return [row["loss"] for row in csv.DictReader(file)]


def kill_after(folder: Path, table: Path, checkpoints: int) -> int:
    """Start a run, kill it with -9 some time after so many checkpoints; returns the last whole checkpoint's step."""
    command = [
        sys.executable,
        "-m",
        "nearfar",
        "fit",
        "simcse",
        str(table),
        "--out",
        str(folder),
        *FIT,
        "--resume",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        found = [int(place.name.removeprefix("step-")) for place in (folder / "checkpoints").glob("step-*")]
        if found and max(found) >= 3 * checkpoints:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return max(found)
        time.sleep(0.005)
    process.kill()
    raise AssertionError("the run ended, or hung, before it could be killed")


def test_killed_twice_and_resumed_equals_never_killed(pairs_csv: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    nearfar("fit", "simcse", pairs_csv, "--out", whole, *FIT)
    first = kill_after(killed, pairs_csv, 2)
    second = kill_after(killed, pairs_csv, first // 3 + 4)
    assert second > first > 0
    assert not (killed / "space.json").exists(), "an unfinished run must not look like a space"
    refused = nearfar("fit", "simcse", pairs_csv, "--out", killed, *FIT, check=False)
    assert refused.returncode == 1
    assert "--resume" in refused.stderr
    nearfar("fit", "simcse", pairs_csv, "--out", killed, *FIT, "--resume")
    assert losses(killed) == losses(whole)
    expected, got = (load_file(folder / "text" / "model.safetensors") for folder in (whole, killed))
    assert all((expected[name] == got[name]).all() for name in expected)
    assert (killed / "measures.csv").read_text() == (whole / "measures.csv").read_text()
    finished = nearfar("fit", "simcse", pairs_csv, "--out", killed, *FIT, "--resume", check=False)
    assert finished.returncode == 1
    assert "--overwrite" in finished.stderr


def test_resuming_with_other_settings_is_refused(pairs_csv: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kill_after(folder, pairs_csv, 1)
    with pytest.raises(ArgumentError, match="batch_size"):
        fit("simcse", pairs_csv, folder, encoder="tiny", epochs=30, batch_size=16, seed=3, resume=True,
            measure_every=10, watch="uniformity", holdout_share=0.2, on_collapse="warn")  # fmt: skip


@pytest.mark.parametrize("method", ["simcse", "mlm"])
def test_a_run_resumed_within_an_epoch_trains_a_saved_encoder_with_its_dropout(
    method: str, pairs_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoders are read in evaluation mode; with no measurement and no new epoch, nothing else would change that."""
    torch.manual_seed(0)
    saved = TransformerText.tiny([text for text, _, _ in sentences()], layers=1, dim=16, heads=2, ffn=24)
    (start := tmp_path / "start").mkdir()
    saved.save(start)

    def run(folder: Path, stop_at: int, resume: bool) -> list[str]:
        def after_step(self: Method, z: object, step: int, steps: int) -> None:
            if step == stop_at:
                raise KeyboardInterrupt

        monkeypatch.setattr(method_class(method), "after_step", after_step)
        fit(method, pairs_csv, folder, encoder=str(start), steps=8, batch_size=16, seed=3, resume=resume,
            checkpoint_every=2, holdout_share=0, on_collapse="warn")  # fmt: skip
        return losses(folder)

    whole = run(tmp_path / "whole", 0, False)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", 5, False)
    assert run(tmp_path / "cut", 0, True) == whole
