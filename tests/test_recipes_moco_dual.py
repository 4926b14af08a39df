"""The audit of negatives in MoCo's experiment counts what a fair draw would count."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from nearfar.data.kinds import Image as ImageKind
from nearfar.encoders import make_encoder
from nearfar.methods.retrieval.moco_dual import MoCoDual
from nearfar.recipes.moco_dual import _false_negatives


def test_the_whole_queue_has_the_share_of_the_classes() -> None:
    """Rows in the order of their classes, as the table has them, must not hide all false negatives."""
    pixels = np.random.default_rng(0).integers(0, 255, (80, 8, 8, 3), dtype=np.uint8)
    pictures = [Image.fromarray(picture) for picture in pixels]
    torch.manual_seed(0)
    made = MoCoDual(make_encoder("tiny", ImageKind, pictures), dim=8, queue=64, hardest=0)
    share = _false_negatives(made, pictures, np.repeat(np.arange(4), 20))
    assert 0.15 < share < 0.35
