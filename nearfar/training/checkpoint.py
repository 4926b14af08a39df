"""Checkpoints: everything a run needs to go on as if it had not stopped, without a pickle.

Randomness needs no place here: every step seeds its generators from the seed and its own number.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nearfar.errors import ArgumentError, ArtefactError
from nearfar.files import atomic_folder, read_json, write_json

OPTIMISER = "optimiser-{}.safetensors"


def save_checkpoint(
    folder: Path,
    method: nn.Module,
    optimisers: Sequence[torch.optim.Optimizer],
    progress: dict[str, Any],
    starts: Mapping[str, dict[str, Tensor]] | None = None,
) -> Path:
    """Write `folder/step-N`, whole or not at all, and remove the older ones.

    Args:
        folder: where checkpoints of this run live.
        method: its state, buffers (queues, teachers) included.
        optimisers: their moments; none between two tasks, each of which has its own.
        progress: JSON values; `progress["step"]` is the number of steps done.
        starts: the method's state when it last looked for something, by the name of the occasion.
    """
    place = folder / f"step-{progress['step']}"
    with atomic_folder(place, replace=True) as temporary:
        save_file(copied(method.state_dict()), temporary / "method.safetensors")
        for occasion, state in (starts or {}).items():
            save_file(state, temporary / f"{occasion}_start.safetensors")
        kept = [_flatten(optimiser.state_dict()["state"]) for optimiser in optimisers]
        for number, (tensors, _) in enumerate(kept):
            save_file(tensors, temporary / OPTIMISER.format(number))
        write_json(temporary / "progress.json", {**progress, "optimisers": [numbers for _, numbers in kept]})
    for other in _checkpoints(folder):
        if other != place:
            shutil.rmtree(other)
    return place


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def load_checkpoint(
    place: Path, method: nn.Module, optimisers: Sequence[torch.optim.Optimizer]
) -> dict[str, Any]:
    """Set method and optimisers to the checkpoint's state and return its progress.

    Raises:
        ArtefactError: the checkpoint belongs to another method or other settings.
    """
    progress: dict[str, Any] = read_json(place / "progress.json")
    try:
        method.load_state_dict(load_file(place / "method.safetensors"))
        kept = enumerate(zip(optimisers, progress.pop("optimisers"), strict=True))
        for number, (optimiser, numbers) in kept:
            state = optimiser.state_dict()
            state["state"] = _unflatten(load_file(place / OPTIMISER.format(number)), numbers)
            optimiser.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError) as different:
        raise ArtefactError(
            f"{place} does not fit this run (other method, encoder or settings?): {different}"
        ) from None
    return progress


def check_identity(place: Path, recorded: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse to go on with a checkpoint of another run.

    Raises:
        ArgumentError: one of the wanted values is not the recorded one.
    """
    for name, value in wanted.items():
        if recorded.get(name) != value:
            raise ArgumentError(
                f"{place} was made with {name} {recorded.get(name)!r}, this run has {value!r}: resume "
                "with the same settings and table, or start anew in another folder"
            )


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), key=lambda place: int(place.name.removeprefix("step-")))


def load_start(place: Path, occasion: str) -> dict[str, Tensor] | None:
    """The method's state when, before a checkpoint, it last looked for something; None if it was not saved."""
    file = place / f"{occasion}_start.safetensors"
    return load_file(file) if file.exists() else None


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict on the CPU that shares nothing with its module."""
    # Tied weights share memory, which safetensors refuses: each name gets its own copy.
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


def _flatten(state: dict[int, dict[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for parameter, values in state.items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{parameter}.{name}"] = value.detach().cpu().clone()
            else:
                numbers[f"{parameter}.{name}"] = value
    return tensors, numbers


def _unflatten(tensors: dict[str, Tensor], numbers: dict[str, Any]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *numbers.items()]:
        parameter, name = key.split(".", 1)
        state.setdefault(int(parameter), {})[name] = value
    return state
