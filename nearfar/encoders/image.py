"""Pictures to features: a small convolutional network, and the vision backbones of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.data.kinds import Image
from nearfar.encoders.encoder import Encoder, Features
from nearfar.encoders.pictures import PictureSize, pixels, plan_of, read_preprocessor
from nearfar.encoders.pretrained import freeze_pooler, load_model, model_folder, refuse_code, save_model
from nearfar.encoders.settings import (
    MadeOfSettings,
    read_settings,
    write_settings,
)
from nearfar.errors import ArgumentError
from nearfar.files import write_json

LINE = 4.0
"""Pictures that are so many times wider than high are taken for lines of writing."""
SMALLEST_GRID = 4
"""A block of `ConvNet` halves the grid only while it stays at least this wide."""


class PictureEncoder(Encoder):
    """What all picture encoders share: pixels in [0, 1] out of `prepare`, scaled in `forward`.

    Views are made between the two, on pixels that still mean brightness.
    """

    kind = Image
    mean: Tensor
    std: Tensor

    def __init__(self, plan: PictureSize, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ArgumentError("mean and std need three numbers each (red, green, blue), std above 0")
        self.plan = plan
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(list(values)).view(3, 1, 1), persistent=False)

    def prepare(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Resize B pictures and turn them into tensors.

        Returns:
            "pixels", float32 in [0, 1], [B, 3, height, width].

        Raises:
            ArgumentError: a row is no picture.
        """
        wrong = next((i for i, row in enumerate(rows) if not Image.holds(row)), None)
        if wrong is not None:
            raise ArgumentError(
                f"picture {wrong + 1} of {len(rows)} is {type(rows[wrong]).__name__}, not PIL.Image"
            )
        return {"pixels": torch.stack([pixels(picture, self.plan) for picture in rows])}

    def standardised(self, inputs: dict[str, Tensor]) -> Tensor:
        """The pixels of a batch, less their mean, over their standard deviation."""
        return (inputs["pixels"] - self.mean) / self.std


def grid_features(grid: Tensor) -> Features:
    """Features of a grid [B, d, h, w]: its cells are the tokens, their mean is the pooled vector."""
    tokens = grid.flatten(2).transpose(1, 2)
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    return Features(tokens, mask, tokens.mean(dim=1))


