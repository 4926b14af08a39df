"""The trained artefact: encoders by modality, the heads that stay, and the score between embeddings."""

from __future__ import annotations

import hashlib
import json
import mmap
import pickletools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nearfar.encoders import load_encoder
from nearfar.encoders.encoder import Encoder, Features
from nearfar.errors import ArgumentError, ArtefactError
from nearfar.files import atomic_folder, read_json, write_json
from nearfar.geometry import ON_SPHERE, SCORES
from nearfar.heads import make_head
from nearfar.progress import progress
from nearfar.version import __version__

FORMAT = 1
EXECUTABLE = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".py", ".so", ".pyc"}
"""Suffixes of files that can run code when they are loaded; no space holds one."""


class Space:
    """Encoders that share one space of embeddings, and how near two embeddings are.

    Args:
        encoders: modality -> encoder, such as {"text": ..., "image": ...}.
        heads: modality -> head that stays after training; absent where the encoder's pooled
            features are the embedding.
        geometry: name of the score, of `nearfar.geometry.SCORES`: "cosine", "dot", "euclidean",
            "lorentz" or "gram".
        card: what the model card tells (method, settings, data, measures): JSON values only.
        parts: what some uses need besides embeddings, by name, such as {"detector": ...}: heads of
            `nearfar.heads`.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        heads: Mapping[str, nn.Module] | None = None,
        geometry: str = "cosine",
        card: Mapping[str, Any] | None = None,
        parts: Mapping[str, nn.Module] | None = None,
    ) -> None:
        if geometry not in SCORES:
            raise ArgumentError(f"geometry {geometry!r} is unknown: one of {', '.join(sorted(SCORES))}")
        if unknown := set(heads or {}) - set(encoders):
            raise ArgumentError(f"heads for {sorted(unknown)}, but encoders only for {sorted(encoders)}")
        self.encoders = dict(encoders)
        self.heads = dict(heads or {})
        self.geometry = geometry
        self.card = dict(card or {})
        self.parts = dict(parts or {})

    @property
    def modalities(self) -> list[str]:
        """The names that `encode` takes."""
        return list(self.encoders)

    def modality_for(self, role: str, cell: Any, preferred: str | None = None) -> str:
        """The modality that encodes the cells of a table's role: by name, else by kind of cell.

        Where several read such cells it is the one `preferred`, or the first.

        Raises:
            ArgumentError: no encoder of this space reads such cells, or there is no modality `preferred`.
        """
        first = [] if preferred is None else [self._modality(preferred)]
        if role in self.encoders:
            return role
        for name in [*first, *self.encoders]:
            if self.encoders[name].kind.holds(cell):
                return name
        raise ArgumentError(
            f"this space encodes {', '.join(self.encoders)}; it cannot read column role {role!r} "
            f"({type(cell).__name__})"
        )

    def _modality(self, modality: str | None) -> str:
        if modality is None and len(self.encoders) == 1:
            return self.modalities[0]
        if modality not in self.encoders:
            raise ArgumentError(f"modality must be one of {', '.join(self.encoders)}, not {modality!r}")
        return modality

    def encode(
        self,
        rows: Sequence[Any],
        modality: str | None = None,
        *,
        batch_size: int = 64,
        normalize: bool | None = None,
    ) -> np.ndarray:
        """Embed raw examples, in order.

        Args:
            rows: N raw examples: strings, PIL pictures, sounds or float vectors.
            modality: which encoder reads them; may be omitted where the space has only one.
            batch_size: rows encoded at once.
            normalize: unit length rows; None means yes where the geometry is cosine or gram.

        Returns:
            float32 array [N, d].
        """
        if isinstance(rows, str):
            raise ArgumentError("rows must be a list of examples, not one string: give [text]")
        if batch_size < 1:
            raise ArgumentError(f"batch_size must be at least 1, not {batch_size}")
        modality = self._modality(modality)
        unit = self.geometry in ON_SPHERE if normalize is None else normalize
        result: np.ndarray | None = None
        with progress(f"encoding {modality}", len(rows)) as shown:
            for positions, vectors in self._embedded(rows, modality, batch_size):
                if unit:
                    vectors = nn.functional.normalize(vectors, dim=-1)
                if result is None:
                    result = np.empty((len(rows), vectors.shape[1]), dtype=np.float32)
                result[np.asarray(positions)] = vectors.float().cpu().numpy()
                shown.advance(len(positions))
        if result is None:
            raise ArgumentError("nothing to encode: the list of rows is empty")
        return result

    @torch.inference_mode()
    def _embedded(
        self, rows: Sequence[Any], modality: str, batch_size: int
    ) -> Iterator[tuple[Sequence[int], Tensor]]:
        head = self.heads.get(modality)
        for positions, features in self.features(rows, modality, batch_size):
            yield positions, features.pooled if head is None else head(features.pooled)

    @torch.inference_mode()
    def features(
        self, rows: Sequence[Any], modality: str, batch_size: int = 64
    ) -> Iterator[tuple[Sequence[int], Features]]:
        """What the encoder of a modality makes of raw examples, batch by batch, before any head.

        Until the last batch is drawn all modules, heads and parts too, are in evaluation mode.

        Yields:
            Positions in `rows`, and their features.
        """
        encoder, modules = self.encoders[modality], self._modules()
        was_training = [module.training for module in modules]
        device = next((p.device for module in modules for p in module.parameters()), torch.device("cpu"))
        try:
            for module in modules:
                module.eval()
            for positions, inputs in encoder.batches(rows, batch_size):
                yield positions, encoder({name: tensor.to(device) for name, tensor in inputs.items()})
        finally:
            for module, training in zip(modules, was_training, strict=True):
                module.train(training)

    def score(self, queries: np.ndarray | Tensor, keys: np.ndarray | Tensor) -> np.ndarray:
        """How near each query is to each key, higher is nearer: float32 [N, M].

        Args:
            queries: embeddings [N, d].
            keys: embeddings [M, d].
        """
        scores = SCORES[self.geometry](torch.as_tensor(queries), torch.as_tensor(keys))
        return scores.float().cpu().numpy()

    def to(self, device: torch.device | str) -> Self:
        """Move all encoders, heads and parts to a device."""
        for module in self._modules():
            module.to(device)
        return self

    def _modules(self) -> list[nn.Module]:
        return [*self.encoders.values(), *self.heads.values(), *self.parts.values()]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of SHA-256 over geometry, settings, weights and their names."""
        digest = hashlib.sha256(self.geometry.encode())
        for part, modules in (("encoder", self.encoders), ("head", self.heads), ("part", self.parts)):
            for modality in sorted(modules):
                settings = json.dumps(cast(Any, modules[modality]).settings(), sort_keys=True)
                digest.update(f"{part}.{modality}{settings}".encode())
                for name, tensor in sorted(modules[modality].state_dict().items()):
                    digest.update(f"{part}.{modality}.{name}{tuple(tensor.shape)}".encode())
                    # Counters have no dimension, and only rows of numbers can be seen as bytes.
                    flat = tensor.detach().cpu().reshape(-1)
                    digest.update(flat.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: Path | str, *, overwrite: bool = False) -> Path:
        """Write the space as JSON and safetensors. The folder appears whole or not at all.

        Raises:
            ArtefactError: the folder exists already and `overwrite` is False.
        """
        folder = Path(folder)
        with atomic_folder(folder, replace=overwrite) as temporary:
            self.write(temporary)
        return folder

    def write(self, folder: Path) -> None:
        """Write the files of `save` into an existing folder (the caller makes that atomic)."""
        description: dict[str, Any] = {
            "format": FORMAT,
            "nearfar": __version__,
            "geometry": self.geometry,
            "modalities": {},
            "parts": {},
            "fingerprint": self.fingerprint,
            "card": self.card,
        }
        for modality, encoder in self.encoders.items():
            place = folder / modality
            place.mkdir()
            encoder.save(place)
            head = self.heads.get(modality)
            settings = None
            if head is not None:
                settings = _written(head, folder / f"{modality}-head.safetensors")
            description["modalities"][modality] = {"encoder": modality, "head": settings}
        for name, part in self.parts.items():
            description["parts"][name] = _written(part, folder / f"part-{name}.safetensors")
        write_json(folder / "space.json", description)

    @classmethod
    def load(cls, source: Path | str) -> Space:
        """Read a space, or make one of a sentence-transformers or transformers text encoder.

        Args:
            source: a folder written by `save`; a folder in the layout of sentence-transformers or
                transformers; or the name of such a model on the hub.

        Raises:
            ArtefactError: the folder is incomplete, altered, of a newer format, or holds a file
                that could execute code.
        """
        folder = Path(source)
        if not (folder / "space.json").exists():
            if (folder / "run.json").exists():
                raise ArtefactError(
                    f"{folder} holds a run that is not finished: go on with it by fit --resume"
                )
            return cls._of_text_encoder(source)
        refuse_executables(folder)
        description = read_json(folder / "space.json")
        if not isinstance(description, dict):
            raise ArtefactError(f"{folder}/space.json is no description of a space")
        if description.get("format") != FORMAT:
            raise ArtefactError(
                f"{folder} has space format {description.get('format')!r}; this nearfar ({__version__}) reads "
                f"format {FORMAT}: install the version that wrote it ({description.get('nearfar', 'unknown')})"
            )
        try:
            encoders, heads = {}, {}
            for modality, parts in description["modalities"].items():
                for name in (modality, parts["encoder"]):
                    if Path(name).name != name or name in ("", ".."):
                        raise ArtefactError(f"{folder}/space.json points outside of its folder: {name!r}")
                encoders[modality] = load_encoder(folder / parts["encoder"])
                if parts["head"] is not None:
                    heads[modality] = _read(parts["head"], folder / f"{modality}-head.safetensors")
            others = {
                name: _read(settings, folder / f"part-{Path(name).name}.safetensors")
                for name, settings in description.get("parts", {}).items()
            }
            space = cls(encoders, heads, description["geometry"], description["card"], others)
        except (
            KeyError,
            TypeError,
            AttributeError,
            SafetensorError,
            RuntimeError,
            FileNotFoundError,
        ) as broken:
            raise ArtefactError(f"{folder} cannot be read as a space: {broken}") from broken
        if space.fingerprint != description.get("fingerprint"):
            raise ArtefactError(
                f"{folder} was changed after it was saved: its weights have fingerprint {space.fingerprint}, "
                f"space.json says {description.get('fingerprint')}"
            )
        return space

    @classmethod
    def _of_text_encoder(cls, source: Path | str) -> Space:
        from nearfar.data.kinds import Text
        from nearfar.encoders import make_encoder

        return cls({"text": make_encoder(str(source), Text, [])}, card={"source": str(source)})

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}: {type(encoder).__name__}" for name, encoder in self.encoders.items())
        return f"Space({parts}, geometry={self.geometry!r})"


