"""The files that every saved encoder shares: `encoder.json` and its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from torch import nn

from nearfar.encoders.encoder import Encoder
from nearfar.errors import ArtefactError
from nearfar.files import read_json, write_json

SETTINGS = "encoder.json"
WEIGHTS = "model.safetensors"


def write_settings(folder: Path, encoder: Encoder) -> None:
    """Write `encoder.json`: the class of `encoder` by name, and its settings."""
    write_json(folder / SETTINGS, {"class": type(encoder).__name__, "settings": encoder.settings()})


def read_settings(folder: Path, expected: str | None = None) -> tuple[str, dict[str, Any]]:
    """The class name and the settings in `encoder.json`.

    Raises:
        ArtefactError: the file is missing, is of another shape, or is of another class than `expected`.
    """
    content = read_json(folder / SETTINGS)
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise ArtefactError(f"{folder / SETTINGS} is no description of an encoder")
    name = str(content.get("class"))
    if expected is not None and name != expected:
        raise ArtefactError(f"{folder / SETTINGS} describes a {name}, not a {expected}")
    return name, content["settings"]


def write_weights(folder: Path, module: nn.Module, file: str = WEIGHTS) -> None:
    """Write the parameters and buffers of `module` as safetensors."""
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    save_file(state, folder / file)


def read_weights(folder: Path, module: nn.Module, file: str = WEIGHTS) -> None:
    """Read what `write_weights` wrote into `module`.

    Raises:
        ArtefactError: the file is missing or broken, or its tensors do not fit `module`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        module.load_state_dict(load_file(folder / file))
    except FileNotFoundError:
        raise ArtefactError(f"{folder / file} is missing: the folder is incomplete") from None
    except (SafetensorError, RuntimeError) as broken:
        raise ArtefactError(f"{folder / file} does not fit {type(module).__name__}: {broken}") from None


class MadeOfSettings(Encoder):
    """An encoder that its settings and its weights make again."""

    _settings: dict[str, Any]

    def settings(self) -> dict[str, Any]:
        """The arguments it was made with."""
        return dict(self._settings)

    def save(self, folder: Path) -> None:
        """Write weights and settings."""
        write_weights(folder, self)
        write_settings(folder, self)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtefactError: the folder is incomplete, broken or of another encoder.
        """
        _, settings = read_settings(folder, expected=cls.__name__)
        encoder = cls(**settings)
        read_weights(folder, encoder)
        return encoder.eval()
