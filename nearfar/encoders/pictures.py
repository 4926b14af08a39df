"""Pictures to pixels: resizing and cropping as a model was trained to see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import ArtefactError
from nearfar.files import read_json

PREPROCESSOR = "preprocessor_config.json"
_BILINEAR = 2  # PIL's number


@dataclass(frozen=True)
class PictureSize:
    """How a picture becomes height x width pixels.

    Attributes:
        height, width: of the result.
        shortest: scale the shorter side to this, keep the proportions, then cut the centre; None:
            scale both sides to the result.
        resample: PIL's number of the interpolation.
    """

    height: int
    width: int
    shortest: int | None = None
    resample: int = _BILINEAR


def pixels(picture: Any, plan: PictureSize) -> Tensor:
    """A PIL picture as float32 [3, height, width] in [0, 1]."""
    picture = picture.convert("RGB")
    if plan.shortest is None:
        size = (plan.width, plan.height)
    else:
        scale = plan.shortest / min(picture.size)
        size = tuple(max(plan.shortest, round(side * scale)) for side in picture.size)
    if picture.size != size:
        picture = picture.resize(size, plan.resample)
    if picture.size != (plan.width, plan.height):
        left, top = (picture.width - plan.width) // 2, (picture.height - plan.height) // 2
        picture = picture.crop((left, top, left + plan.width, top + plan.height))
    array = np.asarray(picture, dtype=np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def read_preprocessor(folder: Path) -> dict[str, Any]:
    """The content of a model folder's preprocessor_config.json.

    Raises:
        ArtefactError: it is missing or no object.
    """
    content = read_json(folder / PREPROCESSOR)
    if not isinstance(content, dict):
        raise ArtefactError(f"{folder / PREPROCESSOR} is no description of a preprocessor")
    return content


def plan_of(said: dict[str, Any]) -> tuple[PictureSize, Sequence[float], Sequence[float]]:
    """What a preprocessor_config.json asks for: (size, mean, std).

    Raises:
        ArtefactError: it names no size, or scales pixels to another range than [0, 1].
    """
    size, crop = said.get("size"), said.get("crop_size") if said.get("do_center_crop") else None
    if isinstance(size, int):
        size = {"shortest_edge": size} if crop else {"height": size, "width": size}
    if isinstance(crop, int):
        crop = {"height": crop, "width": crop}
    if not isinstance(size, dict) or not said.get("do_resize", True):
        raise ArtefactError(f"{PREPROCESSOR} names no size to which pictures are brought")
    if abs(said.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-6 or not said.get("do_rescale", True):
        raise ArtefactError(f"{PREPROCESSOR} asks for pixels outside [0, 1]; nearfar makes [0, 1]")
    resample = int(said.get("resample", _BILINEAR))
    shortest = size.get("shortest_edge")
    end = crop or (size if "height" in size else {"height": shortest, "width": shortest})
    if end.get("height") is None or end.get("width") is None:
        raise ArtefactError(f"{PREPROCESSOR}: the size {size} is none that nearfar knows")
    plan = PictureSize(int(end["height"]), int(end["width"]), shortest, resample)
    if not said.get("do_normalize", True):
        return plan, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return plan, said.get("image_mean", (0.5, 0.5, 0.5)), said.get("image_std", (0.5, 0.5, 0.5))