def _written(head: nn.Module, file: Path) -> dict[str, Any]:
    """Write the weights of a head; what `make_head` needs to make it again."""
    save_file({name: tensor.contiguous() for name, tensor in head.state_dict().items()}, file)
    settings: dict[str, Any] = cast(Any, head).settings()
    return settings


def _read(settings: Mapping[str, Any], file: Path) -> nn.Module:
    head = make_head(settings)
    head.load_state_dict(load_file(file))
    return head.eval()


def refuse_executables(folder: Path) -> None:
    """Refuse a folder with a file that could run code when loaded.

    Raises:
        ArtefactError: names the first such file.
    """
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in EXECUTABLE or (file.is_file() and _is_pickle(file)):
            raise ArtefactError(
                f"{file} could execute code when it is loaded: nearfar's spaces hold only JSON, safetensors and "
                "text. Do not load this folder; if you trust its source, convert it there"
            )
    for file in sorted(folder.rglob("*config.json")):
        if '"auto_map"' in json.dumps(read_json(file)):
            raise ArtefactError(f"{file} asks for code of its own (auto_map): nearfar does not run it")


def _is_pickle(file: Path) -> bool:
    with open(file, "rb") as opened:
        start = opened.read(4)
        if start == b"PK\x03\x04":  # the archives of torch.save and of NumPy hold pickles
            return True
        # The length of a safetensors header may look alike; but then a 0 follows, which no pickle has.
        if start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5") and start[2:3] != b"\0":
            return True
        if not start:
            return False
        # Protocols 0 and 1 have no mark at their beginning: such a file is one that reads to its end as opcodes.
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return all(True for _ in pickletools.genops(cast(Any, content)))
            except (ValueError, OverflowError):
                return False
