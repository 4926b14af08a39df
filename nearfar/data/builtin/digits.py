"""Handwritten digits of scikit-learn: 1,797 grey pictures of 8 x 8 pixels, with names and captions.

Alpaydin, Kaynak. "Optical Recognition of Handwritten Digits." UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

from importlib.metadata import version as installed
from typing import Any

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def version() -> str:
    """Changes with what `columns` returns."""
    return f"1 scikit-learn {installed('scikit-learn')}"


def columns() -> dict[str, list[Any]]:
    """Columns image, text, label and split; every fifth picture of each class is in `test`."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    names = [NAMES[target] for target in digits.target]
    seen = dict.fromkeys(NAMES, 0)
    split = []
    for name in names:
        seen[name] += 1
        split.append("train" if seen[name] % 5 else "test")
    return {
        "image": [Image.fromarray(picture).convert("RGB") for picture in pixels],
        "text": [f"a handwritten {name}" for name in names],
        "label": names,
        "split": split,
    }
