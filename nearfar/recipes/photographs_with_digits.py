"""Photographs, half of them with a handwritten digit laid over: two populations of which all is known."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from nearfar.data.table import Table
from nearfar.experiment import DataFolder

BACKGROUND, TARGET = "photograph", "photograph with digit"
FULL = 32


@dataclass(frozen=True)
class Overlaid:
    """One side of the data.

    Attributes:
        table: pictures (role image) and their population (role label), all backgrounds first.
        target: whether each row has a digit, [N].
        photographs: CIFAR-10 class of each row, [N].
        digits: digit of each row, -1 where there is none, [N].
        without: the pictures without digits, as the decoder ought to draw them, float32 [N, size, size, 3] in [0, 1].
        shown: the pictures themselves, of the same shape.
    """

    table: Table
    target: np.ndarray
    photographs: np.ndarray
    digits: np.ndarray
    without: np.ndarray
    shown: np.ndarray


def photographs_with_digits(
    data: DataFolder, training: int, test: int, size: int
) -> tuple[Overlaid, Overlaid]:
    """x = 1/2 photograph of CIFAR-10, and in the target population + 1/2 digit of MNIST in the middle.

    Louiset et al., SepVAE, 2023, section 4. No photograph or digit comes twice.

    Args:
        data: where the data are.
        training: rows of each population to train on.
        test: rows of each population to test on.
        size: pixels a side; 32 is the original, smaller ones are means over cells.
    """
    frame = pd.read_parquet(data.file("cifar10_subset/cifar10_subset.parquet"))
    with np.load(data.file("mnist_subset/mnist_subset.npz"), allow_pickle=False) as found:
        mnist = {name: found[name] for name in found.files}
    return (
        _overlaid(frame, mnist, "train", training, size),
        _overlaid(frame, mnist, "test", test, size),
    )


def _overlaid(frame: pd.DataFrame, mnist: dict[str, np.ndarray], side: str, each: int, size: int) -> Overlaid:
    drawn = np.random.default_rng(0)
    photographs = frame[frame["split"] == side].sample(2 * each, random_state=0)
    chosen = drawn.permutation(len(mnist[f"{side}_labels"]))[:each]
    target = np.arange(2 * each) >= each
    half = np.stack([_rgb(encoded) for encoded in photographs["image"]]) / 2
    over = np.zeros((2 * each, FULL, FULL, 1))
    over[each:, 2:-2, 2:-2, 0] = mnist[f"{side}_images"][chosen] / 2
    whole = [np.rint(x).astype(np.uint8) for x in (half, half + over)]
    without, shown = ([_resized(picture, size) for picture in pictures] for pictures in whole)
    names = [TARGET if there else BACKGROUND for there in target]
    return Overlaid(
        Table.from_columns({"image": shown, "label": names}, name=f"photographs, half with digits ({side})"),
        target,
        photographs["label"].to_numpy(),
        np.concatenate([np.full(each, -1), mnist[f"{side}_labels"][chosen]]),
        *(
            np.stack([np.asarray(p, dtype=np.float32) / 255 for p in pictures])
            for pictures in (without, shown)
        ),
    )


def _rgb(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"), dtype=np.float64)


def _resized(picture: np.ndarray, size: int) -> Image.Image:
    return Image.fromarray(picture).resize((size, size), Image.Resampling.BOX)
