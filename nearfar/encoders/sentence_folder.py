"""The folder layout of sentence-transformers: what it says about a model, and writing one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearfar.errors import ArtefactError
from nearfar.files import read_json, write_json

_MODULES = {"Transformer", "Pooling", "Normalize"}
_POOLING_NAMES = {"mean": "mean", "cls": "cls", "max": "max", "lasttoken": "last"}
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class SentenceFolder:
    """What a sentence-transformers folder says.

    Attributes:
        transformer: the folder that holds the weights.
        pooling: a kind of `nearfar.heads.pool.pool`, or None where nothing is said.
        normalise: whether the embedding is scaled to length 1.
        max_length: tokens after which a text is cut, or None where nothing is said.
        lower_case: whether texts are put in lower case before the tokenizer sees them.
    """

    transformer: Path
    pooling: str | None = None
    normalise: bool = False
    max_length: int | None = None
    lower_case: bool = False


def read_sentence_folder(folder: Path) -> SentenceFolder:
    """Read a sentence-transformers folder, or a plain transformers folder, which says nothing.

    Raises:
        ArtefactError: it asks for modules, a pooling or a default prompt that nearfar does not have.
    """
    if not (folder / "modules.json").is_file():
        return SentenceFolder(folder)
    modules = read_json(folder / "modules.json")
    if not isinstance(modules, list) or not all(isinstance(one, dict) for one in modules):
        raise ArtefactError(f"{folder / 'modules.json'} is not a list of modules")
    paths = {str(module.get("type")).split(".")[-1]: str(module.get("path", "")) for module in modules}
    unknown = sorted(set(paths) - _MODULES)
    if unknown or "Transformer" not in paths:
        found = ", ".join(unknown) if unknown else "no Transformer"
        raise ArtefactError(
            f"{folder / 'modules.json'} asks for {found}; nearfar reads {', '.join(sorted(_MODULES))}"
        )
    _refuse_prompt(folder)
    transformer = folder / paths["Transformer"]
    limits = transformer / "sentence_bert_config.json"
    said: dict[str, Any] = read_json(limits) if limits.is_file() else {}
    return SentenceFolder(
        transformer=transformer,
        pooling=_pooling(folder / paths["Pooling"] / "config.json") if "Pooling" in paths else None,
        normalise="Normalize" in paths,
        max_length=said.get("max_seq_length"),
        lower_case=bool(said.get("do_lower_case", False)),
    )


def _pooling(file: Path) -> str:
    said = read_json(file)
    modes = said.get("pooling_mode") or [mode for flag, mode in _FLAGS.items() if said.get(flag)] or "mean"
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in _POOLING_NAMES:
        raise ArtefactError(
            f"{file} asks for the pooling {' + '.join(modes)}; "
            f"nearfar reads one of {', '.join(_POOLING_NAMES)}"
        )
    return _POOLING_NAMES[modes[0]]


def _refuse_prompt(folder: Path) -> None:
    file = folder / "config_sentence_transformers.json"
    said = read_json(file) if file.is_file() else {}
    default = said.get("default_prompt_name")
    if default and (said.get("prompts") or {}).get(default):
        raise ArtefactError(
            f"{file} puts the prompt {default!r} before every text; nearfar would not: "
            "remove default_prompt_name there and put the prompt into your table"
        )


def write_sentence_folder(
    folder: Path, dim: int, pooling: str, normalise: bool, max_length: int, lower_case: bool
) -> None:
    """Add the files that make sentence-transformers read a transformers folder as an embedding model.

    A pooling that sentence-transformers does not have is left out: the folder then stays a plain
    transformers folder.
    """
    names = {ours: theirs for theirs, ours in _POOLING_NAMES.items()}
    if pooling not in names:
        return
    parts = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * normalise
    for path, _ in parts[1:]:
        (folder / path).mkdir()
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(parts)
        ],
    )
    flags = {flag: theirs == names[pooling] for flag, theirs in _FLAGS.items()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": dim, **flags})
    limits = {"max_seq_length": max_length, "do_lower_case": lower_case}
    write_json(folder / "sentence_bert_config.json", limits)
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
