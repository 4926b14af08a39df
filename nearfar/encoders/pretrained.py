"""Model folders of transformers: finding them, refusing what could run code, loading the weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.encoders.settings import WEIGHTS
from nearfar.errors import ArgumentError, ArtefactError
from nearfar.files import read_json

_DATA_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
"""All that is ever downloaded: weights as safetensors, settings and vocabularies."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def model_folder(name: str | Path) -> Path:
    """The local folder of a model: `name` itself, or a snapshot of the hub's model of that name.

    Raises:
        ArgumentError: there is no such folder, and the hub does not give one either.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=_DATA_FILES))
    except (OSError, ValueError, RuntimeError) as failed:
        raise ArgumentError(
            f"no encoder {str(name)!r}: there is no folder of that name, and the hub gave no model "
            f"({type(failed).__name__}). Give 'tiny' (from scratch), 'minilm' or 'smollm2' "
            "(shipped, text), the folder of a model, or the name of one on the hub"
        ) from failed


def refuse_code(folder: Path) -> None:
    """Refuse a model folder that could only be loaded by running what it brings.

    Raises:
        ArtefactError: a JSON file asks for the folder's own Python code (`auto_map`), there is no
            `config.json`, or the weights are there as pickle only.
    """
    if not (folder / "config.json").is_file():
        raise ArtefactError(f"{folder} is no model folder: config.json is missing")
    for file in sorted(folder.glob("*config.json")):
        if '"auto_map"' in json.dumps(read_json(file)):
            raise ArtefactError(
                f"{file} asks for Python code that comes with the model (auto_map); nearfar runs no code "
                "of a model folder: use a model whose architecture transformers has itself"
            )
    if not any((folder / name).is_file() for name in (WEIGHTS, WEIGHTS + ".index.json")):
        pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
        if pickles:
            raise ArtefactError(
                f"{folder} holds its weights as pickle only ({', '.join(pickles)}), which can run code "
                "when read: convert them to safetensors first"
            )
        raise ArtefactError(f"{folder} holds no weights: {WEIGHTS} is missing")


def load_model(folder: Path, causal: bool = False) -> Any:
    """The transformers model of a folder that `refuse_code` let pass, float32, in evaluation mode.

    Args:
        folder: its configuration and weights.
        causal: with its head over the vocabulary, as a causal language model.

    Raises:
        ArtefactError: the architecture is unknown, or the weights lack tensors that it needs.
    """
    from transformers import AutoModel, AutoModelForCausalLM

    try:
        with quiet():
            model, report = (AutoModelForCausalLM if causal else AutoModel).from_pretrained(
                folder,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as broken:
        raise ArtefactError(f"{folder} cannot be loaded as a transformers model: {broken}") from broken
    # The pooler is not used here, and checkpoints of language models have none; the vector that stands for hidden
    # frames of a sound is dropped from those fine-tuned for recognition.
    missing = sorted(
        name for name in report["missing_keys"] if not name.startswith(("pooler.", "masked_spec_embed"))
    )
    if missing:
        raise ArtefactError(f"{folder} lacks weights that its architecture needs, such as {missing[0]}")
    return model


def freeze_pooler(model: nn.Module) -> None:
    """Take the unused pooler of `model`, if it has one, out of training.

    A parameter that never gets a gradient stops distributed training.
    """
    pooler = getattr(model, "pooler", None)
    if isinstance(pooler, nn.Module):
        pooler.requires_grad_(False)


def save_model(model: Any, folder: Path) -> None:
    """Write configuration and weights."""
    with quiet():
        model.save_pretrained(folder)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars of transformers itself."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def end_tokens(tokenizer: Any) -> Tensor:
    """The numbers of the tokens that mark where a text begins and ends, such as [CLS] and [SEP]: int64."""
    found = {getattr(tokenizer, f"{name}_token_id") for name in ("bos", "cls", "sep", "eos")}
    return torch.tensor(sorted(found - {None}), dtype=torch.int64)


def position_limit(model: Any) -> int | None:
    """Most tokens that the position embeddings of a model have room for; None where they have no end."""
    positions: int | None = getattr(model.config, "max_position_embeddings", None)
    if not positions or positions < 0:
        return None
    return positions - first_position(model)


def first_position(model: Any) -> int:
    """The number of a text's first position: 0, or in the RoBERTa family the padding's number + 1."""
    taken = [
        module.padding_idx + 1
        for module in model.modules()
        if isinstance(getattr(module, "padding_idx", None), int) and hasattr(module, "position_embeddings")
    ]
    return max(taken, default=0)


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a folder.

    Raises:
        ArtefactError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as broken:
        raise ArtefactError(f"{folder} has no tokenizer that can be read: {broken}") from broken
    if not tokenizer.is_fast:
        raise ArtefactError(f"{folder} has no fast tokenizer: tokenizer.json is missing")
    return tokenizer


def lower_case(tokenizer: Any) -> None:
    """Let a tokenizer read everything in lower case, before whatever else it does."""
    from tokenizers.normalizers import Lowercase
    from tokenizers.normalizers import Sequence as Steps

    before = tokenizer.backend_tokenizer.normalizer
    if not reads_lower_case(tokenizer):
        tokenizer.backend_tokenizer.normalizer = Steps([Lowercase(), *([before] if before else [])])


def reads_lower_case(tokenizer: Any) -> bool:
    """Whether a tokenizer is as `lower_case` leaves it."""
    from tokenizers.normalizers import Lowercase
    from tokenizers.normalizers import Sequence as Steps

    steps = tokenizer.backend_tokenizer.normalizer
    return isinstance(steps, Steps) and isinstance(steps[0], Lowercase)
