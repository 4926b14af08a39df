"""CIFAR-10 pictures at 16 x 16, small enough for many runs on two cores."""

from __future__ import annotations

import io

import pandas as pd
from PIL import Image

from nearfar.data.table import Table
from nearfar.experiment import DataFolder

SIZE = 16


def cifar_tables(data: DataFolder, training_rows: int) -> tuple[Table, Table]:
    """Training and test pictures with their classes (roles image and label).

    Args:
        data: where the data are.
        training_rows: how many training pictures, evenly from the ten classes.
    """
    frame = pd.read_parquet(data.file("cifar10_subset/cifar10_subset.parquet"))
    train = frame[frame["split"] == "train"].groupby("label").head(training_rows // 10)
    return _table(train, "cifar10 training pictures"), _table(
        frame[frame["split"] == "test"], "cifar10 test pictures"
    )


def _table(frame: pd.DataFrame, name: str) -> Table:
    pictures = [
        Image.open(io.BytesIO(encoded)).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)
        for encoded in frame["image"]
    ]
    return Table.from_columns({"image": pictures, "label": list(frame["name"])}, name=name)