class ConvNet(MadeOfSettings, PictureEncoder):
    """Blocks of 3x3 convolution, norm and ReLU; each is twice as wide as the one before.

    The first block keeps the grid, the others halve it while it stays at least `SMALLEST_GRID` wide:
    32x32 pictures end on a 4x4 grid, and so do 8x8 ones.

    Args:
        size: pictures are resized to size x size, or to (height, width) where they are lines of writing.
        width: channels of the first block; the features are width * 2^(blocks - 1) wide.
        blocks: number of blocks.
        norm: "group" has no statistics over the batch, so nothing leaks between its rows (which a
            momentum teacher could exploit: He et al., MoCo, CVPR 2020, section 3.3); "batch" has.
        mean, std: of each channel over the training pictures, for pixels in [0, 1].
        pooling: "mean" over the grid, or "places": all cells beside each other, where what stands where matters
            (lines of writing); the features are then as many times wider.

    Raises:
        ArgumentError: a side below 4, a width that 4 does not divide, or another wrong argument.
    """

    def __init__(
        self,
        size: int | Sequence[int] = 32,
        width: int = 32,
        blocks: int = 4,
        norm: Literal["group", "batch"] = "group",
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
        pooling: Literal["mean", "places"] = "mean",
    ) -> None:
        height, across = (size, size) if isinstance(size, int) else size
        grid = min(height, across)
        if grid < SMALLEST_GRID or width < 4 or width % 4 or blocks < 1:
            raise ArgumentError(
                f"ConvNet(size={size}, width={width}, blocks={blocks}): size must be at least "
                f"{SMALLEST_GRID}, width a multiple of 4, blocks at least 1"
            )
        if norm not in ("group", "batch"):
            raise ArgumentError(f"norm={norm!r} is unknown: choose group or batch")
        if pooling not in ("mean", "places"):
            raise ArgumentError(f"pooling={pooling!r} is unknown: choose mean or places")
        super().__init__(PictureSize(height, across), mean, std)
        self._settings = {"size": size if isinstance(size, int) else list(size)}
        self._settings |= {"width": width, "blocks": blocks, "norm": norm}
        self._settings |= {"mean": list(mean), "std": list(std)}
        layers: list[nn.Module] = []
        channels = 3
        for block in range(blocks):
            stride = 2 if block and grid >= 2 * SMALLEST_GRID else 1
            out = width * 2**block
            layers += [
                nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False),
                nn.GroupNorm(4, out) if norm == "group" else nn.BatchNorm2d(out),
                nn.ReLU(),
            ]
            channels, grid = out, -(-grid // stride)
            height, across = -(-height // stride), -(-across // stride)
        self.network, self.pooling, self.cells = nn.Sequential(*layers), "mean", height * across
        self.dim = channels
        if pooling == "places":
            self.keep_grid()

    def keep_grid(self) -> Self:
        """Turn the pooling from "mean" to "places"; no weight changes."""
        if self.pooling == "mean":
            # Not among the settings otherwise: older spaces keep their fingerprints.
            self._settings["pooling"] = self.pooling = "places"
            self.dim *= self.cells
        return self

    @classmethod
    def fitted(cls, examples: Sequence[Any], width: int = 32) -> Self:
        """A network for pictures like `examples`: their size, at most 32, and their mean and std.

        Lines of writing become 16 x 128, for a small network that keeps the places of letters.

        Raises:
            ArgumentError: there are no examples.
        """
        if not examples:
            raise ArgumentError("an image encoder cannot be fitted to no pictures")
        line = float(np.median([picture.width / picture.height for picture in examples])) >= LINE
        side = int(np.median([max(picture.size) for picture in examples]))
        height, across = (16, 128) if line else (min(max(side, SMALLEST_GRID), 32),) * 2
        stacked = torch.stack([pixels(picture, PictureSize(height, across)) for picture in examples])
        std, mean = torch.std_mean(stacked, dim=(0, 2, 3))
        scale: dict[str, Any] = {"mean": mean.tolist(), "std": std.clamp(min=1e-3).tolist()}
        if line:
            return cls((height, across), width=8, blocks=3, pooling="places", **scale)
        return cls(height, width, **scale)

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """Encode "pixels", [B, 3, height, width] in [0, 1]; tokens are grid cells, row by row."""
        features = grid_features(self.network(self.standardised(inputs)))
        if self.pooling == "places":
            features.pooled = features.tokens.flatten(1)
        return features


class TransformersImage(PictureEncoder):
    """A vision backbone of transformers (ViT, ResNet, ConvNeXt ...).

    Args:
        model: a model of transformers that takes `pixel_values`.
        preprocessor: the content of its preprocessor_config.json: size, crop, mean and std.
        pooling: "cls" (the first token) or "mean"; None: "cls" for a sequence of tokens, "mean" for a grid.

    Raises:
        ArgumentError: the model reads more than pictures, or an unknown pooling.
        ArtefactError: the preprocessor asks for what nearfar does not do.
    """

    def __init__(self, model: Any, preprocessor: dict[str, Any], pooling: str | None = None) -> None:
        if pooling not in (None, "cls", "mean"):
            raise ArgumentError(f"pooling={pooling!r} is unknown: choose cls or mean")
        if model.main_input_name != "pixel_values" or hasattr(model.config, "text_config"):
            raise ArgumentError(f"{type(model).__name__} is no encoder of pictures alone")
        plan, mean, std = plan_of(preprocessor)
        super().__init__(plan, mean, std)
        self.model, self.preprocessor, self.pooling = model, preprocessor, pooling
        widths = getattr(model.config, "hidden_sizes", None)
        self.dim = int(widths[-1] if widths else model.config.hidden_size)
        freeze_pooler(model)

    @classmethod
    def from_pretrained(cls, name: str | Path, pooling: str | None = None) -> Self:
        """Read a vision model of transformers from a folder or the hub.

        Raises:
            ArgumentError: nothing of that name can be found, or it is no vision model.
            ArtefactError: the folder needs pickle or its own code to be read, or is incomplete.
        """
        folder = model_folder(name)
        refuse_code(folder)
        return cls(load_model(folder), read_preprocessor(folder), pooling).eval()

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """Encode "pixels", [B, 3, height, width] in [0, 1]."""
        states = self.model(pixel_values=self.standardised(inputs)).last_hidden_state
        if states.dim() == 4:
            if self.pooling == "cls":
                raise ArgumentError("pooling='cls': this model has a grid and no first token; use 'mean'")
            return grid_features(states)
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        pooled = states.mean(dim=1) if self.pooling == "mean" else states[:, 0]
        return Features(states, mask, pooled)

    def settings(self) -> dict[str, Any]:
        """The pooling."""
        return {"pooling": self.pooling}

    def save(self, folder: Path) -> None:
        """Write a folder that transformers reads as well."""
        save_model(self.model, folder)
        write_json(folder / "preprocessor_config.json", self.preprocessor)
        write_settings(folder, self)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtefactError: the folder is incomplete, of another encoder, or could run code.
        """
        _, settings = read_settings(folder, expected=cls.__name__)
        return cls.from_pretrained(folder, **settings)
